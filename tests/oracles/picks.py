"""Picking elements: all relevance goes to the element that was picked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from oracles.harness import Arriving, Case, Handed

Owners = list[list[tuple[int, int]]]
"""For each element of an output the places (slot, element) that share it evenly. Slots beyond the inputs are constants."""


def picked(case: Case, arriving: Arriving, owners: Callable[[Case, Arriving], Owners]) -> Handed:
    """R_i = R_j / n for each of the n elements i that are the picked one.  Bach et al. 2015."""
    R = arriving.R[0].reshape(-1)
    slots = case.arguments
    handed = [torch.zeros(x.numel(), dtype=torch.float64) for x in slots]
    constant = torch.zeros(R.numel(), dtype=torch.float64)
    for j, places in enumerate(owners(case, arriving)):
        for slot, i in places:
            if slot < len(slots):
                handed[slot][i] += R[j] / len(places)
            else:
                constant[j] += R[j] / len(places)
    shaped = [h.reshape(x.shape) for h, x in zip(handed, slots, strict=True)]
    return Handed(case.per_input(shaped), {"constant": constant.reshape(arriving.z[0].shape)})


def rows_along(shape: Sequence[int], dims: Sequence[int]) -> Tensor:
    """Element numbers of a tensor, one row per element of its reduction over `dims`."""
    dims = [d % len(shape) for d in dims]
    kept = [d for d in range(len(shape)) if d not in dims]
    index = torch.arange(torch.Size(shape).numel()).reshape(shape).permute(*kept, *dims)
    return index.reshape(torch.Size([shape[d] for d in kept]).numel(), -1)


def all_equal(dims: Sequence[int] | None) -> Callable[[Case, Arriving], Owners]:
    """Every element of a reduction that equals its result."""

    def owners(case: Case, arriving: Arriving) -> Owners:
        (x,) = case.arguments
        rows = rows_along(x.shape, range(x.dim()) if dims is None else dims)
        flat = x.reshape(-1)
        return [
            [(0, i) for i in row if flat[i] == value]
            for row, value in zip(rows.tolist(), arriving.z[0].reshape(-1), strict=True)
        ]

    return owners


def by_index(dim: int) -> Callable[[Case, Arriving], Owners]:
    """The element whose index the op returns beside it."""

    def owners(case: Case, arriving: Arriving) -> Owners:
        (x,) = case.arguments
        rows = rows_along(x.shape, (dim,))
        index = case.call(x)[1]
        kept = index.dim() == x.dim()
        index = index.movedim(dim, -1).reshape(len(rows), -1) if kept else index.reshape(len(rows), 1)
        found = torch.gather(rows, 1, index)
        z = arriving.z[0]
        found = found.reshape([*z.movedim(dim, -1).shape]).movedim(-1, dim) if kept else found.reshape(z.shape)
        return [[(0, i)] for i in found.reshape(-1).tolist()]

    return owners


def largest_of_scattered(case: Case, arriving: Arriving) -> Owners:
    """Of what is scattered to a place along dimension 1, and what was there: whatever equals the result."""
    index = case.constants[-1].expand(arriving.z[0].shape[0], -1)
    both = [*case.arguments, *case.constants[:-1]]
    before, scattered = (both[0], both[1]) if both[0].shape == arriving.z[0].shape else (both[1], both[0])
    first, second = (0, 1) if before is both[0] else (1, 0)
    rows, width = arriving.z[0].shape
    found: Owners = []
    for b in range(rows):
        for j in range(width):
            places = [(first, b * width + j, before[b, j])]
            places += [
                (second, b * index.shape[1] + k, scattered[b, k]) for k in range(index.shape[1]) if index[b, k] == j
            ]
            found.append([(slot, i) for slot, i, value in places if value == arriving.z[0][b, j]])
    return found


def of_two(case: Case, arriving: Arriving) -> Owners:
    """Whichever of two broadcast tensors equals the result; both if both do."""
    both = [*case.arguments, *case.constants]
    z = arriving.z[0]
    index = [torch.arange(t.numel()).reshape(t.shape).expand(z.shape).reshape(-1).tolist() for t in both]
    flat = [t.reshape(-1) for t in both]
    return [
        [(k, index[k][j]) for k in range(len(both)) if flat[k][index[k][j]] == value]
        for j, value in enumerate(z.reshape(-1))
    ]
