"""Parity of AttnLRP with LXT 2.1's explicit form, run beside dlbt in float64: a gated transformer block, and op by op.

LXT adds its epsilon to a denominator without the denominator's sign, dlbt has none here: what they differ by shrinks with it.
"""

from __future__ import annotations

from collections.abc import Callable

import lxt.explicit.functional as lf
import pytest
import torch
from lxt.explicit.rules import identity
from torch import Tensor, nn
from torch.nn import functional as F

import dlbt_core as dlbt

TOKENS, WIDTH = 5, 16
AHEAD = torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(1)


class Block(nn.Module):
    """Causal attention and a gated MLP, each behind a norm and beside a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.gate, self.up, self.down = nn.Linear(WIDTH, 24), nn.Linear(WIDTH, 24), nn.Linear(24, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        n = self.first(x)
        weights = (self.q(n) @ self.k(n).mT / 4.0).masked_fill(AHEAD, -torch.inf).softmax(-1)
        x = x + self.o(weights @ self.v(n))
        n = self.second(x)
        return x + self.down(F.silu(self.gate(n)) * self.up(n))


def by_lxt(block: Block, x: Tensor, epsilon: float) -> tuple[Tensor, dict[str, Tensor]]:
    """The block's output by LXT's ops, and what it has on the way, by the names of dlbt's modules and nodes."""

    def linear(layer: nn.Linear, x: Tensor) -> Tensor:
        return lf.linear_epsilon(x, layer.weight, layer.bias, epsilon)

    def norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:  # lf.layer_norm, whose epsilon is 1e-6 for good
        return lf.layer_norm_grad_fn.apply(x, layer.weight, layer.bias, layer.eps, epsilon)

    n = norm(block.first, x)
    q, k, v = linear(block.q, n), linear(block.k, n), linear(block.v, n)
    scores = lf.matmul(q, k.mT, epsilon=epsilon)
    weights = lf.softmax(scores.masked_fill(AHEAD, -torch.inf), -1, temperature=4.0)
    mixed = lf.matmul(weights, v, epsilon=epsilon)
    o = linear(block.o, mixed)
    x = lf.add2(x, o, epsilon=epsilon)
    after = x.clone()  # a norm takes a gradient of its own in its backward pass, which must not end in x.grad
    n_2 = norm(block.second, after)
    gate, up = linear(block.gate, n_2), linear(block.up, n_2)
    gated = lf.mul2(identity(F.silu, gate), up)
    down = linear(block.down, gated)
    on_the_way = {
        "first": n, "q": q, "k": k, "v": v, "matmul": scores, "softmax": weights, "matmul_1": mixed, "o": o, "add": x,
        "second": n_2, "gate": gate, "up": up, "mul": gated, "down": down,
    }  # fmt: skip
    return lf.add2(after, down, epsilon=epsilon), on_the_way


def distance(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("epsilon", [1e-6, 1e-9, 1e-14])
@pytest.mark.parametrize("seed", range(3))
def test_a_block(seed: int, epsilon: float) -> None:
    """At the input and at what every op on the way makes; LXT's default is 1e-6, and 1e-8 for sums and matrix products."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        block = Block().double().eval()
        x = torch.randn(2, TOKENS, WIDTH, dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    out, on_the_way = by_lxt(block, leaf, epsilon)
    for tensor in on_the_way.values():
        tensor.retain_grad()
    score = out[:, -1, seed]
    torch.autograd.backward(score, score.detach())
    found = dlbt.explain(block, x, composite="attnlrp", target=lambda out: out[:, -1, seed], layers="all")
    assert distance(found.outputs[""], out.detach()) <= 1e-14
    assert leaf.grad is not None
    assert distance(found.relevance, leaf.grad) <= 1e2 * epsilon
    for name, tensor in on_the_way.items():
        assert tensor.grad is not None
        assert distance(found.at(name), tensor.grad) <= 1e3 * epsilon, name
    assert found.ledger.error <= 1e-14


# -- op by op: the relevance of each operand ---------------------------------------------------------------------------

SMALL = 1e-14
GAIN = torch.linspace(0.5, 1.5, WIDTH, dtype=torch.float64)
SHIFT = torch.linspace(-0.2, 0.3, WIDTH, dtype=torch.float64)
MATRIX = torch.linspace(-1.0, 2.0, WIDTH * 3, dtype=torch.float64).sin().view(WIDTH, 3)


def masked(x: Tensor) -> Tensor:
    return x[..., :TOKENS].masked_fill(AHEAD, -torch.inf)


ONE: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "linear": (lambda x: lf.linear_epsilon(x, MATRIX.mT, GAIN[:3], SMALL), lambda x: F.linear(x, MATRIX.mT, GAIN[:3])),
    "softmax": (lambda x: lf.softmax(x, -1), lambda x: x.softmax(-1)),
    "softmax, scaled": (lambda x: lf.softmax(x, -1, temperature=4.0), lambda x: (x / 4.0).softmax(-1)),
    "softmax, masked": (lambda x: lf.softmax(masked(x), -1), lambda x: masked(x).softmax(-1)),
    "activation": (lambda x: identity(F.gelu, x), F.gelu),
    "mean": (lambda x: lf.mean(x, -1, True, SMALL), lambda x: x.mean(-1, keepdim=True)),
    "scale": (lambda x: lf.mul2(x, GAIN), lambda x: x * GAIN),
    "normalize": (lambda x: lf.normalize(x, dim=-1), lambda x: F.normalize(x, dim=-1)),
    "rms norm": (lambda x: lf.rms_norm_identity(x, GAIN, 1e-6), lambda x: F.rms_norm(x, (WIDTH,), GAIN, 1e-6)),
    "layer norm": (
        lambda x: lf.layer_norm_grad_fn.apply(x, GAIN, SHIFT, 1e-5, SMALL),
        lambda x: F.layer_norm(x, (WIDTH,), GAIN, SHIFT, 1e-5),
    ),
}
TWO: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "sum": (lambda a, b: lf.add2(a, b, epsilon=SMALL), torch.add),
    "product": (lf.mul2, torch.mul),
    "matmul": (lambda a, b: lf.matmul(a, b.mT, epsilon=SMALL), lambda a, b: a @ b.mT),
}
IN_FLOAT32 = {"rms norm"}
"""LXT computes it in float32, whatever it is handed."""


class Op(nn.Module):
    def __init__(self, op: Callable[..., Tensor]) -> None:
        super().__init__()
        self.op = op

    def forward(self, a: Tensor, b: Tensor | None = None) -> Tensor:
        return self.op(a) if b is None else self.op(a, b)


def of_operands(theirs: Callable[..., Tensor], ours: Callable[..., Tensor], count: int) -> list[tuple[Tensor, Tensor]]:
    """Ours and LXT's for every operand, where the output's relevance is the output times drawn numbers."""
    draw = torch.Generator().manual_seed(5)
    operands = [torch.randn(2, TOKENS, WIDTH, dtype=torch.float64, generator=draw) for _ in range(count)]
    leaves = [operand.clone().requires_grad_() for operand in operands]
    out = theirs(*leaves)
    m = torch.randn(out.shape, dtype=torch.float64, generator=draw)
    out.backward(out.detach() * m)
    found = dlbt.explain(Op(ours), *operands, composite="attnlrp", target=lambda out: (out * m).sum((1, 2)))
    return [(found.inputs[name], leaf.grad) for name, leaf in zip("ab", leaves, strict=False) if leaf.grad is not None]


@pytest.mark.parametrize("name", [*ONE, *TWO])
def test_an_op(name: str) -> None:
    theirs, ours = {**ONE, **TWO}[name]
    count = 1 if name in ONE else 2
    pairs = of_operands(theirs, ours, count)
    assert len(pairs) == count
    for found, expected in pairs:
        assert distance(found, expected) <= (1e-6 if name in IN_FLOAT32 else 1e-11)


def test_a_matrix_product_with_a_constant() -> None:
    """LXT halves also where nothing else carries relevance, and the other half is gone."""
    ((found, expected),) = of_operands(lambda x: lf.matmul(x, MATRIX, epsilon=SMALL), lambda x: x @ MATRIX, 1)
    assert distance(found / 2, expected) <= 1e-11
