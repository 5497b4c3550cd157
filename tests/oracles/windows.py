"""Pooling, window by window."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from oracles.harness import Arriving, Case, Handed

Windows = Iterator[tuple[tuple[int, ...], list[tuple[int, ...]]]]
"""An output position, and the input positions it sees."""


def fixed(
    size: Sequence[int], out: Sequence[int], kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int],
) -> Windows:  # fmt: skip
    """Windows of one kernel; padding holds nothing."""
    for position in itertools.product(*map(range, out)):
        axes = []
        for d, p in enumerate(position):
            places = [p * stride[d] - padding[d] + k * dilation[d] for k in range(kernel[d])]
            axes.append([i for i in places if 0 <= i < size[d]])
        yield position, list(itertools.product(*axes))


def adaptive(size: Sequence[int], out: Sequence[int]) -> Windows:
    """From floor(p n / m) to ceil((p + 1) n / m)."""
    for position in itertools.product(*map(range, out)):
        axes = [range(p * n // m, math.ceil((p + 1) * n / m)) for p, n, m in zip(position, size, out, strict=True)]
        yield position, list(itertools.product(*axes))


def average(case: Case, arriving: Arriving, **window: Sequence[int]) -> Handed:
    """R_i = x_i / sum of the window R: the epsilon rule of a mean; what it is divided by does not matter."""
    return _pooled(case, arriving, window, lambda values: values / values.sum())


def winner(case: Case, arriving: Arriving, **window: Sequence[int]) -> Handed:
    """All R of a window to its largest element, the first of equal ones.  Bach et al. 2015."""
    return _pooled(case, arriving, window, _first_largest)


def shared_winner(case: Case, arriving: Arriving, **window: Sequence[int]) -> Handed:
    """R / n to each of the n elements that are the largest.  Bach et al. 2015."""
    return _pooled(case, arriving, window, _all_largest)


def uniform(case: Case, arriving: Arriving, **window: Sequence[int]) -> Handed:
    """R / n to each of the n elements in the window."""
    return _pooled(case, arriving, window, lambda values: torch.full_like(values, 1.0 / len(values)))


def proportional(case: Case, arriving: Arriving, **window: Sequence[int]) -> Handed:
    """|x_i| / sum |x| R, and R / n where all are 0."""
    return _pooled(case, arriving, window, _by_size)


Shares = Callable[[Tensor], Tensor]
"""The elements of a window to the share of each."""


def _first_largest(values: Tensor) -> Tensor:
    shares = torch.zeros_like(values)
    shares[values.tolist().index(max(values.tolist()))] = 1.0
    return shares


def _all_largest(values: Tensor) -> Tensor:
    largest = [v == max(values.tolist()) for v in values.tolist()]
    return torch.tensor([hit / sum(largest) for hit in largest], dtype=values.dtype)


def _by_size(values: Tensor) -> Tensor:
    total = sum(abs(v) for v in values.tolist())
    return torch.tensor([abs(v) / total if total else 1 / len(values) for v in values.tolist()], dtype=values.dtype)


def _pooled(case: Case, arriving: Arriving, window: dict[str, Sequence[int]], shares: Shares) -> Handed:
    (x,), R = case.arguments, arriving.R[0]
    n = len(next(iter(window.values()))) if window else _spatial(case)
    size, out = x.shape[-n:], R.shape[-n:]
    planes, given = x.reshape(-1, *size), R.reshape(-1, *out)
    handed = torch.zeros_like(planes)
    for plane, r, to in zip(planes, given, handed, strict=True):
        for position, seen in fixed(size, out, **window) if window else adaptive(size, out):
            parts = shares(torch.stack([plane[i] for i in seen]))
            for i, share in zip(seen, parts, strict=True):
                to[i] += share * r[position]
    return Handed([handed.reshape(x.shape)])


def _spatial(case: Case) -> int:
    return int(case.op[case.op.rindex("d") - 1])
