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
    return found


def _layer_norm(inner: list[int], x: Any, weight: Any = None, bias: Any = None) -> Any:
    return F.layer_norm(x, inner, weight, bias, 0.1)


def _native(inner: list[int], x: Any, weight: Any = None, bias: Any = None) -> Any:
    return torch.native_layer_norm(x, inner, weight, bias, 0.1)[0]


def _rms_norm(inner: list[int], eps: float | None, x: Any, weight: Any = None) -> Any:
    return F.rms_norm(x, inner, weight, eps)


CHECKS = _checks()
