"""Copying and selecting ops, in both forms of the message."""

from __future__ import annotations

import pytest

import dlbt_core as dlbt
from dlbt_core.graph.ops import COPIES
from oracles.cases import resampling
from oracles.cases.copies import CHECKS
from oracles.harness import Check, assert_books, assert_near, check_rule, source


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.id)
def test_copies_of_multipliers(check: Check) -> None:
    check_rule(check)


def test_every_copying_op_has_a_case() -> None:
    tried = {check.case.op for check in (*CHECKS, *resampling.COPIED)}
    assert tried == COPIES - {"aten.detach"}  # which has rules of its own


def test_function_of_results_that_share_memory() -> None:
    """The pieces of a split are views of one tensor; a target function of the second must not read the first."""
    x = source(60)(2, 5)
    target = dlbt.target.function(lambda pieces: 2.0 * pieces[1].sum(1))
    explanation = dlbt.explain(lambda a: a.split([2, 3], 1), x, target=target, composite="attnlrp", layers="none")
    want = 2.0 * x
    want[:, :2] = 0.0
    assert_near(explanation.inputs["a"], want, 1.0, "second piece")
    assert_books(explanation, "split", audit=False)
