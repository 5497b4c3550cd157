"""Average and maximum pooling, with fixed windows and adaptive ones."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.nn import functional as F

from oracles import windows as W
from oracles.harness import Case, Check, source

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


def _wide(n: int, value: int) -> tuple[int, ...]:
    return (value,) * n


def _checks() -> list[Check]:
    found: list[Check] = []
    for n, size in SIZES.items():
        x = rand(2, 2, *size)
        ties = (2 * x).round()
        kernel = (2, 2, 2)[:n] if n == 3 else (3, 2)[:n]
        for options in AVERAGES:
            if n == 1 and "divisor_override" in options:
                continue
            fn = partial(getattr(F, f"avg_pool{n}d"), kernel_size=kernel, **options)
            window = {
                "kernel": kernel,
                "stride": _wide(n, options["stride"]) if "stride" in options else kernel,
                "padding": _wide(n, options.get("padding", 0)),
                "dilation": _wide(n, 1),
            }
            name = "-".join(f"{k}{v}" for k, v in options.items()) or "plain"
            case = Case(f"aten.avg_pool{n}d", name, fn, (x,), batched=True)
            found.append(Check(case, "gradient", partial(W.average, **window)))
        unbatched = Case(
            f"aten.avg_pool{n}d", "unbatched", partial(getattr(F, f"avg_pool{n}d"), kernel_size=2), (x[0],)
        )
        two = {"kernel": _wide(n, 2), "stride": _wide(n, 2), "padding": _wide(n, 0), "dilation": _wide(n, 1)}
        found.append(Check(unbatched, "gradient", partial(W.average, **two)))
        for options in MAXIMA:
            window = {
                "kernel": kernel,
                "stride": _wide(n, options["stride"]) if "stride" in options else kernel,
                "padding": _wide(n, options.get("padding", 0)),
                "dilation": _wide(n, options.get("dilation", 1)),
            }
            name = "-".join(f"{k}{v}" for k, v in options.items()) or "plain"
            for label, t in (("", x), ("-ties", ties)):
                plain = partial(getattr(torch, f"max_pool{n}d"), kernel_size=kernel, **options)
                found.append(
                    Check(
                        Case(f"aten.max_pool{n}d", name + label, plain, (t,), batched=True),
                        "gradient",
                        partial(W.winner, **window),
                    )
                )
                indexed = partial(_indexed, getattr(T, f"max_pool{n}d_with_indices"), kernel, options, n)
                case = Case(f"aten.max_pool{n}d_with_indices", name + label, indexed, (t,), batched=True)
                found.append(Check(case, "gradient", partial(W.winner, **window)))
        for out in (_wide(n, 1), (3, 2, 2)[:n], (2, None, 1)[:n] if n > 1 else (4,)):
            name = f"{out}".replace(" ", "")
            average = Case(
                f"aten.adaptive_avg_pool{n}d",
                name,
                partial(getattr(F, f"adaptive_avg_pool{n}d"), output_size=out),
                (x,),
                batched=True,
            )
            found.append(Check(average, "gradient", W.average))
            for label, t in (("", x), ("-ties", ties)):
                fn = partial(_adaptive_max, n, out)
                case = Case(f"aten.adaptive_max_pool{n}d", name + label, fn, (t,), batched=True)
                found.append(Check(case, "gradient", W.winner))
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


def _adaptive_max(n: int, out: Any, x: Any) -> Any:
    return getattr(F, f"adaptive_max_pool{n}d")(x, out)


CHECKS = _checks()
