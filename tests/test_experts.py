"""Mixtures of experts: relevance per layer, expert and token, and of the router, however the model calls its experts."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dlbt_core as dlbt
from dlbt_core.errors import DlbtError
from dlbt_core.experts import Experts
from dlbt_rules_nlp import explain_text
from text_models import byte_pairs, llama
from zoo import make, widen

transformers = pytest.importorskip("transformers")

SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 4, "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "num_experts_per_tok": 2,
}  # fmt: skip
LATENT = {
    "moe_intermediate_size": 24, "n_shared_experts": 1, "first_k_dense_replace": 0, "kv_lora_rank": 16, "q_lora_rank": 16,
    "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "JetMoe": {"num_local_experts": 4, "kv_channels": 8},
    "Olmoe": {"num_experts": 4},
    "Qwen2Moe": {"num_experts": 4, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24},
    "Qwen3Moe": {"num_experts": 4, "moe_intermediate_size": 24, "head_dim": 8, "norm_topk_prob": True},
    "Mixtral": {"num_local_experts": 4},
    "GptOss": {"num_local_experts": 4, "head_dim": 8, "sliding_window": 4, "rope_parameters": {"rope_type": "default"}},
    "DeepseekV2": {"n_routed_experts": 4, "n_group": None, "topk_group": None, "topk_method": "greedy", **LATENT},
    "DeepseekV3": {"n_routed_experts": 8, "n_group": 4, "topk_group": 2, **LATENT},
}
IMPLEMENTATIONS = ("eager", "batched_mm", "grouped_mm")
ROUTERS = {"DeepseekV3": "aten.sigmoid.default"}
"""The op that rates the experts; a softmax in all others."""


def model_of(name: str, implementation: str = "eager", dtype: torch.dtype = torch.float32, **more: Any) -> nn.Module:
    """A tiny random model, wide enough that activations do not vanish."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = getattr(transformers, f"{name}Config")(**{**SIZES, **FAMILIES[name], **more})
        config._experts_implementation = None if name == "JetMoe" else implementation  # which has loops of its own
        return widen(getattr(transformers, f"{name}ForCausalLM")(config), 0.3).to(dtype)


IDS = torch.randint(4, 64, (2, 7), generator=torch.Generator().manual_seed(0))


@cache
def explained(
    name: str, implementation: str = "eager", composite: str = "auto", router: str | None = None, layers: str = "blocks"
) -> dlbt.Explanation:
    """Of a batch of two; tokens after the fifth cannot matter. In float64 if all nodes are kept."""
    model = model_of(name, implementation, torch.float64 if layers == "all" else torch.float32)
    rules = [(dlbt.Select(fact="router"), dlbt.Use(router))] if router else []
    target = dlbt.target.token(4)
    return dlbt.explain(model, input_ids=IDS, target=target, composite=composite, rules=rules, layers=layers)


def far(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


# -- models ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_loops_groups_and_batches_are_one(name: str) -> None:
    """Inputs, experts and routers get the same, however the experts are called."""
    loop = explained(name)
    assert loop.ledger.error <= 1e-5
    assert list(loop.experts) == [
        f"model.layers.0.{block}" for block in (["self_attention"] if name == "JetMoe" else []) + ["mlp"]
    ]
    for implementation in IMPLEMENTATIONS[1:] if name != "JetMoe" else ():
        found = explained(name, implementation)
        assert found.ledger.error <= 1e-5
        assert far(found.inputs["input_ids"], loop.inputs["input_ids"]) <= 1e-5
        assert list(found.experts) == list(loop.experts)
        for key, expected in loop.experts.items():
            for part in ("per_token", "router", "weights"):
                assert far(getattr(found.experts[key], part), getattr(expected, part)) <= 1e-5, (
                    implementation,
                    key,
                    part,
                )


@pytest.mark.parametrize("composite", ["attnlrp", "cp_lrp"])
@pytest.mark.parametrize("name", FAMILIES)
def test_experts_sum_up_to_the_routed_output(name: str, composite: str) -> None:
    """At the last sum over experts of the layer, which is a node of the recorded run."""
    found = explained(name, composite=composite, layers="all")
    assert found.ledger.error <= 1e-6  # norms and routers compute in float32, whatever the model's dtype
    held = [why for why in found.plan.held.values() if "fact='router'" in why]
    assert len(held) == (len(found.experts) if composite == "cp_lrp" else 0)
    for key, layer in found.experts.items():
        assert bool((layer.router == 0).all()) == (composite == "cp_lrp")
        sums = [
            n for n in found.plan.graph.nodes if n.op.startswith("aten.index_add") and n.site.module.startswith(key)
        ]
        routed = found.at(sums[-1].name)
        assert routed.dtype == torch.float64
        torch.testing.assert_close(layer.per_token.sum((1, 2)), routed.view(2, -1).sum(1), rtol=1e-9, atol=1e-12)
        if name.startswith("Deepseek"):
            block, shared = (found.at(at).view(2, -1).sum(1) for at in (key, f"{key}.shared_experts"))
            torch.testing.assert_close(layer.per_sample.sum(1) + shared, block, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", FAMILIES)
def test_exactly_nothing_where_a_token_was_not_sent(name: str) -> None:
    for layer in explained(name, "eager" if name == "JetMoe" else "batched_mm").experts.values():
        samples, tokens, experts = layer.per_token.shape
        assert (samples, tokens, experts) == (2, 7, 8 if name == "DeepseekV3" else 4)
        chosen = layer.weights != 0
        assert (chosen.sum(-1) == 2).all()
        assert (layer.per_token[~chosen] == 0).all()
        assert (layer.per_token[:, 5:] == 0).all()
        assert (layer.per_token[:, 4][chosen[:, 4]] != 0).all()
        assert (layer.tokens.sum(1) == 14).all()
        assert layer.relevance.shape == (experts,)


@pytest.mark.parametrize(
    ("name", "implementation"), [("JetMoe", ""), ("Mixtral", "grouped_mm"), ("DeepseekV3", "eager")]
)
def test_a_row_is_as_alone(name: str, implementation: str) -> None:
    both = explained(name, implementation)
    for row in range(2):
        one = IDS[row : row + 1]
        alone = dlbt.explain(model_of(name, implementation), input_ids=one, target=dlbt.target.token(4))
        for key, layer in both.experts.items():
            for part in ("per_token", "router", "weights"):
                expected = getattr(alone.experts[key], part)
                assert far(getattr(layer, part)[row : row + 1], expected) <= 1e-5, (key, part)


OTHERS: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "a loop over modules, of each token's best": (
        "SwitchTransformersForConditionalGeneration",
        {
            "d_model": 32, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 4,
            "num_experts": 4, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1,
        },
        ["encoder.block.0.layer.1.mlp", "decoder.block.0.layer.2.mlp"],
    ),
    "weights in a table, with sums of masked ratings": (
        "NllbMoeForConditionalGeneration",
        {
            "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4,
            "decoder_attention_heads": 4, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "num_experts": 4,
            "encoder_sparse_step": 1, "decoder_sparse_step": 1, "pad_token_id": 1, "expert_capacity": 16,
        },
        ["model.encoder.layers.0.ffn", "model.decoder.layers.0.ffn"],
    ),
    "each expert on each token, weighted before": (
        "Llama4ForCausalLM",
        {
            **SIZES, "intermediate_size_mlp": 48, "head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 1,
            "interleave_moe_layer_step": 1,
        },
        ["model.layers.0.feed_forward"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", OTHERS)
def test_other_forms(form: str) -> None:
    name, options, layers = OTHERS[form]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made_by = getattr(transformers, name)
        model = widen(made_by(made_by.config_class(**{"vocab_size": 64, **options})), 0.3)
    inputs = {"input_ids": IDS} if "Causal" in name else {"input_ids": IDS, "decoder_input_ids": IDS[:, :5]}
    found = dlbt.explain(model, **inputs, target=dlbt.target.token(4), layers="all")
    assert found.ledger.error <= 1e-5
    assert list(found.experts) == layers
    for key, layer in found.experts.items():
        assert layer.per_token.shape == (2, 5 if "decoder" in key else 7, 4)
        assert (layer.per_token[layer.weights == 0] == 0).all()
        assert bool((layer.router != 0).any())
        if "Llama4" in name:
            parts = [step.node for step in found.plan.steps if "fact='expert'" in step.reason]
        else:
            parts = [
                n for n in found.plan.graph.nodes if n.op.startswith("aten.index_add") and n.site.module.startswith(key)
            ]
        whole = found.at(parts[-1].name).double().sum()
        torch.testing.assert_close(layer.per_token.sum(), whole, rtol=1e-5, atol=1e-5)


# -- routers by choice -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_routers_by_one_line(name: str) -> None:
    """``detach`` stops and books it, a constant leaves all to the experts; ``taylor`` hands on, and is the default."""
    router, default = ROUTERS.get(name, "aten.softmax.int"), explained(name)
    last = list(default.experts)[-1]  # above it there is no other router
    for variant in ("detach", "constant"):
        found = explained(name, router=variant)
        assert found.ledger.error <= 1e-5
        ruled = [step.node.op for step in found.plan.steps if "this call's rules" in step.reason]
        assert ruled == ([] if variant == "constant" else [router] * len(found.experts))
        assert ("stopped" in found.ledger.absorbed) == (variant == "detach")
        assert all((layer.router == 0).all() for layer in found.experts.values())
        torch.testing.assert_close(found.experts[last].per_token, default.experts[last].per_token)
        assert far(found.inputs["input_ids"], default.inputs["input_ids"]) > 1e-3
    assert all((layer.router != 0).any() for layer in default.experts.values())
    if name in ("Mixtral", "DeepseekV3"):
        assert torch.equal(explained(name, router="taylor").inputs["input_ids"], default.inputs["input_ids"])


# -- the result --------------------------------------------------------------------------------------------------------


def test_printed_and_as_a_table() -> None:
    model = model_of("Mixtral", num_hidden_layers=2)
    found = dlbt.explain(model, input_ids=IDS, target=dlbt.target.token(4)).experts
    key = "model.layers.1.mlp"
    assert repr(found) == "<Experts of 2 layers: 'model.layers.0.mlp', 'model.layers.1.mlp'>"
    assert repr(found[key]).startswith("<ExpertRelevance of model.layers.1.mlp: 4 experts, 2 x 7 tokens; together ")
    rows = found.table()
    assert [row["layer"] for row in rows[4:]] == [key] * 4
    assert [row["expert"] for row in rows[4:]] == [0, 1, 2, 3]
    assert sum(row["tokens"] for row in rows[4:]) == 2 * 7 * 2
    assert abs(sum(row["relevance"] for row in rows[4:]) - float(found[key].per_token.sum())) <= 1e-12
    assert sum(line.startswith("  expert") for line in str(found).splitlines()) == 8
    assert str(found[key]).splitlines()[0] == "model.layers.1.mlp: 4 experts, 2 x 7 tokens"


def test_saved_and_loaded(tmp_path: Path) -> None:
    targets = [dlbt.target.token(4), dlbt.target.token(-1)]
    found = dlbt.explain(model_of("DeepseekV3"), input_ids=IDS, targets=targets)
    first, second = (one.experts["model.layers.0.mlp"].per_token for one in found)
    torch.testing.assert_close(first, explained("DeepseekV3").experts["model.layers.0.mlp"].per_token)
    assert not torch.equal(first, second)
    again = dlbt.load(found[1].save(tmp_path / "it.safetensors")).experts
    assert list(again) == list(found[1].experts)
    for key, layer in found[1].experts.items():
        for part in ("per_token", "router", "weights"):
            assert torch.equal(getattr(again[key], part), getattr(layer, part))


def test_where_there_are_none() -> None:
    for name in ("bert", "llama", "qwen3"):
        model, inputs, target = make(name, 2)
        found = dlbt.explain(model, **inputs, target=target)
        assert len(found.experts) == 0
        assert str(found.experts) == "no experts"
    assert len(explained("Mixtral", layers="none").experts) == 0
    with pytest.raises(DlbtError) as caught:
        Experts()["mlp"]
    assert (
        str(caught.value) == "no relevance of experts was kept for 'mlp'.\n  fix  the model has none, or layers='none'."
    )
    with pytest.raises(DlbtError) as caught:
        explained("Mixtral").experts["mlp"]
    assert str(caught.value) == "no relevance of experts was kept for 'mlp'.\n  fix  one of: 'model.layers.0.mlp'."


# -- texts -------------------------------------------------------------------------------------------------------------


def test_of_a_text(tmp_path: Path) -> None:
    tokenizer = byte_pairs("left")
    model = model_of("Qwen2Moe", "grouped_mm", vocab_size=len(tokenizer), num_hidden_layers=2)
    first, second = explain_text(model, tokenizer, ["the central bank", "rain"])
    for result in (first, second):
        layers = result.experts(per_token=True)
        assert list(layers) == ["model.layers.0.mlp", "model.layers.1.mlp"]
        for key, values in layers.items():
            assert values.shape == (len(result.tokens), 4)
            assert ((values != 0).sum(1) <= 2).all()
            torch.testing.assert_close(result.experts()[key], values.sum(0))
    alone = explain_text(model, tokenizer, "rain").experts()
    for key, values in second.experts().items():
        assert far(values, alone[key]) <= 1e-5
    page = second.save(tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Relevance of the experts" in page
    assert "Relevance of the experts" not in second.to_html(tmp_path / "b.html", experts=False).read_text(
        encoding="utf-8"
    )


def test_in_a_figure(tmp_path: Path) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    tokenizer = byte_pairs()
    model = model_of("JetMoe", vocab_size=len(tokenizer), num_hidden_layers=2)
    result = explain_text(model, tokenizer, "the central bank")
    made = result.figure("experts")
    shown = {text.get_text() for text in made.findobj(matplotlib.text.Text)}
    assert {"model.layers.0.self_attention", "model.layers.1.mlp", "0", "3"} <= shown
    assert result.save(tmp_path / "it.png", "experts").stat().st_size > 1500
    with pytest.raises(DlbtError) as caught:
        explain_text(llama(), tokenizer, "the bank").figure("experts")
    assert str(caught.value) == (
        "no relevance of experts was kept: the model has no router that chooses experts and weights what they put out, or "
        "the explainer keeps nothing.\n  fix  explain_text(model, ...) with the model itself, without layers=."
    )
