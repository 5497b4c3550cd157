"""Products, against the formulas on relevances."""

from __future__ import annotations

import pytest

from oracles.cases.products import CHECKS
from oracles.harness import Check, check_rule


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.id)
def test_products(check: Check) -> None:
    check_rule(check)
