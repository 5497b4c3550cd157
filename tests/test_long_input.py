"""A long text: the memory of an explanation against that of forward + input gradient, in bytes of tensors alive at once."""

from __future__ import annotations

import pytest
import torch
from live_bytes import LiveBytes, peak_bytes
from long_input import explanation, gradient
from torch import Tensor, nn

import dlbt_core as dlbt

TOKENS = 1024


@pytest.fixture(scope="module")
def model() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=128, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4, intermediate_size=344,
        vocab_size=2000, max_position_embeddings=TOKENS,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval().requires_grad_(False)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def ids() -> Tensor:
    return torch.randint(0, 2000, (1, TOKENS), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("composite", ["auto", "cp_lrp"])
def test_memory_of_a_long_text(model: nn.Module, ids: Tensor, composite: str) -> None:
    """Recording included; and no more on the next call."""
    before = [*model.parameters(), *model.buffers(), ids]
    explain = explanation(model, composite)
    plain = peak_bytes(lambda: gradient(model, ids), before)
    for _ in range(2):
        assert peak_bytes(lambda: explain(ids), before) <= 1.3 * plain


def test_an_explainer_keeps_no_activations(model: nn.Module, ids: Tensor) -> None:
    """What it remembers of a recording is smaller than one hidden state; keys and values in the model's result are not kept."""
    explainer = dlbt.Explainer(model, layers="none")
    with LiveBytes([*model.parameters(), *model.buffers(), ids]) as counted:
        explainer(input_ids=ids, target=dlbt.target.token(-1))
    assert counted.now < TOKENS * 128 * 4


def test_counting_of_bytes() -> None:
    """Of what is alive at once; a view is not counted again, what was there before not at all."""
    x = torch.ones(1000)
    with LiveBytes([x]) as counted:
        y = x * 2
        z = y.view(10, 100) + 1
        del y
        w = z.T.contiguous()
        assert counted.now == 8000
        del z, w
    assert (counted.now, counted.peak) == (0, 8000)
