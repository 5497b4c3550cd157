"""Parity with Zennit 0.5.1, run beside dlbt in float64: each of its rules on each kind of layer it is for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dlbt_core as dlbt

pytestmark = pytest.mark.torchvision  # which Zennit imports

LINEAR_OPS = ("aten.linear", "aten.conv*")

# Zennit's rule with its parameters; our variant with ours.
RULES: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "Epsilon": ("Epsilon", {}, "epsilon", {"epsilon": 1e-6}),
    "Gamma": ("Gamma", {}, "gamma", {}),
    "ZPlus": ("ZPlus", {}, "zplus", {}),
    "AlphaBeta": ("AlphaBeta", {}, "alpha_beta", {}),
    "ZBox": ("ZBox", {"low": -4.0, "high": 5.0}, "zbox", {"low": -4.0, "high": 5.0}),
    "Flat": ("Flat", {}, "flat", {}),
    "WSquare": ("WSquare", {}, "w_square", {}),
}
OTHER_PARAMETERS: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "Epsilon 0.25": ("Epsilon", {"epsilon": 0.25}, "epsilon", {"epsilon": 0.25}),
    "LRP-0": ("Epsilon", {"epsilon": 0.0}, "epsilon", {"epsilon": 0.0}),
    "Gamma 2": ("Gamma", {"gamma": 2.0, "stabilizer": 0.1}, "gamma", {"gamma": 2.0, "epsilon": 0.1}),
    "ZPlus 0.1": ("ZPlus", {"stabilizer": 0.1}, "zplus", {"epsilon": 0.1}),
    "AlphaBeta 1 0": ("AlphaBeta", {"alpha": 1.0, "beta": 0.0}, "alpha_beta", {"alpha": 1.0, "beta": 0.0}),
    "AlphaBeta 3 2": ("AlphaBeta", {"alpha": 3.0, "beta": 2.0}, "alpha_beta", {"alpha": 3.0, "beta": 2.0}),
}

LAYERS: dict[str, tuple[Callable[[bool], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda b: nn.Linear(6, 5, bias=b), (6,)),
    "linear of tokens": (lambda b: nn.Linear(6, 5, bias=b), (4, 6)),
    "conv1d": (lambda b: nn.Conv1d(4, 6, 3, padding=1, bias=b), (4, 9)),
    "conv2d": (lambda b: nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=b), (3, 8, 7)),
    "conv2d dilated, grouped": (lambda b: nn.Conv2d(4, 6, 3, dilation=2, groups=2, bias=b), (4, 9, 9)),
    "conv2d depthwise": (lambda b: nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=b), (4, 6, 6)),
    "conv3d": (lambda b: nn.Conv3d(2, 3, 2, padding=1, bias=b), (2, 4, 3, 5)),
    "conv_transpose1d": (lambda b: nn.ConvTranspose1d(4, 3, 3, stride=2, bias=b), (4, 5)),
    "conv_transpose2d": (
        lambda b: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2, bias=b),
        (4, 5, 4),
    ),
    "conv_transpose3d": (lambda b: nn.ConvTranspose3d(2, 3, 2, stride=2, bias=b), (2, 3, 2, 3)),
}


def drawn(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> tuple[nn.Module, Tensor, Tensor]:
    """A layer, a signed input, and a coefficient per output: relevance that starts is output times coefficient."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        layer = build().double().eval()
        for parameter in layer.parameters():
            parameter.requires_grad_(False)
        x = torch.randn(3, *shape, dtype=torch.float64)
        return layer, x, torch.randn_like(layer(x))


def zennit(layer: nn.Module, x: Tensor, start: Tensor, rule: Any) -> Tensor:
    from zennit.attribution import Gradient
    from zennit.composites import LayerMapComposite

    with Gradient(model=layer, composite=LayerMapComposite([(type(layer), rule)])) as attributor:
        _, relevance = attributor(x, start)
    return relevance.detach()


def explained(layer: nn.Module, x: Tensor, coefficients: Tensor, *choices: Any) -> Any:
    target = dlbt.target.function(lambda out: (out * coefficients).flatten(1).sum(1))
    return dlbt.explain(layer, x, target=target, composite="gradient_times_input", rules=choices)


def distance(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


CASES = [(layer, rule) for layer in LAYERS for rule in RULES]
CASES += [(layer, rule) for layer in ("linear", "conv2d") for rule in OTHER_PARAMETERS]


@pytest.mark.parametrize("bias", ["no bias", "denominator", "dropped"])
@pytest.mark.parametrize(("layer", "rule"), CASES)
def test_rule(layer: str, rule: str, bias: str) -> None:
    from zennit import rules

    theirs, options, variant, parameters = {**RULES, **OTHER_PARAMETERS}[rule]
    build, shape = LAYERS[layer]
    module, x, coefficients = drawn(lambda: build(bias != "no bias"), shape)
    if bias == "dropped":
        options = {**options, "zero_params": "bias"}
        if variant not in ("flat", "zbox"):  # where the bias drops out anyway
            parameters = {**parameters, "bias": "dropped"}
    found = explained(module, x, coefficients, (dlbt.Select(op=LINEAR_OPS), dlbt.Use(variant, **parameters)))
    expected = zennit(module, x, module(x) * coefficients, getattr(rules, theirs)(**options))
    assert distance(found.relevance, expected) <= 1e-9
    assert found.ledger.error <= 1e-9


POOLS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "avg_pool1d": (lambda: nn.AvgPool1d(3, 2, padding=1), (2, 9)),
    "avg_pool2d": (lambda: nn.AvgPool2d(2), (2, 6, 6)),
    "avg_pool2d, padding not counted": (lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False), (2, 7, 7)),
    "avg_pool3d": (lambda: nn.AvgPool3d(2), (2, 4, 4, 4)),
    "adaptive_avg_pool1d": (lambda: nn.AdaptiveAvgPool1d(3), (2, 7)),
    "adaptive_avg_pool2d": (lambda: nn.AdaptiveAvgPool2d((3, 2)), (2, 7, 5)),
    "adaptive_avg_pool3d": (lambda: nn.AdaptiveAvgPool3d(2), (2, 4, 5, 3)),
}


@pytest.mark.parametrize("pool", POOLS)
def test_norm(pool: str) -> None:
    from zennit.rules import Norm

    build, shape = POOLS[pool]
    module, x, coefficients = drawn(build, shape)
    found = explained(module, x, coefficients, (dlbt.Select(op="aten.*avg_pool*"), dlbt.Use("norm", epsilon=1e-6)))
    expected = zennit(module, x, module(x) * coefficients, Norm(stabilizer=1e-6))
    assert distance(found.relevance, expected) <= 1e-9
    assert found.ledger.error <= 1e-9


ACTIVATIONS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "relu": (nn.ReLU, "aten.relu"),
    "gelu": (nn.GELU, "aten.gelu"),
    "silu": (nn.SiLU, "aten.silu"),
    "tanh": (nn.Tanh, "aten.tanh"),
    "sigmoid": (nn.Sigmoid, "aten.sigmoid"),
    "leaky_relu": (nn.LeakyReLU, "aten.leaky_relu"),
    "hardswish": (nn.Hardswish, "aten.hardswish"),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_pass(activation: str) -> None:
    """Which is called identity here; that of sigmoid, which is not 0 at 0, divides by x, stabilised by 1e-6."""
    from zennit.rules import Pass

    build, op = ACTIVATIONS[activation]
    module, x, coefficients = drawn(build, (7,))
    found = explained(module, x, coefficients, (dlbt.Select(op=op), dlbt.Use("identity")))
    limit = 1e-4 if activation == "sigmoid" else 1e-9
    assert distance(found.relevance, zennit(module, x, module(x) * coefficients, Pass())) <= limit
    assert distance(found.relevance, module(x) * coefficients) <= limit
    assert found.ledger.error <= 1e-9


@pytest.mark.parametrize(
    ("rule", "variant", "options"),
    [
        ("ReLUGuidedBackprop", "guided_backprop", {}),
        ("ReLUDeconvNet", "deconvnet", {}),
        ("ReLUBetaSmooth", "beta_smooth", {"beta": 10.0}),
    ],
)
def test_relu(rule: str, variant: str, options: dict[str, float]) -> None:
    """As a gradient: these start with the coefficient, not with the relevance."""
    from zennit import rules

    module, x, coefficients = drawn(nn.ReLU, (50,))
    found = explained(module, x, coefficients, (dlbt.Select(op="aten.relu"), dlbt.Use(variant, **options)))
    (multipliers,) = found.multipliers.values()
    assert distance(multipliers, zennit(module, x, coefficients, getattr(rules, rule)())) <= 1e-12
