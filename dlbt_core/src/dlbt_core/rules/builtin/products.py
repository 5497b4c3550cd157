"""Elementwise products and quotients: of two values that carry relevance, or of one and a constant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from dlbt_core.rules.builtin.dlb import quotient
from dlbt_core.rules.builtin.linear import gradient, reads_of_products, share_between_factors
from dlbt_core.rules.builtin.product import Product
from dlbt_core.rules.context import RuleContext
from dlbt_core.rules.parameter import NotNegative
from dlbt_core.rules.rule import RuleSet

__all__ = ["PRODUCTS", "declare"]

_PRODUCTS: Mapping[str, Product] = {
    "aten.mul": Product(("self", "other")),
    "aten.multiply": Product(("self", "other")),
}
_QUOTIENTS: Mapping[str, Product] = {
    "aten.div": Product(("self", "other"), inverse=("other",)),
    "aten.divide": Product(("self", "other"), inverse=("other",)),
    "aten.true_divide": Product(("self", "other"), inverse=("other",)),
}
PRODUCTS = {**_PRODUCTS, **_QUOTIENTS}
"""Elementwise products and quotients."""

_STEPPED = ("aten.div.Tensor_mode", "aten.div.Scalar_mode")


def declare(add: RuleSet) -> None:
    """Declare the rules of this module."""

    @add.rule(*PRODUCTS, variant="uniform", absorbs=("epsilon",), default=True,
              reads=lambda asked: ("pullback", "constants", *(("output",) if asked.parameters["epsilon"] else ())))  # fmt: skip
    def uniform(ctx: RuleContext, m: Tensor, *, epsilon: NotNegative = 0.0) -> dict[str, Any]:
        """R_i = z / n (z + eps sgn z) R for each of the n carrying factors of z.  Achtibat et al. 2024, prop. 3.2, eq. 7."""
        return share_between_factors(ctx, ctx.damp(m, epsilon), PRODUCTS[ctx.packet])

    @add.rule(*_PRODUCTS, variant="signal", reads=("pullback", "constants"))
    def signal(ctx: RuleContext, m: Tensor, *, signal: Literal["auto", "self", "other"] = "auto") -> dict[str, Any]:
        """R_signal = R, R_gate = 0: all to the signal, none to the gate.  Arras et al. 2017.

        A gate is a factor with the fact of that name: the result of a sigmoid, say. If neither of the two factors is one,
        or both are, they share evenly.
        """
        handed = ctx.vjp(m)
        if len(handed) < 2:
            return handed
        gates = [name for name in handed if "gate" in ctx.facts.get(name, ())]
        if signal != "auto":
            gates = [name for name in handed if name != signal]
        if len(gates) != 1:
            return {name: given / 2 for name, given in handed.items()}
        return {name: given for name, given in handed.items() if name not in gates}

    @add.rule(*_PRODUCTS, variant="dlb_default", takes="relevance", reads=("carrying", "constants", "output"))
    def default(ctx: RuleContext, R: Tensor) -> dict[str, Any]:
        """R_a = |y - a| / (|y - a| + |y - b|) R for y = a b, and R_b likewise; evenly if both are 0.  Sankarapu et al. 2024."""
        if len(ctx.carries) == 1:
            (name,) = ctx.carries
            return {name: R.sum_to_size(ctx.shape(name))}
        weights = {name: (ctx.output - ctx.args[name]).abs() for name in ("self", "other")}
        total = weights["self"] + weights["other"]
        even = torch.full_like(total, 0.5)
        return {
            name: (R * torch.where(total == 0, even, quotient(weight, total))).sum_to_size(ctx.shape(name))
            for name, weight in weights.items()
        }

    @add.rule(*PRODUCTS, variant="gradient", absorbs=("product",), reads=reads_of_products)
    def product_gradient(ctx: RuleContext, m: Tensor) -> dict[str, Any]:
        """m_i = m times the other factor: the op's gradient. Hands on n times what it got."""
        return gradient(ctx, m, PRODUCTS[ctx.packet])

    @add.rule(*_STEPPED, variant="gradient", absorbs=("product", "stopped"), reads=("pullback", "constants", "output"))
    def stepped_gradient(ctx: RuleContext, m: Tensor) -> dict[str, Any]:
        """m_i = 0 for a rounded quotient, which is constant between its steps; else the op's gradient."""
        return _stopped(ctx, m) if ctx.args["rounding_mode"] else gradient(ctx, m, PRODUCTS[ctx.packet])

    @add.rule(
        *_STEPPED, variant="uniform", absorbs=("stopped",), default=True, reads=("pullback", "constants", "output")
    )
    def stepped(ctx: RuleContext, m: Tensor) -> dict[str, Any]:
        """R_i = 0 for a rounded quotient, constant between its steps; else R / n each.  Achtibat et al. 2024, eq. 7."""
        return _stopped(ctx, m) if ctx.args["rounding_mode"] else share_between_factors(ctx, m, PRODUCTS[ctx.packet])


def _stopped(ctx: RuleContext, m: Tensor) -> dict[str, Any]:
    ctx.absorb("stopped", m, ctx.output)
    return {}
