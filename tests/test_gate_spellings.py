"""Gated units and activations are what they compute, not how they are written."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import dlbt_core as dlbt
from oracles.harness import check_books, source

rand = source(500)
X, W, V, M = rand(3, 5), rand(6, 5), rand(6, 5), rand(3, 6)
BOTH = torch.cat([W, V])
MIXED = torch.stack([W, V], 1).flatten(0, 1)
Spelling = Callable[[Tensor], Tensor]


def linear(x: Tensor, w: Tensor, m: Tensor) -> Tensor:
    """R_i = x_i sum_j w_ji m_j."""
    return x * (m @ w)


def product(f: Callable[[Tensor], Tensor], share: float) -> Tensor:
    """Relevance of x in f(W x) * (V x): `share` of it to the gate by the identity rule, the rest to the other branch."""
    a, b = X @ W.T, X @ V.T
    R = M * f(a) * b
    return linear(X, W, R * share / a) + linear(X, V, R * (1 - share) / b)


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    a, b = F.linear(x, BOTH).chunk(2, -1)
    return a, b


def _interleaved(x: Tensor) -> tuple[Tensor, Tensor]:
    both = F.linear(x, MIXED)
    return both[..., ::2], both[..., 1::2]


def _two(x: Tensor) -> tuple[Tensor, Tensor]:
    return F.linear(x, W), F.linear(x, V)


def _split(x: Tensor) -> tuple[Tensor, Tensor]:
    a, b = torch.split(x @ BOTH.T, 6, -1)
    return a, b


def _unbound(x: Tensor) -> tuple[Tensor, Tensor]:
    a, b = torch.einsum("bi,nji->nbj", x, torch.stack([W, V])).unbind(0)
    return a, b


BRANCHES = {"two maps": _two, "halves": _halves, "interleaved": _interleaved, "split": _split, "unbound": _unbound}


def gelu_tanh(a: Tensor) -> Tensor:
    return F.gelu(a, approximate="tanh")


ACTIVATIONS: dict[str, tuple[Spelling, dict[str, Spelling]]] = {
    "silu": (F.silu, {
        "op": F.silu, "product": lambda a: a * torch.sigmoid(a), "quotient": lambda a: a / (1 + torch.exp(-a)),
        "in place": lambda a: a.clone().mul_(a.sigmoid()),
    }),
    "gelu": (F.gelu, {
        "op": F.gelu, "erf": lambda a: a * 0.5 * (1 + torch.erf(a / math.sqrt(2))),
        "half in front": lambda a: 0.5 * a * (1.0 + torch.erf(a * 2**-0.5)),
    }),
    "gelu of tanh": (gelu_tanh, {
        "op": gelu_tanh,
        "power": lambda a: 0.5 * a * (1 + torch.tanh(math.sqrt(2 / math.pi) * (a + 0.044715 * torch.pow(a, 3)))),
        "factored": lambda a: 0.5 * a * (1 + torch.tanh(a * math.sqrt(2 / math.pi) * (1 + 0.044715 * a * a))),
    }),
    "quick gelu": (lambda a: a * torch.sigmoid(1.702 * a), {
        "product": lambda a: a * torch.sigmoid(1.702 * a), "by silu": lambda a: F.silu(1.702 * a) / 1.702,
    }),
    "relu": (F.relu, {"op": F.relu, "where": lambda a: torch.where(a > 0, a, 0.0),
                      "mask": lambda a: a * (a > 0), "maximum": lambda a: torch.maximum(a, a.new_zeros(()))}),
    "squared relu": (lambda a: F.relu(a) ** 2, {
        "power": lambda a: F.relu(a).pow(2), "square": lambda a: torch.square(F.relu(a)),
    }),
    "mish": (F.mish, {"op": F.mish, "product": lambda a: a * torch.tanh(F.softplus(a))}),
    "leaky relu": (lambda a: F.leaky_relu(a, 0.1), {
        "op": lambda a: F.leaky_relu(a, 0.1), "where": lambda a: torch.where(a > 0, a, 0.1 * a),
        "maximum": lambda a: torch.maximum(a, 0.1 * a),
    }),
    "none": (lambda a: a, {"alone": lambda a: a}),
}  # fmt: skip
ALONE = [(name, spelling) for name, (_, spellings) in ACTIVATIONS.items() for spelling in spellings]


def assert_relevance(model: Spelling, expected: Tensor, composite: str) -> None:
    found = dlbt.explain(model, X, target=dlbt.target.logits(M), composite=composite, layers="none")
    assert float((found.relevance - expected).abs().max() / expected.abs().max()) <= 1e-9
    check_books(found, composite, audit=False, tolerance=1e-9)


@pytest.mark.parametrize("composite", ["attnlrp", "cp_lrp", "auto"])
@pytest.mark.parametrize(("name", "spelling"), ALONE)
def test_an_activation(name: str, spelling: str, composite: str) -> None:
    """R = R: x_i w_ji / a_j R_j.  Achtibat et al. 2024, prop. 3.4."""
    f, spellings = ACTIVATIONS[name]
    a = X @ W.T
    assert_relevance(lambda x: spellings[spelling](F.linear(x, W)), linear(X, W, M * f(a) / a), composite)


@pytest.mark.parametrize("clamp", [lambda a: a.clamp(min=0), lambda a: torch.clamp_min(a, 0.0), lambda a: a.clip(0)])
def test_a_clamp_is_a_relu_but_for_its_epsilon(clamp: Spelling) -> None:
    """A clamp need not be 0 at 0, so that its quotient f(x) / x is stabilised by 1e-6."""
    a = X @ W.T
    found = dlbt.explain(
        lambda x: clamp(F.linear(x, W)), X, target=dlbt.target.logits(M), composite="attnlrp", layers="none"
    )
    expected = linear(X, W, M * (a > 0))
    assert float((found.relevance - expected).abs().max() / expected.abs().max()) <= 1e-5
    check_books(found, "clamp", audit=False, tolerance=1e-9)


@pytest.mark.parametrize("branches", BRANCHES)
@pytest.mark.parametrize("name", ["silu", "gelu", "gelu of tanh", "relu", "squared relu", "none"])
def test_a_gated_unit(name: str, branches: str) -> None:
    """AttnLRP halves the product; CP-LRP holds an activated gate. Two linear maps have none.  Shazeer 2020, eq. 5.

    A ReLU that is no op is a mask to CP-LRP, and so no gate.
    """
    f, spellings = ACTIVATIONS[name]
    for spelled_name, spelled in spellings.items():

        def model(x: Tensor, g: Spelling = spelled) -> Tensor:
            a, b = BRANCHES[branches](x)
            return g(a) * b

        assert_relevance(model, product(f, 0.5), "attnlrp")
        assert_relevance(model, product(f, 0.5), "auto")
        ungated = name == "none" or (name == "relu" and spelled_name != "op")
        assert_relevance(model, product(f, 0.5 if ungated else 0.0), "cp_lrp")


SIGMOID: dict[str, Spelling] = {
    "glu": lambda x: F.glu(F.linear(x, torch.cat([V, W]))),
    "product": lambda x: F.linear(x, V) * torch.sigmoid(F.linear(x, W)),
    "halves": lambda x: torch.sigmoid(_halves(x)[0]) * _halves(x)[1],
    "cast": lambda x: torch.sigmoid(F.linear(x, W)).to(torch.float64) * F.linear(x, V),
}


@pytest.mark.parametrize("composite", ["attnlrp", "cp_lrp", "auto"])
@pytest.mark.parametrize("name", SIGMOID)
def test_a_gate_of_a_sigmoid(name: str, composite: str) -> None:
    """All to the signal.  Arras et al. 2017."""
    assert_relevance(SIGMOID[name], product(torch.sigmoid, 0.0), composite)


HIGHWAY: dict[str, Spelling] = {
    "1 - g": lambda x: (g := torch.sigmoid(x @ W.T)) * (x @ V.T) + (1 - g) * torch.tanh(x @ V.T),
    "rsub": lambda x: torch.rsub(g := torch.sigmoid(x @ W.T), 1) * torch.tanh(x @ V.T) + (x @ V.T) * g,
}


@pytest.mark.parametrize("name", HIGHWAY)
def test_a_highway(name: str) -> None:
    g, b = torch.sigmoid(X @ W.T), X @ V.T
    expected = linear(X, V, M * g) + linear(X, V, M * (1 - g) * torch.tanh(b) / b)
    for composite in ("attnlrp", "cp_lrp", "auto"):
        assert_relevance(HIGHWAY[name], expected, composite)
