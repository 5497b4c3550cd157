"""The hooks. What they need is imported when they are called, so that finding the plugin costs next to nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlbt_core.plugins.hookspecs import PluginInfo, hookimpl

if TYPE_CHECKING:
    from dlbt_core.composites.composite import CompositeSet
    from dlbt_core.plugins.hookspecs import AnalyserSet, LoweringSet
    from dlbt_core.rules.rule import RuleSet


@hookimpl
def dlbt_plugin_info() -> PluginInfo:
    """Who we are, and the namespace of ops that is ours."""
    return PluginInfo(rule_api="1.0", summary="Ops of our own, and their rules", owns=("example",))


@hookimpl
def dlbt_register_rules(add: RuleSet) -> None:
    """Declare the rules."""
    from dlbt_plugin_example import rules

    rules.declare(add)


@hookimpl
def dlbt_register_lowerings(add: LoweringSet) -> None:
    """Declare ops as functions of ops that have rules."""
    from dlbt_plugin_example import lowerings

    lowerings.declare(add)


@hookimpl
def dlbt_register_analysers(add: AnalyserSet) -> None:
    """Declare what finds facts in a graph."""
    from dlbt_plugin_example.analysers import residual

    add.analyser("residual")(residual)


@hookimpl
def dlbt_register_composites(add: CompositeSet) -> None:
    """Declare the composites."""
    from dlbt_plugin_example import composites

    composites.declare(add)
