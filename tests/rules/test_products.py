"""Products, against the formulas on relevances."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import dlbt_core as dlbt
from oracles.cases.products import CHECKS
from oracles.harness import Check, check_books, check_near, check_rule, source


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.id)
def test_products(check: Check) -> None:
    check_rule(check)


GATES = {
    "sigmoid": torch.sigmoid,
    "hardsigmoid": torch.nn.functional.hardsigmoid,
    "what a sigmoid leaves of 1": lambda t: 1 - torch.sigmoid(t),
    "view of a sigmoid": lambda t: torch.sigmoid(t.reshape(-1)).reshape(t.shape),
}


def _explained(model: Any, a: Tensor, b: Tensor, mask: Tensor) -> Any:
    rules = [(dlbt.Select(op="aten.mul"), dlbt.Use("signal"))]
    return dlbt.explain(
        model, a, b, target=dlbt.target.logits(mask), rules=rules, composite="attnlrp", layers="none", audit=True,
        explain_inputs=["a", "b"],
    )  # fmt: skip


@pytest.mark.parametrize("gate", GATES.values(), ids=GATES)
@pytest.mark.parametrize("first", [True, False])
def test_all_to_the_signal_none_to_the_gate(gate: Any, first: bool) -> None:
    rand = source(30)
    a, b, mask = rand(2, 3), rand(2, 3), rand(2, 3)

    def model(a: Tensor, b: Tensor) -> Tensor:
        found: Tensor = gate(a) * torch.tanh(b) if first else torch.tanh(b) * gate(a)
        return found

    explanation = _explained(model, a, b, mask)
    check_near(explanation.inputs["a"], torch.zeros_like(a), 1.0, "gate")
    check_near(explanation.inputs["b"], mask * model(a, b), 1.0, "signal")
    check_books(explanation, "signal")


def test_two_gates_share_evenly() -> None:
    rand = source(31)
    a, b, mask = rand(2, 3), rand(2, 3), rand(2, 3)
    explanation = _explained(lambda a, b: torch.sigmoid(a) * torch.sigmoid(b), a, b, mask)
    half = mask * torch.sigmoid(a) * torch.sigmoid(b) / 2
    # The identity rule of a sigmoid is stabilised on multipliers: x / (x + 1e-6 sgn x).
    for x, name in ((a, "a"), (b, "b")):
        check_near(explanation.inputs[name], half * x / (x + 1e-6 * x.sign()), 1.0, name)
