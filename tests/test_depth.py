"""A hundred layers: sums stay finite and the books close, in float32 and in bfloat16."""

from __future__ import annotations

from copy import deepcopy
from functools import cache

import pytest
import torch
from torch import Tensor, nn

import dlbt_core as dlbt

BLOCKS = 50  # of two layers each


class ConvBlock(nn.Module):
    """As in ResNet: conv, norm, ReLU, conv, norm, added to what came in, ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.a, self.b = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.norm_a, self.norm_b = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.norm_b(self.b(torch.relu(self.norm_a(self.a(x))))))


class LinearBlock(nn.Module):
    """As in a transformer: norm, linear, GELU, linear, added to what came in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.a, self.b = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(torch.nn.functional.gelu(self.a(self.norm(x))))


def conv_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), *(ConvBlock(8) for _ in range(BLOCKS)),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip


def linear_net() -> nn.Module:
    return nn.Sequential(
        nn.Linear(12, 16), *(LinearBlock(16) for _ in range(BLOCKS)), nn.LayerNorm(16), nn.Linear(16, 5)
    )


NETS = {"conv": (conv_net, (3, 8, 8)), "linear": (linear_net, (12,))}


@cache
def built(name: str) -> tuple[nn.Module, Tensor]:
    """Weights that keep the scale, and batch norm statistics of the inputs."""
    build, shape = NETS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, x = build(), torch.randn(8, *shape)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
    with torch.no_grad():
        model.train()(x)
    return model.eval(), x[:4]


@pytest.mark.parametrize("composite", ["epsilon", "epsilon_plus", "auto"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("net", NETS)
def test_a_hundred_layers(net: str, dtype: torch.dtype, composite: str) -> None:
    """The books miss less than 1e-3; in bfloat16 what n roundings, to 2^-8 each, add up to: 2^-8 times the root of n."""
    model, x = built(net)
    found = dlbt.explain(deepcopy(model).to(dtype), x.to(dtype), composite=composite, layers="none")
    steps = len(found.plan.steps)
    assert steps > 4 * BLOCKS
    assert torch.isfinite(found.relevance).all()
    assert found.relevance.abs().sum() > 0
    assert found.ledger.error <= (1e-3 if dtype == torch.float32 else 2**-8 * steps**0.5), found.ledger
