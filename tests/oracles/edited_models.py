"""Models of the transformers package written anew, on their own weights, with the edited derivatives of `oracles.edited`.

Each takes its input embeddings (an image for ViT), gives logits, and keeps the stream behind each layer by the layer's name.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from oracles.edited import Edited, causal, rotate

__all__ = ["bert", "gemma", "gpt2", "llama", "opt", "phi3", "t5", "vit"]

gelu_tanh = partial(F.gelu, approximate="tanh")


def llama(e: Edited, x: Tensor, config: Any) -> Tensor:
    """Llama; and Qwen3, which has norms of queries and keys besides."""
    for i in range(config.num_hidden_layers):
        at, eps = f"model.layers.{i}", config.rms_norm_eps
        h = e.rms_norm(x, f"{at}.input_layernorm", eps)
        q, k, v = (e.split(e.linear(h, f"{at}.self_attn.{n}_proj")) for n in "qkv")
        if f"{at}.self_attn.q_norm.weight" in e.weights:
            q, k = e.rms_norm(q, f"{at}.self_attn.q_norm", eps), e.rms_norm(k, f"{at}.self_attn.k_norm", eps)
        q, k = rotate(q, 10000.0), rotate(k, 10000.0)
        x = x + e.linear(e.attend(q, k, v, causal(x.shape[1])), f"{at}.self_attn.o_proj")
        h = e.rms_norm(x, f"{at}.post_attention_layernorm", eps)
        h = e.gated(F.silu, e.linear(h, f"{at}.mlp.gate_proj"), e.linear(h, f"{at}.mlp.up_proj"))
        x = e.stream(at, x + e.linear(h, f"{at}.mlp.down_proj"))
    return e.linear(e.rms_norm(x, "model.norm", config.rms_norm_eps), "lm_head")


def phi3(e: Edited, x: Tensor, config: Any) -> Tensor:
    """Projections of queries, keys and values in one; gate and up in one."""
    for i in range(config.num_hidden_layers):
        at, eps = f"model.layers.{i}", config.rms_norm_eps
        h = e.rms_norm(x, f"{at}.input_layernorm", eps)
        q, k, v = e.split(e.linear(h, f"{at}.self_attn.qkv_proj")).split([4, 2, 2], 1)
        attended = e.attend(rotate(q, 10000.0), rotate(k, 10000.0), v, causal(x.shape[1]))
        x = x + e.linear(attended, f"{at}.self_attn.o_proj")
        h = e.rms_norm(x, f"{at}.post_attention_layernorm", eps)
        gate, up = e.linear(h, f"{at}.mlp.gate_up_proj").chunk(2, -1)
        x = e.stream(at, x + e.linear(e.gated(F.silu, gate, up), f"{at}.mlp.down_proj"))
    return e.linear(e.rms_norm(x, "model.norm", config.rms_norm_eps), "lm_head")


def gemma(e: Edited, x: Tensor, config: Any) -> Tensor:
    """Norms before and behind each part, weights from 1, windows, capped logits. Gemma 2 caps those of attention, too."""
    for i, kind in enumerate(config.layer_types):
        at = f"model.layers.{i}"
        norm = partial(e.rms_norm, eps=config.rms_norm_eps, plus=1.0)
        h = norm(x, f"{at}.input_layernorm")
        q, k, v = (e.split(e.linear(h, f"{at}.self_attn.{n}_proj")) for n in "qkv")
        third = f"{at}.self_attn.q_norm.weight" in e.weights
        if third:
            q, k = norm(q, f"{at}.self_attn.q_norm"), norm(k, f"{at}.self_attn.k_norm")
        base = config.rope_parameters.get(kind, config.rope_parameters)["rope_theta"]
        added = causal(x.shape[1], config.sliding_window if kind == "sliding_attention" else None)
        cap = None if third else config.attn_logit_softcapping
        h = e.attend(rotate(q, base), rotate(k, base), v, added, config.query_pre_attn_scalar**-0.5, cap)
        x = x + norm(e.linear(h, f"{at}.self_attn.o_proj"), f"{at}.post_attention_layernorm")
        h = norm(x, f"{at}.pre_feedforward_layernorm")
        h = e.gated(gelu_tanh, e.linear(h, f"{at}.mlp.gate_proj"), e.linear(h, f"{at}.mlp.up_proj"))
        x = e.stream(at, x + norm(e.linear(h, f"{at}.mlp.down_proj"), f"{at}.post_feedforward_layernorm"))
    logits = e.linear(e.rms_norm(x, "model.norm", config.rms_norm_eps, 1.0), "lm_head")
    cap = config.final_logit_softcapping
    return e.activation(torch.tanh, logits / cap) * cap


def gpt2(e: Edited, x: Tensor, config: Any) -> Tensor:
    x = x + e.weights["transformer.wpe.weight"][: x.shape[1]]
    for i in range(config.n_layer):
        at, eps = f"transformer.h.{i}", config.layer_norm_epsilon
        q, k, v = e.split(e.conv1d(e.layer_norm(x, f"{at}.ln_1", eps), f"{at}.attn.c_attn")).chunk(3, 1)
        x = x + e.conv1d(e.attend(q, k, v, causal(x.shape[1])), f"{at}.attn.c_proj")
        h = e.activation(gelu_tanh, e.conv1d(e.layer_norm(x, f"{at}.ln_2", eps), f"{at}.mlp.c_fc"))
        x = e.stream(at, x + e.conv1d(h, f"{at}.mlp.c_proj"))
    return e.linear(e.layer_norm(x, "transformer.ln_f", config.layer_norm_epsilon), "lm_head")


def opt(e: Edited, x: Tensor, config: Any) -> Tensor:
    x = x + e.weights["model.decoder.embed_positions.weight"][2 : 2 + x.shape[1]]
    for i in range(config.num_hidden_layers):
        at = f"model.decoder.layers.{i}"
        h = e.layer_norm(x, f"{at}.self_attn_layer_norm", 1e-5)
        q, k, v = (e.split(e.linear(h, f"{at}.self_attn.{n}_proj")) for n in "qkv")
        x = x + e.linear(e.attend(q, k, v, causal(x.shape[1])), f"{at}.self_attn.out_proj")
        h = e.activation(torch.relu, e.linear(e.layer_norm(x, f"{at}.final_layer_norm", 1e-5), f"{at}.fc1"))
        x = e.stream(at, x + e.linear(h, f"{at}.fc2"))
    return e.linear(e.layer_norm(x, "model.decoder.final_layer_norm", 1e-5), "lm_head")


def bert(e: Edited, x: Tensor, config: Any) -> Tensor:
    """Norms behind each sum; the first token is classified."""
    words, eps = "bert.embeddings", config.layer_norm_eps
    x = x + e.weights[f"{words}.token_type_embeddings.weight"][0]
    x = e.layer_norm(x + e.weights[f"{words}.position_embeddings.weight"][: x.shape[1]], f"{words}.LayerNorm", eps)
    for i in range(config.num_hidden_layers):
        at = f"bert.encoder.layer.{i}"
        q, k, v = (e.split(e.linear(x, f"{at}.attention.self.{n}")) for n in ("query", "key", "value"))
        h = e.linear(e.attend(q, k, v, torch.zeros(())), f"{at}.attention.output.dense")
        x = e.layer_norm(x + h, f"{at}.attention.output.LayerNorm", eps)
        h = e.linear(e.activation(F.gelu, e.linear(x, f"{at}.intermediate.dense")), f"{at}.output.dense")
        x = e.stream(at, e.layer_norm(x + h, f"{at}.output.LayerNorm", eps))
    return e.linear(e.activation(torch.tanh, e.linear(x[:, 0], "bert.pooler.dense")), "classifier")


def t5(e: Edited, x: Tensor, y: Tensor, config: Any) -> Tensor:
    """Encoder and decoder; logits are not scaled, distances are biases."""
    x = _t5_stack(e, x, None, config, "encoder")
    y = _t5_stack(e, y, x, config, "decoder")
    if config.tie_word_embeddings and config.scale_decoder_outputs:
        y = y * config.d_model**-0.5
    return e.linear(y, "lm_head")


def _t5_stack(e: Edited, x: Tensor, memory: Tensor | None, config: Any, stack: str) -> Tensor:
    eps, back = config.layer_norm_epsilon, torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])[None]
    # Up to 8 tokens each distance has a bucket of its own: those ahead come behind half of all, where there are any.
    buckets = back.clamp(min=0) if memory is not None else torch.where(back < 0, 16 - back, back)
    table = e.weights[f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    added = table[buckets].permute(2, 0, 1) + (causal(x.shape[1]) if memory is not None else 0.0)
    for i in range(config.num_layers):
        at = f"{stack}.block.{i}"
        h = e.t5_norm(x, f"{at}.layer.0.layer_norm", eps)
        q, k, v = (e.split(e.linear(h, f"{at}.layer.0.SelfAttention.{n}")) for n in "qkv")
        x = x + e.linear(e.attend(q, k, v, added, 1.0), f"{at}.layer.0.SelfAttention.o")
        if memory is not None:
            q = e.split(e.linear(e.t5_norm(x, f"{at}.layer.1.layer_norm", eps), f"{at}.layer.1.EncDecAttention.q"))
            k, v = (e.split(e.linear(memory, f"{at}.layer.1.EncDecAttention.{n}")) for n in "kv")
            x = x + e.linear(e.attend(q, k, v, torch.zeros(()), 1.0), f"{at}.layer.1.EncDecAttention.o")
        last = f"{at}.layer.{1 if memory is None else 2}"
        h = e.activation(torch.relu, e.linear(e.t5_norm(x, f"{last}.layer_norm", eps), f"{last}.DenseReluDense.wi"))
        x = e.stream(last, x + e.linear(h, f"{last}.DenseReluDense.wo"))
    return e.t5_norm(x, f"{stack}.final_layer_norm", eps)


def vit(e: Edited, x: Tensor, config: Any) -> Tensor:
    """Patches by a convolution; the class token is classified."""
    at, eps = "vit.embeddings", config.layer_norm_eps
    patches = f"{at}.patch_embeddings.projection"
    x = F.conv2d(x, e.weights[f"{patches}.weight"], e.weights[f"{patches}.bias"], stride=config.patch_size)
    x = torch.cat([e.weights[f"{at}.cls_token"].expand(len(x), -1, -1), x.flatten(2).mT], 1)
    x = x + e.weights[f"{at}.position_embeddings"]
    for i in range(config.num_hidden_layers):
        at = f"vit.layers.{i}"
        h = e.layer_norm(x, f"{at}.layernorm_before", eps)
        q, k, v = (e.split(e.linear(h, f"{at}.attention.{n}_proj")) for n in "qkv")
        x = x + e.linear(e.attend(q, k, v, torch.zeros(())), f"{at}.attention.o_proj")
        h = e.linear(e.layer_norm(x, f"{at}.layernorm_after", eps), f"{at}.mlp.fc1")
        x = e.stream(at, x + e.linear(e.activation(F.gelu, h), f"{at}.mlp.fc2"))
    return e.linear(e.layer_norm(x, "vit.layernorm", eps)[:, 0], "classifier")
