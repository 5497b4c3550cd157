"""Maps of an image that also depend on where one looks: the places get nothing, or their derivative."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from oracles.harness import Arriving, Case, Handed
from oracles.sums import sum_of_products


def places_get_nothing(case: Case, arriving: Arriving, places: Sequence[int], **more: Any) -> Handed:
    """The dense formula for the other slots, with the places as constants; 0 for them, whatever they came from.

    If nothing but places carries, all R stays with the constant that is looked at.
    """
    seen = [k for k in range(len(case.inputs)) if k not in places]
    nothing = [torch.zeros(x.shape, dtype=torch.float64) for x in case.inputs]
    if not seen:
        return Handed(nothing, {"constant": arriving.R[0]})
    alone = replace(case, inputs=tuple(case.inputs[k] for k in seen), fn=partial(_with_places, case, places))
    found = sum_of_products(alone, arriving, **more)
    for k, relevance in zip(seen, found.inputs, strict=True):
        nothing[k] = relevance
    return Handed(nothing, found.absorbed)


def _with_places(case: Case, places: Sequence[int], *given: Tensor) -> Any:
    """The op with the places put in between the other slots; then come the constants."""
    rest = list(given)
    slots = [x if k in places else rest.pop(0) for k, x in enumerate(case.inputs)]
    return case.fn(*slots, *rest)


def sampled_gradient(case: Case, arriving: Arriving) -> Handed:
    """x_i dz_j/dx_i and g dz_j/dg of a multilinear sampler: z = sum over corners c of x_c prod_d (1 - |u_d - c_d|).

    Outside there is nothing. u_d = ((g_d + 1) n_d - 1) / 2, the last dimension first. What both get beyond R is booked.
    """
    x, grid = case.inputs
    m = arriving.m[0]
    size = x.shape[2:]
    of_x, of_grid = torch.zeros_like(x), torch.zeros_like(grid)
    for n, position in itertools.product(range(len(x)), itertools.product(*map(range, grid.shape[1:-1]))):
        at = (n, *position)
        u = [((float(grid[at][-1 - d]) + 1) * size[d] - 1) / 2 for d in range(len(size))]
        for corner in itertools.product(*[(math.floor(v), math.floor(v) + 1) for v in u]):
            if not all(0 <= c < s for c, s in zip(corner, size, strict=True)):
                continue
            weights = [1 - abs(v - c) for v, c in zip(u, corner, strict=True)]
            for channel in range(x.shape[1]):
                value, message = float(x[n, channel][corner]), float(m[(n, channel, *position)])
                of_x[n, channel][corner] += value * math.prod(weights) * message
                for d, s in enumerate(size):
                    others = math.prod(w for k, w in enumerate(weights) if k != d)
                    slope = (1.0 if corner[d] > u[d] else -1.0) * others * s / 2
                    of_grid[at][-1 - d] += float(grid[at][-1 - d]) * value * slope * message
    rest = [t.reshape(len(x), -1).sum(1) for t in (arriving.R[0], of_x, of_grid)]
    return Handed([of_x, of_grid], {"location": rest[0] - rest[1] - rest[2]})


def regions_winner(case: Case, arriving: Arriving) -> Handed:
    """All R of a part of a region to its largest element, the number of which in its plane the op gives; -1 for none."""
    x, rois = [*case.inputs, *case.constants][:2]
    R, index = arriving.R[0], case.call(*case.arguments)[1]
    handed = torch.zeros_like(x)
    for k, channel in itertools.product(range(len(rois)), range(x.shape[1])):
        plane = handed[int(rois[k, 0]), channel].reshape(-1)
        for i, r in zip(index[k, channel].reshape(-1).tolist(), R[k, channel].reshape(-1), strict=True):
            if i >= 0:
                plane[i] += r
    return Handed([handed, *[torch.zeros_like(t) for t in case.inputs[1:]]])
