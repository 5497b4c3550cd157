"""A norm is what it computes, not how it is written: every spelling has the relevance of the dense formula."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dlbt_core as dlbt
from oracles.harness import check_books, source

COMPOSITES = ("attnlrp", "cp_lrp", "auto")
EPS = 0.1
rand = source(300)
X, W, B = rand(2, 3, 8), rand(8), rand(8)
IMAGE, C, D = rand(2, 6, 2, 3), rand(6), rand(6)
A = rand(8, 8)
Spelling = Callable[[Tensor], Tensor]


def mean(x: Tensor) -> Tensor:
    return x.mean(-1, keepdim=True)


def held(x: Tensor, m: Tensor, dims: tuple[int, ...], centred: bool, eps: float, weight: Tensor) -> Tensor:
    """R_i = x_i sum_j C_ji w_j m_j / s: s held constant, C_ji = delta_ij - 1 / N if the mean is subtracted.

    Achtibat et al. 2024, prop. 3.4.
    """
    middle = x.mean(dims, keepdim=True) if centred else torch.zeros(())
    s = torch.sqrt((x - middle).pow(2).mean(dims, keepdim=True) + eps)
    back = m * weight / s
    return x * (back - back.mean(dims, keepdim=True)) if centred else x * back


# -- rms --------------------------------------------------------------------------------------------------------------------


def _rms_cast(x: Tensor) -> Tensor:
    h = x.to(torch.float64)
    return W * (h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + EPS)).to(x.dtype)


def _rms_in_place(x: Tensor) -> Tensor:
    h = x.clone()
    h *= torch.rsqrt(mean(x.square()) + EPS)
    return h.mul_(W)


def _rms_einsum_weight(x: Tensor) -> Tensor:
    return torch.einsum("btd,d->btd", x * torch.rsqrt(mean(x**2) + EPS), W)


RMS: dict[str, Spelling] = {
    "fused": lambda x: F.rms_norm(x, [8], W, EPS),
    "module": lambda x: torch.func.functional_call(nn.RMSNorm(8, EPS), {"weight": W}, (x,)),
    "pow, rsqrt": lambda x: W * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS)),
    "product, divided": lambda x: x / torch.sqrt(mean(x * x) + EPS) * W,
    "power of the mean": lambda x: x * (mean(x**2) + EPS).pow(-0.5) * W,
    "power of a half": lambda x: x / (mean(x.pow(2)) + EPS) ** 0.5 * W,
    "reciprocal": lambda x: x * torch.sqrt(mean(x.square()) + EPS).reciprocal() * W,
    "sum over n": lambda x: x * torch.rsqrt((x * x).sum(-1, keepdim=True) / 8 + EPS) * W,
    "vector norm": lambda x: x * torch.rsqrt(torch.linalg.vector_norm(x, dim=-1, keepdim=True).pow(2) / 8 + EPS) * W,
    "norm squared": lambda x: x * W / torch.sqrt(x.norm(dim=-1, keepdim=True) ** 2 / 8 + EPS),
    "einsum of squares": lambda x: x * torch.rsqrt(torch.einsum("btd,btd->bt", x, x)[..., None] / 8 + EPS) * W,
    "matmul of squares": lambda x: x * torch.rsqrt((x[..., None, :] @ x[..., None]).squeeze(-1) / 8 + EPS) * W,
    "1 + weight": lambda x: x * torch.rsqrt(mean(x.pow(2)) + EPS) * (1 + (W - 1)),
    "cast": _rms_cast,
    "in place": _rms_in_place,
    "weight by einsum": _rms_einsum_weight,
    "divided twice": lambda x: (x / torch.sqrt(mean(x * x) + EPS)).div(1 / W),
}


# -- layer norm -----------------------------------------------------------------------------------------------------------


def _steps(x: Tensor) -> Tensor:
    d = x - mean(x)
    return d / torch.sqrt(mean(d.pow(2)) + EPS) * W + B


def _var_mean(x: Tensor) -> Tensor:
    variance, middle = torch.var_mean(x, -1, keepdim=True, correction=0)
    return torch.addcmul(B, (x - middle) * torch.rsqrt(variance + EPS), W)


def _std_mean(x: Tensor) -> Tensor:
    std, middle = torch.std_mean(x, -1, keepdim=True, correction=0)
    return (x - middle) / torch.sqrt(std.square() + EPS) * W + B


def _corrected(x: Tensor) -> Tensor:
    """The variance over N - 1, brought back to N."""
    return (x - mean(x)) / torch.sqrt(torch.var(x, -1, keepdim=True) * (7 / 8) + EPS) * W + B


def _fast_variance(x: Tensor) -> Tensor:
    middle = mean(x)
    return (x - middle) * torch.rsqrt(mean(x * x) - middle**2 + EPS) * W + B


def _channels_first(x: Tensor) -> Tensor:
    """As in ConvNeXt."""
    h = x.transpose(1, 2)
    u = h.mean(1, keepdim=True)
    s = (h - u).pow(2).mean(1, keepdim=True)
    h = (h - u) / torch.sqrt(s + EPS)
    return (W[:, None] * h + B[:, None]).transpose(1, 2)


LAYER: dict[str, Spelling] = {
    "fused": lambda x: F.layer_norm(x, [8], W, B, EPS),
    "native": lambda x: torch.native_layer_norm(x, [8], W, B, EPS)[0],
    "module": lambda x: torch.func.functional_call(nn.LayerNorm(8, EPS), {"weight": W, "bias": B}, (x,)),
    "without weights": lambda x: F.layer_norm(x, [8], eps=EPS) * W + B,
    "steps": _steps,
    "var": lambda x: (x - mean(x)) / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + EPS) * W + B,
    "var and mean": _var_mean,
    "std and mean": _std_mean,
    "correction": _corrected,
    "std": lambda x: (x - mean(x)) / (x.std(-1, keepdim=True, correction=0).square() + EPS).sqrt() * W + B,
    "fast variance": _fast_variance,
    "channels first": _channels_first,
    "mean by sum": lambda x: W * (x - x.sum(-1, keepdim=True) / 8) * torch.rsqrt(x.var(-1, False, True) + EPS) + B,
    "rms of the rest": lambda x: F.rms_norm(x - mean(x), [8], W, EPS) + B,
}  # fmt: skip


# -- length 1 ---------------------------------------------------------------------------------------------------------------

UNIT: dict[str, Spelling] = {
    "normalize": lambda x: F.normalize(x, dim=-1) * W,
    "vector norm": lambda x: x / torch.linalg.vector_norm(x, dim=-1, keepdim=True) * W,
    "norm": lambda x: x / x.norm(dim=-1, keepdim=True) * W,
    "linalg norm": lambda x: x / torch.linalg.norm(x, dim=-1)[..., None] * W,
    "rsqrt": lambda x: x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True)) * W,
    "power": lambda x: x * (x * x).sum(-1, keepdim=True).pow(-0.5) * W,
    "clamped": lambda x: x / x.norm(dim=-1, keepdim=True).clamp(min=1e-6) * W,
    "maximum": lambda x: W * x / torch.maximum(x.norm(dim=-1, keepdim=True), torch.tensor(1e-6, dtype=x.dtype)),
    "square roots": lambda x: 8**0.5 * x / x.norm(dim=-1, keepdim=True) * (W * 8**-0.5),
}


# -- groups -----------------------------------------------------------------------------------------------------------------


def _by_view(x: Tensor) -> Tensor:
    h = x.view(2, 3, -1)
    h = (h - mean(h)) / torch.sqrt(h.var(-1, keepdim=True, unbiased=False) + EPS)
    return h.view(x.shape) * C.view(1, 6, 1, 1) + D.view(1, 6, 1, 1)


def _by_unflatten(x: Tensor) -> Tensor:
    h = x.unflatten(1, (3, 2))
    middle = h.mean((2, 3, 4), keepdim=True)
    scale = torch.rsqrt((h - middle).square().mean((2, 3, 4), keepdim=True) + EPS)
    return ((h - middle) * scale).flatten(1, 2) * C[:, None, None] + D[:, None, None]


def _by_layer_norm(x: Tensor) -> Tensor:
    return F.layer_norm(x.reshape(2, 3, -1), [12], eps=EPS).reshape(x.shape) * C[:, None, None] + D[:, None, None]


GROUPS: dict[str, Spelling] = {
    "fused": lambda x: F.group_norm(x, 3, C, D, EPS),
    "native": lambda x: torch.native_group_norm(x, C, D, 2, 6, 6, 3, EPS)[0],
    "view": _by_view,
    "unflatten": _by_unflatten,
    "layer norm": _by_layer_norm,
}


def assert_spelling(model: Any, x: Tensor, m: Tensor, out: Tensor, expected: Tensor) -> None:
    explainer = dlbt.Explainer(model, layers="none")
    for composite in COMPOSITES:
        found = explainer(x, target=dlbt.target.logits(m), composite=composite)
        (result,) = found.outputs.values()
        torch.testing.assert_close(result, out, rtol=1e-12, atol=1e-12)
        assert float((found.relevance - expected).abs().max() / expected.abs().max()) <= 1e-9, composite
        check_books(found, composite, audit=False, tolerance=1e-9)


def multipliers(x: Tensor) -> Tensor:
    return source(301)(*x.shape)


@pytest.mark.parametrize("name", RMS)
def test_rms_norm(name: str) -> None:
    m = multipliers(X)
    assert_spelling(RMS[name], X, m, F.rms_norm(X, [8], W, EPS), held(X, m, (-1,), False, EPS, W))


@pytest.mark.parametrize("name", LAYER)
def test_layer_norm(name: str) -> None:
    m = multipliers(X)
    assert_spelling(LAYER[name], X, m, F.layer_norm(X, [8], W, B, EPS), held(X, m, (-1,), True, EPS, W))


@pytest.mark.parametrize("name", UNIT)
def test_length_1(name: str) -> None:
    m = multipliers(X)
    assert_spelling(UNIT[name], X, m, F.normalize(X, dim=-1) * W, held(X, m, (-1,), False, 0.0, W / 8**0.5))


@pytest.mark.parametrize("name", GROUPS)
def test_group_norm(name: str) -> None:
    m, grouped = multipliers(IMAGE), (2, 3, 2, 2, 3)
    weight = C.view(1, 3, 2, 1, 1)
    expected = held(IMAGE.view(grouped), m.view(grouped), (2, 3, 4), True, EPS, weight).view(IMAGE.shape)
    assert_spelling(GROUPS[name], IMAGE, m, F.group_norm(IMAGE, 3, C, D, EPS), expected)


@pytest.mark.parametrize("name", ["fused", "pow, rsqrt", "vector norm", "einsum of squares"])
def test_a_norm_within_a_model(name: str) -> None:
    """Behind a linear map and a residual sum the statistic is that of a value computed on the way."""
    m = multipliers(X)

    def model(x: Tensor) -> Tensor:
        h = x + x @ A
        return h + RMS[name](h)

    h = X + X @ A
    out = h + F.rms_norm(h, [8], W, EPS)
    back = m + m * W * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + EPS)
    assert_spelling(model, X, m, out, X * (back + back @ A.T))
