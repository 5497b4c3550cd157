"""Grouped matrix products, as mixtures of experts have them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from oracles.cases.family import FEW, passing
from oracles.cases.linear import checks_of
from oracles.harness import Case, Check, source

__all__ = ["ABSENT", "CHECKS", "UNBATCHED"]

rand = source(23)
_NATIVE, _FALLBACK = "aten._grouped_mm", "transformers.grouped_mm_fallback"
ABSENT = frozenset(
    ([] if hasattr(torch.ops.aten, "_grouped_mm") else [_NATIVE]) + ([] if find_spec("transformers") else [_FALLBACK])
)
UNBATCHED = frozenset({_FALLBACK}) - ABSENT
"""Rows are in the order of their groups."""
SINGLE = 1e-5
"""torch's own op knows no float64."""

ENDS = torch.tensor([2, 2, 5], dtype=torch.int32)
"""Of three groups, the second of which is empty."""


def _grouped(op: str, square: bool = False) -> list[Check]:
    call = partial(_run, op)
    x, w = _exact(rand(5, 4)), _exact(rand(3, 4, 4 if square else 8))
    cases = [
        Case(op, "left", call, (x,), (w,)),
        Case(op, "right", lambda b, a: call(a, b), (w,), (x,)),
        Case(op, "both", call, (x, w)),
    ]
    if square:
        return passing(cases[0])
    return [check for case in cases for check in checks_of(case, choices=FEW)]


def _batches() -> list[Check]:
    """One matrix each for both factors: a batch."""
    fn = torch.ops.aten._grouped_mm
    x, w = _exact(rand(2, 3, 4)), _exact(rand(2, 4, 8))
    left = Case(_NATIVE, "batch-left", fn, (x,), (w,), batched=True, per_sample=(0,))
    both = Case(_NATIVE, "batch-both", fn, (x, w), batched=True)
    square = Case(_NATIVE, "batch-square", fn, (x,), (_exact(rand(2, 4, 4)),), batched=True, per_sample=(0,))
    return [*(check for case in (left, both) for check in checks_of(case, choices=FEW)), *passing(square)]


def _exact(x: Tensor) -> Tensor:
    """Rounded to odd thirty-seconds: not 0, and products and their sums are exact in float32."""
    return ((x * 16).floor() + 0.5) / 16


def _run(op: str, x: Tensor, w: Tensor) -> Any:
    if op == _FALLBACK:
        return torch.ops.transformers.grouped_mm_fallback(x, w, ENDS)
    return torch.ops.aten._grouped_mm(x, w, ENDS)


def _checks() -> list[Check]:
    found: list[Check] = []
    if _NATIVE not in ABSENT:
        native = [*_grouped(_NATIVE), *_grouped(_NATIVE, square=True), *_batches()]
        found += [replace(check, case=check.case.to(torch.float32), tolerance=SINGLE) for check in native]
    if _FALLBACK not in ABSENT:
        import transformers.integrations.moe  # noqa: F401  (registers the op)

        found += [*_grouped(_FALLBACK), *_grouped(_FALLBACK, square=True)]
    return found


CHECKS = _checks()
