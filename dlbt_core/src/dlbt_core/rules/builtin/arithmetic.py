"""Sums: of values, over dimensions, along dimensions. And picking the largest or smallest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dlbt_core.rules.builtin.dlb import declare_dlb, declare_dlb_sums
from dlbt_core.rules.builtin.product import Product
from dlbt_core.rules.context import RuleContext
from dlbt_core.rules.parameter import NotNegative
from dlbt_core.rules.rule import RuleSet

__all__ = ["declare", "declare_linear_maps"]

_SUMS = tuple(f"aten.{n}" for n in "add sub rsub subtract".split())
_LINEAR = tuple(f"aten.{n}" for n in "neg negative sum mean cumsum diff trace".split())
_SCATTERED_SUMS = tuple(f"aten.{n}" for n in "index_add scatter_add".split())
_PICKS = tuple(f"aten.{n}" for n in "max min amax amin topk sort median kthvalue".split())
_BINARY_PICKS = tuple(f"aten.{n}" for n in "maximum minimum fmax fmin".split())


def declare_linear_maps(add: RuleSet, ops: Iterable[str]) -> None:
    """Declare the one rule of linear maps with fixed coefficients."""

    @add.rule(*ops, variant="gradient", absorbs=("constant",), default=True, reads=("pullback", "constants"))
    def linear(ctx: RuleContext, m: Any) -> dict[str, Any]:
        """R_i = x_i / sum_i x_i R for a sum, the adjoint for every other linear map.  Bach et al. 2015, eq. 56.

        A constant takes its part.
        """
        if ctx.constants():
            ctx.absorb_offset("constant", m)
        return ctx.vjp(m)


def declare(add: RuleSet) -> None:
    """Declare the rules of this module."""

    @add.rule(*_SUMS, *_SCATTERED_SUMS, variant="epsilon", absorbs=("constant", "epsilon"), default=True,
              reads=lambda asked: ("pullback", "constants", *(("output",) if asked.parameters["epsilon"] else ())))  # fmt: skip
    def sum_epsilon(ctx: RuleContext, m: Any, *, epsilon: NotNegative = 0.0) -> dict[str, Any]:
        """R_a = a / (a + b + eps sgn(a + b)) R.  Bach et al. 2015, eq. 58, with weights 1; a constant takes its part."""
        m = ctx.damp(m, epsilon)
        return _adjoint(ctx, m)

    @add.rule(*_SUMS, *_SCATTERED_SUMS, variant="gradient", absorbs=("constant",), reads=("pullback", "constants"))
    def sum_gradient(ctx: RuleContext, m: Any) -> dict[str, Any]:
        """m_a = m_b = m: the op's gradient."""
        return _adjoint(ctx, m)

    declare_linear_maps(add, _LINEAR)

    @add.rule(*_PICKS, variant="gradient", absorbs=("constant",), default=True,
              reads=("pullback", "constants", "carrying"))  # fmt: skip
    def picked(ctx: RuleContext, m: Any) -> dict[str, Any]:
        """R_i = R for the element i that was picked, evenly where several are equal, else 0: the op's gradient.

        A constant that was picked keeps its part.
        """
        for name, constant in ctx.constants().items():
            if constant.is_floating_point():
                full = constant.expand(m.shape)
                ctx.absorb("constant", ctx.vjp(m, name, **{name: full})[name], full)
        return ctx.vjp(m)

    @add.rule("aten.scatter_reduce", "aten.index_reduce", variant="gradient", absorbs=("constant",), default=True,
              reads=("pullback", "constants", "carrying", "output"))  # fmt: skip
    def reduced_into(ctx: RuleContext, m: Any) -> dict[str, Any]:
        """R_i = x_i dz/dx_i m: all to the largest, or in parts to the terms of a sum or mean: the op's gradient.

        A constant keeps its part; of a product of n elements it is - (n - 1) R.
        """
        return ctx.gradient(m, "constant")

    @add.rule(*_BINARY_PICKS, variant="gradient", absorbs=("constant",), default=True,
              reads=("carrying", "constants", "output"))  # fmt: skip
    def picked_of_two(ctx: RuleContext, m: Any) -> dict[str, Any]:
        """R_i = R for the one of two that was picked, R / 2 where they are equal, else 0: the op's gradient.

        A constant that was picked keeps its part.
        """
        wins = {name: (ctx.args[name] == ctx.output).to(m.dtype) for name in ("self", "other")}
        several = (wins["self"] + wins["other"]).clamp(min=1)
        for name in ctx.constants():
            ctx.absorb("constant", m * wins[name] / several, ctx.args[name].expand(m.shape))
        return {name: (m * wins[name] / several).sum_to_size(ctx.shape(name)) for name in sorted(ctx.carries)}

    declare_dlb_sums(add, _SUMS)
    declare_dlb(add, {name: Product(("self",)) for name in ("aten.sum", "aten.mean")})


def _adjoint(ctx: RuleContext, m: Any) -> dict[str, Any]:
    if _has_constant(ctx):
        ctx.absorb_offset("constant", m)
    return ctx.vjp(m)


def _has_constant(ctx: RuleContext) -> bool:
    """Whether a term of the sum carries no relevance, be it a tensor or a number."""
    terms = [ctx.args.get(name) for name in ("self", "other", "source", "src") if name not in ctx.carries]
    return any(term is not None for term in terms)
