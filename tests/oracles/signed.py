"""Rules that tell the positive contributions from the negative ones: z+, alpha-beta, gamma; and what they build on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from oracles.harness import Arriving, Case, Handed
from oracles.terms import Factor, Shared, negative, positive, shares


def root_mean_square(t: Tensor) -> Tensor:
    """Over all dimensions but the first, or over all if there is one at most; shaped to broadcast."""
    dims = tuple(range(1, t.dim())) or tuple(range(t.dim()))
    return t.square().mean(dims, keepdim=True).sqrt() if dims else t.abs()


def by_ratio(numerators: Tensor, bias: Tensor, R: Tensor, shape: torch.Size, epsilon: float, relative: bool) -> Shared:
    """R_i = sum_j n_ji / s(d_j) R_j with d_j = sum_i n_ji + b'_j, and b'_j / s(d_j) R_j to the bias.

    s(d) = d + eps sgn(d), sgn(0) = +1, eps in units of the root mean square of d if it is relative. What the inputs and
    the bias do not get is epsilon's: all of it where there is nothing to divide by.
    """
    d = (numerators.sum(1) + bias).reshape(shape)
    step = epsilon * root_mean_square(d) if relative else torch.full_like(d, epsilon)
    divisor = (d + step * torch.where(d < 0, -1.0, 1.0).to(d.dtype)).reshape(-1)
    d = d.reshape(-1)
    empty = divisor == 0
    c = torch.where(empty, 0.0, R / torch.where(empty, 1.0, divisor))
    return Shared((numerators * c[:, None]).sum(0), {"bias": c * bias, "epsilon": R - c * d})


def _both(first: Shared, second: Shared) -> Shared:
    return Shared(
        first.handed + second.handed, {name: first.booked[name] + second.booked[name] for name in first.booked}
    )


def epsilon_rule(
    case: Case, arriving: Arriving, *, epsilon: float = 0.0, relative: bool = False, bias: str = "denominator",
    additive: Sequence[int] = (),
) -> Handed:  # fmt: skip
    """n_ji = x_i w_ji, b'_j = b_j or 0.  Bach et al. 2015, eq. 58; Montavon et al. 2019, sec. 10.2.1."""

    def formula(f: Factor) -> Shared:
        b = f.b if bias == "denominator" else torch.zeros_like(f.b)
        return by_ratio(f.terms.sum(2), b, f.R, f.shape, epsilon, relative)

    return shares(case, arriving, formula, additive)


def z_plus(
    case: Case, arriving: Arriving, *, epsilon: float = 1e-6, relative: bool = False, bias: str = "denominator",
    additive: Sequence[int] = (),
) -> Handed:  # fmt: skip
    """n_ji = (x_i w_ji)^+ = x_i^+ w_ji^+ + x_i^- w_ji^-, b'_j = b_j^+ or 0.  Montavon et al. 2017, sec. 4.1."""

    def formula(f: Factor) -> Shared:
        x, w = f.x[None, :, None], f.w
        numerators = (positive(x) * positive(w) + negative(x) * negative(w)).sum(2)
        b = positive(f.b) if bias == "denominator" else torch.zeros_like(f.b)
        return by_ratio(numerators, b, f.R, f.shape, epsilon, relative)

    return shares(case, arriving, formula, additive)


def alpha_beta(
    case: Case, arriving: Arriving, *, alpha: float = 2.0, beta: float = 1.0, epsilon: float = 1e-6,
    relative: bool = False, bias: str = "denominator", additive: Sequence[int] = (),
) -> Handed:  # fmt: skip
    """alpha n^+_ji / (sum_i n^+_ji + b_j^+) R_j - beta n^-_ji / (sum_i n^-_ji + b_j^-) R_j.  Bach et al. 2015, eq. 60.

    n^+_ji = x_i^+ w_ji^+ + x_i^- w_ji^-, n^-_ji = x_i^+ w_ji^- + x_i^- w_ji^+.
    """

    def formula(f: Factor) -> Shared:
        x, w = f.x[None, :, None], f.w
        plus = (positive(x) * positive(w) + negative(x) * negative(w)).sum(2)
        minus = (positive(x) * negative(w) + negative(x) * positive(w)).sum(2)
        kept = 1.0 if bias == "denominator" else 0.0
        return _both(
            by_ratio(plus, kept * positive(f.b), alpha * f.R, f.shape, epsilon, relative),
            by_ratio(minus, kept * negative(f.b), -beta * f.R, f.shape, epsilon, relative),
        )

    return shares(case, arriving, formula, additive)


def gamma_generalised(
    case: Case, arriving: Arriving, *, gamma: float = 0.25, epsilon: float = 1e-6, relative: bool = False,
    bias: str = "denominator", additive: Sequence[int] = (),
) -> Handed:  # fmt: skip
    """Andeol et al. 2021. With g^+(w) = w + gamma w^+ and g^-(w) = w + gamma w^-:

    z_j > 0: n_ji = x_i^+ g^+(w_ji) + x_i^- g^-(w_ji), b'_j = g^+(b_j); z_j < 0: n_ji = x_i^+ g^-(w_ji) + x_i^- g^+(w_ji),
    b'_j = g^-(b_j); z_j = 0: dropped. z_j is the op's output; b'_j is b_j if the bias is "kept", and 0 if "dropped".
    """

    def formula(f: Factor) -> Shared:
        def up(t: Tensor) -> Tensor:
            return t + gamma * positive(t)

        def down(t: Tensor) -> Tensor:
            return t + gamma * negative(t)

        x, w = f.x[None, :, None], f.w
        over = (positive(x) * up(w) + negative(x) * down(w)).sum(2)
        under = (positive(x) * down(w) + negative(x) * up(w)).sum(2)
        numerators = torch.where((f.z > 0)[:, None], over, under)
        b = {"denominator": torch.where(f.z > 0, up(f.b), down(f.b)), "kept": f.b, "dropped": torch.zeros_like(f.b)}
        R = torch.where(f.z == 0, 0.0, f.R)
        found = by_ratio(numerators, b[bias], R, f.shape, epsilon, relative)
        return Shared(found.handed, {**found.booked, "dropped": f.R - R})

    return shares(case, arriving, formula, additive)


def gamma_original(
    case: Case, arriving: Arriving, *, gamma: float = 0.25, epsilon: float = 1e-6, relative: bool = False,
    bias: str = "denominator", additive: Sequence[int] = (),
) -> Handed:  # fmt: skip
    """n_ji = x_i (w_ji + gamma w_ji^+), b'_j = b_j + gamma b_j^+, or b_j, or 0.  Montavon et al. 2019, sec. 10.2.1."""

    def formula(f: Factor) -> Shared:
        numerators = (f.x[None, :, None] * (f.w + gamma * positive(f.w))).sum(2)
        b = {"denominator": f.b + gamma * positive(f.b), "kept": f.b, "dropped": torch.zeros_like(f.b)}
        return by_ratio(numerators, b[bias], f.R, f.shape, epsilon, relative)

    return shares(case, arriving, formula, additive)


GAMMA: Mapping[str, Callable[..., Handed]] = {"generalised": gamma_generalised, "original": gamma_original}


def gamma_rule(case: Case, arriving: Arriving, *, form: str = "generalised", **more: Any) -> Handed:
    """Either form of it."""
    return GAMMA[form](case, arriving, **more)
