"""Convolutions and batch norm: members of the linear family, which brings all their variants."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dlbt_core.rules.builtin.linear import Product, declare_family
from dlbt_core.rules.context import RuleContext
from dlbt_core.rules.rule import RuleSet

__all__ = ["FAMILY", "declare"]


def _batch_norm_shift(ctx: RuleContext) -> Tensor:
    """b - w mean / sqrt(var + eps): what an eval-mode batch norm adds."""
    args = ctx.args
    shift: Tensor = -args["running_mean"] * torch.rsqrt(args["running_var"] + args["eps"])
    shift = shift if args["weight"] is None else shift * args["weight"]
    shift = shift if args["bias"] is None else shift + args["bias"]
    return shift.view(-1, *[1] * (len(ctx.shape("input")) - 2))


FAMILY: Mapping[str, Product] = {
    **{f"aten.conv{n}d": Product(("input", "weight"), "bias", -n - 1) for n in (1, 2, 3)},
    **{f"aten.conv_transpose{n}d": Product(("input", "weight"), "bias", -n - 1) for n in (1, 2, 3)},
    "aten.batch_norm": Product(("input",), _batch_norm_shift),
}
"""Ops of the linear family in this package."""


def declare(add: RuleSet) -> None:
    """Declare the rules of this module."""
    declare_family(add, FAMILY)
