"""The rules of the seed system, DLBacktrace: shares by |x w|, one stream of relevance or two that contrast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from dlbt_core.rules.builtin.product import Product, Side
from dlbt_core.rules.builtin.share import by_sides
from dlbt_core.rules.context import RuleContext
from dlbt_core.rules.rule import RuleSet

__all__ = ["contrast", "declare_dlb", "declare_dlb_sums", "quotient"]


def quotient(R: Tensor, below: Tensor) -> Tensor:
    """R / below, and 0 where nothing stands below."""
    empty = below == 0
    return torch.where(empty, torch.zeros_like(R), R / torch.where(empty, torch.ones_like(below), below))


def contrast(R: Tensor, P: Tensor, N: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """What one unit of a positive product gets in each stream, and one of a negative product.

    Parameters
    ----------
    R
        Relevance for and against, shape (2, ...).
    P, N
        Sums of the positive products, and of the amounts of the negative ones.
    t
        Their difference with the bias: its sign says which of the two the unit speaks for.
    """
    favoured, other = R[0], R[1]
    one_sided = (P == 0) | (N == 0)
    agrees = ((t > 0) & (favoured > other)) | ((t < 0) & (favoured < other))
    nothing = torch.zeros_like(favoured)
    share = quotient(R, (P + N).expand_as(favoured))

    def pick(stream: int, straight: bool, below: Tensor) -> Tensor:
        """The stream's share of one kind of products: in a mixed unit it goes to one kind only."""
        mixed = torch.where((agrees if straight else ~agrees) & (t != 0), quotient(R[stream], below), nothing)
        return torch.where(one_sided, share[stream], mixed)

    to_positive = torch.stack([pick(0, True, P), pick(1, False, P)])
    to_negative = torch.stack([pick(0, False, N), pick(1, True, N)])
    return to_positive, to_negative


def declare_dlb(add: RuleSet, family: Mapping[str, Product]) -> None:
    """Declare them for the ops of `family`."""

    @add.rule(*family, variant="dlb_default", takes="relevance", gives="multiplier",
              absorbs=("bias", "epsilon", "dropped", "constant"), reads=("carrying", "constants"))  # fmt: skip
    def dlb_default(
        ctx: RuleContext, R: Tensor, *, low: float | None = None, high: float | None = None
    ) -> dict[str, Any]:
        """R_i = sum_j |x_i w_ji| / (P_j + N_j + |b_j|) R_j, P and N the sums of positive and negative products.

        DLBacktrace (Sankarapu et al. 2024). Before an activation that is flat below `low` or above `high`, a unit whose
        z is below `low` counts no positive products, one above `high` no negative ones.
        """
        product = family[ctx.packet]

        def one(side: Side, R: Tensor, handed: dict[str, Any]) -> Tensor:
            up, down, b = side.part(1), side.part(-1), product.summand(ctx)
            t = up.z + down.z if b is None else up.z + down.z + b
            kept_up = torch.ones_like(R) if low is None else (t >= low).to(R.dtype)
            kept_down = torch.ones_like(R) if high is None else (t <= high).to(R.dtype)
            below = up.z * kept_up - down.z * kept_down
            c = quotient(R, below if b is None else below + b.abs())
            ctx.absorb("dropped", torch.where(c == 0, R, torch.zeros_like(R)))
            if b is not None:
                product.settle(ctx, handed, c, b.abs(), b)
            return up.back(c * kept_up) + down.back(c * -kept_down)

        return by_sides(ctx, R, product, one)

    @add.rule(*family, variant="dlb_contrastive", takes="relevance", gives="multiplier", coupled=True, linear=False,
              absorbs=("dropped", "epsilon", "constant"), reads=("carrying", "constants"))  # fmt: skip
    def dlb_contrastive(ctx: RuleContext, R: Tensor) -> dict[str, Any]:
        """R+_i = z_i+ / P R+ and R-_i = |z_i-| / N R-, with + and - of z swapped where the unit speaks for the other stream.

        Relevance for a class goes to the products that favour it, relevance against it to the others: DLBacktrace,
        contrastive mode (Sankarapu et al. 2024). P and N are the sums of positive products z_i+ and of the amounts of
        negative ones. The bias decides which stream a unit speaks for, and takes nothing. R has shape (2, ...).
        """
        product = family[ctx.packet]
        if not ctx.carries.intersection(product.factors):
            ctx.absorb("constant", R)
            return {}

        def one(side: Side, R: Tensor, handed: dict[str, Any]) -> Tensor:
            up, down, b = side.part(1), side.part(-1), product.summand(ctx)
            P, N = up.z.expand(R.shape[1:]), -down.z.expand(R.shape[1:])
            t = P - N if b is None else P - N + b
            to_positive, to_negative = contrast(R, P, N, t)
            ctx.absorb("dropped", R - to_positive * P - to_negative * N)
            return torch.stack([up.back(p) - down.back(n) for p, n in zip(to_positive, to_negative, strict=True)])

        return by_sides(ctx, R, product, one)


def declare_dlb_sums(add: RuleSet, ops: Sequence[str]) -> None:
    """Declare them for ``self + alpha other`` and its like."""

    @add.rule(*ops, variant="dlb_default", takes="relevance", gives="multiplier", absorbs=("constant", "dropped"),
              reads=("carrying", "constants"))  # fmt: skip
    def sum_default(ctx: RuleContext, R: Tensor) -> dict[str, Any]:
        """R_k = |x_k| / sum_k |x_k| R over the terms; a constant takes its part.  Sankarapu et al. 2024."""
        terms = _terms(ctx)
        c = quotient(R, reduce(torch.add, (t.abs() for _, _, t in terms)).expand(R.shape))
        ctx.absorb("dropped", torch.where(c == 0, R, torch.zeros_like(R)))
        for name, _, t in terms:
            if name not in ctx.carries:
                ctx.absorb("constant", c, t.abs().expand(R.shape))
        return {name: (c * t.sign() * k).sum_to_size(ctx.shape(name)) for name, k, t in terms if name in ctx.carries}

    @add.rule(*ops, variant="dlb_contrastive", takes="relevance", gives="multiplier", coupled=True, linear=False,
              absorbs=("constant", "dropped"), reads=("carrying", "constants"))  # fmt: skip
    def sum_contrastive(ctx: RuleContext, R: Tensor) -> dict[str, Any]:
        """R+_k = x_k+ / P R+ and R-_k = |x_k-| / N R-, or the other way round, as for products.  Sankarapu et al. 2024."""
        terms = [(name, k, t.expand(R.shape[1:])) for name, k, t in _terms(ctx)]
        P = reduce(torch.add, (t.clamp(min=0) for _, _, t in terms))
        N = -reduce(torch.add, (t.clamp(max=0) for _, _, t in terms))
        to_positive, to_negative = contrast(R, P, N, P - N)
        ctx.absorb("dropped", R - to_positive * P - to_negative * N)
        handed = {}
        for name, k, t in terms:
            each = torch.where(t > 0, to_positive, -to_negative)
            if name in ctx.carries:
                handed[name] = torch.stack([(stream * k).sum_to_size(ctx.shape(name)) for stream in each])
            else:
                ctx.absorb("constant", each * t)
        return handed


def _terms(ctx: RuleContext) -> list[tuple[str, float, Tensor]]:
    """The terms of a sum: argument, factor, and the two multiplied."""
    minus = -1 if ctx.packet in ("aten.sub", "aten.subtract", "aten.rsub") else 1
    alpha = ctx.args.get("alpha", 1)
    first, second = (alpha * minus, 1) if ctx.packet == "aten.rsub" else (1, alpha * minus)
    other = ctx.args["other"]
    own = ctx.args["self"]
    other = other if isinstance(other, Tensor) else torch.as_tensor(other, dtype=own.dtype, device=own.device)
    return [("self", float(first), own * first), ("other", float(second), other * second)]
