"""The rules that treat positive and negative products apart: z+, alpha-beta, gamma."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from dlbt_core.errors import UnknownParameterError
from dlbt_core.rules.builtin.product import Product, Side
from dlbt_core.rules.builtin.share import by_sides, divide
from dlbt_core.rules.context import RuleContext
from dlbt_core.rules.parameter import NotNegative
from dlbt_core.rules.rule import RuleSet

__all__ = ["declare_signed"]

Bias = Literal["denominator", "dropped"]


def declare_signed(add: RuleSet, family: Mapping[str, Product]) -> None:
    """Declare them for the ops of `family`. All shares are multiples of x, so they are handed on as multipliers."""

    @add.rule(*family, variant="zplus", takes="relevance", gives="multiplier", absorbs=("bias", "epsilon", "constant"),
              reads=("carrying", "constants"))  # fmt: skip
    def zplus(
        ctx: RuleContext, R: Tensor, *, epsilon: NotNegative = 1e-6, relative: bool = False, bias: Bias = "denominator"
    ) -> dict[str, Any]:
        """R_i = sum_j (x_i w_ji)+ / (sum_i (x_i w_ji)+ + b_j+) R_j.  Montavon et al. 2017, for x of both signs."""
        product = family[ctx.packet]

        def one(side: Side, R: Tensor, handed: dict[str, Any]) -> Tensor:
            return _branch(side, R, handed, 1, epsilon, relative, bias)

        return by_sides(ctx, R, product, one)

    @add.rule(*family, variant="alpha_beta", takes="relevance", gives="multiplier",
              absorbs=("bias", "epsilon", "constant"), reads=("carrying", "constants"))  # fmt: skip
    def alpha_beta(
        ctx: RuleContext, R: Tensor, *, alpha: float = 2.0, beta: float = 1.0, epsilon: NotNegative = 1e-6,
        relative: bool = False, bias: Bias = "denominator",
    ) -> dict[str, Any]:  # fmt: skip
        """R_i = sum_j (alpha (x_i w_ji)+ / (z_j+ + b_j+) - beta (x_i w_ji)- / (z_j- + b_j-)) R_j.  Bach et al. 2015, eq. 60."""
        if alpha < 0 or beta < 0 or not math.isclose(alpha - beta, 1.0, abs_tol=1e-9):
            raise UnknownParameterError(
                f"{ctx.packet}#alpha_beta: alpha - beta must be 1 and neither negative, so that relevance is conserved; "
                f"got alpha={alpha!r}, beta={beta!r}."
            )
        product = family[ctx.packet]

        def one(side: Side, R: Tensor, handed: dict[str, Any]) -> Tensor:
            message = _branch(side, R * alpha, handed, 1, epsilon, relative, bias)
            return message if beta == 0 else message + _branch(side, R * -beta, handed, -1, epsilon, relative, bias)

        return by_sides(ctx, R, product, one)

    @add.rule(*family, variant="gamma", takes="relevance", gives="multiplier",
              absorbs=("bias", "epsilon", "dropped", "constant"),
              reads=("pullback", "carrying", "constants", "output"))  # fmt: skip
    def gamma(
        ctx: RuleContext, R: Tensor, *, gamma: NotNegative = 0.25, form: Literal["generalised", "original"] = "generalised",
        epsilon: NotNegative = 1e-6, relative: bool = False, bias: Literal["denominator", "kept", "dropped"] = "denominator",
    ) -> dict[str, Any]:  # fmt: skip
        """R_i = sum_j (x_i w_ji + gamma (x_i w_ji)s) / sum_i (...) R_j, where s is the sign of z_j.

        Generalised form: Andeol et al. 2021; for z_j = 0 relevance is dropped. Original form, x_i (w_ji + gamma w_ji+):
        Montavon et al. 2019, sec. 10.2.1. The bias enters as one more input of 1, or as it is ("kept"), or not at all.
        """
        product = family[ctx.packet]
        rule = _generalised if form == "generalised" else _original

        def one(side: Side, R: Tensor, handed: dict[str, Any]) -> Tensor:
            return rule(side, R, handed, gamma, epsilon, relative, bias)

        return by_sides(ctx, R, product, one)


def _branch(
    side: Side, R: Tensor, handed: dict[str, Any], sign: int, epsilon: float, relative: bool, bias: str
) -> Tensor:
    """R to the products of one sign, each by its share in their sum; the bias of that sign takes its own."""
    ctx, part, b = side.ctx, side.part(sign), side.product.summand(side.ctx)
    if b is None or bias == "dropped":
        return part.back(divide(ctx, R, part.z.expand(R.shape), epsilon, relative))
    b_part = b.clamp(min=0) if sign > 0 else b.clamp(max=0)
    c = divide(ctx, R, part.z + b_part, epsilon, relative)
    side.product.settle(ctx, handed, c, b_part, b)
    return part.back(c)


def _generalised(
    side: Side, R: Tensor, handed: dict[str, Any], gamma: float, epsilon: float, relative: bool, bias: str
) -> Tensor:
    """Products of the sign of z_j count 1 + gamma times. With P the positive ones, z the whole, N = z - P the others."""
    ctx, b = side.ctx, side.product.summand(side.ctx)
    output, positive = ctx.output, side.part(1)
    excited = output > 0
    z = output if b is None else output - b
    favoured = z + gamma * torch.where(excited, positive.z, z - positive.z)
    alive = torch.where(output == 0, torch.zeros_like(R), R)
    ctx.absorb("dropped", R - alive)
    if b is None or bias == "dropped":
        c = divide(ctx, alive, favoured, epsilon, relative)
    else:
        b_part = b + gamma * torch.where(excited == (b > 0), b, torch.zeros_like(b)) if bias == "denominator" else b
        c = divide(ctx, alive, favoured + b_part, epsilon, relative)
        side.product.settle(ctx, handed, c, b_part, b)
    # W^T c for all products, and gamma times more for those of the favoured sign: P^T where z > 0, W^T - P^T elsewhere.
    whole = side.transposed(torch.where(excited, c, c * (1.0 + gamma)))
    return whole + positive.back(gamma * torch.where(excited, c, -c))


def _original(
    side: Side, R: Tensor, handed: dict[str, Any], gamma: float, epsilon: float, relative: bool, bias: str
) -> Tensor:
    """Positive weights count 1 + gamma times, whatever the sign of x."""
    ctx, b = side.ctx, side.product.summand(side.ctx)
    favoured = side.map(side.x, side.signed(1))
    z = (ctx.output if b is None else ctx.output - b) + gamma * favoured.z
    if b is None or bias == "dropped":
        c = divide(ctx, R, z, epsilon, relative)
    else:
        b_part = b + gamma * b.clamp(min=0) if bias == "denominator" else b
        c = divide(ctx, R, z + b_part, epsilon, relative)
        side.product.settle(ctx, handed, c, b_part, b)
    return side.transposed(c) + favoured.back(gamma * c)
