"""The linear family: sums of products. Weights, or a second factor that carries relevance itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from dlbt_core.rules.builtin.boundary import declare_boundary
from dlbt_core.rules.builtin.dlb import declare_dlb
from dlbt_core.rules.builtin.product import FAMILY, Product, count
from dlbt_core.rules.builtin.share import divide, scale_of
from dlbt_core.rules.builtin.signed import declare_signed
from dlbt_core.rules.context import RuleContext, multiply
from dlbt_core.rules.parameter import NotNegative
from dlbt_core.rules.rule import Asked, RuleSet

__all__ = ["FAMILY", "Product", "declare", "declare_family", "gradient", "share_between_factors", "stabilised"]


def share_between_factors(ctx: RuleContext, m: Tensor, product: Product) -> dict[str, Any]:
    """Each carrying factor gets the same part of the product; the offset gets its own.

    Achtibat et al. 2024, prop. 3.2 (n factors: R / n each) and prop. 3.3 (a matrix product: halves). With weights as the
    other factor, n = 1: this is the transpose of the linear map.
    """
    handed = ctx.vjp(m)
    parts = [name for name in product.factors if name in handed]
    if not parts:
        ctx.absorb_offset("constant", m)
    total = sum(count(handed[name]) for name in parts)
    for name in parts:
        share = (-1.0 if name in product.inverse else 1.0) / total
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
        _book(ctx, "bias", m, added, product)
    if surplus:
        summand = product.summand(ctx)
        products = ctx.output if summand is None else ctx.output - summand
        _book(ctx, "product", m * -float(surplus), products, product)
    return handed


def _book(ctx: RuleContext, name: str, m: Tensor, times: Tensor, product: Product) -> None:
    """Book m * times. Where an offset masks, as attention's does, its infinities take nothing."""
    infinite = isinstance(product.offset, str) and "infinite" in ctx.facts.get(product.offset, ())
    if infinite:
        ctx.absorb(name, multiply(times, m))
    else:
        ctx.absorb(name, m, times)


_SHAPED_APART = frozenset({"aten.dot", "aten.outer", "aten.addbmm"})
"""Ops none of whose factors can have the result's shape."""


def reads_of_products(asked: Asked) -> tuple[str, ...]:
    """The output only where the rule looks at it: for epsilon, or for the surplus of a product."""
    given = asked.parameters
    output = bool(given.get("epsilon")) or given.get("bias") == "dropped"
    output = output or ("epsilon" not in given and asked.carries != {"input"})
    return ("pullback", "constants", "output", "carrying") if output else ("pullback", "constants")


def stabilised(
    ctx: RuleContext, m: Tensor, product: Product, epsilon: float, relative: bool = False, bias: str = "denominator"
) -> dict[str, Any]:
    """The epsilon rule. The bias is a part of z and takes its share, or is dropped from z: then all goes to the inputs."""
    summand = product.summand(ctx) if bias == "dropped" else None
    if summand is not None:
        m = divide(ctx, m * ctx.output, ctx.output - summand, epsilon, relative)
        handed = share_between_factors(ctx, m, product)
        return {name: given for name, given in handed.items() if name != product.offset}
    m = ctx.damp(m, scale_of(ctx.output, epsilon, relative) if epsilon else 0.0)
    added = product.added(ctx) if ctx.carries.intersection(product.factors) else None
    if added is not None:
        _book(ctx, "bias", m, added, product)
    return share_between_factors(ctx, m, product)


def declare_family(add: RuleSet, family: Mapping[str, Product]) -> None:
    """Declare all variants of the linear family for the ops of `family`."""

    @add.rule(
        *family, variant="epsilon", absorbs=("bias", "epsilon", "constant"), default=True, reads=reads_of_products
    )
    def linear_epsilon(
        ctx: RuleContext, m: Tensor, *, epsilon: NotNegative = 0.0, relative: bool = False,
        bias: Literal["denominator", "dropped"] = "denominator",
    ) -> dict[str, Any]:  # fmt: skip
        """R_i = sum_j x_i w_ji / (z_j + eps sgn z_j) R_j.  Bach et al. 2015, eq. 58; sgn 0 = +1."""
        return stabilised(ctx, m, family[ctx.packet], epsilon, relative, bias)

    @add.rule(*family, variant="norm", absorbs=("bias", "epsilon", "constant"), reads=reads_of_products)
    def linear_norm(ctx: RuleContext, m: Tensor, *, epsilon: NotNegative = 1e-6, relative: bool = False) -> dict[str, Any]:
        """R_i = x_i dz_j/dx_i / (z_j + eps sgn z_j) R_j: epsilon with the op's own forward pass.  Bach et al. 2015, eq. 58."""
        return stabilised(ctx, m, family[ctx.packet], epsilon, relative, "denominator")

    @add.rule(*family, variant="gradient", absorbs=("bias", "product", "constant"), reads=reads_of_products)
    def linear_gradient(ctx: RuleContext, m: Tensor) -> dict[str, Any]:
        """m_i = sum_j w_ji m_j: the op's gradient."""
        return gradient(ctx, m, family[ctx.packet])

    @add.rule(*(op for op in family if op not in _SHAPED_APART), variant="pass", takes="relevance",
              absorbs=("constant",), reads=())  # fmt: skip
    def linear_pass(ctx: RuleContext, R: Tensor) -> dict[str, Any]:
        """R_i = R_i, for an input of the output's shape; R_i / n for each of n carrying factors.  Anders et al. 2021 (Pass)."""
        handed: dict[str, Any] = {}
        sides = [place for place in ctx.places() if place[0] in family[ctx.packet].factors]
        if not sides:
            ctx.absorb("constant", R)
        for name, item in sides:
            part = R / len(sides)
            if item is None:
                handed[name] = part
            else:
                handed.setdefault(name, [None] * (1 + max(i or 0 for n, i in sides if n == name)))[item] = part
        return handed

    declare_signed(add, family)
    declare_boundary(add, family)
    declare_dlb(add, family)


def declare(add: RuleSet) -> None:
    """Declare the rules of this module."""
    declare_family(add, FAMILY)
