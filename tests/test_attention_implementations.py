"""``attn_implementation="eager"`` and ``"sdpa"`` of one model have the same relevance, to 1e-5 in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dlbt_core as dlbt
from zoo import widen

transformers = pytest.importorskip("transformers")

S: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 64,
    "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
G = {**S, "num_key_value_heads": 2, "head_dim": 8}
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", G),
    "mistral": ("MistralConfig", "MistralForCausalLM", {**G, "sliding_window": 3}),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", {**S, "num_key_value_heads": 2}),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", G),
    "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM",
               {**G, "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 3}),
    "phi3": ("Phi3Config", "Phi3ForCausalLM", G),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel",
             {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 64, "n_positions": 32, "bos_token_id": 1,
              "eos_token_id": 2}),
    "gpt_neox": ("GPTNeoXConfig", "GPTNeoXForCausalLM", S),
    "opt": ("OPTConfig", "OPTForCausalLM", {**S, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    "bert": ("BertConfig", "BertForSequenceClassification", S),
    "t5": ("T5Config", "T5ForConditionalGeneration",
           {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "pad_token_id": 0,
            "eos_token_id": 1, "decoder_start_token_id": 0}),
    "bart": ("BartConfig", "BartForConditionalGeneration",
             {"vocab_size": 64, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
              "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "pad_token_id": 0}),
    "vit": ("ViTConfig", "ViTForImageClassification", {**S, "image_size": 16, "patch_size": 8}),
}  # fmt: skip


def made(name: str) -> tuple[nn.Module, dict[str, Tensor], Any]:
    """A tiny random model, inputs with padding where it can have any, and what is explained."""
    config_name, model_name, options = FAMILIES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        config = getattr(transformers, config_name)(**options)
        model = widen(getattr(transformers, model_name)(config)).requires_grad_(False)
        if name == "vit":
            return model, {"pixel_values": torch.randn(2, 3, 16, 16)}, None
        inputs = {"input_ids": torch.randint(4, 64, (2, 6))}
        if name in ("t5", "bart"):
            inputs["decoder_input_ids"] = torch.randint(4, 64, (2, 4))
    inputs["attention_mask"] = torch.ones(2, 6, dtype=torch.long)
    return model, inputs, None if name == "bert" else dlbt.target.token(-1)


@pytest.mark.parametrize("name", FAMILIES)
def test_eager_and_sdpa(name: str) -> None:
    model, inputs, target = made(name)
    found: dict[str, dict[str, Any]] = {}
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)  # type: ignore[operator]
        explainer = dlbt.Explainer(model, layers="none")
        found[implementation] = {
            composite: explainer(**inputs, target=target, composite=composite)
            for composite in ("auto", "attnlrp", "cp_lrp")
        }
    ops = {step.node.op.split(".")[1] for step in found["sdpa"]["auto"].plan.steps}
    assert "scaled_dot_product_attention" in ops
    assert "scaled_dot_product_attention" not in {s.node.op.split(".")[1] for s in found["eager"]["auto"].plan.steps}
    for composite, eager in found["eager"].items():
        fused = found["sdpa"][composite]
        for key, relevance in eager.inputs.items():
            gap = (relevance - fused.inputs[key]).abs().max() / relevance.abs().max()
            assert float(gap) <= 1e-5, (composite, key)
        assert float(((eager.score - fused.score) / eager.score).abs().max()) <= 1e-5
