"""The steps of attention, each in every spelling: products of queries and keys, softmaxes, and products with values."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["LOGITS", "SOFTMAXES", "VALUES", "rows"]


def rows(t: Tensor) -> Tensor:
    """Samples and heads in one dimension."""
    return t.flatten(0, 1)


def each_head(product: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    """A product of matrices, one sample and head after another."""
    pairs = zip(rows(a), rows(b), strict=True)
    return torch.stack([product(*pair) for pair in pairs]).unflatten(0, a.shape[:2])


# -- products of logits ---------------------------------------------------------------------------------------------------


def matmul_logits(q: Tensor, k: Tensor, scale: float) -> Tensor:
    return torch.matmul(q, k.transpose(2, 3)) * scale


def divided_logits(q: Tensor, k: Tensor, scale: float) -> Tensor:
    return q @ k.mT / (1 / scale)


def scaled_query_logits(q: Tensor, k: Tensor, scale: float) -> Tensor:
    return (q * scale) @ k.mT


def both_scaled_logits(q: Tensor, k: Tensor, scale: float) -> Tensor:
    return (q * scale**0.5) @ (k * scale**0.5).mT


def bmm_logits(q: Tensor, k: Tensor, scale: float) -> Tensor:
    return torch.bmm(rows(q), rows(k).transpose(1, 2)).view(*q.shape[:3], -1) * scale


def baddbmm_logits(q: Tensor, k: Tensor, scale: float) -> Tensor:
    empty = torch.empty(q.shape[0] * q.shape[1], q.shape[2], k.shape[2], dtype=q.dtype)
    return torch.baddbmm(empty, rows(q), rows(k).mT, beta=0, alpha=scale).view(*q.shape[:3], -1)


def einsum_logits(q: Tensor, k: Tensor, scale: float) -> Tensor:
    return torch.einsum("bhid,bhjd->bhij", q, k) * scale


def einsum_dots_logits(q: Tensor, k: Tensor, scale: float) -> Tensor:
    return torch.einsum("...id,...jd->...ij", q, k) * scale


def einsum_other_order_logits(q: Tensor, k: Tensor, scale: float) -> Tensor:
    return torch.einsum("bihd,bjhd->bhij", q.transpose(1, 2), k.transpose(1, 2)) * scale


def elementwise_logits(q: Tensor, k: Tensor, scale: float) -> Tensor:
    return (q.unsqueeze(3) * k.unsqueeze(2)).sum(-1) * scale


def per_head_logits(q: Tensor, k: Tensor, scale: float) -> Tensor:
    return each_head(lambda a, b: torch.mm(a, b.t()), q, k) * scale


def linear_logits(q: Tensor, k: Tensor, scale: float) -> Tensor:
    return each_head(F.linear, q, k) * scale


# -- products with values -------------------------------------------------------------------------------------------------


def matmul_values(A: Tensor, v: Tensor) -> Tensor:
    return torch.matmul(A, v)


def bmm_values(A: Tensor, v: Tensor) -> Tensor:
    return torch.bmm(rows(A), rows(v)).view(*A.shape[:3], -1)


def baddbmm_values(A: Tensor, v: Tensor) -> Tensor:
    zeros = torch.zeros(A.shape[0] * A.shape[1], A.shape[2], v.shape[-1], dtype=A.dtype)
    return torch.baddbmm(zeros, rows(A), rows(v)).view(*A.shape[:3], -1)


def einsum_values(A: Tensor, v: Tensor) -> Tensor:
    return torch.einsum("bhij,bhjp->bhip", A, v)


def einsum_other_order_values(A: Tensor, v: Tensor) -> Tensor:
    return torch.einsum("bhij,bjhp->bihp", A, v.transpose(1, 2)).transpose(1, 2)


def elementwise_values(A: Tensor, v: Tensor) -> Tensor:
    return (A.unsqueeze(-1) * v.unsqueeze(2)).sum(3)


def turned_values(A: Tensor, v: Tensor) -> Tensor:
    return (v.mT @ A.mT).mT


def per_head_values(A: Tensor, v: Tensor) -> Tensor:
    return each_head(torch.mm, A, v)


def linear_values(A: Tensor, v: Tensor) -> Tensor:
    return each_head(lambda a, b: F.linear(a, b.t()), A, v)


# -- softmax --------------------------------------------------------------------------------------------------------------


def softmax(x: Tensor) -> Tensor:
    return torch.softmax(x, -1)


def softmax_dropout(x: Tensor) -> Tensor:
    return F.dropout(F.softmax(x, dim=-1, dtype=torch.float64).to(x.dtype), 0.1, training=False)


def softmax_shifted(x: Tensor) -> Tensor:
    return torch.softmax(x - x.amax(-1, keepdim=True), -1)


def softmax_in_place(x: Tensor) -> Tensor:
    return x.clone().sub_(x.max(-1, keepdim=True).values).softmax(-1)


def softmax_never_nan(x: Tensor) -> Tensor:
    return torch.nan_to_num(torch.softmax(x, -1), 0.0)


def softmax_cleared(x: Tensor) -> Tensor:
    """What is hidden is set to 0 once more."""
    return torch.where(x < -1e30, torch.zeros((), dtype=x.dtype), torch.softmax(x, -1))


def softmax_renormalised(x: Tensor) -> Tensor:
    A = torch.softmax(x, -1)
    return A / A.sum(-1, keepdim=True)


def softmax_of_logs(x: Tensor) -> Tensor:
    return torch.log_softmax(x, -1).exp()


def softmax_by_logsumexp(x: Tensor) -> Tensor:
    """As in Reformer."""
    return torch.exp(x - torch.logsumexp(x, -1, keepdim=True))


def softmax_by_hand(x: Tensor) -> Tensor:
    e = torch.exp(x - x.amax(-1, keepdim=True))
    return e / e.sum(-1, keepdim=True)


LOGITS = {
    "matmul": matmul_logits,
    "divided": divided_logits,
    "scaled_query": scaled_query_logits,
    "both_scaled": both_scaled_logits,
    "bmm": bmm_logits,
    "baddbmm": baddbmm_logits,
    "einsum": einsum_logits,
    "einsum_dots": einsum_dots_logits,
    "einsum_other_order": einsum_other_order_logits,
    "elementwise": elementwise_logits,
    "per_head": per_head_logits,
    "linear": linear_logits,
}
VALUES = {
    "matmul": matmul_values,
    "bmm": bmm_values,
    "baddbmm": baddbmm_values,
    "einsum": einsum_values,
    "einsum_other_order": einsum_other_order_values,
    "elementwise": elementwise_values,
    "turned": turned_values,
    "per_head": per_head_values,
    "linear": linear_values,
}
SOFTMAXES = {
    "plain": softmax,
    "dropout": softmax_dropout,
    "shifted": softmax_shifted,
    "in_place": softmax_in_place,
    "never_nan": softmax_never_nan,
    "cleared": softmax_cleared,
    "renormalised": softmax_renormalised,
    "of_logs": softmax_of_logs,
    "by_logsumexp": softmax_by_logsumexp,
    "by_hand": softmax_by_hand,
}
