"""Parity with the arrays of other packages: Zennit and Captum on an MLP, LXT on Llama and BERT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import dlbt_core as dlbt

PEERS = Path(__file__).parent / "peers"


def load(name: str) -> dict[str, np.ndarray[Any, Any]]:
    with np.load(PEERS / f"{name}.npz", allow_pickle=False) as file:
        return dict(file)


def distance(found: torch.Tensor, expected: np.ndarray[Any, Any]) -> float:
    return float(np.abs(found.numpy() - expected).max() / np.abs(expected).max())


def mlp(arrays: dict[str, np.ndarray[Any, Any]]) -> nn.Module:
    layers = [nn.Linear(*reversed(arrays[f"w/l{i}.weight"].shape)) for i in (1, 2, 3)]
    with torch.no_grad():
        for i, layer in enumerate(layers, 1):
            layer.weight = nn.Parameter(torch.tensor(arrays[f"w/l{i}.weight"]))
            layer.bias = nn.Parameter(torch.tensor(arrays[f"w/l{i}.bias"]))
    first, second, third = layers
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third).eval()


ZENNIT = {
    "epsilon1e-6": {"epsilon": 1e-6},
    "epsilon0.25": {"epsilon": 0.25},
    "lrp0": {"epsilon": 0.0},
    "epsilon_nobias": {"epsilon": 1e-6, "bias": "dropped"},
}


@pytest.mark.parametrize("name", ZENNIT)
def test_zennit_epsilon(name: str) -> None:
    arrays = load("zennit_mlp")
    rules = [(dlbt.Select(op="aten.linear"), dlbt.Use("epsilon", **ZENNIT[name]))]
    found = dlbt.explain(mlp(arrays), torch.tensor(arrays["x"]), target=torch.tensor(arrays["target"]), rules=rules)
    assert distance(found.relevance, arrays[f"R/logit/{name}"]) <= 1e-9
    # Zennit's own convention starts with 1 instead of the logit.
    assert distance(found.relevance / found.score[:, None], arrays[f"R/onehot/{name}"]) <= 1e-9
    assert found.ledger.error <= 1e-12


@pytest.mark.parametrize("epsilon", ["1e-9", "1e-6"])
def test_captum_epsilon(epsilon: str) -> None:
    arrays = load("captum_mlp")
    rules = [(dlbt.Select(op="aten.linear"), dlbt.Use("epsilon", epsilon=float(epsilon)))]
    found = dlbt.explain(mlp(arrays), torch.tensor(arrays["x"]), target=torch.tensor(arrays["target"]), rules=rules)
    assert distance(found.relevance, arrays[f"R/epsilon{epsilon}"]) <= 1e-9


def transformer(arrays: dict[str, np.ndarray[Any, Any]], family: str, dtype: torch.dtype) -> nn.Module:
    import transformers

    heads = {"llama": "LlamaForCausalLM", "bert": "BertForSequenceClassification"}
    configs = {"llama": "LlamaConfig", "bert": "BertConfig"}
    config = getattr(transformers, configs[family])(**json.loads(str(arrays["config"])))
    config._attn_implementation = "eager"
    model = getattr(transformers, heads[family])(config).to(dtype).eval()
    weights = {k[2:]: torch.tensor(v).to(dtype) for k, v in arrays.items() if k.startswith("w/")}
    model.load_state_dict(weights)
    return model  # type: ignore[no-any-return]


LAYERS = {
    "llama": ["", "model.layers.0", "model.norm"],
    "bert": ["bert.embeddings", "bert.encoder.layer.0", "bert.encoder.layer.1"],
}


@pytest.mark.parametrize("family", ["llama", "bert"])
@pytest.mark.parametrize(("precision", "limit"), [("f64", 1e-6), ("f32", 1e-5)])
def test_lxt_attnlrp(family: str, precision: str, limit: float) -> None:
    """At the input embeddings and at each layer whose relevance was stored."""
    arrays = load(f"lxt_{family}_attnlrp_eager")
    dtype = torch.float64 if precision == "f64" else torch.float32
    model = transformer(arrays, family, dtype)
    embeddings = torch.tensor(arrays["x"]).to(dtype)
    classes = torch.tensor(arrays["target"])
    target = dlbt.target.token(-1, classes) if family == "llama" else classes
    found = dlbt.explain(model, inputs_embeds=embeddings, target=target, composite="attnlrp", layers="all")
    logits = found.outputs["logits"][:, -1] if family == "llama" else found.outputs["logits"]
    assert distance(logits, arrays[f"logits/{precision}"]) <= limit
    assert distance(found.relevance, arrays[f"R/{precision}"]) <= limit
    for index, layer in enumerate(LAYERS[family]):
        relevance = found.at(layer) if layer else found.relevance
        assert distance(relevance, arrays[f"Rlayer/{precision}/{index}"]) <= limit, layer


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_the_attention_implementation_makes_no_difference(implementation: str) -> None:
    arrays = load("lxt_llama_attnlrp_eager")
    model = transformer(arrays, "llama", torch.float64)
    model.set_attn_implementation(implementation)  # type: ignore[operator]
    target = dlbt.target.token(-1, torch.tensor(arrays["target"]))
    found = dlbt.explain(model, inputs_embeds=torch.tensor(arrays["x"]), target=target, composite="attnlrp")
    assert distance(found.relevance, arrays["R/f64"]) <= 1e-6
