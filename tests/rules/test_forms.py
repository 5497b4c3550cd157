"""The two forms of the message: copies of relevances, and conversions between the forms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

import dlbt_core as dlbt
from dlbt_core.plugins.loader import Plugins
from oracles.cases.copies import CHECKS
from oracles.harness import Arriving, Case, Check, amounts, check_books, check_near, relevances, source
from oracles.probe import plugins_with_probe, probe

rand = source(20)


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return plugins_with_probe()


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.id)
def test_copies_of_relevances(check: Check, plugins: Plugins) -> None:
    case = check.case
    explanation, R = probe(case, check.variant, plugins)
    steps = [s for s in explanation.plan.steps if s.node.op.startswith(case.op + ".")]
    assert steps
    assert all(s.takes == "relevance" for s in steps)
    tolerance = 1e-10 if all(z.dtype == torch.float64 for z in case.outputs()) else 1e-6
    expected = check.oracle(
        Case(case.op, case.name, case.fn, case.inputs, case.constants, case.slots), Arriving([], R, [])
    )
    for got, want in zip(relevances(explanation, case), expected.inputs, strict=True):
        check_near(got, want, 1.0, check.id, tolerance)
    found = amounts(explanation, batched=False)
    want = expected.absorbed["constant"]
    check_near(
        found.get("constant", torch.zeros_like(want)), want, 1.0, f"{check.id}: absorbed by constants", tolerance
    )
    check_books(explanation, check.id, tolerance=tolerance)


def test_stop_books_relevance_in_both_forms(plugins: Plugins) -> None:
    x = rand(2, 3)
    case = Case("aten.detach", "beside", lambda a: a.detach() + 0.0 * a, (x,))
    explanation, R = probe(case, "gradient", plugins)
    # The sum takes multipliers, so relevance is turned into them and booked as m z.
    check_near(amounts(explanation, False)["stopped"], R[0].sum(), 1.0, "stopped")
    direct = Case("aten.detach", "flat", lambda a: torch.cat([a.detach(), a], 1), (x,))
    explanation, R = probe(direct, "gradient", plugins)
    check_near(amounts(explanation, False)["stopped"], R[0][:, :3].sum(), 1.0, "stopped")
    check_near(explanation.inputs["a"], R[0][:, 3:], 1.0, "what goes beside the stop")
    check_books(explanation, "stop")


def _explained(model: Any, x: torch.Tensor, plugins: Plugins) -> Any:
    rules = [(dlbt.Select(op="aten.linear"), dlbt.Use("testplugin:probe"))]
    return dlbt.explain(
        model, x, target=0, composite="attnlrp", layers="none", audit=True, plugins=plugins, rules=rules
    )


def _weights(n: int) -> torch.Tensor:
    w = rand(1, n)
    w[0, -1] += 1.0 - w.sum()
    return w


def test_relevance_becomes_a_multiplier_by_the_stabilised_quotient(plugins: Plugins) -> None:
    x, c, w = torch.tensor([[0.5, -2.0, 1e-9, -1e-10]], dtype=torch.float64), rand(4), _weights(4)
    explanation = _explained(lambda a: F.linear(a + c, w), x, plugins)
    z = x + c
    R = explanation.score[:, None] * w
    m = R / (z + 1e-12 * torch.where(z < 0, -1.0, 1.0))
    check_near(explanation.inputs["a"], x * m, 1.0, "R -> m")
    check_near(explanation.ledger.absorbed["constant"], (c * m).sum(1), 1.0, "the constant's part")


def test_what_the_quotient_keeps_is_booked(plugins: Plugins) -> None:
    """R / (a + eps sgn a) is not all of R, and nothing of it where a is 0: the books must say so."""
    x, w = torch.tensor([[0.5, 0.0, -1e-12]], dtype=torch.float64), _weights(3)
    explanation = _explained(lambda a: F.linear(a * 2.0 + torch.tensor([[0.0, 0.0, 0.0]]), w), x, plugins)
    R = explanation.score[:, None] * w
    z = 2.0 * x
    want = R * z / (z + 1e-12 * torch.where(z < 0, -1.0, 1.0).double())
    check_near(explanation.inputs["a"], want, 1.0, "R -> m")
    check_books(explanation, "conversion")


def test_multiplier_becomes_relevance_exactly(plugins: Plugins) -> None:
    """The probe takes relevance; what arrives at its output is a multiplier."""
    x, w = rand(2, 3), _weights(3)
    mask = torch.tensor([[2.0], [-0.5]], dtype=torch.float64)
    rules = [(dlbt.Select(op="aten.linear"), dlbt.Use("testplugin:probe"))]
    explanation = dlbt.explain(
        lambda a: F.linear(a, w) * 3.0, x, target=dlbt.target.logits(mask), composite="attnlrp", layers="none", audit=True,
        plugins=plugins, rules=rules,
    )  # fmt: skip
    R = 3.0 * mask * (x @ w.T)
    check_near(explanation.inputs["a"], R @ w, 1.0, "m -> R")
    check_books(explanation, "m -> R")


def test_messages_of_both_forms_meet_as_relevance(plugins: Plugins) -> None:
    x, w, c = rand(1, 3), _weights(3), rand(3)
    explanation = _explained(lambda a: F.linear(a, w) + (a * c).sum(-1, keepdim=True), x, plugins)
    want = (x @ w.T) * w + x * c
    check_near(explanation.inputs["a"], want, 1.0, "sum of both")
    check_books(explanation, "both forms")
