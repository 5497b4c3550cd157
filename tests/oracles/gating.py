"""Gated units, triangular systems and sums of exponentials: element by element."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from oracles.harness import Arriving, Case, Handed
from oracles.sums import stabilised


def _split(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    half = x.shape[dim] // 2
    return x.narrow(dim, 0, half), x.narrow(dim, half, half)


def glu_signal(case: Case, arriving: Arriving, *, dim: int) -> Handed:
    """All of R to a in y = a sigmoid(b), none to b.  Arras et al. 2017."""
    (R,) = arriving.R
    return Handed([torch.cat([R, torch.zeros_like(R)], dim)])


def glu_uniform(case: Case, arriving: Arriving, *, dim: int, epsilon: float = 1e-6) -> Handed:
    """R / 2 to a and b; b's sigmoid by the identity rule, stabilised.  Achtibat et al. 2024, eq. 7 and 9."""
    (R,) = arriving.R
    _, b = _split(case.inputs[0], dim)
    to_gate = R / 2 * b / stabilised(b, epsilon)
    return Handed([torch.cat([R / 2, to_gate], dim)], {"epsilon": R / 2 - to_gate})


def glu_gradient(case: Case, arriving: Arriving, *, dim: int) -> Handed:
    """Input times gradient: a m sigmoid(b), and b m a sigmoid'(b), which is booked."""
    (m,) = arriving.m
    a, b = _split(case.inputs[0], dim)
    s = 1 / (1 + torch.exp(-b))
    gate = b * m * a * s * (1 - s)
    return Handed([torch.cat([a * m * s, gate], dim)], {"product": -gate})


def solved(case: Case, arriving: Arriving, *, matrix: int | None, side: int | None, left: bool = True) -> Handed:
    """R_B,k = sum_j B_k (A^-1)_jk m_j, column by column, with the inverse written out; nothing to A.

    `matrix` and `side` say which input is which, None for a constant. With `left` off, X = B A^-1.
    """
    (m,), (R,) = arriving.m, arriving.R
    handed = [torch.zeros_like(x) for x in case.inputs]
    if side is None:
        return Handed(handed, {"constant": R})
    handed[side] = case.inputs[side] * _transposed(case, m, matrix, left)
    return Handed(handed)


def solved_gradient(
    case: Case, arriving: Arriving, *, matrix: int | None, side: int | None, left: bool = True
) -> Handed:
    """The same, and -A_kl (A^-T m)_k x_l to the entries of A that are read."""
    (m,), (R,) = arriving.m, arriving.R
    handed = [torch.zeros_like(x) for x in case.inputs]
    back = _transposed(case, m, matrix, left)
    (x,) = arriving.z
    total = R.reshape(len(R), -1).sum(1)
    if side is not None:
        handed[side] = case.inputs[side] * back
        total = total - handed[side].reshape(len(R), -1).sum(1)
    if matrix is not None:
        A = case.inputs[matrix]
        outer = back @ x.mT if left else x.mT @ back
        handed[matrix] = -A.tril() * outer
        total = total - handed[matrix].reshape(len(R), -1).sum(1)
    return Handed(handed, {"product": total})


def _transposed(case: Case, m: Tensor, matrix: int | None, left: bool) -> Tensor:
    A = case.constants[0] if matrix is None else case.inputs[matrix]
    inverse = torch.linalg.inv(A.tril())
    return inverse.mT @ m if left else m @ inverse.mT


def entropy(case: Case, arriving: Arriving, *, dim: int) -> Handed:
    """R_i = x_i s_i m, number by number; m times the entropy of s stays: log sum exp x = sum s_i x_i - sum s_i log s_i."""
    (m,) = arriving.m
    x = case.inputs[0].movedim(dim, -1)
    flat, weights = x.reshape(-1, x.shape[-1]), m.reshape(-1).tolist()
    rows, kept = [], []
    for row, weight in zip(flat.tolist(), weights, strict=True):
        powers = [math.exp(v) for v in row]
        s = [p / sum(powers) for p in powers]
        rows.append([v * share * weight for v, share in zip(row, s, strict=True)])
        kept.append(-weight * sum(share * math.log(share) for share in s))
    handed = torch.tensor(rows, dtype=torch.float64).reshape(x.shape).movedim(-1, dim)
    return Handed([handed], {"softmax": torch.tensor(kept, dtype=torch.float64).reshape(m.shape)})
