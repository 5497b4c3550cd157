"""Convolutions and batch norm: members of the linear family, which brings all their variants."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dlbt_core.rules.builtin.linear import Product, declare_family
from dlbt_core.rules.context import RuleContext
from dlbt_core.rules.rule import RuleSet

__all__ = ["FAMILY", "declare"]


def _per_channel(ctx: RuleContext, vector: Tensor) -> Tensor:
    return vector.view(-1, *[1] * (len(ctx.shape("input")) - 2))


def _scale(ctx: RuleContext) -> Tensor:
    """w / sqrt(var + eps): what an eval-mode batch norm multiplies by."""
    args = ctx.args
    scale: Tensor = torch.rsqrt(args["running_var"] + args["eps"])
    return scale if args["weight"] is None else scale * args["weight"]


def _shift(ctx: RuleContext) -> Tensor:
    """b - mean w / sqrt(var + eps): what it adds."""
    shift: Tensor = -ctx.args["running_mean"] * _scale(ctx)
    return _per_channel(ctx, shift if ctx.args["bias"] is None else shift + ctx.args["bias"])


def _scaled(ctx: RuleContext, x: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
    return x * _per_channel(ctx, weights[0])


FAMILY: Mapping[str, Product] = {
    **{f"aten.conv{n}d": Product(("input", "weight"), "bias", -n - 1) for n in (1, 2, 3)},
    **{f"aten.conv_transpose{n}d": Product(("input", "weight"), "bias", -n - 1) for n in (1, 2, 3)},
    "aten.batch_norm": Product(("input",), _shift, 1, weights=lambda ctx: (_scale(ctx),), apply=_scaled),
}
"""Ops of the linear family in this package."""


def declare(add: RuleSet) -> None:
    """Declare the rules of this module."""
    declare_family(add, FAMILY)
