"""Linear maps between real numbers, as a table of coefficients: also where complex numbers lie between."""

from __future__ import annotations

import torch

from oracles.harness import Arriving, Case, Handed
from oracles.sums import contributions

__all__ = ["angle_gradient", "angle_identity", "linear_map", "signal_only"]


def linear_map(case: Case, arriving: Arriving) -> Handed:
    """R_i = sum_j x_i w_ji m_j, which is x_i w_ji / z_j R_j; a constant keeps b_j m_j.  Bach et al. 2015, eq. 58."""
    (m,) = arriving.m
    slots = case.arguments
    every = tuple(range(len(slots)))
    weighted = [contributions(case.call, slots, k, every) * m.reshape(-1, 1) for k in every]
    handed = [shares.sum(0).reshape(x.shape) for shares, x in zip(weighted, slots, strict=True)]
    constant = case.call(*[torch.zeros_like(x) for x in slots]) * m if case.constants else torch.zeros_like(m)
    return Handed(case.per_input(handed), {"constant": constant} if case.constants else {})


def signal_only(case: Case, arriving: Arriving, *, signal: int | None) -> Handed:
    """All to the signal as if the window was a constant; all is constant where only the window carries."""
    (m,) = arriving.m
    handed = [torch.zeros_like(x) for x in case.arguments]
    if signal is None:
        return Handed(case.per_input(handed), {"constant": arriving.R[0]})
    x = case.arguments[signal]
    handed[signal] = (contributions(case.call, case.arguments, signal, ()) * m.reshape(-1, 1)).sum(0).reshape(x.shape)
    return Handed(case.per_input(handed))


def angle_identity(case: Case, arriving: Arriving, *, epsilon: float) -> Handed:
    """|z| / (|z| + eps) R, of which the parts of z = a + ib get a^2 / |z|^2 and b^2 / |z|^2."""
    (x,), (R,) = case.arguments, arriving.R
    squares = x.square()
    size = squares.sum(-1).sqrt()
    kept = R * size / (size + epsilon)
    return Handed([kept.unsqueeze(-1) * squares / squares.sum(-1, keepdim=True)], {"epsilon": R - kept})


def angle_gradient(case: Case, arriving: Arriving) -> Handed:
    """d angle = (a db - b da) / |z|^2: a and b get -ab / |z|^2 m and ab / |z|^2 m, in all nothing."""
    (x,), (m,) = case.arguments, arriving.m
    part = x.prod(-1) / x.square().sum(-1) * m
    return Handed([torch.stack([-part, part], -1)], {"nonlinearity": arriving.R[0]})
