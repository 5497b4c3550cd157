"""Convolution and batch norm: the linear family's variants against the dense formula."""

from __future__ import annotations

import pytest

from oracles.cases.convolution import CHECKS
from oracles.harness import Check, check_rule


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.id)
def test_convolution(check: Check) -> None:
    check_rule(check)
