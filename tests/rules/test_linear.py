"""Linear family: relevance, bias, epsilon and product amounts against the dense formula."""

from __future__ import annotations

import pytest
from oracles.cases.linear import CHECKS
from oracles.harness import Check, check_rule


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.id)
def test_linear_family(check: Check) -> None:
    check_rule(check)
