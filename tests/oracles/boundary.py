"""Rules for first layers: flat, w^2, z^B; and the one that changes nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from oracles.harness import Arriving, Case, Handed
from oracles.signed import by_ratio
from oracles.terms import Factor, Shared, negative, positive, shares

Bound = float | tuple[float, ...] | None


def flat(
    case: Case, arriving: Arriving, *, epsilon: float = 1e-6, relative: bool = False, additive: Sequence[int] = ()
) -> Handed:
    """n_ji = 1 for each i that z_j sees, no bias.  Bach et al. 2016."""

    def formula(f: Factor) -> Shared:
        return by_ratio(f.ones, torch.zeros_like(f.b), f.R, f.shape, epsilon, relative)

    return shares(case, arriving, formula, additive)


def w_square(
    case: Case, arriving: Arriving, *, epsilon: float = 1e-6, relative: bool = False, bias: str = "denominator",
    additive: Sequence[int] = (),
) -> Handed:  # fmt: skip
    """n_ji = w_ji^2, b'_j = b_j^2 or 0.  Montavon et al. 2017, sec. 4.1."""

    def formula(f: Factor) -> Shared:
        b = f.b.square() if bias == "denominator" else torch.zeros_like(f.b)
        return by_ratio(f.w.square().sum(2), b, f.R, f.shape, epsilon, relative)

    return shares(case, arriving, formula, additive)


def z_box(
    case: Case, arriving: Arriving, *, low: Bound = None, high: Bound = None, epsilon: float = 1e-6,
    relative: bool = False, channel: int = -1, additive: Sequence[int] = (),
) -> Handed:  # fmt: skip
    """n_ji = x_i w_ji - l_i w_ji^+ - h_i w_ji^-; the bias cancels.  Montavon et al. 2017, sec. 4.1.

    Bounds are a number, one number per channel (`channel`: that dimension of the input), or the extremes of the sample.
    """

    def formula(f: Factor) -> Shared:
        x = f.x.reshape(f.of)
        whole = case.op.endswith("d") and x.dim() == int(case.op[-2]) + 1  # a convolution of a sample without batch
        l = _bound(x, low, channel, -1.0, whole).reshape(-1)
        h = _bound(x, high, channel, 1.0, whole).reshape(-1)
        numerators = f.x[None, :, None] * f.w - l[None, :, None] * positive(f.w) - h[None, :, None] * negative(f.w)
        return by_ratio(numerators.sum(2), torch.zeros_like(f.b), f.R, f.shape, epsilon, relative)

    return shares(case, arriving, formula, additive)


def _bound(x: Tensor, value: Bound, channel: int, sign: float, whole: bool) -> Tensor:
    if value is None:
        rows = x.reshape(1, -1) if whole or x.dim() < 2 else x.reshape(x.shape[0], -1)
        extreme = sign * (sign * rows).max(1).values
        return extreme.reshape(-1, *[1] * (x.dim() - 1)).expand(x.shape)
    if isinstance(value, tuple):
        along = [1] * x.dim()
        along[channel] = len(value)
        return torch.tensor(value, dtype=x.dtype).reshape(along).expand(x.shape)
    return torch.full_like(x, value)


def passed(case: Case, arriving: Arriving) -> Handed:
    """R_i = R_i / n to each of the n inputs, whatever the op does."""
    (R,) = arriving.R
    return Handed(case.per_input([R / len(case.arguments) for _ in case.arguments]))
