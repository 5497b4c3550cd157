"""What plugins fill: lowerings, analysers, passes; and the hooks themselves."""

from __future__ import annotations

import inspect
from itertools import permutations

import pytest

from dlbt_core.errors import DuplicateRuleError, OpKeyError, PluginError
from dlbt_core.plugins import hookspecs
from dlbt_core.plugins.hookspecs import AnalyserSet, GraphPass, LoweringSet, PluginInfo, hookimpl, in_order


def general(x):
    return x


def special(x):
    return x


def line_of(function):
    return f"{__file__}:{function.__code__.co_firstlineno}"


def test_lowering_of_the_overload_hides_that_of_the_packet():
    add = LoweringSet("acme")
    assert add.lowering("acme::low", "acme.other")(general) is general
    add.lowering("acme.low.Tensor")(special)
    assert add.find("acme.low.Tensor") is special
    assert add.find("acme.low.default") is general
    assert add.find("acme.low") is general
    assert add.find("acme.other.default") is general
    assert add.find("acme.none.default") is None
    assert list(add) == ["acme.low", "acme.low.Tensor", "acme.other"]


def test_second_lowering_is_refused_with_both_places():
    one, two = LoweringSet("one"), LoweringSet("two")
    one.lowering("acme::low")(general)
    two.lowering("acme.low")(special)
    with pytest.raises(DuplicateRuleError) as raised:
        one.update(two)
    assert str(raised.value) == (
        f"acme.low has two lowerings:\n  first   one    {line_of(general)}\n  second  two    {line_of(special)}\n"
        "  fix     leave one of them out."
    )
    assert one.find("acme.low") is general
    with pytest.raises(DuplicateRuleError):
        one.lowering("acme.low")(special)
    with pytest.raises(OpKeyError) as refused:
        one.lowering("aten.add_.Tensor")
    assert str(refused.value) == (
        "'aten.add_.Tensor' is an in-place op. The graph is functional before rules are looked up: register "
        "'aten.add.Tensor' instead."
    )


def test_second_analyser_of_a_name_is_refused():
    one, two = AnalyserSet("one"), AnalyserSet("two")
    one.analyser("rotary")(general)
    two.analyser("rotary")(special)
    with pytest.raises(PluginError, match=r"^the analyser name 'rotary' is taken by plugin 'one'\.$"):
        one.update(two)
    assert one.items() == [("rotary", general)]


def test_passes_come_in_one_order_whoever_is_first():
    passes = [
        GraphPass("a", general, after=("c", "one that nobody brought")),
        GraphPass("b", general),
        GraphPass("c", general, after=("d",)),
        GraphPass("d", general, before=("b", "one that nobody brought")),
        GraphPass("e", general, before=("d",)),
    ]
    orders = {tuple(p.name for p in in_order(order)) for order in permutations(passes)}
    assert orders == {("e", "d", "b", "c", "a")}
    freed_in_another_order = [
        GraphPass("a", general, before=("z",)), GraphPass("b", general, before=("y",)),
        GraphPass("y", general), GraphPass("z", general),
    ]  # fmt: skip
    orders = {tuple(p.name for p in in_order(order)) for order in permutations(freed_in_another_order)}
    assert orders == {("a", "b", "y", "z")}


def test_passes_that_cannot_be_ordered():
    circle = [GraphPass("a", general, after=("b",)), GraphPass("b", general, after=("a",)), GraphPass("c", general)]
    messages = set()
    for order in permutations(circle):
        with pytest.raises(PluginError) as raised:
            in_order(order)
        messages.add(str(raised.value))
    assert messages == {
        "graph passes wait for each other: a -> b -> a.\n  fix  take one of them out of the other's after= or before=."
    }
    with pytest.raises(PluginError, match=r"^two graph passes are called 'a'\.\n"):
        in_order([GraphPass("a", general), GraphPass("a", special)])


def test_every_hook_has_a_numpydoc_docstring():
    hooks = [name for name in dir(hookspecs) if name.startswith("dlbt_")]
    assert len(hooks) == 6
    for name in hooks:
        function = getattr(hookspecs, name)
        text = inspect.getdoc(function) or ""
        section = "Parameters\n----------\nadd\n" if inspect.signature(function).parameters else "Returns\n-------\n"
        assert section in text, name


class Late:
    """Collides with whatever came before in one of the kinds, and brings a rule."""

    def __init__(self, kind):
        self.kind = kind

    @hookimpl
    def dlbt_plugin_info(self):
        return PluginInfo(owns=("late",))

    @hookimpl
    def dlbt_register_rules(self, add):
        add.rule(f"acme.{self.kind}", variant="epsilon")(lambda ctx, message: {})

    @hookimpl
    def dlbt_register_lowerings(self, add):
        add.lowering("acme.taken" if self.kind == "lowering" else f"acme.{self.kind}")(general)

    @hookimpl
    def dlbt_register_analysers(self, add):
        add.analyser("taken" if self.kind == "analyser" else self.kind)(general)

    @hookimpl
    def dlbt_graph_passes(self):
        return [GraphPass("taken" if self.kind == "pass" else self.kind, general)]


class Early:
    """Has taken a name of each kind."""

    @hookimpl
    def dlbt_register_lowerings(self, add):
        add.lowering("acme.taken")(general)

    @hookimpl
    def dlbt_register_analysers(self, add):
        add.analyser("taken")(general)

    @hookimpl
    def dlbt_graph_passes(self):
        return [GraphPass("taken", general)]


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        (
            "lowering",
            "DuplicateRuleError: acme.taken has two lowerings:\n"
            f"  first   early    {line_of(general)}\n  second  late    {line_of(general)}\n"
            "  fix     leave one of them out.",
        ),
        ("analyser", "the analyser name 'taken' is taken by plugin 'early'."),
        (
            "pass",
            "two graph passes are called 'taken'.\n  fix  give one of them another name, or leave out its plugin.",
        ),
    ],
)
def test_a_taken_name_of_any_kind_refuses_the_whole_plugin(kind, cause, dlbt_plugins):
    dlbt_plugins.add(Early(), "early")
    with pytest.raises(PluginError) as caught:
        dlbt_plugins.add(Late(kind), "late")
    assert str(caught.value) == f"(local) 0 [late]: failed at register: {cause}"
    assert len(dlbt_plugins.registry) == 0
    assert list(dlbt_plugins.lowerings) == ["acme.taken"]
    assert list(dlbt_plugins.analysers) == ["taken"]
    assert [graph_pass.name for graph_pass in dlbt_plugins.passes] == ["taken"]
    assert [plugin.name for plugin in dlbt_plugins.loaded] == ["early"]
