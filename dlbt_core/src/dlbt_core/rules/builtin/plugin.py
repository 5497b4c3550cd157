"""The entry of the built-in plugin ``core``; it comes in through the same hooks as any other."""

from __future__ import annotations

from dlbt_core.plugins.hookspecs import GraphPass, LoweringSet, PluginInfo, hookimpl
from dlbt_core.rules.rule import RuleSet


@hookimpl
def dlbt_plugin_info() -> PluginInfo:
    """Who we are."""
    return PluginInfo(
        rule_api="1.0", summary="Copies, elementwise ops, arithmetic, linear family", owns=("aten", "prim")
    )


@hookimpl
def dlbt_register_rules(add: RuleSet) -> None:
    """Declare the rules."""
    from dlbt_core.rules.builtin import arithmetic, elementwise, factors, linear, products, spectral, structural

    for module in (structural, elementwise, arithmetic, linear, factors, products, spectral):
        module.declare(add)


@hookimpl
def dlbt_register_lowerings(add: LoweringSet) -> None:
    """Declare the lowerings."""
    from dlbt_core.rules.builtin import lowerings

    lowerings.declare(add)


@hookimpl
def dlbt_graph_passes() -> list[GraphPass]:
    """Passes that composites may ask for."""
    from dlbt_core.graph.passes import fold_batch_norm

    return [GraphPass("fold_batch_norm", fold_batch_norm)]


@hookimpl
def dlbt_register_composites(add: object) -> None:
    """Declare the named composites."""
    from dlbt_core.composites import presets, published

    for module in (presets, published):
        module.declare(add)
