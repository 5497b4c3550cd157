"""Whole models against an independent implementation: rewritten in plain torch, with edited local gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import dlbt_core as dlbt
from oracles import edited_models as models
from oracles.edited import Edited, relevance_of
from zoo import widen

transformers = pytest.importorskip("transformers")

S = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 64,
    "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GROUPED = {**S, "num_key_value_heads": 2, "head_dim": 8}
WINDOWED = {
    **GROUPED, "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 3, "query_pre_attn_scalar": 8,
    "final_logit_softcapping": 3.0,
}  # fmt: skip
TOKENS = 6


class Family(NamedTuple):
    """How a model is made, and its counterpart.

    Attributes
    ----------
    config, model, options
        Of the transformers package.
    rewritten
        The model once more.
    single
        Whether the model's norms compute in float32.
    attention, softmax
        Which implementation, and what its softmax computes in.
    """

    config: str
    model: str
    options: dict[str, Any]
    rewritten: Callable[..., Tensor]
    single: bool = False
    attention: str = "sdpa"
    softmax: torch.dtype = torch.float64


FAMILIES = {
    "llama": Family("LlamaConfig", "LlamaForCausalLM", GROUPED, models.llama, True),
    "qwen3": Family("Qwen3Config", "Qwen3ForCausalLM", GROUPED, models.llama, True),
    "gemma3": Family("Gemma3TextConfig", "Gemma3ForCausalLM", WINDOWED, models.gemma, True),
    "gemma2": Family("Gemma2Config", "Gemma2ForCausalLM", {**WINDOWED, "attn_logit_softcapping": 2.0}, models.gemma, True,
                     "eager", torch.float32),
    "phi3": Family("Phi3Config", "Phi3ForCausalLM", GROUPED, models.phi3, True),
    "gpt2": Family("GPT2Config", "GPT2LMHeadModel",
                   {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 64, "n_positions": 32, "bos_token_id": 1,
                    "eos_token_id": 2}, models.gpt2),
    "opt": Family("OPTConfig", "OPTForCausalLM", {**S, "ffn_dim": 48, "word_embed_proj_dim": 32}, models.opt),
    "bert": Family("BertConfig", "BertForSequenceClassification", S, models.bert),
    "t5": Family("T5Config", "T5ForConditionalGeneration",
                 {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4,
                  "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}, models.t5),
    "vit": Family("ViTConfig", "ViTForImageClassification",
                  {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
                   "image_size": 16, "patch_size": 4}, models.vit),
}  # fmt: skip


def made(name: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """A tiny random model in float64, wide enough that activations do not vanish, and its inputs."""
    family = FAMILIES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        config = getattr(transformers, family.config)(**family.options, attn_implementation=family.attention)
        model = widen(getattr(transformers, family.model)(config)).double().requires_grad_(False)
        if name == "vit":
            return model, {"pixel_values": torch.randn(2, 3, 16, 16).double()}
        inputs = {"inputs_embeds": torch.randn(2, TOKENS, 32).double()}
        if name == "t5":
            inputs["decoder_inputs_embeds"] = torch.randn(2, TOKENS - 2, 32).double()
    return model, inputs


def gap(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("composite", ["attnlrp", "cp_lrp"])
@pytest.mark.parametrize("name", FAMILIES)
def test_inputs_and_layers(name: str, composite: str) -> None:
    """Relevance of the inputs and of the stream behind each layer; to 1e-9, or 1e-6 where a model computes in float32."""
    family = FAMILIES[name]
    model, inputs = made(name)
    limit = 1e-6 if family.single else 1e-9
    leaves = [x.clone().requires_grad_() for x in inputs.values()]
    edited = Edited(model.state_dict(), 4, composite == "cp_lrp", family.single, family.softmax)
    logits = family.rewritten(edited, *leaves, model.config)
    score = (logits[:, -1] if logits.dim() == 3 else logits).amax(-1)
    target = dlbt.target.token(-1) if logits.dim() == 3 else None
    found = dlbt.explain(model, **inputs, target=target, composite=composite, layers=list(edited.streams))
    assert gap(found.outputs["logits"], logits.detach()) <= limit
    assert gap(found.score, score.detach()) <= limit
    at_inputs, at_layers = relevance_of(edited, score, *leaves)
    for key, expected in zip(inputs, at_inputs, strict=True):
        assert gap(found.inputs[key], expected) <= limit, key
    assert len(at_layers) == (4 if name == "t5" else 2)
    for layer, expected in at_layers.items():
        assert gap(found.at(layer), expected) <= limit, layer


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3", "gemma2"])
def test_without_biases_all_of_the_score_reaches_the_inputs(name: str) -> None:
    model, inputs = made(name)
    found = dlbt.explain(model, **inputs, target=dlbt.target.token(-1), composite="cp_lrp", layers="none")
    total = found.relevance.sum((1, 2))
    assert float(((total - found.score) / found.score).abs().max()) <= 1e-6
