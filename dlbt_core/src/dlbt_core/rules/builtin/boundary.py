"""Rules for the first layer, whose shares do not depend on how large the input is, or on its range: flat, w^2, z^B."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dlbt_core.errors import UnknownParameterError
from dlbt_core.rules.builtin.product import Part, Product, Side
from dlbt_core.rules.builtin.share import by_sides, divide
from dlbt_core.rules.builtin.signed import Bias
from dlbt_core.rules.context import RuleContext
from dlbt_core.rules.parameter import NotNegative
from dlbt_core.rules.rule import RuleSet

__all__ = ["declare_boundary"]

Bound = float | tuple[float, ...] | None


def declare_boundary(add: RuleSet, family: Mapping[str, Product]) -> None:
    """Declare them for the ops of `family`."""

    @add.rule(*family, variant="flat", takes="relevance", absorbs=("epsilon", "constant"),
              reads=("carrying", "constants"))  # fmt: skip
    def flat(ctx: RuleContext, R: Tensor, *, epsilon: NotNegative = 1e-6, relative: bool = False) -> dict[str, Any]:
        """R_i = sum_j 1 / n_j R_j, n_j the number of inputs of j: the w^2 rule with equal weights.  Bach et al. 2016."""

        def one(side: Side, R: Tensor, handed: dict[str, Any]) -> Tensor:
            ones = side.derived("ones", lambda weights: [tuple(torch.ones_like(w) for w in weights)])
            counts = side.map(torch.ones_like(side.x), ones)
            return counts.back(divide(ctx, R, counts.z, epsilon, relative))

        return by_sides(ctx, R, family[ctx.packet], one)

    @add.rule(*family, variant="w_square", takes="relevance", absorbs=("bias", "epsilon", "constant"),
              reads=("carrying", "constants"))  # fmt: skip
    def w_square(
        ctx: RuleContext, R: Tensor, *, epsilon: NotNegative = 1e-6, relative: bool = False, bias: Bias = "denominator"
    ) -> dict[str, Any]:
        """R_i = sum_j w_ji^2 / (sum_i w_ji^2 + b_j^2) R_j.  Montavon et al. 2017, eq. 12; there without a bias."""
        product = family[ctx.packet]

        def one(side: Side, R: Tensor, handed: dict[str, Any]) -> Tensor:
            squares = side.derived("squares", lambda weights: [tuple(w.square() for w in weights)])
            part, b = side.map(torch.ones_like(side.x), squares), product.summand(ctx)
            if b is None or bias == "dropped":
                return part.back(divide(ctx, R, part.z, epsilon, relative))
            c = divide(ctx, R, part.z + b.square(), epsilon, relative)
            product.settle(ctx, handed, c, b.square(), None)
            return part.back(c)

        return by_sides(ctx, R, product, one)

    @add.rule(*family, variant="zbox", takes="relevance", absorbs=("epsilon", "constant"),
              reads=("pullback", "carrying", "constants", "output"))  # fmt: skip
    def zbox(
        ctx: RuleContext, R: Tensor, *, low: Bound = None, high: Bound = None, epsilon: NotNegative = 1e-6,
        relative: bool = False,
    ) -> dict[str, Any]:  # fmt: skip
        """R_i = sum_j (x_i w_ji - l_i w_ji+ - h_i w_ji-) / sum_i (...) R_j.  Montavon et al. 2019, sec. 10.3.2.

        The z^B rule of Montavon et al. 2017, for inputs between l and h: numbers, or one per channel; the sample's own
        smallest and largest unless given.
        """
        _check_order(ctx.packet, low, high)
        product = family[ctx.packet]

        def one(side: Side, R: Tensor, handed: dict[str, Any]) -> Tensor:
            x, b = side.x, product.summand(ctx)
            l, h = _bound(side, low, torch.amin), _bound(side, high, torch.amax)
            lowest, highest = side.map(l, side.signed(1)), side.map(h, side.signed(-1))
            z = (ctx.output if b is None else ctx.output - b) - lowest.z - highest.z
            c = divide(ctx, R, z, epsilon, relative)
            whole = Part(z, side.transposed)
            return x * whole.back(c) + l * lowest.back(-c) + h * highest.back(-c)

        return by_sides(ctx, R, product, one)


def _check_order(op: str, low: Bound, high: Bound) -> None:
    if low is None or high is None:
        return
    lows, highs = (bound if isinstance(bound, tuple) else (bound,) for bound in (low, high))
    pairs = zip(lows, highs, strict=True) if len(lows) == len(highs) else itertools.product(lows, highs)
    if any(l > h for l, h in pairs):
        raise UnknownParameterError(f"{op}#zbox: low={low!r} is above high={high!r}; inputs lie between them.")


def _bound(side: Side, given: Bound, own: Any) -> Tensor:
    """A bound of the input, shaped like it."""
    x = side.x
    if given is None:
        batched = x.dim() > max(1, -side.product.channel)
        dims = tuple(range(int(batched), x.dim()))
        found: Tensor = own(x, dims, keepdim=True)
        return found.expand_as(x)
    if isinstance(given, tuple):
        return side.product.along_channel(torch.tensor(given, dtype=x.dtype, device=x.device), x.dim()).expand_as(x)
    return torch.full_like(x, given)
