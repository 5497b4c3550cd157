"""The test kit's parts, as the oracles and cases use them."""

from __future__ import annotations

from dlbt_core.testing.agreement import (
    CONVERTED,
    amounts,
    check_rule,
    everything,
    relevances,
)
from dlbt_core.testing.agreement import (
    check_books as assert_books,
)
from dlbt_core.testing.agreement import (
    check_near as assert_near,
)
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
    "assert_books",
    "assert_near",
    "check_rule",
    "everything",
    "floating",
    "masks_for",
    "relevances",
    "run",
    "source",
    "target_of",
]
