"""Mixtures of experts and gated units, against the dense formulas; and the spellings of experts against each other."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import dlbt_core as dlbt
from oracles.cases import gating, moe
from oracles.harness import Check, check_rule


@pytest.mark.parametrize("check", [*moe.CHECKS, *gating.CHECKS], ids=lambda c: c.id)
def test_dense_formula(check: Check) -> None:
    check_rule(check)


def _mixtral(implementation: str) -> Any:
    transformers = pytest.importorskip("transformers")
    from zoo import widen

    config = transformers.MixtralConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2, experts_implementation=implementation,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return widen(transformers.MixtralForCausalLM(config), 0.3)


def test_loops_groups_and_batches_of_experts_are_one() -> None:
    """The relevance of tokens does not depend on how the experts are called."""
    ids = torch.randint(0, 64, (2, 7), generator=torch.Generator().manual_seed(0))
    ops: dict[str, set[str]] = {}
    found: dict[str, torch.Tensor] = {}
    for name in ("eager", "batched_mm", "grouped_mm"):
        explanation = dlbt.explain(_mixtral(name), input_ids=ids, target=dlbt.target.token(-1))
        assert explanation.ledger.error <= 1e-4
        ops[name] = {step.node.op for step in explanation.plan.steps}
        found[name] = explanation.inputs["input_ids"]
    assert any("_grouped_mm" in op for op in ops["grouped_mm"])
    assert not any("_grouped_mm" in op for op in ops["eager"] | ops["batched_mm"])
    scale = float(found["eager"].abs().max())
    for name in ("batched_mm", "grouped_mm"):
        assert float((found[name] - found["eager"]).abs().max()) <= 1e-5 * scale, name
