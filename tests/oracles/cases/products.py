"""Elementwise products and quotients."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from oracles.dlb import product_by_distance
from oracles.harness import Arriving, Case, Check, Handed, source
from oracles.sums import all_to_one, elementwise_product

__all__ = ["CHECKS"]

rand = source(3)
SHAPES = (((2, 3), (2, 3)), ((2, 3), (3,)), ((2, 1, 3), (4, 1)), ((2, 3), ()), ((2, 2, 1), (2, 1, 3)))

FIXED = torch.tensor([[1.0, 0.0, 1.0, 2.0], [0.5, 1.0, 1.0, -1.0]], dtype=torch.float64)
"""Times itself backwards, with products that equal both factors, or one."""


def _both(op: str, name: str, fn: Any, inputs: Any, constants: Any = (), inverse: Any = (), **more: Any) -> list[Check]:
    case = Case(op, name, fn, inputs, constants, **more)
    found = [
        Check(case, "uniform", partial(elementwise_product, inverse=inverse)),
        Check(case, "gradient", partial(elementwise_product, inverse=inverse, uniform=False)),
    ]
    if case.batched:  # the target of the others is a product, too
        damped = partial(elementwise_product, inverse=inverse, epsilon=0.25)
        found.append(Check(case, "uniform", damped, {"epsilon": 0.25}))
    return found + _of_products(case) if op in ("aten.mul", "aten.multiply") else found


def _of_products(case: Case) -> list[Check]:
    """What only products have. Of factors neither of which is a gate neither is the signal: halves."""
    return [
        Check(case, "signal", partial(all_to_one, signal=0), {"signal": "self"}),
        Check(case, "signal", partial(all_to_one, signal=1), {"signal": "other"}),
        Check(case, "signal", elementwise_product),
        Check(case, "dlb_default", product_by_distance),
    ]


def _checks() -> list[Check]:
    found: list[Check] = []
    for op, fn in (("mul", torch.mul), ("multiply", torch.multiply)):
        for left, right in SHAPES:
            name, rows = f"{left}{right}".replace(" ", ""), left[:1] == (2,)
            x, y = rand(*left), rand(*right)
            found += _both(f"aten.{op}", f"left-{name}", fn, (x,), (y,), batched=rows and len(right) <= len(left),
                           per_sample=(0,) if right[:1] == (2,) else ())  # fmt: skip
            found += _both(f"aten.{op}", f"right-{name}", lambda b, a, fn=fn: fn(a, b), (y,), (x,))
            found += _both(f"aten.{op}", f"both-{name}", fn, (x, y), batched=right[:1] == (2,))
        x = rand(2, 3)
        found += _both(f"aten.{op}", "itself", fn, (x,), slots=(0, 0), batched=True)
        found += _of_products(Case(f"aten.{op}", "ones-and-zeros", fn, (FIXED, FIXED.flip(1)), batched=True))
        found += _both(f"aten.{op}", "number", lambda a, fn=fn: fn(a, -1.5), (x,), batched=True)
        found += _both(f"aten.{op}", "integers", fn, (x,), (torch.tensor([2, -1, 3]),), batched=True)
        found += _both(f"aten.{op}", "truth", fn, (x,), (torch.tensor([True, False, True]),), batched=True)
    quotients: tuple[tuple[str, Any], ...] = (
        ("div", torch.div), ("divide", torch.divide), ("true_divide", torch.true_divide),
    )  # fmt: skip
    for op, fn in quotients:
        for left, right in SHAPES:
            name = f"{left}{right}".replace(" ", "")
            x, y = rand(*left), rand(*right) + 0.1
            rows = len(right) <= len(left) and right[:1] != (2,)
            found += _both(f"aten.{op}", f"over-constant-{name}", fn, (x,), (y,), batched=rows)
            found += _both(f"aten.{op}", f"constant-over-{name}", lambda b, a, fn=fn: fn(a, b), (y,), (x,), (0,))
            found += _both(f"aten.{op}", f"both-{name}", fn, (x, y), inverse=(1,), batched=right[:1] == (2,))
        found += _both(f"aten.{op}", "itself", fn, (rand(2, 3),), inverse=(1,), slots=(0, 0), batched=True)
        found += _both(f"aten.{op}", "number", lambda a, fn=fn: fn(a, -1.5), (rand(2, 3),), batched=True)
    for mode in ("floor", "trunc"):
        tensor = Case("aten.div.Tensor_mode", mode, partial(_rounded, mode), (rand(2, 3),), (rand(3),), batched=True)
        number = Case(
            "aten.div.Scalar_mode",
            mode,
            lambda a, m=mode: torch.ops.aten.div.Scalar_mode(a, 0.3, rounding_mode=m),
            (rand(2, 3),),
            batched=True,
        )
        found += [Check(case, variant, _stopped) for case in (tensor, number) for variant in ("uniform", "gradient")]
    return found


def _rounded(mode: str, x: torch.Tensor, y: Any) -> torch.Tensor:
    return torch.div(x, y, rounding_mode=mode)


def _stopped(case: Case, arriving: Arriving) -> Handed:
    """A rounded quotient is constant between its steps: nothing passes."""
    (R,) = arriving.R
    return Handed([torch.zeros_like(R)], {"stopped": R})


CHECKS = _checks()
