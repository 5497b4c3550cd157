"""Normalisations of groups of elements, their statistic held constant, as dense linear maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from oracles.harness import Arriving, Case, Handed

Groups = Callable[[Sequence[int]], list[list[int]]]
"""From the shape of the input to the elements, numbered through, of each group."""


def of_channels(groups: int) -> Groups:
    """Group norm: some channels of one sample together."""
    return lambda shape: _together(shape, lambda n, c: (n, c // (shape[1] // groups)))


def of_planes(shape: Sequence[int]) -> list[list[int]]:
    """Instance norm: each channel of each sample on its own."""
    return _together(shape, lambda n, c: (n, c))


def of_batch(shape: Sequence[int]) -> list[list[int]]:
    """Batch norm: a channel of all samples together."""
    return _together(shape, lambda n, c: c)


def _together(shape: Sequence[int], key: Callable[[int, int], object]) -> list[list[int]]:
    found: dict[object, list[int]] = {}
    plane = torch.Size(shape[2:]).numel()
    for element in range(torch.Size(shape).numel()):
        n, c = divmod(element // plane, shape[1])
        found.setdefault(key(n, c), []).append(element)
    return list(found.values())


def _features(case: Case, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Weight and bias of each element."""
    plane = torch.Size(shape[2:]).numel()
    channel = [element // plane % shape[1] for element in range(torch.Size(shape).numel())]
    given = [t for t in case.constants if t.is_floating_point()]
    weight = given[0] if given else torch.ones(shape[1], dtype=torch.float64)
    bias = given[1] if len(given) > 1 else torch.zeros(shape[1], dtype=torch.float64)
    return weight[channel], bias[channel]


def held(case: Case, arriving: Arriving, groups: Groups, eps: float) -> Handed:
    """y_j = sum_i w_j (delta_ij - 1 / N) x_i / s + b_j, s constant: R_i = sum_j x_i C_ji / y_j R_j; b_j / y_j R_j to b.

    Achtibat et al. 2024, prop. 3.4, with the mean as a linear map.
    """
    return _dense(case, arriving, groups, eps, moving=False)


def gradient(case: Case, arriving: Arriving, groups: Groups, eps: float) -> Handed:
    """x_i dy_j/dx_i, also by the deviation: dy_j/dx_i = w_j / s (delta_ij - 1 / N - u_j u_i / N). The rest is booked."""
    return _dense(case, arriving, groups, eps, moving=True)


def _dense(case: Case, arriving: Arriving, groups: Groups, eps: float, moving: bool) -> Handed:
    (x,), m = case.arguments, arriving.m[0].reshape(-1)
    weight, bias = _features(case, x.shape)
    flat, handed = x.reshape(-1), torch.zeros(x.numel(), dtype=torch.float64)
    for group in groups(x.shape):
        values, n = flat[group], len(group)
        s = torch.sqrt(((values - values.mean()) ** 2).mean() + eps)
        u = (values - values.mean()) / s
        for j, element in enumerate(group):
            for i, source in enumerate(group):
                entry = float(i == j) - 1.0 / n - (u[j] * u[i] / n if moving else 0.0)
                handed[source] += values[i] * entry * weight[element] / s * m[element]
    handed = handed.reshape(x.shape)
    if moving:
        rest = _samples(arriving.R[0]) - _samples(handed)
        return Handed([handed], {"norm": rest if case.batched else rest.sum()})
    return Handed([handed], {"bias": (bias * m).reshape(x.shape)})


def affine(case: Case, arriving: Arriving, mean: Tensor, var: Tensor, eps: float, name: str = "bias") -> Handed:
    """y_j = w_j (x_j - mean_j) / s_j + b_j, mean and s from training: R_j = x_j w_j / s_j / y_j R_j, the rest to b."""
    (x,), m = case.arguments, arriving.m[0]
    weight, _ = _features(case, x.shape)
    deviation = torch.sqrt(var + eps).reshape(-1, *[1] * (x.dim() - 2)).expand(x.shape)
    handed = x * weight.reshape(x.shape) / deviation * m
    rest = arriving.R[0] - handed
    return Handed([handed], {name: rest if name == "bias" else _samples(rest)})


def _samples(amount: Tensor) -> Tensor:
    return amount.reshape(len(amount), -1).sum(1)
