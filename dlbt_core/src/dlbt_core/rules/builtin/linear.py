"""The linear family: sums of products. Weights, or a second factor that carries relevance itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from dlbt_core.rules.context import RuleContext, stabilise
from dlbt_core.rules.rule import RuleSet

__all__ = ["FAMILY", "Product", "declare", "declare_family", "gradient", "share_between_factors"]


class Product(NamedTuple):
    """The parts of an op that is a sum of products plus an offset.

    Attributes
    ----------
    factors
        Arguments whose product is taken. The relevance of a product is shared evenly between those that carry.
    offset
        Argument that is added, or a function of the context that gives it. It takes its own part.
    channel
        The output's dimension, counted from the right, along which a one-dimensional offset lies.
    inverse
        Factors that are divided by: their derivative has the opposite sign of their share.
    """

    factors: tuple[str, ...]
    offset: str | Callable[[RuleContext], Tensor | None] = ""
    channel: int = -1
    inverse: tuple[str, ...] = ()

    def added(self, ctx: RuleContext) -> Tensor | None:
        """The constant that the op adds, shaped to broadcast against its output; None if it carries relevance itself."""
        if isinstance(self.offset, str) and self.offset in ctx.carries:
            return None
        return self.summand(ctx)

    def summand(self, ctx: RuleContext) -> Tensor | None:
        """What the op adds, constant or not."""
        found = self.offset(ctx) if callable(self.offset) else ctx.args.get(self.offset) if self.offset else None
        if found is None:
            return None
        found = found * ctx.args["beta"] if ctx.args.get("beta", 1) != 1 else found
        return found.view(-1, *[1] * (-self.channel - 1)) if found.dim() == 1 else found

    def surplus(self, handed: Mapping[str, Any]) -> int:
        """How many times more than it got the op's gradient hands on through its factors."""
        counts = ((-1 if name in self.inverse else 1) * _count(handed[name]) for name in self.factors if name in handed)
        return sum(counts) - 1


def _count(given: Any) -> int:
    return sum(x is not None for x in given) if isinstance(given, list) else 1


FAMILY: Mapping[str, Product] = {
    "aten.linear": Product(("input", "weight"), "bias"),
    "aten.addmm": Product(("mat1", "mat2"), "self"),
    "aten.addmv": Product(("mat", "vec"), "self"),
    "aten.addbmm": Product(("batch1", "batch2"), "self"),
    "aten.baddbmm": Product(("batch1", "batch2"), "self"),
    "aten.mm": Product(("self", "mat2")),
    "aten.mv": Product(("self", "vec")),
    "aten.bmm": Product(("self", "mat2")),
    "aten.dot": Product(("self", "tensor")),
    "aten.outer": Product(("self", "vec2")),
    "aten.matmul": Product(("self", "other")),
    "aten.einsum": Product(("tensors",)),
    "aten.bilinear": Product(("input1", "input2", "weight"), "bias"),
}
"""Ops of the family in the built-in plugin, and how their arguments enter."""

PRODUCTS: Mapping[str, Product] = {
    "aten.mul": Product(("self", "other")),
    "aten.multiply": Product(("self", "other")),
    "aten.div": Product(("self", "other"), inverse=("other",)),
    "aten.divide": Product(("self", "other"), inverse=("other",)),
    "aten.true_divide": Product(("self", "other"), inverse=("other",)),
}
"""Elementwise products and quotients."""


def share_between_factors(ctx: RuleContext, m: Tensor, product: Product) -> dict[str, Any]:
    """Each carrying factor gets the same part of the product; the offset gets its own.

    Achtibat et al. 2024, prop. 3.2 (n factors: R / n each) and prop. 3.3 (a matrix product: halves). With weights as the
    other factor, n = 1: this is the transpose of the linear map.
    """
    handed = ctx.vjp(m)
    parts = [name for name in product.factors if name in handed]
    if not parts:
        ctx.absorb_offset("constant", m)
    count = sum(_count(handed[name]) for name in parts)
    for name in parts:
        share = (-1.0 if name in product.inverse else 1.0) / count
        given = handed[name]
        if share != 1.0:
            handed[name] = (
                [None if x is None else x * share for x in given] if isinstance(given, list) else given * share
            )
    return handed


def gradient(ctx: RuleContext, m: Tensor, product: Product) -> dict[str, Any]:
    """The op's gradient. Books the offset, and what a product of several carrying factors hands on beyond what it got."""
    handed = ctx.vjp(m)
    added, surplus = product.added(ctx), product.surplus(handed)
    if surplus < 0 and not any(name in handed for name in product.factors):
        ctx.absorb_offset("constant", m)
        return handed
    if added is not None:
        ctx.absorb("bias", m, added)
    if surplus:
        summand = product.summand(ctx)
        ctx.absorb("product", m * -float(surplus), ctx.output if summand is None else ctx.output - summand)
    return handed


def _reads(parameters: Mapping[str, Any], carries: frozenset[str]) -> tuple[str, ...]:
    """The output only where the rule looks at it: for epsilon, or for the surplus of a product."""
    output = (
        bool(parameters.get("epsilon"))
        or parameters.get("bias") == "dropped"
        or ("epsilon" not in parameters and carries != {"input"})
    )
    return ("pullback", "constants", "output", "carrying") if output else ("pullback", "constants")


def _without_bias(ctx: RuleContext, m: Tensor, z: Tensor, epsilon: float) -> Tensor:
    """The multiplier of z, the output without its bias, that carries the relevance of the whole output.

    Where nothing is left of the output there is nobody to hand to; that is booked with epsilon.
    """
    relevance: Tensor = m * ctx.output
    divisor = stabilise(z, epsilon)
    empty = divisor == 0
    found = torch.where(empty, torch.zeros_like(z), relevance / torch.where(empty, torch.ones_like(z), divisor))
    ctx.absorb("epsilon", relevance - found * z)
    return found


def declare_family(add: RuleSet, family: Mapping[str, Product]) -> None:
    """Declare the variants of the linear family for the ops of `family`."""

    @add.rule(*family, variant="epsilon", absorbs=("bias", "epsilon", "constant"), default=True, reads=_reads)
    def linear_epsilon(
        ctx: RuleContext, m: Tensor, *, epsilon: float = 0.0, bias: Literal["denominator", "dropped"] = "denominator"
    ) -> dict[str, Any]:
        """R_i = sum_j x_i w_ji / (z_j + eps sgn z_j) R_j.  Bach et al. 2015, eq. 58; sgn 0 = +1.

        The bias is part of z_j and absorbs its share, or is dropped from it: then all goes to the inputs.
        """
        product = family[ctx.packet]
        added = product.added(ctx) if any(name in ctx.carries for name in product.factors) else None
        if bias == "dropped" and added is not None:
            m = _without_bias(ctx, m, ctx.output - added, epsilon)
        else:
            m = ctx.damp(m, epsilon)
            if added is not None:
                ctx.absorb("bias", m, added)
        return share_between_factors(ctx, m, product)

    @add.rule(*family, variant="gradient", absorbs=("bias", "product", "constant"), reads=_reads)
    def linear_gradient(ctx: RuleContext, m: Tensor) -> dict[str, Any]:
        """m_i = sum_j w_ji m_j: the op's gradient."""
        return gradient(ctx, m, family[ctx.packet])


def declare(add: RuleSet) -> None:
    """Declare the rules of this module."""
    declare_family(add, FAMILY)

    @add.rule(*PRODUCTS, variant="uniform", default=True, reads=("pullback", "constants"))
    def uniform(ctx: RuleContext, m: Tensor) -> dict[str, Any]:
        """R_i = R / n for each of the n carrying factors of a product.  Achtibat et al. 2024, prop. 3.2, eq. 7."""
        return share_between_factors(ctx, m, PRODUCTS[ctx.packet])

    @add.rule(*PRODUCTS, variant="gradient", absorbs=("product",), reads=_reads)
    def product_gradient(ctx: RuleContext, m: Tensor) -> dict[str, Any]:
        """m_i = m times the other factor: the op's gradient. Hands on n times what it got."""
        return gradient(ctx, m, PRODUCTS[ctx.packet])

    @add.rule(*_STEPPED, variant="gradient", absorbs=("product", "stopped"), reads=("pullback", "constants", "output"))
    def stepped_gradient(ctx: RuleContext, m: Tensor) -> dict[str, Any]:
        """m_i = 0 for a rounded quotient, which is constant between its steps; else the gradient of a quotient."""
        return _stopped(ctx, m) if ctx.args["rounding_mode"] else gradient(ctx, m, PRODUCTS[ctx.packet])

    @add.rule(
        *_STEPPED, variant="uniform", absorbs=("stopped",), default=True, reads=("pullback", "constants", "output")
    )
    def stepped(ctx: RuleContext, m: Tensor) -> dict[str, Any]:
        """R_i = 0 for a rounded quotient, which is constant between its steps; else R / n for each carrying factor."""
        return _stopped(ctx, m) if ctx.args["rounding_mode"] else share_between_factors(ctx, m, PRODUCTS[ctx.packet])


_STEPPED = ("aten.div.Tensor_mode", "aten.div.Scalar_mode")


def _stopped(ctx: RuleContext, m: Tensor) -> dict[str, Any]:
    ctx.absorb("stopped", m, ctx.output)
    return {}
