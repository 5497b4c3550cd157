"""Two streams that arrive at an op with any relevance: a plugin made by hand, whose rule decrees it."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

import dlbt_core as dlbt
from dlbt_core.plugins.hookspecs import PluginInfo, hookimpl
from dlbt_core.plugins.loader import Plugins

__all__ = ["DECREED", "decreed", "plugins_with_decree", "streams_of", "with_decree"]

STREAMS = ("for", "against")
DECREED = "decreed"
"""Under this name the books hold what the decree changed."""


def decreed(R: Tensor) -> Tensor:
    """What arrives in both streams, (2, ...), where R comes: of any sign and size, and each number by itself."""
    return torch.stack([R + torch.sin(3.0 * R + 1.0), 1.5 * torch.cos(7.0 * R)])


class DecreePlugin:
    @hookimpl
    def dlbt_plugin_info(self) -> PluginInfo:
        return PluginInfo(rule_api="1.0", summary="relevance in two streams by decree")

    @hookimpl
    def dlbt_register_rules(self, add: Any) -> None:
        @add.rule(
            "aten.clone", variant="decree", takes="relevance", coupled=True, linear=False, absorbs=(DECREED,), reads=()
        )
        def decree(ctx: Any, R: Tensor) -> dict[str, Tensor]:
            """Both streams become a function of what comes in the first."""
            given = decreed(R[0])
            ctx.absorb(DECREED, R - given)
            return {"self": given}


@lru_cache(maxsize=1)
def plugins_with_decree() -> Plugins:
    found = Plugins()
    found.add(DecreePlugin(), "testplugin")
    return found


def with_decree(composite: str) -> dlbt.Composite:
    """A named composite with two streams, and the decree for copies."""
    choice = (dlbt.Select(op="aten.clone"), dlbt.Use("testplugin:decree"))
    return replace(dlbt.composite(composite).but(choice), streams=STREAMS)


def streams_of(explanation: Any) -> list[Any]:
    """The explanation of each stream: of one or of two."""
    return [explanation, *explanation.streams.values()]
