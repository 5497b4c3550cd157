"""Every rule in every way; that dlbt finds the plugin; and one model through the whole road."""

from __future__ import annotations

from typing import Any

import dlbt_core as dlbt
import torch
from dlbt_core.testing import Arriving, Handed, Sample, check_plugin
from torch import Tensor, nn

from dlbt_plugin_example import ops, plugin

GENERATOR = torch.Generator().manual_seed(0)


def rand(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=GENERATOR)


# -- references: the formulas once more, slowly, straight from the papers ----------------------------------------------


def epsilon(arriving: Arriving, x: Tensor, weight: Tensor, epsilon: float = 0.0) -> Handed:
    """R_i = sum_j x_i w_ji / (z_j + epsilon sgn z_j) R_j. Bach et al. 2015, eq. 58."""
    (R,), (z,) = arriving.R, arriving.z
    below = z + epsilon * torch.where(z < 0, -1.0, 1.0).to(z)
    handed = torch.einsum("bi,ji,bj->bi", x, weight, R / below)
    return Handed([handed], {"epsilon": R - R * z / below})


def zplus(arriving: Arriving, x: Tensor, weight: Tensor) -> list[Tensor]:
    """R_i = sum_j z_ij^+ / sum_k z_kj^+ R_j."""
    (R,) = arriving.R
    found = torch.zeros_like(x)
    for b, j in torch.cartesian_prod(torch.arange(len(x)), torch.arange(len(weight))).tolist():
        positive = (x[b] * weight[j]).clamp(min=0)
        found[b] += positive / positive.sum() * R[b, j]
    return [found]


def by_magnitude(arriving: Arriving, a: Tensor, b: Tensor) -> list[Tensor]:
    """R_a = |a| / (|a| + |b|) R. Otsuki et al. 2024."""
    (R,) = arriving.R
    return [R * a.abs() / (a.abs() + b.abs()), R * b.abs() / (a.abs() + b.abs())]


X, W = rand(3, 4), rand(5, 4)
SAMPLES = {
    "example.mix#epsilon": [
        Sample(ops.mix, (X,), (W,), reference=epsilon, batched=True),
        Sample(ops.mix, (X,), (W,), "damped", {"epsilon": 0.3}, epsilon, batched=True),
    ],
    "example.mix#zplus": [Sample(ops.mix, (X,), (W,), reference=zplus, batched=True)],
    "aten.add.Tensor#by_magnitude": [
        Sample(torch.add, (rand(2, 3), rand(2, 3)), reference=by_magnitude, batched=True),
        Sample(torch.add, (rand(2, 3),), (rand(3),), "a constant", batched=True),
    ],
}


def test_every_rule() -> None:
    """A rule without a sample fails here too."""
    for rule, outcomes in check_plugin(plugin, SAMPLES).items():
        print(rule, outcomes)


def test_dlbt_finds_it() -> None:
    (found,) = [p for p in dlbt.default_plugins().loaded if p.name == "example"]
    assert found.distribution == "dlbt-plugin-example"
    assert found.rules == 3


class Block(nn.Module):
    """A residual connection around both ops, and what reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(rand(4, 4))
        self.head = nn.Parameter(rand(2, 4))

    def forward(self, x: Tensor) -> Any:
        swapped: Tensor = torch.ops.example.swap_halves(x)
        return (x + torch.relu(torch.ops.example.mix(swapped, self.weight))) @ self.head.t()


def test_a_model_from_end_to_end() -> None:
    model = Block().eval()
    plain = dlbt.explain(model, X)
    assert "example.mix.default" in {step.node.op for step in plain.plan.steps}
    assert "example.swap_halves.default" not in {step.node.op for step in plain.plan.steps}  # by its lowering
    assert plain.ledger.error < 1e-9
    ratio = dlbt.explain(model, X, composite="example_ratio")
    (step,) = [step for step in ratio.plan.steps if step.rule.variant == "by_magnitude"]
    assert step.node.op == "aten.add.Tensor"  # where the fact holds
    assert ratio.ledger.error < 1e-9
    swapped = dlbt.explain(model, X, rules=[(dlbt.Select(op="example.mix"), dlbt.Use("zplus"))])
    assert not torch.allclose(swapped.relevance, plain.relevance)
