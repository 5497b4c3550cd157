"""The division that all rules of the family have in common: relevance per unit of a stabilised denominator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dlbt_core.rules.builtin.product import Product, Side
from dlbt_core.rules.context import RuleContext, stabilise

__all__ = ["by_sides", "divide", "scale_of"]


def scale_of(z: Tensor, epsilon: float, relative: bool) -> Any:
    """Epsilon itself, or times the root mean square of z over all dimensions but that of the samples."""
    if not relative:
        return epsilon
    dims = tuple(range(min(1, z.dim() - 1), z.dim()))
    return epsilon * (z.square().mean(dims, keepdim=True).sqrt() if dims else z.abs())


def divide(ctx: RuleContext, R: Tensor, z: Tensor, epsilon: float, relative: bool = False) -> Tensor:
    """``R / (z + eps sgn z)``; what lies on epsilon is booked. Where nothing stands below, epsilon takes all."""
    divisor = stabilise(z, scale_of(z, epsilon, relative))
    if epsilon and not relative:
        c = R / divisor
    else:
        empty = divisor == 0
        c = torch.where(empty, torch.zeros_like(R), R / torch.where(empty, torch.ones_like(divisor), divisor))
    ctx.absorb("epsilon", torch.addcmul(R, c, z.expand(R.shape), value=-1))
    return c


def by_sides(
    ctx: RuleContext, R: Tensor, product: Product, rule: Callable[[Side, Tensor, dict[str, Any]], Tensor]
) -> dict[str, Any]:
    """Hand back through each carrying factor with the others as its weights; of n factors each gets R / n.

    Achtibat et al. 2024, prop. 3.3, for n = 2.
    """
    handed: dict[str, Any] = {}
    sides = product.sides(ctx)
    for side in sides:
        side.place(handed, rule(side, R / len(sides) if len(sides) > 1 else R, handed))
    return handed
