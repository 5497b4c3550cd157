"""Softmax and attention against propositions 3.1 and 3.3, written out head by head."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

import dlbt_core as dlbt
from oracles import attention as A
from oracles.cases.attention import ABSENT, CHECKS
from oracles.harness import Arriving, Case, Check, check_books, check_near, check_rule, source


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.id)
def test_attention(check: Check) -> None:
    check_rule(check)


def _softmax_of(x: torch.Tensor) -> torch.Tensor:
    return torch.softmax(x, -1)


def _safe_softmax_of(x: torch.Tensor) -> torch.Tensor:
    return torch.ops.aten._safe_softmax(x, -1)


def _log_softmax_of(x: torch.Tensor) -> torch.Tensor:
    return torch.log_softmax(x, -1)


@pytest.mark.parametrize("audit", [False, True])
@pytest.mark.parametrize("masking", ["fill", "add", "where", "input"])
@pytest.mark.parametrize("fn", [_softmax_of, _safe_softmax_of, _log_softmax_of])
def test_logits_of_minus_infinity_get_nothing(fn: Any, masking: str, audit: bool) -> None:
    rand = source(33)
    x, mask = rand(2, 3, 4), rand(2, 3, 4)
    hidden = torch.zeros(2, 3, 4, dtype=torch.bool)
    hidden[:, :, 2], hidden[0, 1, 0] = True, True
    added = torch.zeros(2, 3, 4, dtype=torch.float64).masked_fill(hidden, -torch.inf)
    logits = x + added
    models = {
        "fill": lambda a: fn(a.masked_fill(hidden, -torch.inf)), "add": lambda a: fn(a + added),
        "where": lambda a: fn(torch.where(hidden, -torch.inf, a)), "input": fn,
    }  # fmt: skip
    given = logits if masking == "input" else x
    z = fn(logits)
    mask = torch.where(torch.isfinite(z), mask, 0.0)
    R = torch.where(mask == 0, 0.0, mask * z)
    case = Case("", "", fn, (logits,), batched=True)
    oracle = A.log_softmax if fn is _log_softmax_of else A.taylor
    want = oracle(case, Arriving([mask], [R], [z]), dim=-1)
    explanation = dlbt.explain(
        models[masking], given, target=dlbt.target.logits(mask), composite="attnlrp", layers="none", audit=audit,
    )  # fmt: skip
    (relevance,) = explanation.inputs.values()
    assert bool((relevance[hidden] == 0).all())
    check_near(relevance, want.inputs[0], 1.0, "logits")
    check_near(explanation.ledger.absorbed["softmax"], want.absorbed["softmax"].reshape(2, -1).sum(1), 1.0, "softmax")
    check_books(explanation, "softmax", audit)


@pytest.mark.parametrize("seen", ["causal", "truth", "float"])
def test_what_is_not_seen_gets_exactly_nothing(seen: str) -> None:
    rand = source(30)
    q, k, v = rand(2, 2, 4, 3), rand(2, 2, 4, 3), rand(2, 2, 4, 3)
    lower = torch.ones(4, 4, dtype=torch.bool).tril()
    mask = {
        "causal": None,
        "truth": lower,
        "float": torch.zeros(4, 4, dtype=torch.float64).masked_fill(~lower, -torch.inf),
    }
    weights = torch.zeros(2, 2, 4, 3, dtype=torch.float64)
    weights[:, :, 1] = 1.0
    explanation = dlbt.explain(
        lambda a, b, c: F.scaled_dot_product_attention(a, b, c, mask[seen], is_causal=seen == "causal"), q, k, v,
        target=dlbt.target.logits(weights), composite="attnlrp", layers="none",
    )  # fmt: skip
    for name in "abc":
        assert bool((explanation.inputs[name][:, :, 2:] == 0).all())
        assert bool((explanation.inputs[name][:, :, :1] != 0).any()) or name == "a"


def test_the_fused_rule_is_the_written_out_one() -> None:
    """matmul, scale, softmax, matmul, each by its own rule, give what the fused op's rule gives."""
    rand = source(31)
    q, k, v, mask = rand(2, 2, 3, 4), rand(2, 2, 5, 4), rand(2, 2, 5, 3), rand(2, 2, 3, 3)
    target = dlbt.target.logits(mask)

    def written(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return torch.softmax(a @ b.transpose(-2, -1) * 0.5, -1) @ c

    one = dlbt.explain(F.scaled_dot_product_attention, q, k, v, target=target, composite="attnlrp", layers="none")
    two = dlbt.explain(written, q, k, v, target=target, composite="attnlrp", layers="none")
    for fused, plain in zip(one.inputs.values(), two.inputs.values(), strict=True):
        check_near(fused, plain, 1.0, "fused against written out")


def test_absent_ops_are_absent() -> None:
    for name in ABSENT:
        assert not hasattr(torch.ops.aten, name.split(".")[1])
