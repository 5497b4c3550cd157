"""Two streams that arrive at an op with any relevance: a plugin made by hand, whose rule decrees it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from dlbt_core.composites.composite import Composite
from dlbt_core.composites.select import Select, Use
from dlbt_core.plugins.hookspecs import PluginInfo, hookimpl
from dlbt_core.plugins.loader import Plugins, default_plugins
from dlbt_core.rules.rule import RuleSet

__all__ = ["DECREED", "decreed", "plugins_with_decree", "streams_of", "with_decree"]

DECREED = "decreed"
"""Under this name the books hold what the decree changed."""

_STREAMS = ("for", "against")
_NAME = "dlbt_testing_streams"


def decreed(R: Tensor) -> Tensor:
    """What arrives in both streams, (2, ...), where R comes: of any sign and size, and each number by itself."""
    return torch.stack([R + torch.sin(3.0 * R + 1.0), 1.5 * torch.cos(7.0 * R)])


class _Decree:
    @hookimpl
    def dlbt_plugin_info(self) -> PluginInfo:
        return PluginInfo(rule_api="1.0", summary="relevance in two streams by decree")

    @hookimpl
    def dlbt_register_rules(self, add: RuleSet) -> None:
        @add.rule(
            "aten.clone", variant="decree", takes="relevance", coupled=True, linear=False, absorbs=(DECREED,), reads=()
        )
        def decree(ctx: Any, R: Tensor) -> dict[str, Tensor]:
            """Both streams become a function of what comes in the first."""
            given = decreed(R[0])
            ctx.absorb(DECREED, R - given)
            return {"self": given}


@cache
def _default_with_decree() -> Plugins:
    return plugins_with_decree(Plugins())


def plugins_with_decree(plugins: Plugins | None = None) -> Plugins:
    """The plugins given, with the decree added to them; all installed ones if none are given."""
    if plugins is None:
        return _default_with_decree()
    if all(plugin.name != _NAME for plugin in plugins.loaded):
        plugins.add(_Decree(), _NAME)
    return plugins


def with_decree(composite: str) -> Composite:
    """A named composite with two streams, and the decree for copies."""
    choice = (Select(op="aten.clone"), Use(f"{_NAME}:decree"))
    return replace(default_plugins().composites.build(composite).but(choice), streams=_STREAMS)


def streams_of(explanation: Any) -> list[Any]:
    """The explanation of each stream: of one or of two."""
    return [explanation, *explanation.streams.values()]
