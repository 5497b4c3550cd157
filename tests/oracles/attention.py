"""Softmax and attention: proposition 3.1 for the softmax, 3.3 for each of the two matrix products, index by index."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from oracles.harness import Arriving, Case, Handed
from oracles.picks import rows_along


def softmax_rows(x: Tensor) -> Tensor:
    e = torch.exp(x - x.max())
    return e / e.sum()


def taylor(case: Case, arriving: Arriving, dim: int, sign: float = 1.0) -> Handed:
    """R_i = x_i (R_i - s_i sum_j R_j); the bias b_i = s_i - sum_j (ds_i / dx_j) x_j of the expansion at x takes the rest.

    Achtibat et al. 2024, prop. 3.1, where R_i is that of s_i. A logit of -infinity gets 0.
    """
    (x,) = case.arguments
    handed = torch.zeros(x.numel(), dtype=torch.float64)
    bias = torch.zeros(x.numel(), dtype=torch.float64)
    for row in rows_along(x.shape, (dim,)).tolist():
        logits = sign * x.reshape(-1)[row]
        s, R = softmax_rows(logits), arriving.R[0].reshape(-1)[row]
        logits = torch.where(s == 0, 0.0, logits)
        handed[row] = logits * (R - s * R.sum())
        jacobian = torch.diag(s) - torch.outer(s, s)
        constant = s - jacobian @ logits
        bias[row] = torch.where(s == 0, 0.0, constant / torch.where(s == 0, 1.0, s) * R)
    return Handed([handed.reshape(x.shape)], {"softmax": bias.reshape(x.shape)})


def held_softmax(case: Case, arriving: Arriving) -> Handed:
    """Nothing to the logits: what arrives ends there. Ali et al. 2022."""
    return Handed([torch.zeros_like(x) for x in case.arguments], {"stopped": arriving.R[0]})


def log_softmax(case: Case, arriving: Arriving, dim: int) -> Handed:
    """z_i = x_i - log sum_j exp x_j: x_i (m_i - s_i sum_j m_j) to x_i, and the normaliser keeps the rest."""
    (x,) = case.arguments
    handed = torch.zeros(x.numel(), dtype=torch.float64)
    for row in rows_along(x.shape, (dim,)).tolist():
        logits, m = x.reshape(-1)[row], arriving.m[0].reshape(-1)[row]
        s = softmax_rows(logits)
        handed[row] = torch.where(s == 0, 0.0, torch.where(s == 0, 0.0, logits) * (m - s * m.sum()))
    handed = handed.reshape(x.shape)
    return Handed([handed], {"softmax": (arriving.R[0] - handed)})


def attention(case: Case, arriving: Arriving, *, carry: str, **options: Any) -> Handed:
    """One head after another: R_V, R_A by prop. 3.3; R_L of the logits by 3.1; R_Q, R_K by 3.3 on their part of L.

    O = A V:  R_A[i, j] = sum_p A_ij V_jp R_ip / (n O_ip),  R_V[j, p] = sum_i A_ij V_jp R_ip / (n O_ip), n factors carry.
    L = c Q K^T + M, c a constant:  R_Q[i, d] = sum_j Q_id K_jd / (n (Q K^T)_ij) R_QK[i, j], with the part
    R_QK = c (Q K^T) / L R_L of the sum, and M / L R_L to M.  Achtibat et al. 2024, prop. 3.1 and 3.3.
    """
    query, key, value, mask = _operands(case, carry)
    (R,), (O,) = arriving.R, arriving.z
    mask_carries = "m" in carry
    scale = options.get("scale") or 1 / math.sqrt(query.shape[-1])
    parts = {name: torch.zeros_like(t) for name, t in zip("qkv", (query, key, value), strict=True)}
    mask_part = torch.zeros(1 if mask is None or mask.dtype == torch.bool else mask.shape, dtype=torch.float64)
    kept = torch.zeros(query.shape[0], dtype=torch.float64)
    heads, key_heads = query.shape[1], key.shape[1]
    logits_carry = bool(set("qkm") & set(carry))
    n_outer = logits_carry + ("v" in carry)
    n_inner = len(set("qk") & set(carry))
    for b in range(query.shape[0]):
        for h in range(heads):
            g = h * key_heads // heads
            Q, K, V = query[b, h], key[b, g], value[b, g]
            M, allowed, broadcast = _mask_of(mask, b, h, Q.shape[0], K.shape[0], options.get("is_causal", False))
            raw = Q @ K.T
            L = scale * raw + M
            for i in range(Q.shape[0]):
                seen = [j for j in range(K.shape[0]) if allowed[i, j]]
                A = softmax_rows(L[i, seen])
                R_A = torch.zeros(len(seen), dtype=torch.float64)
                for p in range(V.shape[1]):
                    quotient = R[b, h, i, p] / O[b, h, i, p]
                    for a, j in enumerate(seen):
                        piece = A[a] * V[j, p] * quotient / n_outer
                        parts["v"][b, g, j, p] += piece if "v" in carry else 0.0
                        R_A[a] += piece
                if not logits_carry:
                    continue
                R_L = L[i, seen] * (R_A - A * R_A.sum())
                kept[b] += R_A.sum() - R_L.sum()
                for a, j in enumerate(seen):
                    m_L = R_A[a] - A[a] * R_A.sum()
                    if mask_carries:
                        mask_part[broadcast(i, j)] += M[i, j] * m_L
                    else:
                        kept[b] += M[i, j] * m_L
                    R_raw = scale * raw[i, j] * m_L
                    for d in range(Q.shape[1]):
                        share = Q[i, d] * K[j, d] / raw[i, j] * R_raw / max(n_inner, 1)
                        parts["q"][b, h, i, d] += share if "q" in carry else 0.0
                        parts["k"][b, g, j, d] += share if "k" in carry else 0.0
                        kept[b] += 0.0 if n_inner else share
    handed = [mask_part if name == "m" else parts[name] for name in carry]
    return Handed(case.per_input(handed), {"softmax": kept} if logits_carry else {})


def held_weights(case: Case, arriving: Arriving, *, carry: str, **options: Any) -> Handed:
    """R_V[j, p] = sum_i A_ij V_jp / O_ip R_ip, the weights A held constant; where the values are constants, they keep all.

    Ali et al. 2022: the epsilon rule of the sum over j, with A in place of a layer's weights.
    """
    query, key, value, mask = _operands(case, carry)
    (R,), (O,) = arriving.R, arriving.z
    if "v" not in carry:
        return Handed(case.per_input([torch.zeros_like(x) for x in case.arguments]), {"constant": R})
    scale = options.get("scale") or 1 / math.sqrt(query.shape[-1])
    handed = torch.zeros_like(value)
    heads, key_heads = query.shape[1], key.shape[1]
    for b in range(query.shape[0]):
        for h in range(heads):
            g = h * key_heads // heads
            rows, columns = query.shape[2], key.shape[2]
            M, allowed, _ = _mask_of(mask, b, h, rows, columns, options.get("is_causal", False))
            L = scale * query[b, h] @ key[b, g].T + M
            for i in range(rows):
                seen = [j for j in range(columns) if allowed[i, j]]
                for a, j in zip(softmax_rows(L[i, seen]), seen, strict=True):
                    handed[b, g, j] += a * value[b, g, j] / O[b, h, i] * R[b, h, i]
    parts = [handed if name == "v" else torch.zeros_like(x) for name, x in zip(carry, case.arguments, strict=True)]
    return Handed(case.per_input(parts))


def _operands(case: Case, carry: str) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    named = dict(zip(carry, case.arguments, strict=True))
    rest = iter(case.constants)
    for name in "qkv":
        if name not in named:
            named[name] = next(rest)
    mask = named.get("m", next(rest, None))
    return named["q"], named["k"], named["v"], mask


def _mask_of(mask: Tensor | None, b: int, h: int, rows: int, columns: int, causal: bool) -> Any:
    """What is added to the logits, where something can be seen, and where an element of the mask comes from."""
    added = torch.zeros(rows, columns, dtype=torch.float64)
    allowed = torch.ones(rows, columns, dtype=torch.bool)
    if causal:
        allowed = torch.tensor([[j <= i for j in range(columns)] for i in range(rows)])

    def place(i: int, j: int) -> tuple[int, ...]:
        assert mask is not None
        at = (b, h, i, j)[4 - mask.dim() :]
        return tuple(0 if size == 1 else k for size, k in zip(mask.shape, at, strict=True))

    if mask is not None:
        for i in range(rows):
            for j in range(columns):
                entry = mask[place(i, j)]
                if mask.dtype == torch.bool:
                    allowed[i, j] &= bool(entry)
                elif torch.isinf(entry):
                    allowed[i, j] = False
                else:
                    added[i, j] = entry
    return added, allowed, place


def attention_gradient(case: Case, arriving: Arriving, *, carry: str, **options: Any) -> Handed:
    """Input times gradient: twice what prop. 3.3 gives for the values, four times for queries and keys."""
    halves = attention(case, arriving, carry=carry, **options)
    n_outer = bool(set("qkm") & set(carry)) + ("v" in carry)
    n_inner = max(len(set("qk") & set(carry)), 1)
    factors = {"v": n_outer, "q": n_outer * n_inner, "k": n_outer * n_inner, "m": n_outer}
    handed = [part * factors[name] for name, part in zip(carry, halves.inputs, strict=True)]
    if not case.batched:
        return Handed(handed, {"product": arriving.R[0].sum() - sum(h.sum() for h in handed)})
    rest = arriving.R[0].reshape(len(arriving.R[0]), -1).sum(1) - sum(h.reshape(len(h), -1).sum(1) for h in handed)
    return Handed(handed, {"product": rest})
