"""Normalisations over features, their statistic held constant, as dense linear maps; and embeddings."""

from __future__ import annotations

import torch
from torch import Tensor

from oracles.harness import Arriving, Case, Handed
from oracles.picks import rows_along


def layer_norm(case: Case, arriving: Arriving, dims: tuple[int, ...], eps: float) -> Handed:
    """y_j = sum_i w_j (delta_ij - 1 / N) x_i / s + b_j, s = sqrt(var + eps) constant:  R_i = sum_j x_i C_ji / y_j R_j.

    Achtibat et al. 2024, prop. 3.4, with the mean as a linear map (Ali et al. 2022); b_j / y_j R_j to the bias.
    """
    return _linear_norm(case, arriving, dims, eps, centred=True)


def rms_norm(case: Case, arriving: Arriving, dims: tuple[int, ...], eps: float) -> Handed:
    """y_j = w_j x_j / s, s = sqrt(mean x^2 + eps) constant: R_j = R_j.  Achtibat et al. 2024, prop. 3.4."""
    return _linear_norm(case, arriving, dims, eps, centred=False)


def _linear_norm(case: Case, arriving: Arriving, dims: tuple[int, ...], eps: float, centred: bool) -> Handed:
    (x,) = case.arguments
    weight, bias = _affine(case, x, dims)
    handed = torch.zeros(x.numel(), dtype=torch.float64)
    absorbed = torch.zeros(x.numel(), dtype=torch.float64)
    flat, R, y = x.reshape(-1), arriving.R[0].reshape(-1), arriving.z[0].reshape(-1)
    for row in rows_along(x.shape, dims).tolist():
        values, n = flat[row], len(row)
        middle = values.mean() if centred else 0.0
        s = torch.sqrt(((values - middle) ** 2).mean() + eps)
        for j, element in enumerate(row):
            quotient = R[element] / y[element]
            for i, source in enumerate(row):
                entry = float(i == j) - (1.0 / n if centred else 0.0)
                handed[source] += values[i] * entry * weight[j] / s * quotient
            absorbed[element] = bias[j] * quotient
    return Handed([handed.reshape(x.shape)], {"bias": absorbed.reshape(x.shape)} if centred else {})


def _affine(case: Case, x: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    size = torch.Size([x.shape[d] for d in dims]).numel()
    found = [t.reshape(-1) for t in case.constants]
    weight = found[0] if found else torch.ones(size, dtype=torch.float64)
    return weight, found[1] if len(found) > 1 else torch.zeros(size, dtype=torch.float64)


def norm_gradient(case: Case, arriving: Arriving, dims: tuple[int, ...], eps: float, centred: bool) -> Handed:
    """x_i dy_j/dx_i with the statistic's own dependence on x: dy_j/dx_i = w_j / s (delta_ij - c / N - u_j u_i / N)."""
    (x,) = case.arguments
    weight, _ = _affine(case, x, dims)
    handed = torch.zeros(x.numel(), dtype=torch.float64)
    flat, m = x.reshape(-1), arriving.m[0].reshape(-1)
    for row in rows_along(x.shape, dims).tolist():
        values, n = flat[row], len(row)
        middle = values.mean() if centred else 0.0
        s = torch.sqrt(((values - middle) ** 2).mean() + eps)
        u = (values - middle) / s
        for j, element in enumerate(row):
            for i, source in enumerate(row):
                entry = float(i == j) - (1.0 / n if centred else 0.0) - u[j] * u[i] / n
                handed[source] += values[i] * weight[j] / s * entry * m[element]
    handed = handed.reshape(x.shape)
    rest = arriving.R[0].reshape(len(x), -1).sum(1) - handed.reshape(len(x), -1).sum(1)
    return Handed([handed], {"norm": rest})


def embedding(case: Case, arriving: Arriving) -> Handed:
    """R_t = sum_d R_td: the relevance of a token is that of its vector."""
    ids, R = case.inputs[0], arriving.R[0]
    total = torch.zeros(ids.numel(), dtype=torch.float64)
    for t in range(ids.numel()):
        total[t] = sum(R.reshape(-1, R.shape[-1])[t].tolist())
    return Handed([total.reshape(ids.shape)])


def embedding_bag(
    case: Case,
    arriving: Arriving,
    *,
    carry: str,
    offsets: list[int],
    mode: str = "sum",
    padding: int = -1,
    halves: bool = True,
) -> Handed:
    """R_nd = w_n e_nd / z_bd R_bd for token n of bag b, summed over d for ids and weights, over n for rows of the table.

    For a mean w_n is 1 / N_b; the largest has w_n = 1 / k for the k tokens that have it, else 0. Each of several carrying
    factors gets the same part (Achtibat et al. 2024, prop. 3.2), or all of it, as a gradient has it.
    """
    named = dict(zip(carry, case.arguments, strict=True)) | dict(
        zip([c for c in "itw" if c not in carry], case.constants, strict=False)
    )
    ids, table, factors = named["i"], named["t"], named.get("w")
    parts = {c: torch.zeros(named[c].shape, dtype=torch.float64) for c in carry}
    n_carry = len(carry) if halves else 1
    m = arriving.m[0]
    surplus = torch.zeros(len(offsets), dtype=torch.float64)
    for b, first in enumerate(offsets):
        last = offsets[b + 1] if b + 1 < len(offsets) else len(ids)
        seen = [n for n in range(first, last) if int(ids[n]) != padding]
        for d in range(table.shape[1]):
            values = [float(table[ids[n], d]) for n in seen]
            best = [n for n, v in zip(seen, values, strict=True) if v == max(values)]
            for n, value in zip(seen, values, strict=True):
                w = 1.0 if factors is None else float(factors[n])
                if mode == "mean":
                    w = 1.0 / len(seen)
                if mode == "max":
                    w = (n in best) / len(best)
                R = w * value * float(m[b, d]) / n_carry
                for c, place in (("i", (n,)), ("w", (n,)), ("t", (int(ids[n]), d))):
                    if c in parts:
                        parts[c][place] += R
                surplus[b] += R * n_carry - R * len(carry)
    return Handed([parts[c] for c in carry], {} if halves or len(carry) == 1 else {"product": surplus})
