"""Attention in every spelling: functions of queries (B, H, T, d), keys and values (B, G, T, d) that compute one form."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from oracles.attention_block import Form, Weights, added
from oracles.cases.spelled_steps import LOGITS, SOFTMAXES, VALUES, rows

__all__ = ["FORMS", "LINEAR", "SPELLINGS"]

Spelling = Callable[[Tensor, Tensor, Tensor, Form, Weights], Tensor]


def _bias(form: Form, w: Weights, tokens: int, hidden: float = -math.inf) -> Tensor:
    """(H, T, T): what is added to the logits, `hidden` where nothing may be seen."""
    return added(form, w, tokens).masked_fill(~form.allowed(tokens), hidden)


def _same(q: Tensor, k: Tensor) -> Tensor:
    """Keys or values, one for each head of the queries."""
    return k.repeat_interleave(q.shape[1] // k.shape[1], 1)


# -- the fused op ---------------------------------------------------------------------------------------------------------


def sdpa_scale(q: Tensor, k: Tensor, v: Tensor, form: Form, w: Weights) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, scale=form.scale)


def sdpa_default_scale(q: Tensor, k: Tensor, v: Tensor, form: Form, w: Weights) -> Tensor:
    return F.scaled_dot_product_attention(q * (form.scale * q.shape[-1] ** 0.5), k, v)


def sdpa_causal(q: Tensor, k: Tensor, v: Tensor, form: Form, w: Weights) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=form.scale)


def sdpa_truth(q: Tensor, k: Tensor, v: Tensor, form: Form, w: Weights) -> Tensor:
    mask = form.allowed(q.shape[2])[None, None]
    return F.scaled_dot_product_attention(q, _same(q, k), _same(q, v), mask, scale=form.scale)


def sdpa_float(q: Tensor, k: Tensor, v: Tensor, form: Form, w: Weights) -> Tensor:
    return F.scaled_dot_product_attention(q, _same(q, k), _same(q, v), _bias(form, w, q.shape[2]), scale=form.scale)


def sdpa_least(q: Tensor, k: Tensor, v: Tensor, form: Form, w: Weights) -> Tensor:
    mask = _bias(form, w, q.shape[2], torch.finfo(q.dtype).min).expand(len(q), -1, -1, -1)
    return F.scaled_dot_product_attention(q, _same(q, k), _same(q, v), mask, scale=form.scale)


def sdpa_grouped(q: Tensor, k: Tensor, v: Tensor, form: Form, w: Weights) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, scale=form.scale, enable_gqa=True)


def sdpa_grouped_causal(q: Tensor, k: Tensor, v: Tensor, form: Form, w: Weights) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=form.scale, enable_gqa=True)


def sdpa_sink_token(q: Tensor, k: Tensor, v: Tensor, form: Form, w: Weights) -> Tensor:
    """The sink is one more key and value of zeros, its logit given by the mask."""
    tokens = q.shape[2]
    mask = torch.cat([_bias(form, w, tokens), w.sinks.view(-1, 1, 1).expand(-1, tokens, 1)], -1)
    longer = [F.pad(_same(q, t), (0, 0, 0, 1)) for t in (k, v)]
    return F.scaled_dot_product_attention(q, *longer, mask, scale=form.scale)


# -- what comes between ---------------------------------------------------------------------------------------------------


def _capped(L: Tensor, form: Form) -> Tensor:
    return L if form.cap is None else torch.tanh(L / form.cap) * form.cap


def _add(L: Tensor, form: Form, w: Weights) -> Tensor:
    return L + _bias(form, w, L.shape[-1])


def _add_in_place(L: Tensor, form: Form, w: Weights) -> Tensor:
    L = L.clone()
    L += _bias(form, w, L.shape[-1], torch.finfo(L.dtype).min)
    return L


def _fill(L: Tensor, form: Form, w: Weights) -> Tensor:
    return (L + added(form, w, L.shape[-1])).masked_fill(~form.allowed(L.shape[-1]), -math.inf)


def _fill_least(L: Tensor, form: Form, w: Weights) -> Tensor:
    least = torch.finfo(L.dtype).min
    return (added(form, w, L.shape[-1]) + L).masked_fill_(~form.allowed(L.shape[-1]), least)


def _where(L: Tensor, form: Form, w: Weights) -> Tensor:
    least = torch.full((), -1e300 if L.dtype == torch.float64 else -1e37, dtype=L.dtype)
    return torch.where(form.allowed(L.shape[-1]), L + added(form, w, L.shape[-1]), least)


def _embedded(L: Tensor, form: Form, w: Weights) -> Tensor:
    """As in T5: a table is looked up at bucketed distances."""
    places = torch.arange(L.shape[-1])
    buckets = (places[:, None] - places[None]).clamp(-3, 4) + 3
    bias = F.embedding(buckets, w.table).permute(2, 0, 1).unsqueeze(0)
    return L + bias


def written(
    logits: Any = LOGITS["matmul"], between: Any = _add, softmax: Any = SOFTMAXES["plain"], values: Any = VALUES["matmul"]
) -> Spelling:  # fmt: skip
    """Attention in steps; grouped keys and values are repeated."""

    def attend(q: Tensor, k: Tensor, v: Tensor, form: Form, w: Weights) -> Tensor:
        L = between(_capped(logits(q, _same(q, k), form.scale), form), form, w)
        return values(softmax(L), _same(q, v))  # type: ignore[no-any-return]

    return attend


# -- in other ways --------------------------------------------------------------------------------------------------------


def query_chunks(q: Tensor, k: Tensor, v: Tensor, form: Form, w: Weights) -> Tensor:
    """Two queries at a time, each with the keys it can see at most."""
    found = []
    for start, part in zip(range(0, q.shape[2], 2), q.split(2, 2), strict=True):
        end = start + part.shape[2] if form.causal else k.shape[2]
        mask = _bias(form, w, q.shape[2])[:, start : start + part.shape[2], :end]
        L = part @ k[:, :, :end].mT * form.scale + mask
        found.append(torch.softmax(L, -1) @ v[:, :, :end])
    return torch.cat(found, 2)


def one_query_after_another(q: Tensor, k: Tensor, v: Tensor, form: Form, w: Weights) -> Tensor:
    """As with a cache: keys and values seen so far are joined."""
    keys, values, found = k[:, :, :0], v[:, :, :0], []
    for t in range(q.shape[2]):
        keys, values = torch.cat([keys, k[:, :, t : t + 1]], 2), torch.cat([values, v[:, :, t : t + 1]], 2)
        first = 0 if form.window is None else max(0, t + 1 - form.window)
        L = q[:, :, t : t + 1] @ keys[:, :, first:].mT * form.scale
        found.append(torch.softmax(L, -1) @ values[:, :, first:])
    return torch.cat(found, 2)


def windows(q: Tensor, k: Tensor, v: Tensor, form: Form, w: Weights) -> Tensor:
    """Keys and values unfolded into windows that end at each query."""
    assert form.window is not None
    back, tokens = form.window - 1, q.shape[2]
    keys, values = (F.pad(t, (0, 0, back, 0)).unfold(2, form.window, 1) for t in (k, v))
    before = torch.arange(tokens)[:, None] + torch.arange(form.window)[None] < back
    L = torch.einsum("bhtd,bhtdw->bhtw", q, keys) * form.scale
    A = torch.softmax(L.masked_fill(before, -math.inf), -1)
    return torch.einsum("bhtw,bhtdw->bhtd", A, values)


def baddbmm_bias(q: Tensor, k: Tensor, v: Tensor, form: Form, w: Weights) -> Tensor:
    """As in BLOOM: the bias is what the product is added to, and has its own factor."""
    bias = added(form, w, q.shape[2]).repeat(len(q), 1, 1) * 2.0
    L = bias.baddbmm(batch1=rows(q), batch2=rows(k).mT, beta=0.5, alpha=form.scale).view(*q.shape[:3], -1)
    return torch.softmax(L.masked_fill(~form.allowed(q.shape[2]), -math.inf), -1) @ v


def expanded(q: Tensor, k: Tensor, v: Tensor, form: Form, w: Weights) -> Tensor:
    """As in Llama: heads of keys and values expanded, and reshaped."""

    def repeat(t: Tensor) -> Tensor:
        batch, groups, tokens, size = t.shape
        wide = t[:, :, None].expand(batch, groups, q.shape[1] // groups, tokens, size)
        return wide.reshape(batch, q.shape[1], tokens, size)

    L = q @ repeat(k).mT * form.scale + _bias(form, w, q.shape[2])
    return torch.softmax(L, -1) @ repeat(v)


def grouped_queries(q: Tensor, k: Tensor, v: Tensor, form: Form, w: Weights) -> Tensor:
    """Queries grouped by the keys they read."""
    grouped = q.unflatten(1, (k.shape[1], -1))
    L = torch.einsum("bgrid,bgjd->bgrij", grouped, k) * form.scale
    L = L + _bias(form, w, q.shape[2]).unflatten(0, (k.shape[1], -1))
    return torch.einsum("bgrij,bgjp->bgrip", torch.softmax(L, -1), v).flatten(1, 2)


def broadcast(q: Tensor, k: Tensor, v: Tensor, form: Form, w: Weights) -> Tensor:
    """One head of keys against all queries."""
    return torch.softmax(q @ k.mT * form.scale + _bias(form, w, q.shape[2]), -1) @ v


def flat_queries(q: Tensor, k: Tensor, v: Tensor, form: Form, w: Weights) -> Tensor:
    """As in GPT-BigCode: the queries of all heads are rows of one product."""
    batch, heads, tokens, _ = q.shape
    empty = torch.empty(batch, heads * tokens, tokens, dtype=q.dtype)
    L = torch.baddbmm(empty, q.flatten(1, 2), k[:, 0].mT, beta=0, alpha=form.scale)
    L = L.view(batch, heads, tokens, tokens) + _bias(form, w, tokens)
    A = torch.softmax(L, -1).view(batch, heads * tokens, tokens)
    return torch.bmm(A, v[:, 0]).view(batch, heads, tokens, -1)


def _with_sinks(q: Tensor, k: Tensor, form: Form, w: Weights) -> Tensor:
    L = q @ _same(q, k).mT * form.scale + _bias(form, w, q.shape[2])
    return torch.cat([L, w.sinks.reshape(1, -1, 1, 1).expand(len(q), -1, q.shape[2], -1)], -1)


def sinks_shifted(q: Tensor, k: Tensor, v: Tensor, form: Form, w: Weights) -> Tensor:
    """As in GPT-OSS."""
    logits = _with_sinks(q, k, form, w)
    logits = logits - logits.max(dim=-1, keepdim=True).values
    return F.softmax(logits, dim=-1)[..., :-1] @ _same(q, v)


def sinks_plain(q: Tensor, k: Tensor, v: Tensor, form: Form, w: Weights) -> Tensor:
    A, _ = torch.softmax(_with_sinks(q, k, form, w), -1).split([q.shape[2], 1], -1)
    return torch.einsum("bhij,bhjp->bhip", A, _same(q, v))


def sinks_with_values_of_zeros(q: Tensor, k: Tensor, v: Tensor, form: Form, w: Weights) -> Tensor:
    return torch.softmax(_with_sinks(q, k, form, w), -1) @ F.pad(_same(q, v), (0, 0, 0, 1))


_PLAIN: dict[str, Spelling] = {
    **{f"logits by {name}": written(fn) for name, fn in LOGITS.items()},
    **{f"values by {name}": written(values=fn) for name, fn in VALUES.items()},
    **{f"softmax, {name}": written(softmax=fn) for name, fn in SOFTMAXES.items() if name != "cleared"},
    "sdpa, scale": sdpa_scale, "sdpa, default scale": sdpa_default_scale, "query chunks": query_chunks,
}  # fmt: skip
_HIDDEN: dict[str, Spelling] = {
    "sdpa, truth": sdpa_truth, "sdpa, float": sdpa_float, "sdpa, least": sdpa_least, "added": written(),
    "added in place": written(between=_add_in_place), "filled": written(between=_fill),
    "filled with the least": written(LOGITS["bmm"], _fill_least, values=VALUES["bmm"]), "where": written(between=_where),
    "cleared": written(softmax=SOFTMAXES["cleared"]), "one query after another": one_query_after_another,
    "shifted": written(softmax=SOFTMAXES["shifted"]), "by hand": written(softmax=SOFTMAXES["by_hand"]),
    "query chunks": query_chunks,
}  # fmt: skip

FORMS: dict[str, Form] = {
    "plain": Form(),
    "causal": Form(causal=True),
    "sliding window": Form(causal=True, window=2, scale=0.8),
    "alibi": Form(causal=True, bias="alibi"),
    "relative": Form(bias="relative", scale=1.0),
    "capped": Form(causal=True, cap=1.5),
    "sinks": Form(causal=True, sinks=True, groups=2),
    "grouped": Form(groups=2),
    "grouped causal": Form(groups=2, causal=True),
    "one key head": Form(groups=1, causal=True),
}
_GROUPED: dict[str, Spelling] = {
    "repeated": written(), "expanded": expanded, "grouped queries": grouped_queries, "sdpa, repeated": sdpa_float,
}  # fmt: skip
SPELLINGS: dict[str, dict[str, Spelling]] = {
    "plain": _PLAIN,
    "causal": {**_HIDDEN, "sdpa, causal": sdpa_causal},
    "sliding window": {**{n: s for n, s in _HIDDEN.items() if n != "query chunks"}, "windows": windows},
    "alibi": {"baddbmm": baddbmm_bias, "added": written(), "filled": written(between=_fill), "sdpa": sdpa_float,
              "least": sdpa_least, "query chunks": query_chunks},
    "relative": {"embedded": written(between=_embedded), "added": written(LOGITS["einsum"]), "sdpa": sdpa_float,
                 "baddbmm": baddbmm_bias},
    "capped": {"added": written(), "filled": written(LOGITS["einsum"], _fill), "where": written(LOGITS["bmm"], _where)},
    "sinks": {"shifted": sinks_shifted, "plain": sinks_plain, "values of zeros": sinks_with_values_of_zeros,
              "sdpa, one more token": sdpa_sink_token},
    "grouped": {**_GROUPED, "sdpa, grouped": sdpa_grouped},
    "grouped causal": {**_GROUPED, "sdpa, grouped": sdpa_grouped_causal},
    "one key head": {**_GROUPED, "sdpa, grouped": sdpa_grouped_causal, "broadcast": broadcast, "flat queries": flat_queries},
}  # fmt: skip


# -- linear attention -----------------------------------------------------------------------------------------------------


def _features(x: Tensor) -> Tensor:
    return F.elu(x) + 1


def linear_matmul(q: Tensor, k: Tensor, v: Tensor, form: Form, w: Weights) -> Tensor:
    q, k = _features(q), _features(k)
    return q @ (k.mT @ v) / (q @ k.sum(2, keepdim=True).mT)


def linear_einsum(q: Tensor, k: Tensor, v: Tensor, form: Form, w: Weights) -> Tensor:
    q, k = _features(q), _features(k)
    state, total = torch.einsum("bhjd,bhjp->bhdp", k, v), k.sum(2)
    return torch.einsum("bhid,bhdp->bhip", q, state) / torch.einsum("bhid,bhd->bhi", q, total)[..., None]


def linear_cumsum(q: Tensor, k: Tensor, v: Tensor, form: Form, w: Weights) -> Tensor:
    q, k = _features(q), _features(k)
    states = (k.unsqueeze(-1) * v.unsqueeze(-2)).cumsum(2)
    return (q.unsqueeze(-2) @ states).squeeze(-2) / (q * k.cumsum(2)).sum(-1, keepdim=True)


def linear_steps(q: Tensor, k: Tensor, v: Tensor, form: Form, w: Weights) -> Tensor:
    q, k = _features(q), _features(k)
    state, total, found = torch.zeros(()), torch.zeros(()), []
    for t in range(q.shape[2]):
        state = state + torch.einsum("bhd,bhp->bhdp", k[:, :, t], v[:, :, t])
        total = total + k[:, :, t]
        found.append(torch.einsum("bhd,bhdp->bhp", q[:, :, t], state) / (q[:, :, t] * total).sum(-1, keepdim=True))
    return torch.stack(found, 2)


def linear_weights(q: Tensor, k: Tensor, v: Tensor, form: Form, w: Weights) -> Tensor:
    A = (_features(q) @ _features(k).mT) * form.allowed(q.shape[2])
    return A @ v / A.sum(-1, keepdim=True)


LINEAR: dict[str, tuple[Form, bool, Spelling]] = {
    "matmul": (Form(groups=4), True, linear_matmul),
    "einsum": (Form(groups=4), True, linear_einsum),
    "cumsum": (Form(groups=4, causal=True), True, linear_cumsum),
    "steps": (Form(groups=4, causal=True), True, linear_steps),
    "weights": (Form(groups=4), False, linear_weights),
    "causal weights": (Form(groups=4, causal=True), False, linear_weights),
}
"""Form, whether keys meet values first, and the spelling."""
