"""Linear family: relevance, bias, epsilon and product amounts against the dense formula."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import dlbt_core as dlbt
from oracles.cases.linear import CHECKS
from oracles.harness import Check, assert_books, assert_near, check_rule, source


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.id)
def test_linear_family(check: Check) -> None:
    check_rule(check)


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_inputs_that_are_all_zero(epsilon: float) -> None:
    """After a ReLU a sample may be all zeros: its z is the bias alone. Nothing to hand on, and the books close."""
    rand = source(50)
    w, b, x = rand(3, 4), rand(3), rand(2, 4)
    x[1] = 0.0
    for bias in ("denominator", "dropped"):
        rules = [(dlbt.Select(op="aten.linear"), dlbt.Use("epsilon", epsilon=epsilon, bias=bias))]
        explanation = dlbt.explain(
            lambda a: F.linear(a, w, b), x, target=0, rules=rules, composite="attnlrp", layers="none", audit=True
        )
        assert_near(explanation.inputs["a"][1], torch.zeros(4, dtype=torch.float64), 1.0, "zeros")
        assert_books(explanation, bias)
