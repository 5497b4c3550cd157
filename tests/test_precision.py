"""Half precision: relevance in bfloat16 and float16 is that of float32 on the same weights, but for the arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dlbt_core as dlbt
from zoo import widen

transformers = pytest.importorskip("transformers")

TOKENS = 32
TEXT = {
    "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 200,
    "max_position_embeddings": 64,
}  # fmt: skip
SHAPES: dict[str, Callable[[], Any]] = {
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**TEXT, num_key_value_heads=2)),
    "qwen3": lambda: transformers.Qwen3ForCausalLM(
        transformers.Qwen3Config(**TEXT, num_key_value_heads=2, head_dim=32)
    ),
    "bert": lambda: transformers.BertForSequenceClassification(transformers.BertConfig(**TEXT, num_labels=3)),
}


def built(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return widen(SHAPES[name]())


def ids(batch: int = 1) -> Tensor:
    return torch.randint(5, 200, (batch, TOKENS), generator=torch.Generator().manual_seed(1))


def target_of(name: str, model: Any) -> Any:
    """What float32 finds likeliest, for all dtypes the same."""
    with torch.no_grad():
        logits = model(input_ids=ids()).logits
    return int(logits.argmax()) if name == "bert" else dlbt.target.token(-1, int(logits[0, -1].argmax()))


def explained(model: nn.Module, composite: str, target: Any) -> Any:
    return dlbt.explain(model, input_ids=ids(), composite=composite, target=target, layers="none")


def cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.cosine_similarity(a.double().flatten(), b.double().flatten(), 0))


@pytest.mark.parametrize("composite", ["auto", "attnlrp", "cp_lrp"])
@pytest.mark.parametrize("name", list(SHAPES))
def test_bfloat16_is_float32_on_the_same_weights(name: str, composite: str) -> None:
    """And close to float32 on the weights before they were rounded."""
    model = built(name)
    target = target_of(name, model)
    half = deepcopy(model).to(torch.bfloat16)
    found = explained(half, composite, target)
    assert found.relevance.dtype == torch.bfloat16
    assert cosine(found.relevance, explained(deepcopy(half).float(), composite, target).relevance) >= 0.999
    assert cosine(found.relevance, explained(model, composite, target).relevance) >= 0.998
    assert found.ledger.error <= 0.05


def with_outliers(model: Any, factor: float, scale: float) -> Any:
    """A few features hundreds of times as large as all others, as large language models have, and large scores."""
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[[7, 31]] *= factor
        model.lm_head.weight *= scale
    return model


@pytest.mark.parametrize("composite", ["auto", "cp_lrp"])
@pytest.mark.parametrize(("factor", "scale"), [(300.0, 1.0), (1.0, 300.0), (1000.0, 300.0)])
def test_float16_does_not_overflow(factor: float, scale: float, composite: str) -> None:
    model = with_outliers(built("llama"), factor, scale)
    target = target_of("llama", model)
    half = model.to(torch.float16)
    found = explained(half, composite, target)
    wide = explained(deepcopy(half).float(), composite, target)
    assert scale == 1 or abs(float(wide.score)) > 500
    assert bool(torch.isfinite(found.relevance).all())
    assert cosine(found.relevance, wide.relevance) >= 0.9999
    assert found.ledger.error <= 0.01


def test_books_of_float16_are_kept_in_float32() -> None:
    """One bias alone takes more than float16 holds, and another one as much less than nothing."""

    class Difference(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(4, 4), nn.Linear(4, 4)
            with torch.no_grad():
                self.up.bias.fill_(20000.0)
                self.down.bias.fill_(20000.0)

        def forward(self, x: Tensor) -> Tensor:
            return (self.up(x) - self.down(x)).sum((1, 2))[:, None]

    x = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0)) * 2000
    found = dlbt.explain(Difference().half().eval(), x.half(), composite="epsilon", target=0)
    booked = [float(amount) for account in found.ledger.accounts for amount in account.absorbed.get("bias", ())]
    assert sorted(booked) == [-240000.0] * 2 + [240000.0] * 2
    assert found.ledger.error <= 0.05


def test_a_message_of_float16_is_turned_into_a_multiplier_where_the_value_is_zero() -> None:
    """The core's epsilon is 0 in float16; dividing by it would give NaN."""
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).half().eval()
    rules = [(dlbt.Select(op="aten.linear", last=True), dlbt.Use("alpha_beta", alpha=1.0, beta=0.0))]
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    found = dlbt.explain(model, x.half(), composite="epsilon", rules=rules, target=0)
    wide = dlbt.explain(deepcopy(model).float(), x.half().float(), composite="epsilon", rules=rules, target=0)
    assert cosine(found.relevance, wide.relevance) >= 0.999
    assert found.ledger.error <= 0.01
