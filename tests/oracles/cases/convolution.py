"""Convolutions, transposed ones, and batch norm in eval mode."""

from __future__ import annotations

from typing import Any

from torch.nn import functional as F

from oracles.cases.family import FEW, MANY, passing, variants_of
from oracles.cases.linear import checks_of
from oracles.harness import Case, Check, source

__all__ = ["CHECKS"]

rand = source(2)

Options = tuple[dict[str, Any], ...]

CONV: Options = (
    {}, {"bias": False}, {"stride": 2}, {"padding": 1}, {"padding": "same"}, {"padding": "valid"}, {"dilation": 2},
    {"groups": 2}, {"groups": 4, "depthwise": True}, {"stride": 2, "padding": 1, "dilation": 2, "groups": 2},
    {"padding": "same", "dilation": 2, "bias": False}, {"unbatched": True, "padding": 1}, {"carrying": True, "padding": 1},
)  # fmt: skip
TRANSPOSED: Options = (
    {}, {"bias": False}, {"stride": 2}, {"stride": 2, "padding": 1, "output_padding": 1}, {"dilation": 2},
    {"groups": 2}, {"groups": 4, "depthwise": True}, {"unbatched": True, "stride": 2}, {"carrying": True, "stride": 2},
)  # fmt: skip
SIZES = {1: (6,), 2: (5, 4), 3: (4, 3, 3)}


def _convolutions(transposed: bool) -> list[Check]:
    found: list[Check] = []
    for n in (1, 2, 3):
        op = f"conv_transpose{n}d" if transposed else f"conv{n}d"
        for options in TRANSPOSED if transposed else CONV:
            given: dict[str, Any] = dict(options)
            bias, unbatched = given.pop("bias", True), given.pop("unbatched", False)
            carrying, depthwise = given.pop("carrying", False), given.pop("depthwise", False)
            groups = given.get("groups", 1)
            ins = 4 if groups > 1 else 2
            outs = 8 if depthwise else 4 if groups > 1 else 3
            kernel = (2,) * n if n == 3 and given.get("dilation", 1) > 1 else (3, 2, 2)[:n]
            if given.get("padding") == "same":
                kernel = (3, 1, 1)[:n]
            shape = (ins, outs // groups, *kernel) if transposed else (outs, ins // groups, *kernel)
            weight, x = rand(*shape), rand(*(() if unbatched else (2,)), ins, *SIZES[n])
            offset = (rand(outs),) if bias else ()
            name = "-".join(f"{k}{v}" for k, v in options.items()) or "plain"
            epsilons = (0.0, 1e-6, 0.25) if n == 2 else (0.25,)
            inputs, constants = ((x, weight), offset) if carrying else ((x,), (weight, *offset))
            fn = _with(getattr(F, op), given)
            case = Case(f"aten.{op}", name, fn, inputs, constants, batched=not unbatched and not carrying)
            many = n == 2 and name in ("plain", "unbatchedTrue-padding1", "stride2-padding1-dilation2-groups2")
            channels = ins if many and not carrying else 0
            choices = MANY if many else FEW
            found += checks_of(case, epsilons=epsilons, choices=choices, channel=-n - 1, channels=channels)
    return found


def _rectified() -> list[Check]:
    """Inputs that are known not to be negative."""
    found: list[Check] = []
    for op in (F.conv2d, F.conv_transpose2d):
        x, weight, bias = rand(2, 2, 4, 3).abs() + 0.1, rand(2, 2, 2, 2), rand(2)
        fn = _with(op, {"padding": 1, "stride": 2})
        case = Case(f"aten.{op.__name__}", "rectified", fn, (x,), (weight, bias), batched=True, rectified=True)
        found += variants_of(case, FEW)
    return found


def _passing() -> list[Check]:
    """Outputs shaped as the inputs."""
    found: list[Check] = []
    for n in (1, 2, 3):
        for op in (f"conv{n}d", f"conv_transpose{n}d"):
            fn = _with(getattr(F, op), {"padding": 1})
            case = Case(
                f"aten.{op}", "same", fn, (rand(2, 2, *SIZES[n]),), (rand(2, 2, *(3,) * n), rand(2)), batched=True
            )
            found += passing(case)
    return found


def _with(op: Any, options: dict[str, Any]) -> Any:
    return lambda x, weight, bias=None: op(x, weight, bias, **options)


def _batch_norm() -> list[Check]:
    found: list[Check] = []
    for shape in ((3, 4), (2, 4, 3), (2, 4, 2, 3), (2, 4, 2, 1, 2)):
        mean, var, weight, bias = rand(4), rand(4).abs() + 0.2, rand(4), rand(4)
        for affine in (True, False):
            constants = (mean, var, weight, bias) if affine else (mean, var)
            name = f"{len(shape)}d{'-affine' if affine else ''}"
            case = Case("aten.batch_norm", name, _norm, (rand(*shape),), constants, batched=True)
            # A unit with one input that is the sample's extreme has nothing to share by: 0 / 1e-6 is all rounding.
            many = [choice for choice in MANY if choice != ("zbox", {})]
            choices, channels = (many, 4) if len(shape) == 4 and affine else (FEW, 0)
            found += checks_of(case, choices=choices, channel=1, channels=channels) + passing(case)
    x = rand(2, 4, 3)
    scaled = Case("aten.batch_norm", "weight-only", lambda x, m, v, w: F.batch_norm(x, m, v, w, eps=0.1), (x,),
                  (rand(4), rand(4).abs(), rand(4)), batched=True)  # fmt: skip
    return [*found, *checks_of(scaled, choices=FEW)]


def _norm(x: Any, mean: Any, var: Any, weight: Any = None, bias: Any = None) -> Any:
    return F.batch_norm(x, mean, var, weight, bias, False, 0.1, 1e-3)


CHECKS = [*_convolutions(False), *_convolutions(True), *_rectified(), *_passing(), *_batch_norm()]
