"""Softmax, log softmax and fused attention."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F

from oracles import attention as A
from oracles.harness import Case, Check, source

__all__ = ["ABSENT", "CHECKS", "attend"]

T = torch.ops.aten
rand = source(7)
ABSENT = frozenset({"aten.softmin"})
inf = math.inf


def attend(carry: str, **options: Any) -> Any:
    """Attention whose slots are named in `carry`; the others, and at last a mask, are the constants."""

    def call(*tensors: Any) -> Any:
        named = dict(zip(carry, tensors, strict=False))
        rest = iter(tensors[len(carry) :])
        for name in "qkv":
            if name not in named:
                named[name] = next(rest)
        mask = named.get("m", next(rest, None))
        return F.scaled_dot_product_attention(named["q"], named["k"], named["v"], mask, **options)

    return call


def _softmax() -> list[Check]:
    found: list[Check] = []
    for op, fn in (
        ("softmax", torch.softmax), ("_softmax", lambda x, dim: T._softmax(x, dim, False)), ("_safe_softmax", T._safe_softmax),
    ):  # fmt: skip
        for name, x, dim in (("last", rand(2, 3, 4), -1), ("inner", rand(2, 3, 4), 1), ("large", 30 * rand(2, 4), 1)):
            case = Case(f"aten.{op}", name, partial(_of, fn, dim), (x,), batched=True)
            found += [Check(case, variant, partial(A.taylor, dim=dim)) for variant in ("taylor", "gradient")]
            found.append(Check(case, "detach", A.held_softmax))
    first = Case("aten.softmax", "first", lambda x: x.softmax(0), (rand(3, 2),))
    found.append(Check(first, "taylor", partial(A.taylor, dim=0)))
    found.append(Check(first, "detach", A.held_softmax))
    typed = Case(
        "aten.softmax", "dtype", lambda x: torch.softmax(x, 1, dtype=torch.float64), (rand(2, 3),), batched=True
    )
    found.append(Check(typed, "taylor", partial(A.taylor, dim=1)))
    for op, fn in (("log_softmax", torch.log_softmax), ("_log_softmax", lambda x, dim: T._log_softmax(x, dim, False))):
        for name, x, dim in (("last", rand(2, 4), -1), ("inner", rand(2, 3, 4), 1)):
            case = Case(f"aten.{op}", name, partial(_of, fn, dim), (x,), batched=True)
            found.append(Check(case, "gradient", partial(A.log_softmax, dim=dim)))
    return found


def _of(fn: Any, dim: int, x: Any) -> Any:
    return fn(x, dim)


def _attention() -> list[Check]:
    found: list[Check] = []
    q, k, v = rand(2, 2, 3, 4), rand(2, 2, 5, 4), rand(2, 2, 5, 3)
    see = torch.ones(3, 5, dtype=torch.bool)
    see[0, 3:], see[1, 0] = False, False
    bias = rand(3, 5)
    with_inf = bias.masked_fill(~see, -inf)
    named = {"q": q, "k": k, "v": v}

    def add(
        name: str, carry: str, given: dict[str, Any], mask: Any = None, batched: bool = True, **options: Any
    ) -> None:
        inputs = tuple(given[c] for c in carry)
        constants = tuple(given[c] for c in "qkv" if c not in carry)
        if mask is not None and "m" not in carry:
            constants = (*constants, mask)
        case = Case(
            "aten.scaled_dot_product_attention", name, attend(carry, **options), inputs, constants, batched=batched
        )
        found.append(Check(case, "attnlrp", partial(A.attention, carry=carry, **options)))
        found.append(Check(case, "gradient", partial(A.attention_gradient, carry=carry, **options)))
        found.append(Check(case, "detach", partial(A.held_weights, carry=carry, **options)))

    for carry in ("qkv", "v", "q", "k", "qk", "qv", "kv"):
        add(f"{carry}-plain", carry, named, batched=carry == "qkv")
        add(f"{carry}-float-mask", carry, named, bias, batched=carry == "qkv")
    add("truth-mask", "qkv", named, see)
    add("truth-mask-per-sample", "qkv", named, see.expand(2, 1, 3, 5), batched=False)
    add("mask-with-inf", "qkv", named, with_inf)
    add("scale", "qkv", named, scale=0.3)
    add("scale-and-mask", "qkv", named, with_inf, scale=-0.7)
    alike = {"q": rand(2, 2, 4, 3), "k": rand(2, 2, 4, 3), "v": rand(2, 2, 4, 3)}
    add("causal", "qkv", alike, is_causal=True)
    add("causal-wide", "qkv", named, is_causal=True)
    grouped = {"q": rand(2, 4, 3, 2), "k": rand(2, 2, 3, 2), "v": rand(2, 2, 3, 2)}
    add("grouped", "qkv", grouped, enable_gqa=True)
    add("grouped-causal", "qkv", grouped, is_causal=True, enable_gqa=True)
    add("one-key-head", "qkv", {"q": rand(2, 4, 3, 2), "k": rand(2, 1, 3, 2), "v": rand(2, 1, 3, 2)}, enable_gqa=True)
    add("carrying-mask", "qkvm", {**named, "m": rand(2, 2, 3, 5)})
    add("carrying-mask-broadcast", "qkvm", {**named, "m": rand(3, 5)}, batched=False)
    add("carrying-mask-and-values", "vm", {**named, "m": rand(2, 1, 3, 5)}, batched=False)
    add("carrying-mask-only", "m", {**named, "m": rand(2, 2, 3, 5)}, batched=False)
    itself = Case(
        "aten.scaled_dot_product_attention", "itself", attend("qkv"), (rand(2, 1, 3, 3),), slots=(0, 0, 0), batched=True
    )
    found.append(Check(itself, "attnlrp", partial(A.attention, carry="qkv")))
    found.append(Check(itself, "detach", partial(A.held_weights, carry="qkv")))
    return found


CHECKS = [*_softmax(), *_attention()]
