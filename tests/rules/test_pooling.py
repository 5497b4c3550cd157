"""Pooling, window by window."""

from __future__ import annotations

import pytest

from oracles.cases.pooling import CHECKS
from oracles.harness import Check, check_rule


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.id)
def test_pooling(check: Check) -> None:
    check_rule(check)
