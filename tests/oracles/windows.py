"""Pooling, window by window."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch

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
    return _pooled(case, arriving, window, winner=False)


def winner(case: Case, arriving: Arriving, **window: Sequence[int]) -> Handed:
    """All R of a window to its largest element, the first of equal ones.  Bach et al. 2015, sec. 2.4."""
    return _pooled(case, arriving, window, winner=True)


def _pooled(case: Case, arriving: Arriving, window: dict[str, Sequence[int]], winner: bool) -> Handed:
    (x,), (R,) = case.arguments, arriving.R
    n = len(next(iter(window.values()))) if window else _spatial(case)
    size, out = x.shape[-n:], R.shape[-n:]
    planes, given = x.reshape(-1, *size), R.reshape(-1, *out)
    handed = torch.zeros_like(planes)
    for plane, r, to in zip(planes, given, handed, strict=True):
        for position, seen in fixed(size, out, **window) if window else adaptive(size, out):
            values = torch.stack([plane[i] for i in seen])
            if winner:
                to[seen[int((values == values.max()).nonzero()[0])]] += r[position]
            else:
                for i in seen:
                    to[i] += plane[i] / values.sum() * r[position]
    return Handed([handed.reshape(x.shape)])


def _spatial(case: Case) -> int:
    return int(case.op[case.op.rindex("d") - 1])
