"""Where no information flows, relevance is exactly 0: later tokens of causal models, padding."""

from __future__ import annotations

import pytest
import torch

import dlbt_core as dlbt
from zoo import make

COMPOSITES = ["auto", "attnlrp", "gradient_times_input", "epsilon"]


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("composite", COMPOSITES)
@pytest.mark.parametrize("model_name", ["llama", "gpt2", "qwen3"])
def test_later_tokens_of_a_causal_model(model_name: str, composite: str, implementation: str) -> None:
    model, inputs, _ = make(model_name, 2)
    model.set_attn_implementation(implementation)  # type: ignore[operator]
    for position in (0, 3):
        found = dlbt.explain(model, **inputs, target=dlbt.target.token(position), composite=composite)
        relevance = found.inputs["input_ids"]
        assert (relevance[:, position + 1 :] == 0).all()
        assert (relevance[:, : position + 1] != 0).all()


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("composite", COMPOSITES)
@pytest.mark.parametrize("model_name", ["bert", "distilbert", "roberta"])
def test_padding(model_name: str, composite: str, implementation: str) -> None:
    model, inputs, _ = make(model_name, 3)
    model.set_attn_implementation(implementation)  # type: ignore[operator]
    mask = torch.ones_like(inputs["input_ids"])
    for row, length in enumerate((7, 4, 2)):
        mask[row, length:] = 0
    found = dlbt.explain(model, **inputs, attention_mask=mask, composite=composite)
    assert list(found.inputs) == ["input_ids"]
    relevance = found.inputs["input_ids"]
    assert (relevance[mask == 0] == 0).all()
    assert (relevance[mask == 1] != 0).all()
    assert found.ledger.error < 1e-3


def test_left_padding_of_a_causal_model() -> None:
    model, inputs, _ = make("llama", 2, torch.float64)
    mask = torch.ones_like(inputs["input_ids"])
    mask[0, :3] = 0
    found = dlbt.explain(model, **inputs, attention_mask=mask, target=dlbt.target.token(-1))
    assert (found.inputs["input_ids"][0, :3] == 0).all()
    assert (found.inputs["input_ids"][0, 3:] != 0).all()


def test_an_input_the_output_does_not_depend_on() -> None:
    def model(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x @ torch.eye(3) + torch.zeros_like(y)

    found = dlbt.explain(model, torch.randn(2, 3), torch.randn(2, 3), target=0)
    assert (found.inputs["y"] == 0).all()
    assert found.ledger.error < 1e-6
