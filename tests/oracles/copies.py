"""Copies: which element of which argument each element of a result is, found by running the op on numbered tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from oracles.harness import Arriving, Case, Handed, floating


def sources(case: Case) -> list[Tensor]:
    """Per output the number of the element it copies, counted through all inputs from 0; -1 for a constant."""
    slots, count = [], 0
    for x in case.arguments:
        slots.append(torch.arange(count + 1, count + 1 + x.numel(), dtype=torch.float64).reshape(x.shape))
        count += x.numel()
    constants = [torch.full_like(t, -1.0) if t.is_floating_point() else t for t in case.constants]
    found = []
    for z in floating(case.fn(*slots, *constants)):
        z = z.double()
        copied = (z >= 1) & (z <= count) & (z == z.round())
        found.append(torch.where(copied, z - 1, -1.0).long())
    return found


def copied(case: Case, arriving: Arriving) -> Handed:
    """R_i = sum of R_j over the copies j of i; what lies on a constant stays there."""
    handed = torch.zeros(sum(x.numel() for x in case.arguments), dtype=torch.float64)
    constants = []
    for R, where in zip(arriving.R, sources(case), strict=True):
        for r, i in zip(R.reshape(-1).double(), where.reshape(-1).tolist(), strict=True):
            if i >= 0:
                handed[i] += r
        constants.append(torch.where(where < 0, R.double(), 0.0))
    parts = [
        h.reshape(x.shape)
        for h, x in zip(handed.split([x.numel() for x in case.arguments]), case.arguments, strict=True)
    ]
    if case.batched:
        constant = sum((c.reshape(c.shape[0], -1).sum(1) for c in constants), torch.zeros(()))
    else:
        constant = sum((c.sum() for c in constants), torch.zeros(()))
    return Handed(case.per_input(parts), {"constant": constant})
