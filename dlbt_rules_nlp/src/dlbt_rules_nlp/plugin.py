"""The entry of the plugin ``nlp``; rule modules are imported when their hook is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlbt_core.plugins.hookspecs import PluginInfo, hookimpl

if TYPE_CHECKING:
    from dlbt_core.composites.composite import CompositeSet
    from dlbt_core.plugins.hookspecs import AnalyserSet
    from dlbt_core.rules.rule import RuleSet


@hookimpl
def dlbt_plugin_info() -> PluginInfo:
    """Who we are."""
    return PluginInfo(rule_api="1.0", summary="Embedding, attention, softmax, layer and rms norm", owns=("aten",))


@hookimpl
def dlbt_register_rules(add: RuleSet) -> None:
    """Declare the rules."""
    from dlbt_rules_nlp import (
        attention,
        embedding,
        embedding_bag,
        gated,
        moe,
        norms,
        recurrent,
        recurrent_packing,
        solving,
    )

    for module in (embedding, embedding_bag, attention, norms, recurrent, recurrent_packing, gated, moe, solving):
        module.declare(add)


@hookimpl
def dlbt_register_composites(add: CompositeSet) -> None:
    """Declare the composites."""
    from dlbt_rules_nlp import composites

    composites.declare(add)


@hookimpl
def dlbt_register_analysers(add: AnalyserSet) -> None:
    """Declare the analysers."""
    from dlbt_rules_nlp import scans

    scans.declare(add)
