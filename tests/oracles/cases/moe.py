"""Mixtures of experts: grouped matrix products, and sigmoids as routers."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from oracles.attention import held_softmax, softmax_rows
from oracles.cases.family import FEW, passing
from oracles.cases.linear import checks_of
from oracles.harness import Arriving, Case, Check, Handed, source

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


def two_classes(case: Case, arriving: Arriving) -> Handed:
    """A sigmoid as the first of softmax(x, 0), whose second gets nothing: R_x = x (R_1 - s_1 (R_1 + 0)).

    Achtibat et al. 2024, prop. 3.1; the constant s - s' x of the expansion at x takes the rest.
    """
    (x,) = case.arguments
    handed, constant = torch.zeros_like(x), torch.zeros_like(x)
    for place in torch.cartesian_prod(*map(torch.arange, x.shape)).tolist():
        at, R = tuple(place), arriving.R[0][tuple(place)]
        logits = torch.stack([x[at], torch.zeros_like(x[at])])
        s = softmax_rows(logits)
        handed[at] = x[at] * (R - s[0] * R)
        constant[at] = (s[0] - s[0] * s[1] * x[at]) / s[0] * R
    return Handed([handed], {"softmax": constant})


def _routers() -> list[Check]:
    found: list[Check] = []
    for name, x in (("router", rand(2, 3, 4)), ("large-router", 9 * rand(2, 4))):
        case = Case("aten.sigmoid", name, torch.sigmoid, (x,), batched=True)
        found += [Check(case, "taylor", two_classes), Check(case, "detach", held_softmax)]
    return found


def _checks() -> list[Check]:
    found: list[Check] = []
    if _NATIVE not in ABSENT:
        native = [*_grouped(_NATIVE), *_grouped(_NATIVE, square=True), *_batches()]
        found += [replace(check, case=check.case.to(torch.float32), tolerance=SINGLE) for check in native]
    if _FALLBACK not in ABSENT:
        import transformers.integrations.moe  # noqa: F401  (registers the op)

        found += [*_grouped(_FALLBACK), *_grouped(_FALLBACK, square=True)]
    return found + _routers()


CHECKS = _checks()
