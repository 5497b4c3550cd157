"""AttnLRP and CP-LRP as input times gradient of functions whose local gradients are edited.

Arras et al. 2025 (arXiv 2502.15886): with epsilon 0 every linear map, sum and view hands on R = x dy/dx, so that only four
kinds of function need another derivative than their own. CP-LRP: Ali et al. 2022.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Edited", "relevance_of"]


class _Identity(torch.autograd.Function):
    """f with the derivative f(x) / x: R_in = R_out.  Achtibat et al. 2024, prop. 3.4."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        y = f(x)
        ctx.save_for_backward(x, y)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        x, y = ctx.saved_tensors
        return g * torch.where(x == 0, 0.0, y / torch.where(x == 0, 1.0, x)), None


class _Product(torch.autograd.Function):
    """A bilinear product with half its derivatives: R / 2 to either side.  Achtibat et al. 2024, prop. 3.2 and 3.3."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, equation: str) -> Tensor:
        ctx.save_for_backward(a, b)
        ctx.equation = equation
        return torch.einsum(equation, a, b)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None]:
        a, b = ctx.saved_tensors
        factors, out = ctx.equation.split("->")
        first, second = factors.split(",")
        to_a = torch.einsum(f"{out},{second}->{first}", g, b)
        return to_a / 2, torch.einsum(f"{out},{first}->{second}", g, a) / 2, None


class _Softmax(torch.autograd.Function):
    """R_i = x_i (R_i - s_i sum_j R_j), which as a derivative is R_i - s_i sum_j R_j.  Achtibat et al. 2024, prop. 3.1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: torch.dtype) -> Tensor:
        s = torch.softmax(x, -1, dtype=dtype).to(x.dtype)
        ctx.save_for_backward(s)
        return s

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (s,) = ctx.saved_tensors
        R = s * g
        return R - s * R.sum(-1, keepdim=True), None


class Edited:
    """Layers of a model by the names of its weights, with edited derivatives.

    Parameters
    ----------
    weights
        A state dict.
    heads
        Attention heads.
    held
        CP-LRP: attention weights and the activated branch of gated MLPs are constants; else AttnLRP.
    single, softmax
        Whether norms compute in float32, whatever the model's dtype is; what the softmax computes in.
    size
        Of a head.
    """

    def __init__(
        self, weights: Mapping[str, Tensor], heads: int, held: bool, single: bool = False,
        softmax: torch.dtype = torch.float64, size: int = 8,
    ) -> None:  # fmt: skip
        self.weights, self.heads, self.held = weights, heads, held
        self.single, self.softmax, self.size = single, softmax, size
        self.streams: dict[str, Tensor] = {}

    def stream(self, name: str, x: Tensor) -> Tensor:
        """Keep a value to read its relevance."""
        x.retain_grad()
        self.streams[name] = x
        return x

    # -- layers -------------------------------------------------------------------------------------------------------

    def linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def conv1d(self, x: Tensor, name: str) -> Tensor:
        """As in GPT-2: a linear map with its weight turned."""
        return x @ self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def layer_norm(self, x: Tensor, name: str, eps: float) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scale = torch.rsqrt(centred.pow(2).mean(-1, keepdim=True) + eps).detach()
        return centred * scale * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def rms_norm(self, x: Tensor, name: str, eps: float, plus: float = 0.0) -> Tensor:
        h = x.float() if self.single else x
        h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + eps).detach()
        weight = self.weights[f"{name}.weight"]
        return (h * (plus + weight.float())).to(x.dtype) if plus else weight * h.to(x.dtype)

    def t5_norm(self, x: Tensor, name: str, eps: float) -> Tensor:
        """Only the statistic is in float32."""
        scale = torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + eps).detach()
        return self.weights[f"{name}.weight"] * (x * scale)

    def activation(self, f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return _Identity.apply(x, f)  # type: ignore[no-any-return, no-untyped-call]

    def gated(self, f: Callable[[Tensor], Tensor], gate: Tensor, up: Tensor) -> Tensor:
        if self.held:
            return f(gate).detach() * up
        return _Product.apply(self.activation(f, gate), up, "bti,bti->bti")  # type: ignore[no-any-return, no-untyped-call]

    # -- attention ----------------------------------------------------------------------------------------------------

    def split(self, x: Tensor) -> Tensor:
        """(B, T, H d) to (B, H, T, d): as many heads as there is room for, of the queries' size."""
        return x.unflatten(-1, (-1, self.size)).transpose(1, 2)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, added: Tensor, scale: float | None = None, cap: float | None = None
    ) -> Tensor:
        """Queries (B, H, T, d), keys and values (B, G, S, d), and what is added to the logits; gives (B, T, H d)."""
        k, v = (t.repeat_interleave(self.heads // t.shape[1], 1) for t in (k, v))
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        L = _Product.apply(q, k, "bhid,bhjd->bhij") * scale  # type: ignore[no-untyped-call]
        if cap is not None:
            L = self.activation(torch.tanh, L / cap) * cap
        A = _Softmax.apply(L + added, self.softmax)  # type: ignore[no-untyped-call]
        mixed = A.detach() @ v if self.held else _Product.apply(A, v, "bhij,bhjp->bhip")  # type: ignore[no-untyped-call]
        return mixed.transpose(1, 2).flatten(2)  # type: ignore[no-any-return]


def rotate(x: Tensor, base: float) -> Tensor:
    """Rotary positions of (B, H, T, d): element i and element i + d / 2 turn by t base^(-2 i / d); angles in float32."""
    half = x.shape[-1] // 2
    speeds = 1.0 / base ** (torch.arange(0, 2 * half, 2).float() / (2 * half))
    angles = torch.arange(x.shape[2]).float()[:, None] * speeds
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def causal(tokens: int, window: int | None = None) -> Tensor:
    """What is added to the logits where a token sees itself and what came before, at most `window` tokens."""
    back = torch.arange(tokens)[:, None] - torch.arange(tokens)[None]
    hidden = (back < 0) | (back >= (window or tokens))
    return torch.zeros(tokens, tokens).masked_fill(hidden, -math.inf)


def relevance_of(edited: Edited, score: Tensor, *inputs: Tensor) -> tuple[list[Tensor], dict[str, Tensor]]:
    """x dy/dx of the inputs, and of every stream that was kept."""
    score.sum().backward()
    found = [(x * x.grad).detach() for x in inputs if x.grad is not None]
    return found, {name: (x * x.grad).detach() for name, x in edited.streams.items() if x.grad is not None}
