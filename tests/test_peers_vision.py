"""Parity with stored arrays: the rules of Zennit and Captum on an MLP, Zennit's presets on a small CNN with batch norm.

Zennit starts with ``attr_output``, by convention one-hot, where dlbt starts with the logit; Captum multiplies by the
logit at the end. GuidedBackprop, DeconvNet and BetaSmooth are modified gradients there: the multipliers here.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dlbt_core as dlbt
from test_peers import distance, load, mlp

Arrays = dict[str, "np.ndarray[Any, Any]"]

# -- one rule on every layer of an MLP: signed inputs, biases ----------------------------------------------------------

ZENNIT_RULES = {
    "gamma0.25": ("gamma", {"gamma": 0.25}),
    "zplus": ("zplus", {}),
    "ab21": ("alpha_beta", {"alpha": 2.0, "beta": 1.0}),
    "wsquare": ("w_square", {}),
    "flat": ("flat", {}),
    "zbox-3_3": ("zbox", {"low": -3.0, "high": 3.0}),
}


@pytest.mark.parametrize("name", ZENNIT_RULES)
def test_zennit_rule_on_an_mlp(name: str) -> None:
    arrays = load("zennit_mlp")
    variant, parameters = ZENNIT_RULES[name]
    rules = [(dlbt.Select(op="aten.linear"), dlbt.Use(variant, **parameters))]
    found = dlbt.explain(mlp(arrays), torch.tensor(arrays["x"]), target=torch.tensor(arrays["target"]), rules=rules)
    assert distance(found.relevance, arrays[f"R/logit/{name}"]) <= 1e-9
    assert distance(found.relevance / found.score[:, None], arrays[f"R/onehot/{name}"]) <= 1e-9
    assert found.ledger.error <= 1e-9


def test_captum_gamma_on_an_mlp() -> None:
    arrays = load("captum_mlp")
    rules = [(dlbt.Select(op="aten.linear"), dlbt.Use("gamma", gamma=0.25, form="original", bias="kept", epsilon=1e-9))]
    found = dlbt.explain(mlp(arrays), torch.tensor(arrays["x"]), target=torch.tensor(arrays["target"]), rules=rules)
    assert distance(found.relevance, arrays["R/gamma0.25"]) <= 1e-9
    # What Captum calls the convergence delta is what is missing from the score: here it has names.
    assert distance(found.score - found.relevance.sum(1), arrays["delta/gamma0.25"]) <= 1e-9
    assert found.ledger.error <= 1e-9


def test_captum_alpha1_beta0_is_another_rule_for_signed_inputs() -> None:
    """Captum multiplies the signed input with the positive weights only; αβ pairs signs (Bach et al. 2015, eq. 60)."""
    arrays = load("captum_mlp")
    rules = [(dlbt.Select(op="aten.linear"), dlbt.Use("alpha_beta", alpha=1.0, beta=0.0, epsilon=1e-9))]
    found = dlbt.explain(mlp(arrays), torch.tensor(arrays["x"]), target=torch.tensor(arrays["target"]), rules=rules)
    assert distance(found.relevance, arrays["R/alpha1beta0"]) > 0.1


# -- Zennit's presets on a CNN with batch norm --------------------------------------------------------------------------


def cnn(arrays: Arrays, drifted: bool = False) -> nn.Module:
    modules: OrderedDict[str, nn.Module] = OrderedDict(
        c1=nn.Conv2d(3, 6, 3, padding=1), b1=nn.BatchNorm2d(6), r1=nn.ReLU(), p1=nn.MaxPool2d(2),
        c2=nn.Conv2d(6, 8, 3, padding=1), r2=nn.ReLU(),
        c3=nn.Conv2d(8, 8, 3, bias=False), b3=nn.BatchNorm2d(8), r3=nn.ReLU(), p3=nn.AvgPool2d(2),
        flatten=nn.Flatten(), f1=nn.Linear(72, 16), r4=nn.ReLU(), f2=nn.Linear(16, 5),
    )  # fmt: skip
    model = nn.Sequential(modules).double().eval()
    model.load_state_dict({k[2:]: torch.tensor(v) for k, v in arrays.items() if k.startswith("w/")})
    return drift(model) if drifted else model


def drift(model: nn.Module) -> nn.Module:
    """The model as Zennit 0.5.1 runs it.

    It folds a batch norm into the convolution and leaves it in the model with its own eps, so that each divides by
    sqrt(1 + eps) once more. Its logits drift by that, and its relevance by up to 1e-4, where denominators are small.
    """
    with torch.no_grad():
        for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.weight /= (1 + norm.eps) ** 0.5
            norm.bias /= (1 + norm.eps) ** 0.5
    return model


BOX = {"low": -2.0, "high": 2.5}
PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "EpsilonPlus": ("epsilon_plus", {}),
    "EpsilonPlus_nobias": ("epsilon_plus", {"bias": "dropped"}),
    "EpsilonGammaBox": ("epsilon_gamma_box", BOX),
    "EpsilonGammaBox_nobias": ("epsilon_gamma_box", {**BOX, "bias": "dropped"}),
    "EpsilonAlpha2Beta1": ("epsilon_alpha2_beta1", {}),
    "EpsilonPlusFlat": ("epsilon_plus_flat", {}),
    "EpsilonAlpha2Beta1Flat": ("epsilon_alpha2_beta1_flat", {}),
    "ExcitationBackprop": ("excitation_backprop", {}),
    "EpsilonEverywhere": ("epsilon", {}),
}


def explained(model: nn.Module, arrays: Arrays, name: str, parameters: dict[str, Any]) -> Any:
    composite = dlbt.composite(name, **parameters)
    if name == "epsilon":  # which takes a batch norm as one more affine map
        composite = replace(composite, passes=("fold_batch_norm",))
    target = torch.tensor(arrays["target"])
    return dlbt.explain(model, torch.tensor(arrays["x"]), target=target, composite=composite, layers="modules")


def from_one(found: Any, relevance: Tensor) -> Tensor:
    """Relevance as if the score were 1, which is where Zennit starts."""
    return relevance / found.score.view(-1, *[1] * (relevance.dim() - 1))


def test_the_cnn_is_the_one_of_the_arrays() -> None:
    arrays = load("zennit_cnn")
    x = torch.tensor(arrays["x"])
    assert distance(cnn(arrays)(x).detach(), arrays["logits"]) <= 1e-12
    assert distance(cnn(arrays)(x).detach(), arrays["logits_canonized"]) > 1e-8
    assert distance(cnn(arrays, drifted=True)(x).detach(), arrays["logits_canonized"]) <= 1e-12


def left_over(name: str) -> float:
    """What Zennit's batch norms still do to relevance: ExcitationBackprop hands it through them by their gradient."""
    return (1 + 1e-5) ** -1 if name == "ExcitationBackprop" else 1.0  # two batch norms, 1 / sqrt(1 + eps) each


@pytest.mark.parametrize(("drifted", "limit"), [(False, 2e-4), (True, 1e-8)], ids=["as it is", "drifted"])
@pytest.mark.parametrize("name", PRESETS)
def test_zennit_preset_on_a_cnn(name: str, drifted: bool, limit: float) -> None:
    """To 1e-8 where our model drifts as Zennit's does: its denominators are stabilised before the drift, ours after it."""
    arrays = load("zennit_cnn")
    found = explained(cnn(arrays, drifted), arrays, *PRESETS[name])
    relevance = from_one(found, found.relevance) * left_over(name)
    assert distance(relevance, arrays[f"R/{name}"]) <= limit
    assert found.ledger.error <= 1e-9


def test_zennit_preset_at_every_layer() -> None:
    arrays = load("zennit_cnn")
    found = explained(cnn(arrays, drifted=True), arrays, *PRESETS["EpsilonPlus_nobias"])
    layers = [key.split("/")[-1] for key in arrays if key.startswith("Rlayer/EpsilonPlus_nobias/")]
    assert len(layers) == 13
    for layer in layers:
        expected = arrays[f"Rlayer/EpsilonPlus_nobias/{layer}"]
        ours = {"c1": "b1", "c3": "b3"}.get(layer, layer)  # folded: there is nothing between the two
        assert distance(from_one(found, found.at(ours)), expected) <= 1e-9, layer


@pytest.mark.parametrize(
    ("name", "composite"),
    [("GuidedBackprop", "guided_backprop"), ("DeconvNet", "deconvnet"), ("BetaSmooth", "beta_smooth")],
)
def test_zennit_modified_gradient_on_a_cnn(name: str, composite: str) -> None:
    """Stored from the model with its batch norms as they are."""
    arrays = load("zennit_cnn")
    found = explained(cnn(arrays), arrays, composite, {})
    (multipliers,) = found.multipliers.values()
    assert distance(multipliers, arrays[f"R/{name}"]) <= 1e-9
    assert torch.allclose(found.relevance, multipliers * torch.tensor(arrays["x"]))
