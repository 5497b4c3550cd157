"""An attention block, densely: projections, logits, softmax, values and output, on relevances and index by index.

Every tensor is written out with all its indices, and each step divides by what it shares out, as the propositions read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from oracles.harness import source

__all__ = ["Form", "Weights", "attention_block", "linear_attention_block", "weights_for"]


@dataclass(frozen=True)
class Form:
    """What an attention computes, however it is written.

    Attributes
    ----------
    heads, groups
        Of the queries, and of keys and values.
    causal, window
        Whether later tokens are hidden; how many tokens back one can see.
    bias
        ``"alibi"`` or ``"relative"``: what is added to the logits.
    cap
        Logits become ``cap * tanh(logits / cap)``.
    sinks
        Whether each head has a logit that no value belongs to.
    scale
        What the logits are multiplied by.
    """

    heads: int = 4
    groups: int = 4
    causal: bool = False
    window: int | None = None
    bias: str = ""
    cap: float | None = None
    sinks: bool = False
    scale: float = 3**-0.5

    def allowed(self, tokens: int) -> Tensor:
        """(T, T): whether token i sees token j."""
        back = torch.arange(tokens)[:, None] - torch.arange(tokens)[None]
        seen = torch.ones(tokens, tokens, dtype=torch.bool)
        if self.causal:
            seen &= back >= 0
        if self.window is not None:
            seen &= back < self.window
        return seen


@dataclass(frozen=True)
class Weights:
    """Of a block: D = 6 features, heads of d = 3, E = 5 outputs."""

    q: tuple[Tensor, Tensor]
    k: tuple[Tensor, Tensor]
    v: tuple[Tensor, Tensor]
    o: tuple[Tensor, Tensor]
    slopes: Tensor = field(repr=False)
    table: Tensor = field(repr=False)
    sinks: Tensor = field(repr=False)


def weights_for(form: Form, features: int = 6, size: int = 3, outputs: int = 5) -> Weights:
    """Random weights; the same for the same heads and groups."""
    rand = source(100)
    wide, narrow = form.heads * size, form.groups * size
    shapes = ((wide, features), (narrow, features), (narrow, features), (outputs, wide))
    q, k, v, o = ((rand(*shape) * 0.7, rand(shape[0]) * 0.3) for shape in shapes)
    return Weights(q, k, v, o, slopes=rand(form.heads).abs(), table=rand(8, form.heads), sinks=rand(form.heads))


def added(form: Form, w: Weights, tokens: int) -> Tensor:
    """(H, T, T): what is added to the logits, without the mask."""
    back = torch.arange(tokens)[:, None] - torch.arange(tokens)[None]
    if form.bias == "alibi":
        return -w.slopes[:, None, None] * back.abs()
    if form.bias == "relative":
        return w.table[back.clamp(-3, 4) + 3].permute(2, 0, 1)
    return torch.zeros(form.heads, tokens, tokens, dtype=w.slopes.dtype)


def _linear(x: Tensor, parameters: tuple[Tensor, Tensor]) -> Tensor:
    return torch.einsum("bti,ji->btj", x, parameters[0]) + parameters[1]


def _back(x: Tensor, parameters: tuple[Tensor, Tensor], R: Tensor) -> Tensor:
    """R_i = sum_j x_i w_ji / z_j R_j, the bias a part of z."""
    return torch.einsum("bti,ji,btj->bti", x, parameters[0], R / _linear(x, parameters))


def _heads(x: Tensor, form: Form, groups: int) -> Tensor:
    """(B, H, T, d); head h reads the group h G / H."""
    split = x.reshape(*x.shape[:2], groups, -1).transpose(1, 2)
    return split[:, [h * groups // form.heads for h in range(form.heads)]]


def _flat(R: Tensor, form: Form, groups: int) -> Tensor:
    """(B, T, G d): heads that read one group, summed."""
    total = R.reshape(len(R), groups, form.heads // groups, *R.shape[2:]).sum(2)
    return total.transpose(1, 2).flatten(2)


def _quotient(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(b == 0, 0.0, a / torch.where(b == 0, 1.0, b))


def attention_block(x: Tensor, w: Weights, form: Form, m: Tensor, held: bool) -> tuple[Tensor, Tensor]:
    """Output (B, T, E), and relevance of x (B, T, D) where the output has multipliers m.

    O = A V: half to A and half to V, AttnLRP prop. 3.3. A = softmax L: R_L = L (R_A - A sum R_A), prop. 3.1; a sink's A is
    dropped, so none comes back to it. L = cap(c Q K^T) + M: a sum, an activation by the identity rule (prop. 3.4), and
    halves again.  Achtibat et al. 2024. With `held` weights A all is V's: Ali et al. 2022.
    """
    q = _heads(_linear(x, w.q), form, form.heads)
    k, v = (_heads(_linear(x, p), form, form.groups) for p in (w.k, w.v))
    product = torch.einsum("bhid,bhjd->bhij", q, k)
    capped = form.scale * product
    if form.cap is not None:
        capped = form.cap * torch.tanh(capped / form.cap)
    seen = form.allowed(x.shape[1]).expand(product.shape)
    L = torch.where(seen, capped + added(form, w, x.shape[1]), -torch.inf)
    sinks = w.sinks.view(1, -1, 1, 1).expand(*L.shape[:3], 1) if form.sinks else L[..., :0]
    A = torch.softmax(torch.cat([L, sinks], -1), -1)[..., : L.shape[-1]]
    O = torch.einsum("bhij,bhjp->bhip", A, v)
    mixed = O.transpose(1, 2).flatten(2)
    out = _linear(mixed, w.o)

    R_O = _heads(_back(mixed, w.o, m * out), form, form.heads)
    parts = torch.einsum("bhij,bhjp,bhip->bhijp", A, v, _quotient(R_O, O))
    if held:
        return out, _back(x, w.v, _flat(parts.sum(2), form, form.groups))
    R_V, R_A = parts.sum(2) / 2, parts.sum(4) / 2
    L = torch.where(seen, L, 0.0)
    R_L = L * (R_A - A * R_A.sum(-1, keepdim=True))
    R_product = R_L * _quotient(capped, L)
    halves = torch.einsum("bhid,bhjd,bhij->bhijd", q, k, _quotient(R_product, product)) / 2
    handed = (
        (w.q, _flat(halves.sum(3), form, form.heads)),
        (w.k, _flat(halves.sum(2), form, form.groups)),
        (w.v, _flat(R_V, form, form.groups)),
    )
    return out, sum((_back(x, p, R) for p, R in handed), torch.zeros_like(x))


def linear_attention_block(x: Tensor, w: Weights, form: Form, m: Tensor, keys_first: bool) -> tuple[Tensor, Tensor]:
    """The same for O_i = sum_j f(q_i) f(k_j) v_j / sum_j f(q_i) f(k_j), f(x) = elu(x) + 1.

    A quotient and each product of two give half to either side (Achtibat et al. 2024, prop. 3.2). What a triple product
    gives depends on which two come first: f(k) v (`keys_first`), else f(q) f(k). The 1 in f takes its part of the sum.
    """
    q = _heads(_linear(x, w.q), form, form.heads)
    k, v = (_heads(_linear(x, p), form, form.groups) for p in (w.k, w.v))
    elu = torch.nn.functional.elu
    fq, fk = elu(q) + 1, elu(k) + 1
    seen = form.allowed(x.shape[1]).to(x.dtype)
    top = torch.einsum("bhid,bhjd,ij,bhjp->bhijdp", fq, fk, seen, v)
    below = torch.einsum("bhid,bhjd,ij->bhijd", fq, fk, seen)
    N, Z = top.sum((3, 4)), below.sum((3, 4))
    O = N / Z[..., None]
    mixed = O.transpose(1, 2).flatten(2)
    out = _linear(mixed, w.o)

    R_O = _heads(_back(mixed, w.o, m * out), form, form.heads)
    R_top = top * (R_O / 2 / N)[:, :, :, None, None]
    R_below = below * (R_O.sum(-1) / 2 / Z)[..., None, None]
    share_q, share_v = (0.5, 0.25) if keys_first else (0.25, 0.5)
    R_q = R_top.sum((3, 5)) * share_q + R_below.sum(3) / 2
    R_k = R_top.sum((2, 5)) / 4 + R_below.sum(2) / 2
    R_v = R_top.sum((2, 4)) * share_v
    handed: Any = (
        (w.q, _flat(R_q * elu(q) / fq, form, form.heads)),
        (w.k, _flat(R_k * elu(k) / fk, form, form.groups)),
        (w.v, _flat(R_v, form, form.groups)),
    )
    return out, sum((_back(x, p, R) for p, R in handed), torch.zeros_like(x))
