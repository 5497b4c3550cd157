"""Sums, against the formulas on relevances."""

from __future__ import annotations

import pytest

from oracles.cases.sums import CHECKS
from oracles.harness import Check, check_rule


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.id)
def test_sums(check: Check) -> None:
    check_rule(check)
