"""The entry of the plugin ``vision``; rule modules are imported when their hook is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlbt_core.plugins.hookspecs import PluginInfo, hookimpl

if TYPE_CHECKING:
    from dlbt_core.rules.rule import RuleSet


@hookimpl
def dlbt_plugin_info() -> PluginInfo:
    """Who we are."""
    summary = "Convolution, pooling, norms over space, resampling, detection"
    return PluginInfo(rule_api="1.0", summary=summary, owns=("aten", "torchvision"))


@hookimpl
def dlbt_register_rules(add: RuleSet) -> None:
    """Declare the rules."""
    from dlbt_rules_vision import convolution, detection, group_norms, pooling, resampling

    for module in (convolution, pooling, group_norms, resampling, detection):
        module.declare(add)
