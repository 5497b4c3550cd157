"""Ops recorded as functions of simpler ones: explained as if they had been written so, op by op."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import dlbt_core as dlbt
from oracles.harness import source

X, C = source(91)(3, 4), source(92)(3, 4)
Model = Callable[[Tensor], Tensor]


def _real(z: Tensor) -> Tensor:
    return torch.view_as_real(z).flatten(1)


PAIRS: dict[str, tuple[Model, Model]] = {
    "mse_loss, none": (lambda x: F.mse_loss(x, C, reduction="none"), lambda x: (x - C).square()),
    "mse_loss, mean": (lambda x: F.mse_loss(x, C).expand(3, 1), lambda x: (x - C).square().mean().expand(3, 1)),
    "mse_loss, sum": (
        lambda x: F.mse_loss(C, x, reduction="sum").expand(3, 1),
        lambda x: (C - x).square().sum().expand(3, 1),
    ),
    "polar": (
        lambda x: _real(torch.polar(x.abs() + 1, C)),
        lambda x: _real(torch.complex((x.abs() + 1) * torch.cos(C), (x.abs() + 1) * torch.sin(C))),
    ),
    "polar, angle": (
        lambda x: _real(torch.polar(C.abs(), x)),
        lambda x: _real(torch.complex(C.abs() * torch.cos(x), C.abs() * torch.sin(x))),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_as_if_spelled_out(name: str) -> None:
    op, spelled = PAIRS[name]
    found, want = (dlbt.explain(model, X, target=0, composite="attnlrp", audit=True) for model in (op, spelled))
    assert torch.equal(found.relevance, want.relevance)
    assert f"aten.{name.partition(',')[0]}.default" not in {step.node.op for step in found.plan.steps}
    assert found.ledger.error <= 1e-12
    assert bool(found.relevance.any())
