"""Several plugins with a rule for the same op: nobody's answer depends on who else is there, or on the order."""

from __future__ import annotations

import inspect
from itertools import permutations

import pytest

from dlbt_core.errors import AmbiguousRuleError, UnknownVariantError
from dlbt_core.plugins.hookspecs import PluginInfo, hookimpl
from dlbt_core.plugins.loader import Plugins

OPS = ("aten.linear.default", "aten.linear", "aten.add.Tensor", "aten.mul.Tensor", "acme.rotary.default")


class Stranger:
    """Claims ops with default rules called epsilon and gamma."""

    def __init__(self, *ops: str, owns: tuple[str, ...] = ()) -> None:
        self.ops = ops
        self.owns = owns

    @hookimpl
    def dlbt_plugin_info(self):
        return PluginInfo(owns=self.owns)

    @hookimpl
    def dlbt_register_rules(self, add):
        def rule(ctx, message):
            return {}

        for op in self.ops:
            add.rule(op, variant="epsilon", default=True)(rule)
            add.rule(op, variant="gamma")(rule)


STRANGERS = {
    "one": Stranger("aten.linear", "acme.rotary"),
    "two": Stranger("aten.linear.default", "acme.rotary.default"),
    "zoo": Stranger("aten.linear", "aten.linear.default", "acme.rotary"),
}


def with_core(**strangers: Stranger) -> Plugins:
    plugins = Plugins(strict=True, discover=False)
    plugins.add_builtin()
    for name, stranger in strangers.items():
        plugins.add(stranger, name)
    return plugins


def resolutions(plugins: Plugins, variants: list[str]) -> dict[tuple[str, str], str]:
    """What each name stands for on each op: the rule's id, or the error."""
    found = {}
    for op in OPS:
        for variant in [*variants, "default"]:
            try:
                rule = plugins.registry.default(op) if variant == "default" else plugins.registry.find(op, variant)
                found[op, variant] = rule.id if rule else "none"
            except (AmbiguousRuleError, UnknownVariantError) as error:
                found[op, variant] = f"{type(error).__name__}: {error}"
    return found


def test_order_of_loading_does_not_matter():
    variants = [*with_core(**STRANGERS).registry.variant_names(), *(f"{name}:epsilon" for name in STRANGERS)]
    orders = [dict(order) for order in permutations(STRANGERS.items())]
    first, *others = [resolutions(with_core(**order), variants) for order in orders]
    assert len(others) == 5
    assert all(other == first for other in others)
    assert first["aten.linear.default", "default"].startswith("core:aten.linear#")
    assert first["aten.linear.default", "epsilon"].startswith("core:aten.linear#")
    assert first["aten.linear.default", "two:epsilon"] == "two:aten.linear.default#epsilon"
    assert first["aten.linear.default", "one:epsilon"] == "one:aten.linear#epsilon"
    assert first["acme.rotary.default", "default"].startswith("AmbiguousRuleError: 3 rules fit acme.rotary.default:\n")


def test_strangers_leave_earlier_resolutions_as_they_were():
    alone = with_core()
    variants = alone.registry.variant_names()
    before = {
        asked: answer for asked, answer in resolutions(alone, variants).items() if ":aten." in answer and "#" in answer
    }
    assert len(before) > 10
    after = resolutions(with_core(**STRANGERS), variants)
    assert {asked: after[asked] for asked in before} == before


def test_a_name_that_nobody_owns_is_ambiguous_and_a_qualified_one_is_not():
    plugins = with_core(one=Stranger("acme.rotary"), two=Stranger("acme.rotary"))
    for ask in (
        lambda: plugins.registry.find("acme.rotary.default", "epsilon"),
        lambda: plugins.registry.default("acme.rotary.default"),
    ):
        with pytest.raises(AmbiguousRuleError) as raised:
            ask()
        where = f"{__file__}:{inspect.getsourcelines(Stranger.dlbt_register_rules)[1] + 2}"
        assert str(raised.value) == (
            "2 rules fit acme.rotary.default:\n"
            f"  one:epsilon    one (by hand)    {where}\n"
            f"  two:epsilon    two (by hand)    {where}\n"
            "  fix  name one, e.g. Use('one:epsilon'), or Composite(..., prefer=('one',)), or disable the other plugin."
        )
    for name in ("one", "two"):
        assert plugins.registry.find("acme.rotary.default", f"{name}:epsilon").id == f"{name}:acme.rotary#epsilon"
        assert plugins.registry.find("acme.rotary.default", "epsilon", prefer=(name,)).source.plugin == name
        assert plugins.registry.default("acme.rotary.default", prefer=(name,)).source.plugin == name


@pytest.mark.parametrize("order", list(permutations(["one", "owner"])))
def test_the_owner_of_the_namespace_decides(order):
    strangers = {"one": Stranger("acme.rotary.default"), "owner": Stranger("acme.rotary", owns=("acme",))}
    plugins = with_core(**{name: strangers[name] for name in order})
    assert plugins.registry.find("acme.rotary.default", "epsilon").id == "owner:acme.rotary#epsilon"
    assert plugins.registry.default("acme.rotary.default").id == "owner:acme.rotary#epsilon"
    assert plugins.registry.find("acme.rotary.default", "one:epsilon").id == "one:acme.rotary.default#epsilon"
