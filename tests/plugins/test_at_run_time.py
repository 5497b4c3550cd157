"""What a plugin can do wrong once it is loaded: everything else works as before, and the message names the plugin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dlbt_core as dlbt
from dlbt_core import Select, Use, hookimpl
from dlbt_core.errors import PluginError, PluginWarning
from dlbt_core.graph.facts import OWN, analyse
from dlbt_core.plugins.hookspecs import GraphPass
from dlbt_core.plugins.loader import Plugins

generator = torch.Generator().manual_seed(4)
X = torch.randn(3, 4, generator=generator, dtype=torch.float64)
TAIL = "DLBT_DISABLE_PLUGINS=acme leaves the plugin out."


class Acme:
    """A plugin of one analyser, lowering or rule."""

    def __init__(
        self, analyser: Any = None, lowering: str = "", rule: str = "", default: bool = False, meaning: Any = None
    ) -> None:
        self.analyser, self.lowering, self.rule, self.default = analyser, lowering, rule, default
        self.meaning = meaning or failing

    @hookimpl
    def dlbt_register_analysers(self, add: Any) -> None:
        if self.analyser is not None:
            add.analyser("look")(self.analyser)

    @hookimpl
    def dlbt_register_lowerings(self, add: Any) -> None:
        if self.lowering:
            add.lowering(self.lowering)(self.meaning)

    @hookimpl
    def dlbt_register_rules(self, add: Any) -> None:
        if self.rule:
            add.rule(self.rule, variant="epsilon", default=self.default)(failing_rule)


class Model(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.last = nn.Linear(4, 2, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(x))


def failing(*args: Any, **kwargs: Any) -> Any:
    raise ZeroDivisionError("not today")


def failing_rule(ctx: dlbt.RuleContext, m: Tensor) -> dict[str, Tensor]:
    return failing(m)


def explained(model: nn.Module, acme: Any = None, strict: bool = False, **more: Any) -> Tensor:
    plugins = Plugins(only=("core", "acme"))
    if acme is not None:
        plugins.add(acme, "acme")
    plugins.strict = strict
    return dlbt.explain(model.eval(), X, target=0, plugins=plugins, **more).inputs["x"]


class Wordless(Exception):
    def __str__(self) -> str:
        raise KeyError


def wordless(graph: Any) -> Any:
    raise Wordless


FAILING = {
    "raises without words": (wordless, "Wordless: (its text cannot be shown)"),
    "raises": (failing, "ZeroDivisionError: not today"),
    "gives nothing": (lambda graph: None, "an analyser returns a mapping from fact to values, not NoneType"),
    "gives no index": (
        lambda graph: {"mine": {10**6}},
        "a fact has a name and indices of values of the graph, not 'mine': [1000000]",
    ),
    "adds to a fact of dlbt's": (
        lambda graph: {"statistic": range(len(graph.values))},
        "the fact 'statistic' is dlbt's own. Give it another name",
    ),
}


@pytest.mark.parametrize("what", FAILING)
def test_an_analyser_that_fails_changes_nothing(what: str) -> None:
    analyser, cause = FAILING[what]
    model = Model(torch.relu)
    before = explained(model)
    with pytest.warns(PluginWarning) as caught:
        after = explained(model, Acme(analyser))
    assert torch.equal(after, before)
    assert {str(one.message) for one in caught} == {
        f"acme ((local) 0): its analyser 'look' failed: {cause}\n"
        f"  Its facts are left out. DLBT_STRICT_PLUGINS=1 shows the error; {TAIL}"
    }
    assert all(one.filename == __file__ for one in caught)
    with pytest.raises(PluginError) as raised:
        explained(model, Acme(analyser), strict=True)
    assert str(raised.value) == f"acme ((local) 0): its analyser 'look' failed: {cause}\n  fix  {TAIL}"


def test_the_facts_that_are_dlbts_own_are_all_of_them() -> None:
    graph = dlbt.Explainer(nn.TransformerEncoderLayer(8, 2, 16).eval()).graph(torch.zeros(3, 1, 8))
    assert OWN - set(analyse(graph).named) == {"before_tanh", "before_sigmoid", "before_swish"}  # there are none here
    assert set(analyse(graph).named) <= OWN


def kron(x: Tensor) -> Tensor:
    return torch.kron(x, torch.ones(1, 1, dtype=x.dtype))


@pytest.mark.parametrize(
    "acme",
    [
        Acme(rule="aten.kron"),
        Acme(rule="aten.kron", default=True),
        Acme(rule="aten.kron.default"),
        Acme(lowering="aten.kron"),
    ],
)
def test_what_torch_itself_runs_as_other_ops_is_explained_as_before(acme: Acme) -> None:
    model = Model(kron)
    assert torch.equal(explained(model, acme), explained(model))


class Kron:
    """A plugin with a rule for an op that torch itself runs as others, and a composite that asks for it."""

    @hookimpl
    def dlbt_register_rules(self, add: Any) -> None:
        @add.rule("aten.kron", variant="whole", absorbs=("product",))
        def whole(ctx: dlbt.RuleContext, m: Tensor) -> dict[str, Tensor]:
            """m_i = sum_j dz_j/dx_i m_j: the op's gradient."""
            return ctx.gradient(m, "product")

    @hookimpl
    def dlbt_register_composites(self, add: Any) -> None:
        add.add(dlbt.Composite("with_kron", (WHOLE,)), "one line", "acme")


WHOLE = (Select(op="aten.kron"), Use("whole"))


def test_who_asks_by_name_for_a_rule_of_such_an_op_gets_it() -> None:
    plugins = Plugins(only=("core", "acme"))
    plugins.add(Kron(), "acme")
    explainer = dlbt.Explainer(Model(kron).eval(), "epsilon", plugins=plugins)
    before = explainer(X, target=0)
    assert not any("kron" in node.op for node in explainer.graph(X).nodes)

    def asked(**given: Any) -> dlbt.Explanation:
        return explainer(X, target=0, **given)

    with dlbt.use_rules(WHOLE):
        in_context = explainer(X, target=0)
        assert any("kron" in node.op for node in explainer.graph(X).nodes)
    value = dlbt.Composite("mine", (WHOLE,))
    for found in (asked(rules=[WHOLE]), asked(composite=value), asked(composite="with_kron"), in_context):
        assert "acme:aten.kron#whole()" in str(found.plan)
        assert found.ledger.error < 1e-12
        torch.testing.assert_close(found.relevance, before.relevance, rtol=1e-4, atol=1e-5)  # epsilon's own part
    for choices in ([], [(Select(op="aten.kro*"), Use("whole"))], [(Select(op="aten.kron"), Use("epsilon"))]):
        assert "kron" not in str(asked(rules=choices).plan.table())


@torch.library.custom_op("dlbt_at_run_time::twice", mutates_args=())
def twice(x: Tensor) -> Tensor:
    return x * 2.0


def test_a_lowering_that_fails_is_not_the_models_fault() -> None:
    with pytest.raises(PluginError) as raised:
        explained(Model(twice), Acme(lowering="dlbt_at_run_time::twice"))
    assert str(raised.value) == (
        "the lowering of dlbt_at_run_time.twice.default by plugin acme ((local) 0) failed: ZeroDivisionError: not today\n"
        f"  fix  tell its authors; {TAIL}"
    )
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    with pytest.raises(PluginError) as raised:
        explained(Model(twice), Acme(lowering="dlbt_at_run_time::twice", meaning=wordless))
    assert str(raised.value) == (
        "the lowering of dlbt_at_run_time.twice.default by plugin acme ((local) 0) failed: Wordless: (its text cannot be "
        f"shown)\n  fix  tell its authors; {TAIL}"
    )


def test_a_rule_that_fails_is_named() -> None:
    with pytest.raises(ZeroDivisionError) as raised:
        explained(Model(torch.relu), Acme(rule="aten.relu"), rules=[(Select(op="aten.relu"), Use("acme:epsilon"))])
    assert str(raised.value) == "not today"
    (note,) = raised.value.__notes__
    assert note.startswith("in rule acme:aten.relu#epsilon of node relu in (model) (Model) at ")
    assert note.endswith(f"\n  where  {__file__}:{failing_rule.__code__.co_firstlineno}")


class Failing:
    """A plugin whose composite is chosen by a function that fails, or asks for a graph pass that does."""

    @hookimpl
    def dlbt_register_composites(self, add: Any) -> None:
        add.factory("acme_choice")(failing)
        add.add(dlbt.Composite("acme_passed", passes=("acme_pass",)), "one line", "acme")

    @hookimpl
    def dlbt_graph_passes(self) -> Any:
        return [GraphPass("acme_pass", failing)]


@pytest.mark.parametrize(
    ("composite", "notes"),
    [
        ("acme_choice", ["in composite 'acme_choice' of plugin acme ((local) 0)"]),
        ("acme_passed", ["in graph pass 'acme_pass'"]),
    ],
)
def test_a_composite_or_a_pass_that_fails_is_named(composite: str, notes: list[str]) -> None:
    with pytest.raises(ZeroDivisionError) as raised:
        explained(Model(torch.relu), Failing(), composite=composite)
    assert raised.value.__notes__ == notes
