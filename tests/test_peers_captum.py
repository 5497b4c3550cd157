"""Parity with Captum 0.9.0, run beside dlbt in float64, where the conventions agree. It multiplies by the logit itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dlbt_core as dlbt
from zoo import widen

WITH_WEIGHTS = ("aten.linear", "aten.conv2d")


class Plain(nn.Module):
    """Captum knows no nn.Flatten."""

    def __init__(self, bias: bool = True, pool: type[nn.Module] = nn.AvgPool2d) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1, bias=bias), nn.ReLU(), pool(2),
            nn.Conv2d(6, 8, 3, groups=2, bias=bias), nn.ReLU(), nn.AvgPool2d(2),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Linear(72, 12, bias=bias), nn.ReLU(), nn.Linear(12, 5, bias=bias))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).flatten(1))


def plain(bias: bool = True, pool: type[nn.Module] = nn.AvgPool2d) -> tuple[nn.Module, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = widen(Plain(bias, pool)).double().eval()
        return model, torch.randn(3, 3, 16, 16, dtype=torch.float64)


def captum(model: nn.Module, x: Tensor, target: Tensor, rule: Any) -> Tensor:
    """Captum's LRP with one rule on every layer that has weights, its default on the others."""
    from captum.attr import LRP

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.rule = rule()  # type: ignore[assignment]
    return LRP(model).attribute(x.clone().requires_grad_(), target=target).detach()  # type: ignore[no-any-return]


def distance(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


def explained(model: nn.Module, x: Tensor, variant: str, **parameters: Any) -> Any:
    rules = [
        (dlbt.Select(op=WITH_WEIGHTS), dlbt.Use(variant, **parameters)),
        (dlbt.Select(op="aten.avg_pool2d"), dlbt.Use("norm", epsilon=1e-9)),
    ]
    return dlbt.explain(model, x, composite="epsilon", rules=rules)


# Captum divides by (x + 1e-9) at the winner of a max pool; here the winner takes all, without a division.
POOLS = pytest.mark.parametrize(("pool", "limit"), [(nn.AvgPool2d, 1e-9), (nn.MaxPool2d, 1e-6)])


@POOLS
@pytest.mark.parametrize("epsilon", [1e-9, 0.1])
def test_epsilon(epsilon: float, pool: type[nn.Module], limit: float) -> None:
    from captum.attr._utils.lrp_rules import EpsilonRule

    model, x = plain(pool=pool)
    found = explained(model, x, "epsilon", epsilon=epsilon)
    expected = captum(model, x, torch.tensor(found.picked), lambda: EpsilonRule(epsilon=epsilon))
    assert distance(found.relevance, expected) <= limit


@POOLS
@pytest.mark.parametrize(("set_bias_to_zero", "bias"), [(False, "kept"), (True, "dropped")])
@pytest.mark.parametrize("gamma", [0.25, 2.0])
def test_gamma(gamma: float, set_bias_to_zero: bool, bias: str, pool: type[nn.Module], limit: float) -> None:
    from captum.attr._utils.lrp_rules import GammaRule

    model, x = plain(pool=pool)
    found = explained(model, x, "gamma", gamma=gamma, form="original", bias=bias, epsilon=1e-9)
    rule = lambda: GammaRule(gamma=gamma, set_bias_to_zero=set_bias_to_zero)  # noqa: E731
    assert distance(found.relevance, captum(model, x, torch.tensor(found.picked), rule)) <= limit


@pytest.mark.parametrize("variant", ["zplus", "alpha_beta"])
def test_alpha1_beta0_where_inputs_are_positive_and_there_is_no_bias(variant: str) -> None:
    """Elsewhere it is another rule: Captum multiplies the signed input with positive weights, and keeps negative biases."""
    from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule

    parameters = {"alpha": 1.0, "beta": 0.0} if variant == "alpha_beta" else {}
    model, x = plain(bias=False)
    x = x.abs()
    found = explained(model, x, variant, epsilon=1e-9, **parameters)
    assert distance(found.relevance, captum(model, x, torch.tensor(found.picked), Alpha1_Beta0_Rule)) <= 1e-9
    signed = explained(model, -x, variant, epsilon=1e-9, **parameters)
    assert distance(signed.relevance, captum(model, -x, torch.tensor(signed.picked), Alpha1_Beta0_Rule)) > 0.1
