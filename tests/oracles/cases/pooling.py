"""Average and maximum pooling, with fixed windows and adaptive ones."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from oracles import windows as W
from oracles.cases.family import FEW, passing
from oracles.cases.linear import checks_of
from oracles.harness import Arriving, Case, Check, Handed, source

__all__ = ["CHECKS"]

T = torch.ops.aten
rand = source(9)
SIZES = {1: (7,), 2: (5, 4), 3: (4, 3, 3)}

AVERAGES: tuple[dict[str, Any], ...] = (
    {},
    {"stride": 1},
    {"padding": 1},
    {"padding": 1, "count_include_pad": False},
    {"ceil_mode": True, "stride": 2},
    {"stride": 2, "padding": 1, "ceil_mode": True, "count_include_pad": False},
    {"divisor_override": 5, "padding": 1},
)
MAXIMA: tuple[dict[str, Any], ...] = (
    {},
    {"stride": 1},
    {"padding": 1},
    {"dilation": 2, "stride": 1},
    {"ceil_mode": True, "stride": 2},
    {"stride": 2, "padding": 1, "dilation": 1, "ceil_mode": True},
)
FAMILY = tuple((name, {"epsilon": 0.0} if name in ("flat", "w_square") else given) for name, given in FEW)
"""Flat and w^2 take the weights of a mean, which are all the same, as they are: only an epsilon could tell."""
SHARED: tuple[tuple[str, Any], ...] = (("uniform", W.uniform), ("proportional", W.proportional))
LARGEST: tuple[tuple[str, Mapping[str, Any], Any], ...] = (
    ("gradient", {}, W.winner), ("winner", {}, W.winner), ("winner", {"ties": "shared"}, W.shared_winner),
    ("dlb_default", {}, W.shared_winner),
)  # fmt: skip


def _wide(n: int, value: int) -> tuple[int, ...]:
    return (value,) * n


def _window(n: int, kernel: tuple[int, ...], options: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    stride = _wide(n, options["stride"]) if "stride" in options else kernel
    padding, dilation = (_wide(n, options.get(name, default)) for name, default in (("padding", 0), ("dilation", 1)))
    return {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}


def _named(options: Mapping[str, Any]) -> str:
    return "-".join(f"{k}{v}" for k, v in options.items()) or "plain"


def _mean(case: Case, choices: Any = (), **window: Any) -> list[Check]:
    """The variants of the linear family, and those that look at the window."""
    found = [
        *checks_of(case, epsilons=(0.0, 0.25), choices=choices),
        Check(case, "gradient", partial(W.average, **window)),
    ]
    return found + [Check(case, variant, partial(oracle, **window)) for variant, oracle in SHARED]


def _largest(case: Case, **window: Any) -> list[Check]:
    found = [Check(case, variant, partial(oracle, **window), given) for variant, given, oracle in LARGEST]
    return found + [Check(case, variant, partial(oracle, **window)) for variant, oracle in SHARED]


def _averages(n: int, x: Tensor, kernel: tuple[int, ...]) -> list[Check]:
    found: list[Check] = []
    pool = getattr(F, f"avg_pool{n}d")
    op = f"aten.avg_pool{n}d"
    for options in AVERAGES:
        if n > 1 or "divisor_override" not in options:
            case = Case(op, _named(options), partial(pool, kernel_size=kernel, **options), (x,), batched=True)
            found += _mean(case, FAMILY if options in ({}, AVERAGES[5]) else (), **_window(n, kernel, options))
    two = _wide(n, 2)
    found += _mean(Case(op, "unbatched", partial(pool, kernel_size=2), (x[0],)), **_window(n, two, {}))
    empty = Case(op, "zeros", partial(pool, kernel_size=2), (x * (x > 1.0),), batched=True)
    found.append(Check(empty, "proportional", partial(W.proportional, **_window(n, two, {}))))
    return found + passing(Case(op, "same", partial(pool, kernel_size=3, stride=1, padding=1), (x,), batched=True))


def _maxima(n: int, x: Tensor, kernel: tuple[int, ...]) -> list[Check]:
    found: list[Check] = []
    ties = (2 * x).round()
    for options in MAXIMA:
        for label, t in (("", x), ("-ties", ties)):
            name, window = _named(options) + label, _window(n, kernel, options)
            plain = partial(getattr(torch, f"max_pool{n}d"), kernel_size=kernel, **options)
            indexed = partial(_indexed, getattr(T, f"max_pool{n}d_with_indices"), kernel, options, n)
            for op, fn in ((f"aten.max_pool{n}d", plain), (f"aten.max_pool{n}d_with_indices", indexed)):
                found += _largest(Case(op, name, fn, (t,), batched=True), **window)
    plain = partial(getattr(torch, f"max_pool{n}d"), kernel_size=2)
    found += _largest(Case(f"aten.max_pool{n}d", "unbatched", plain, (ties[0],)), **_window(n, _wide(n, 2), {}))
    return found


def _adaptive(n: int, x: Tensor) -> list[Check]:
    found: list[Check] = []
    ties = (2 * x).round()
    for out in (_wide(n, 1), (3, 2, 2)[:n], (2, None, 1)[:n] if n > 1 else (4,)):
        name = f"{out}".replace(" ", "")
        fn = partial(getattr(F, f"adaptive_avg_pool{n}d"), output_size=out)
        found += _mean(Case(f"aten.adaptive_avg_pool{n}d", name, fn, (x,), batched=True), FAMILY)
        if n > 1 and None not in out:
            inner = partial(_exported, getattr(T, f"_adaptive_avg_pool{n}d"), out)
            found += _mean(Case(f"aten._adaptive_avg_pool{n}d", name, inner, (x,), batched=True), FAMILY)
        for label, t in (("", x), ("-ties", ties)):
            largest = Case(
                f"aten.adaptive_max_pool{n}d", name + label, partial(_adaptive_max, n, out), (t,), batched=True
            )
            found += _largest(largest)
    same = tuple(x.shape[-n:])
    found += passing(
        Case(f"aten.adaptive_avg_pool{n}d", "same", partial(_adaptive_average, n, same), (x,), batched=True)
    )
    if n > 1:
        inner = partial(_exported, getattr(T, f"_adaptive_avg_pool{n}d"), same)
        found += passing(Case(f"aten._adaptive_avg_pool{n}d", "same", inner, (x,), batched=True))
    return found


def _indexed(op: Any, kernel: Any, options: dict[str, Any], n: int, x: Any) -> Any:
    stride = options.get("stride", kernel)
    return op(
        x,
        kernel,
        _wide(n, stride) if isinstance(stride, int) else stride,
        _wide(n, options.get("padding", 0)),
        _wide(n, options.get("dilation", 1)),
        options.get("ceil_mode", False),
    )[0]


def _exported(op: Any, out: Any, x: Any) -> Any:
    return op(x, list(out))


def _adaptive_average(n: int, out: Any, x: Any) -> Any:
    return getattr(F, f"adaptive_avg_pool{n}d")(x, out)


def _adaptive_max(n: int, out: Any, x: Any) -> Any:
    return getattr(F, f"adaptive_max_pool{n}d")(x, out)


# -- windows drawn at random, and the way back ---------------------------------------------------------------------------


def _fractional(n: int) -> list[Check]:
    x, draws = (
        rand(2, 2, *(6, 5, 4)[:n]),
        torch.rand(2, 2, n, dtype=torch.float64, generator=torch.Generator().manual_seed(3)),
    )
    fn = partial(_drawn, getattr(T, f"fractional_max_pool{n}d"), n)
    case = Case(f"aten.fractional_max_pool{n}d", "drawn", fn, (x,), (draws,), batched=True, per_sample=(0,))
    return [Check(case, "gradient", _by_flat_index)]


def _drawn(op: Any, n: int, x: Tensor, draws: Tensor) -> Any:
    return op(x, [2] * n, [3, 2, 2][:n], draws)


def _by_flat_index(case: Case, arriving: Arriving) -> Handed:
    """All R to the element whose number in its plane the op gives."""
    (x,), R = case.arguments, arriving.R[0]
    index = case.call(x)[1].reshape(len(x) * x.shape[1], -1)
    handed = torch.zeros(x.shape, dtype=torch.float64).reshape(len(index), -1)
    for plane, (numbers, r) in enumerate(zip(index.tolist(), R.reshape(len(index), -1), strict=True)):
        for i, part in zip(numbers, r, strict=True):
            handed[plane, i] += part
    return Handed([handed.reshape(x.shape)])


def _unpooled(n: int) -> list[Check]:
    x = rand(2, 2, *(4, 3, 3)[:n])
    found = []
    for stride in (2, 1):
        pooled, index = getattr(F, f"max_pool{n}d")(x, 2, stride, return_indices=True)
        size = list(x.shape[-n:])
        extra = ([stride] * n, [0] * n) if n == 3 else ()
        fn = partial(_put_back, getattr(T, f"max_unpool{n}d"), size, extra)
        case = Case(f"aten.max_unpool{n}d", f"stride{stride}", fn, (pooled,), (index,), batched=True, per_sample=(0,))
        found += [Check(case, "identity", _put), Check(case, "gradient", partial(_put, evenly=False))]
    return found


def _put_back(op: Any, size: list[int], extra: Any, x: Tensor, index: Tensor) -> Tensor:
    result: Tensor = op(x, index, size, *extra)
    return result


def _put(case: Case, arriving: Arriving, evenly: bool = True) -> Handed:
    """R_i = R_j / n for the n elements i put at j; the gradient gives each all of it."""
    (x,), index, R = case.arguments, case.constants[0], arriving.R[0]
    planes = index.reshape(-1, index[0, 0].numel()).tolist()
    given = R.reshape(len(planes), -1)
    handed = torch.zeros(len(planes), len(planes[0]), dtype=torch.float64)
    for plane, numbers in enumerate(planes):
        for i, j in enumerate(numbers):
            handed[plane, i] = given[plane, j] / (numbers.count(j) if evenly else 1)
    rest = R.reshape(len(x), -1).sum(1) - handed.reshape(len(x), -1).sum(1)
    return Handed([handed.reshape(x.shape)], {} if evenly else {"overlap": rest})


def _checks() -> list[Check]:
    found: list[Check] = []
    for n, size in SIZES.items():
        x = rand(2, 2, *size)
        kernel = (2, 2, 2)[:n] if n == 3 else (3, 2)[:n]
        found += _averages(n, x, kernel) + _maxima(n, x, kernel) + _adaptive(n, x)
        if n > 1:
            found += _fractional(n) + _unpooled(n)
    return found


CHECKS = _checks()
