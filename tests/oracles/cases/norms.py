"""Layer norm, RMS norm, embedding."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.nn import functional as F

from oracles import norms as N
from oracles.cases.family import passing
from oracles.harness import Case, Check, source

__all__ = ["CHECKS"]

rand = source(8)
MACHINE = torch.finfo(torch.float64).eps


def _checks() -> list[Check]:
    found: list[Check] = []

    def add(op: str, name: str, fn: Any, x: Any, constants: Any, dims: Any, eps: float) -> None:
        case = Case(f"aten.{op}", name, fn, (x,), constants, batched=True)
        rule = N.rms_norm if op == "rms_norm" else N.layer_norm
        found.append(Check(case, "identity", partial(rule, dims=dims, eps=eps)))
        found.append(Check(case, "gradient", partial(N.norm_gradient, dims=dims, eps=eps, centred=op != "rms_norm")))
        found.extend(passing(case))

    for shape, dims in (((2, 5), (1,)), ((2, 3, 4), (2,)), ((2, 3, 4), (1, 2))):
        x, inner = rand(*shape), [shape[d] for d in dims]
        w, b = rand(*inner), rand(*inner)
        name = f"{shape}over{dims}".replace(" ", "")
        for op in ("layer_norm", "native_layer_norm"):
            fn = partial(_native if op.startswith("native") else _layer_norm, inner)
            for label, constants in (("plain", ()), ("weight", (w,)), ("affine", (w, b))):
                add(op, f"{label}-{name}", fn, x, constants, dims, 0.1)
        for label, constants in (("plain", ()), ("weight", (w,))):
            add("rms_norm", f"{label}-{name}", partial(_rms_norm, inner, 0.1), x, constants, dims, 0.1)
        add("rms_norm", f"no-eps-{name}", partial(_rms_norm, inner, None), x, (w,), dims, MACHINE)
    weight = rand(7, 3)
    ids = torch.tensor([[1, 4, 1, 0], [6, 6, 0, 2]])
    for name, x in (("repeated", ids), ("deep", ids.reshape(2, 2, 2)), ("int32", ids.int())):
        case = Case("aten.embedding", name, lambda t, v: F.embedding(t, v), (x,), (weight,), batched=True)
        found.append(Check(case, "gradient", N.embedding))
    padded = weight.clone()
    padded[0] = 0.0
    case = Case(
        "aten.embedding", "padded", lambda t, v: F.embedding(t, v, padding_idx=0), (ids,), (padded,), batched=True
    )
    found.append(Check(case, "gradient", N.embedding))
    one = Case("aten.embedding", "one-row", lambda t, v: F.embedding(t, v), (torch.tensor([1, 2, 2]),), (weight,))
    found.append(Check(one, "gradient", N.embedding))
    return found + _bags()


BAGS = ("embedding_bag", "_embedding_bag", "_embedding_bag_forward_only")
MODES = {"sum": 0, "mean": 1, "max": 2}


def _bags() -> list[Check]:
    found: list[Check] = []
    ids, table, factors = torch.tensor([3, 1, 1, 0, 6, 2]), rand(7, 3), rand(6)
    named = {"i": ids, "t": table, "w": factors}
    for op in BAGS:
        for carry, mode, padding in (
            ("i", "sum", -1), ("i", "mean", -1), ("i", "max", -1), ("i", "mean", 1), ("t", "sum", -1), ("it", "sum", -1),
            ("iw", "sum", -1), ("w", "sum", 0), ("itw", "sum", 6), ("t", "max", -1),
        ):  # fmt: skip
            wanted = "itw" if "w" in carry else "it"
            constants = tuple(named[c] for c in wanted if c not in carry)
            offsets = [0, 2, 2] if mode != "max" else [0, 3]
            fn = partial(_bag, op, carry, wanted, offsets, MODES[mode], padding)
            name = f"{carry}-{mode}{'-padded' if padding >= 0 else ''}"
            case = Case(f"aten.{op}", name, fn, tuple(named[c] for c in carry), constants)
            for variant, halves in (("uniform", True), ("gradient", False)):
                rule = partial(N.embedding_bag, carry=carry, offsets=offsets, mode=mode, padding=padding, halves=halves)
                found.append(Check(case, variant, rule))
    return found


def _bag(op: str, carry: str, wanted: str, offsets: list[int], mode: int, padding: int, *given: Any) -> Any:
    names = [*carry, *(c for c in wanted if c not in carry)]
    named = dict(zip(names, given, strict=True))
    run = getattr(torch.ops.aten, op)
    run = run.padding_idx if op == "embedding_bag" else run
    start = torch.tensor(offsets)
    last = None if op == "embedding_bag" and padding < 0 else padding
    return run(named["t"], named["i"], start, False, mode, False, named.get("w"), False, last)


def _layer_norm(inner: list[int], x: Any, weight: Any = None, bias: Any = None) -> Any:
    return F.layer_norm(x, inner, weight, bias, 0.1)


def _native(inner: list[int], x: Any, weight: Any = None, bias: Any = None) -> Any:
    return torch.native_layer_norm(x, inner, weight, bias, 0.1)[0]


def _rms_norm(inner: list[int], eps: float | None, x: Any, weight: Any = None) -> Any:
    return F.rms_norm(x, inner, weight, eps)


CHECKS = _checks()
