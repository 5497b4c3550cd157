"""Parity with Zennit 0.5.1, run beside dlbt in float64: its nine presets on four models.

Zennit imports torchvision, so these tests carry its marker. Zennit starts with ``attr_output``; it gets the logit here.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dlbt_core as dlbt
from zoo import calibrated

pytestmark = pytest.mark.torchvision

LOW, HIGH = -2.125, 2.625  # exact in float32, to which Zennit rounds them whatever the model's dtype

RELEVANCE = {
    "EpsilonPlus": "epsilon_plus",
    "EpsilonPlusFlat": "epsilon_plus_flat",
    "EpsilonAlpha2Beta1": "epsilon_alpha2_beta1",
    "EpsilonAlpha2Beta1Flat": "epsilon_alpha2_beta1_flat",
    "EpsilonGammaBox": "epsilon_gamma_box",
    "ExcitationBackprop": "excitation_backprop",
}
MODIFIED_GRADIENT = {"GuidedBackprop": "guided_backprop", "DeconvNet": "deconvnet", "BetaSmooth": "beta_smooth"}


# -- models: random weights, biases that matter, float64 ----------------------------------------------------------------


def drawn(model: nn.Module) -> nn.Module:
    """Weights that keep the scale of what passes a ReLU, biases of a tenth of it."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                nn.init.kaiming_normal_(parameter, nonlinearity="relu")
            elif "weight" in name:
                parameter.uniform_(0.7, 1.3)
            else:
                parameter.normal_(0.0, 0.1)
    return model.eval()


def mlp() -> nn.Module:
    return drawn(nn.Sequential(
        nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 20), nn.ReLU(), nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 5)
    ))  # fmt: skip


def cnn() -> nn.Module:
    """Strides, groups, dilation, both pools, and a transposed convolution."""
    return drawn(nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=2), nn.ReLU(),
        nn.MaxPool2d(2), nn.ConvTranspose2d(8, 6, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(6, 8, 3, stride=2), nn.ReLU(), nn.AvgPool2d(3, 2, padding=1), nn.AdaptiveAvgPool2d(3), nn.Flatten(),
        nn.Linear(72, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 5),
    ))  # fmt: skip


def vgg11() -> nn.Module:
    from torchvision import models

    model = models.vgg11(weights=None, init_weights=False)
    for place, sizes in ((0, (512 * 49, 64)), (3, (64, 64)), (6, (64, 10))):  # the heads hold 90 % of the weights
        model.classifier[place] = nn.Linear(*sizes)
    return drawn(model)


def resnet18() -> nn.Module:
    from torchvision import models

    return calibrated(drawn(models.resnet18(weights=None, num_classes=10)), 48)


BUILD: dict[str, Callable[[], nn.Module]] = {"mlp": mlp, "cnn": cnn, "vgg11": vgg11, "resnet18": resnet18}
SHAPES = {"mlp": (12,), "cnn": (3, 17, 17), "vgg11": (3, 32, 32), "resnet18": (3, 48, 48)}


@cache
def built(name: str) -> tuple[nn.Module, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = BUILD[name]().double().eval()
        x = torch.randn(2, *SHAPES[name], dtype=torch.float64).clamp(LOW, HIGH)
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # Zennit's BetaSmooth reads the input of a ReLU after it was overwritten
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-14  # Zennit folds a batch norm and still divides by sqrt(1 + eps): its logits drift
    return model, x


# -- both packages ------------------------------------------------------------------------------------------------------


def zennit(model: nn.Module, x: Tensor, preset: str, start: Tensor, fold: bool = True, **options: Any) -> Tensor:
    """What Zennit hands to the input; with its canonizer where there is something to fold."""
    from zennit import composites
    from zennit.attribution import Gradient
    from zennit.torchvision import ResNetCanonizer

    if preset == "EpsilonGammaBox":
        options |= {"low": LOW, "high": HIGH}
    if fold and any(isinstance(m, nn.BatchNorm2d) for m in model.modules()):
        options["canonizers"] = [ResNetCanonizer()]
    with Gradient(model=model, composite=getattr(composites, preset)(**options)) as attributor:
        _, relevance = attributor(x, start)
    return relevance.detach()


def explained(model: nn.Module, x: Tensor, composite: str, **options: Any) -> tuple[Any, Tensor]:
    """Our explanation, and the one-hot vectors of the classes it explains."""
    if composite == "epsilon_gamma_box":
        options |= {"low": LOW, "high": HIGH}
    found = dlbt.explain(model, x, composite=dlbt.composite(composite, **options), layers="none")
    classes = torch.tensor(found.picked)
    return found, nn.functional.one_hot(classes, model(x).shape[1]).to(x)


def distance(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("bias", ["denominator", "dropped"])
@pytest.mark.parametrize("preset", RELEVANCE)
@pytest.mark.parametrize("model", BUILD)
def test_preset(model: str, preset: str, bias: str) -> None:
    network, x = built(model)
    found, one_hot = explained(network, x, RELEVANCE[preset], bias=bias)
    zero = {"zero_params": "bias"} if bias == "dropped" else {}
    expected = zennit(network, x, preset, one_hot * found.score[:, None], **zero)
    assert distance(found.relevance, expected) <= 1e-9
    assert found.ledger.error <= 1e-9


class TakingTurns(nn.Module):
    """Two modules that take turns: Zennit's BetaSmooth keeps one input per module, and a block uses its ReLU twice."""

    def __init__(self) -> None:
        super().__init__()
        self.turns, self.calls = nn.ModuleList([nn.ReLU(), nn.ReLU()]), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.turns[self.calls % 2](x)  # type: ignore[no-any-return]


def untied(model: nn.Module) -> nn.Module:
    """A copy whose residual blocks have a ReLU for each use."""
    model = deepcopy(model)
    for module in model.modules():
        if type(module).__name__ == "BasicBlock":
            module.relu = TakingTurns()
    return model


@pytest.mark.parametrize("preset", MODIFIED_GRADIENT)
@pytest.mark.parametrize("model", BUILD)
def test_modified_gradient(model: str, preset: str) -> None:
    """These are gradients with another ReLU; relevance is that times the input."""
    network, x = built(model)
    found, one_hot = explained(network, x, MODIFIED_GRADIENT[preset])
    (multipliers,) = found.multipliers.values()
    assert distance(multipliers, zennit(untied(network), x, preset, one_hot, fold=False)) <= 1e-9
    assert torch.allclose(found.relevance, multipliers * x)
