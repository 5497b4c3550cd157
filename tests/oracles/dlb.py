"""The seed system's rules: relevance by the size of a contribution, and the contrastive pair of streams."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from oracles.harness import Arriving, Case, Handed
from oracles.sums import summed_to
from oracles.terms import Factor, Shared, negative, positive, shares


def _quotient(a: Tensor, b: Tensor) -> Tensor:
    """a / b, and 0 where b is."""
    return torch.where(b == 0, 0.0, a / torch.where(b == 0, 1.0, b))


def by_size(
    case: Case, arriving: Arriving, *, low: float | None = None, high: float | None = None, additive: Sequence[int] = ()
) -> Handed:
    """R_i = sum_j |z_ij| / (P_j + N_j + |b_j|) R_j, z_ij = x_i w_ji, P and N the sums of positive and negative ones.

    With t = P + b^+ - N - b^-: where t < low the positive terms are left out, where t > high the negative ones. The bias
    absorbs its part; where nothing is left, all is dropped.
    """

    def formula(f: Factor) -> Shared:
        plus, minus = positive(f.terms).sum(2), -negative(f.terms).sum(2)
        t = plus.sum(1) + positive(f.b) - minus.sum(1) + negative(f.b)
        if low is not None:
            plus = torch.where((t < low)[:, None], 0.0, plus)
        if high is not None:
            minus = torch.where((t > high)[:, None], 0.0, minus)
        whole = plus.sum(1) + minus.sum(1) + f.b.abs()
        c = _quotient(f.R, whole)
        booked = {"bias": c * f.b.abs(), "dropped": torch.where(whole == 0, f.R, 0.0)}
        return Shared(((plus + minus) * c[:, None]).sum(0), booked)

    return shares(case, arriving, formula, additive)


def stream_weights(plus: Tensor, minus: Tensor, b: Tensor, R: Tensor, which: int) -> Tensor:
    """By what the relevance of one stream is shared in each unit, (J, I).

    With P and N the sums of positive contributions and of negative ones' sizes, t_j = P_j + b_j - N_j. If one of the two
    is 0, both streams go by size. Else, where t > 0 and R^+ > R^-, or t < 0 and R^+ < R^-, R^+ goes to the positive ones
    and R^- to the negative ones; elsewhere the other way round; where t = 0, both are dropped.
    """
    P, N = plus.sum(1), minus.sum(1)
    t = P + b - N
    straight = ((t > 0) & (R[0] > R[1])) | ((t < 0) & (R[0] < R[1]))
    to_plus = straight if which == 0 else ~straight
    mixed = torch.where((t == 0)[:, None], 0.0, torch.where(to_plus[:, None], plus, minus))
    return torch.where(((P == 0) | (N == 0))[:, None], plus + minus, mixed)


def contrastive(case: Case, arriving: Arriving, *, additive: Sequence[int] = ()) -> tuple[Handed, Handed]:
    """Two streams, for and against: R is (2, ...). What each hands on and drops; the bias absorbs nothing."""
    (R,) = arriving.R
    compared = R.reshape(2, -1)

    def stream(which: int) -> Callable[[Factor], Shared]:
        def formula(f: Factor) -> Shared:
            weights = stream_weights(positive(f.terms).sum(2), -negative(f.terms).sum(2), f.b, compared, which)
            whole = weights.sum(1)
            handed = (weights * _quotient(f.R, whole)[:, None]).sum(0)
            return Shared(handed, {"bias": torch.zeros_like(f.R), "dropped": torch.where(whole == 0, f.R, 0.0)})

        return formula

    for_it, against = (shares(case, Arriving([], [R[which]], arriving.z), stream(which), additive) for which in (0, 1))
    return for_it, against


def contrastive_sum(case: Case, arriving: Arriving, terms: Callable[..., Sequence[Tensor]]) -> tuple[Handed, Handed]:
    """The same for the terms of a sum, slots first; a constant term keeps what it is given."""
    (R,), (z,) = arriving.R, arriving.z
    columns = torch.stack([t.expand(z.shape).reshape(-1) for t in terms(*case.arguments, *case.constants)], 1)
    compared, count = R.reshape(2, -1), len(case.arguments)
    found = []
    for which in (0, 1):
        weights = stream_weights(
            positive(columns), -negative(columns), columns.new_zeros(len(columns)), compared, which
        )
        whole = weights.sum(1)
        given = weights * _quotient(compared[which], whole)[:, None]
        parts = [summed_to(given[:, k].reshape(z.shape), x.shape) for k, x in enumerate(case.arguments)]
        booked = {"constant": given[:, count:].sum(1), "dropped": torch.where(whole == 0, compared[which], 0.0)}
        found.append(Handed(case.per_input(parts), {name: amount.reshape(z.shape) for name, amount in booked.items()}))
    return found[0], found[1]


def product_by_distance(case: Case, arriving: Arriving) -> Handed:
    """y = a b: R to a by |y - a| and to b by |y - b|, normalised; halves where both are 0. All to one that is alone."""
    (R,), (y,) = arriving.R, arriving.z
    slots = case.arguments
    if len(slots) == 1:
        return Handed(case.per_input([summed_to(R, slots[0].shape)]))
    distances = [(y - x).abs() for x in slots]
    total = distances[0] + distances[1]
    parts = [torch.where(total == 0, R / 2, R * _quotient(d, total)) for d in distances]
    return Handed(case.per_input([summed_to(p, x.shape) for p, x in zip(parts, slots, strict=True)]))


def sum_by_size(case: Case, arriving: Arriving, terms: Callable[..., Sequence[Tensor]]) -> Handed:
    """R_k = |x_k| / sum |x| R for each term of a sum; a constant term keeps its part; where all are 0, it is dropped."""
    (R,), (z,) = arriving.R, arriving.z
    sizes = [t.expand(z.shape).abs() for t in terms(*case.arguments, *case.constants)]
    whole = torch.stack(sizes).sum(0)
    c = _quotient(R, whole)
    count = len(case.arguments)
    parts = [summed_to(s * c, x.shape) for s, x in zip(sizes, case.arguments, strict=False)]
    constant = sum((s * c for s in sizes[count:]), torch.zeros_like(z))
    return Handed(case.per_input(parts), {"constant": constant, "dropped": torch.where(whole == 0, R, 0.0)})
