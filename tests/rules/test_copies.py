"""Copying and selecting ops, in both forms of the message."""

from __future__ import annotations

import pytest
from dlbt_core.graph.ops import COPIES
from oracles.cases.copies import CHECKS
from oracles.harness import Check, check_rule


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.id)
def test_copies_of_multipliers(check: Check) -> None:
    check_rule(check)


def test_every_copying_op_has_a_case() -> None:
    assert {check.case.op for check in CHECKS} == COPIES
