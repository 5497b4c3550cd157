"""All cases, and for each registered rule the samples it is tried on."""

from __future__ import annotations

import torch

from oracles.cases import (
    attention,
    convolution,
    copies,
    detection,
    elementwise,
    gating,
    group_norms,
    linear,
    moe,
    norms,
    pooling,
    products,
    recurrent,
    resampling,
    spectral,
    sums,
)
from oracles.cases.family import COUPLED, ORACLES
from oracles.harness import Arriving, Case, Check, Handed, source

__all__ = ["ABSENT", "ALL", "UNBATCHED", "samples", "tried_in_all_ways"]

ABSENT = attention.ABSENT | elementwise.ABSENT | resampling.ABSENT | detection.ABSENT | moe.ABSENT
"""Keys of rules for ops that torch does not have: no model can run them."""

UNBATCHED = (
    frozenset(
        "aten.dot aten.outer aten.addbmm aten.trace aten.t aten.numpy_T aten.matrix_H aten.flipud aten.vstack aten.row_stack "
        "aten.as_strided aten.as_strided_scatter aten.diagonal_scatter aten.masked_select aten.masked_scatter aten.scatter "
        "aten.gather aten.take_along_dim aten.scatter_add aten.scatter_reduce aten._native_batch_norm_legit.no_stats "
        "aten.mv#pass aten.addmv#pass aten.embedding_bag aten._embedding_bag aten._embedding_bag_forward_only".split()
    )
    | (detection.UNBATCHED - detection.ABSENT)
    | recurrent.UNBATCHED
    | moe.UNBATCHED
)
"""Ops without a dimension for samples, or whose cases index across it; with a variant where that is so of it alone."""


def _stopped(case: Case, arriving: Arriving) -> Handed:
    """Nothing passes a detach."""
    (R,) = arriving.R
    return Handed([torch.zeros_like(R)], {"stopped": R})


def _passed(case: Case, arriving: Arriving) -> Handed:
    """All of it passes a detach by the identity rule."""
    (R,) = arriving.R
    return Handed([R], {})


_DETACH = Case("aten.detach", "alone", torch.detach, (source(10)(2, 3),), batched=True)
_STOP = [Check(_DETACH, "gradient", _stopped), Check(_DETACH, "identity", _passed)]

ALL: list[Check] = [
    check
    for module in (
        linear,
        convolution,
        products,
        sums,
        copies,
        elementwise,
        attention,
        norms,
        pooling,
        group_norms,
        resampling,
        detection,
        recurrent,
        moe,
        gating,
        spectral,
    )
    for check in module.CHECKS
] + _STOP


def samples(op: str, variant: str) -> list[Check]:
    """One or two cases for a rule: one with samples in a batch if there is one, and one whose arguments all carry."""
    fitting = [c for c in ALL if c.case.op == op and c.variant == variant]
    batched = [c for c in fitting if c.case.batched] or fitting
    chosen = batched[:1]
    widest = max(fitting, key=lambda c: (len(c.case.inputs), c.case.batched), default=None)
    constant = max(fitting, key=lambda c: (len(c.case.constants), c.case.batched), default=None)
    for more in (widest, constant):
        if more is not None and more not in chosen:
            chosen.append(more)
    return chosen


SHARED = frozenset({*ORACLES, *COUPLED} - {"epsilon"})
"""The linear family's variants beyond epsilon and gradient: one formula, whichever op it is."""

FAMILY = frozenset(check.case.op for check in ALL if check.variant == "zplus")
STAND_FOR_FAMILY = frozenset(
    f"aten.{name}" for name in "linear matmul einsum conv2d conv_transpose2d batch_norm avg_pool2d".split()
)
"""Each way in which an op of the family can enter the formulas."""


def tried_in_all_ways(check: Check) -> bool:
    """Whether a sample gets all the tests there are: of the family's variants only those of some ops."""
    return check.variant not in SHARED or check.case.op not in FAMILY - STAND_FOR_FAMILY
