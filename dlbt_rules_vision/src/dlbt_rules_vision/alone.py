"""Products with an op's Jacobian, one message after the other: for kernels that cannot be mapped over several at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dlbt_core.rules.context import RuleContext

__all__ = ["main", "pull_back", "pull_back_alone"]


def main(ctx: RuleContext, given: Any) -> Tensor:
    """The first result, or the message for it, where others only count or point."""
    found: Tensor = given[0] if ctx.node.many else given
    return found


Function = Callable[[Tensor], tuple[Tensor, ...]]


class _Alone(torch.autograd.Function):
    """A function of one message. Under `torch.vmap` it runs once for each, and says nothing about it."""

    generate_vmap_rule = False

    @staticmethod
    def forward(function: Function, message: Tensor) -> tuple[Tensor, ...]:
        return function(message)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing to keep: messages are not differentiated."""

    @staticmethod
    def vmap(_info: Any, in_dims: Any, function: Function, message: Tensor) -> Any:
        found = [_Alone.apply(function, one) for one in message.unbind(in_dims[1])]
        return tuple(torch.stack(parts) for parts in zip(*found, strict=True)), (0,) * len(found[0])


def pull_back(ctx: RuleContext, m: Tensor, *names: str) -> dict[str, Any]:
    """``ctx.vjp`` for the message of the first result, where others only count or point."""
    return ctx.vjp([m, *[None] * (len(ctx.node.outputs) - 1)] if ctx.node.many else m, *names)


def pull_back_alone(ctx: RuleContext, m: Tensor, *names: str) -> dict[str, Any]:
    """The same, also for an op whose kernel takes no batches of messages."""
    wanted = sorted(names or ctx.carries)
    found: list[str] = []

    def pull(message: Tensor) -> tuple[Tensor, ...]:
        handed = pull_back(ctx, message, *wanted)
        found[:] = list(handed)
        return tuple(handed.values())

    results = _Alone.apply(pull, m)
    return dict(zip(found, results, strict=True))
