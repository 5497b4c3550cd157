"""The facts ``nonnegative``, ``gate``, ``gated`` and those about the activation that follows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dlbt_core.graph.facts import analyse
from graph.replaying import recorded


def facts_of(model: Callable[[Tensor], Tensor], name: str, x: Tensor | None = None) -> set[str]:
    """Names of the nodes whose results have a fact."""
    graph = recorded(model, torch.randn(2, 4, 6, 6) if x is None else x).graph
    facts = analyse(graph)
    return {n.name for n in graph.nodes if any(facts.has(o, name) for o in n.outputs if o is not None)}


NONNEGATIVE: dict[str, tuple[Callable[[Tensor], Tensor], set[str]]] = {
    "relu and what keeps it": (
        lambda x: F.avg_pool2d(F.max_pool2d(torch.relu(x), 2), 2).flatten(1),
        {"relu", "max_pool2d", "avg_pool2d", "flatten"},
    ),
    "sums of two": (lambda x: torch.relu(x) + torch.sigmoid(x), {"relu", "sigmoid", "add"}),
    "a sum with a signed value": (lambda x: torch.relu(x) + x, {"relu"}),
    "a difference": (lambda x: torch.relu(x) - torch.sigmoid(x), {"relu", "sigmoid"}),
    "a negative factor": (lambda x: torch.relu(x) * -2.0, {"relu"}),
    "a positive factor": (lambda x: torch.relu(x) * 2.0, {"relu", "mul"}),
    "a sum with a negative number": (lambda x: torch.relu(x) + -1.0, {"relu"}),
    "a subtrahend's factor": (lambda x: torch.add(torch.relu(x), torch.relu(x), alpha=-1), {"relu", "relu_1"}),
    "squares": (lambda x: x * x + x**2, {"mul", "pow", "add"}),
    "an odd power": (lambda x: x**3, set()),
    "limits": (lambda x: x.clamp(min=0.0) + x.clamp(max=1.0), {"clamp"}),
    "a concatenation": (lambda x: torch.cat([torch.relu(x), x]), {"relu"}),
    "softmax": (lambda x: torch.softmax(x, 1), {"softmax"}),
    "cubic upsampling may undershoot": (lambda x: F.interpolate(torch.relu(x), scale_factor=2, mode="bicubic"), {"relu"}),
    "bilinear upsampling": (
        lambda x: F.interpolate(torch.relu(x), scale_factor=2, mode="bilinear"), {"relu", "upsample_bilinear2d"},
    ),
    "padding with a negative number": (lambda x: F.pad(torch.relu(x), (1, 1), value=-1.0), {"relu"}),
}  # fmt: skip


@pytest.mark.parametrize("name", NONNEGATIVE)
def test_nonnegative(name: str) -> None:
    """Where the fact is stated, it holds on any input; and it is stated where one would expect it."""
    model, expected = NONNEGATIVE[name]
    assert facts_of(model, "nonnegative") == expected


def test_gates() -> None:
    def model(x: Tensor) -> Tensor:
        gate = torch.sigmoid(x.mean((2, 3), keepdim=True))
        return gate.expand_as(x) * x + (1 - gate) * torch.tanh(x) + gate * F.hardsigmoid(x)

    assert facts_of(model, "gate") == {"sigmoid", "expand_as", "rsub", "hardsigmoid", "mul_2"}
    assert facts_of(model, "gated") == {"mul", "mul_1"}


def test_attention_is_no_gate() -> None:
    assert facts_of(lambda x: torch.softmax(x, 1) * x, "gated") == set()


def test_what_follows() -> None:
    weight = torch.randn(6, 6)

    def model(x: Tensor) -> Tensor:
        a, b = F.linear(x, weight), F.linear(x, weight)
        c = F.linear(torch.relu(a) + torch.tanh(b.flatten(1)).view(b.shape), weight)
        return torch.relu(c) + c

    assert facts_of(model, "before_relu") == {"linear"}
    assert facts_of(model, "before_tanh") == {"linear_1", "flatten"}
    assert facts_of(lambda x: torch.sigmoid(F.silu(x + 1)), "before_swish") == {"add"}
    assert facts_of(lambda x: torch.sigmoid(F.silu(x + 1)), "before_sigmoid") == {"silu"}
