"""Group norm, instance norm, and the forms of batch norm that exports write."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from oracles import group_norms as G
from oracles.cases.family import passing
from oracles.harness import Case, Check, source

__all__ = ["CHECKS"]

T = torch.ops.aten
rand = source(12)
EPS = 0.1
MEAN, VAR = rand(4), rand(4).abs() + 0.3
SHAPES = ((2, 4), (2, 4, 3), (2, 4, 2, 3), (2, 4, 2, 1, 2))


def _checks() -> list[Check]:
    found: list[Check] = []

    def add(op: str, name: str, fn: Any, x: Tensor, constants: Any, groups: Any, batched: bool = True) -> None:
        case = Case(op, name, fn, (x,), constants, batched=batched)
        found.append(Check(case, "identity", partial(G.held, groups=groups, eps=EPS)))
        found.append(Check(case, "gradient", partial(G.gradient, groups=groups, eps=EPS)))
        found.extend(passing(case))

    def add_affine(op: str, name: str, fn: Any, x: Tensor, constants: Any) -> None:
        case = Case(op, name, fn, (x,), constants, batched=True)
        oracle = partial(G.affine, mean=MEAN, var=VAR, eps=EPS)
        found.append(Check(case, "identity", oracle))
        found.append(Check(case, "gradient", partial(oracle, name="norm")))
        found.extend(passing(case))

    for shape in SHAPES:
        x, given = rand(*shape), (rand(4), rand(4))
        for label, constants in (("plain", ()), ("weight", given[:1]), ("affine", given)):
            name = f"{label}-{len(shape) - 2}d"
            for groups in (2, 1) if label == "affine" else (2,):
                grouped = f"{name}-{groups}"
                add("aten.group_norm", grouped, partial(_group, groups), x, constants, G.of_channels(groups))
                add(
                    "aten.native_group_norm",
                    grouped,
                    partial(_native_group, groups),
                    x,
                    constants,
                    G.of_channels(groups),
                )
            if len(shape) > 2:
                add("aten.instance_norm", name, _instance, x, constants, G.of_planes)
                add_affine("aten.instance_norm", f"{name}-running", partial(_instance, running=True), x, constants)
            for op in _BATCH:
                add_affine(f"aten.{op}", name, partial(_batch, op), x, constants)
    for op in ("native_batch_norm", "_native_batch_norm_legit.no_stats"):
        add(f"aten.{op}", "own", partial(_own, op), rand(1, 4, 6), (rand(4), rand(4)), G.of_batch, batched=False)
    return found


_BATCH = ("native_batch_norm", "_native_batch_norm_legit_no_training")


def _group(groups: int, x: Tensor, weight: Any = None, bias: Any = None) -> Tensor:
    return F.group_norm(x, groups, weight, bias, EPS)


def _native_group(groups: int, x: Tensor, weight: Any = None, bias: Any = None) -> Tensor:
    n, c = x.shape[:2]
    return torch.native_group_norm(x, weight, bias, n, c, x[0, 0].numel(), groups, EPS)[0]


def _instance(x: Tensor, weight: Any = None, bias: Any = None, running: bool = False) -> Tensor:
    mean, var = (MEAN.to(x.dtype), VAR.to(x.dtype)) if running else (None, None)
    return torch.instance_norm(x, weight, bias, mean, var, not running, 0.1, EPS, False)


def _batch(op: str, x: Tensor, weight: Any = None, bias: Any = None) -> Tensor:
    training = (False,) if op == "native_batch_norm" else ()
    result: Tensor = getattr(T, op)(x, weight, bias, MEAN.to(x.dtype), VAR.to(x.dtype), *training, 0.1, EPS)[0]
    return result


def _own(op: str, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Batch norm by the statistics of the batch: samples mix."""
    if op == "native_batch_norm":
        return T.native_batch_norm(x, weight, bias, None, None, True, 0.1, EPS)[0]
    return T._native_batch_norm_legit.no_stats(x, weight, bias, True, 0.1, EPS)[0]


CHECKS = _checks()
