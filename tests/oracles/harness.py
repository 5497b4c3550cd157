"""The test kit's parts, as the oracles and cases use them."""

from __future__ import annotations

from dlbt_core.testing.agreement import CONVERTED, amounts, check_books, check_near, check_rule, everything, relevances
from dlbt_core.testing.one_op import OneOp, masks_for, run, target_of
from dlbt_core.testing.samples import TOLERANCE, Arriving, Case, Check, Handed, floating, source

__all__ = [
    "CONVERTED",
    "TOLERANCE",
    "Arriving",
    "Case",
    "Check",
    "Handed",
    "OneOp",
    "amounts",
    "check_books",
    "check_near",
    "check_rule",
    "everything",
    "floating",
    "masks_for",
    "relevances",
    "run",
    "source",
    "target_of",
]
