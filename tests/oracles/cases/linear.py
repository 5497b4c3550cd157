"""The linear family: sums of products, with weights or with factors that carry relevance themselves."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F

from oracles.cases.family import FEW, MANY, SYMMETRIC, Choice, passing, variants_of
from oracles.harness import Case, Check, source
from oracles.sums import sum_of_products

__all__ = ["CHECKS", "checks_of"]

T = torch.ops.aten
rand = source(1)
EPSILONS = (0.0, 1e-6, 0.25)


def checks_of(
    case: Case, additive: tuple[int, ...] = (), epsilons: tuple[float, ...] = EPSILONS, choices: Iterable[Choice] = (),
    **more: int,
) -> list[Check]:  # fmt: skip
    """The variants of the linear family for one case: epsilon, gradient, and those of `choices`."""
    found = [
        Check(case, "epsilon", partial(sum_of_products, epsilon=e, additive=additive), {"epsilon": e}) for e in epsilons
    ]
    if not additive and len(epsilons) > 1:
        dropped = partial(sum_of_products, epsilon=0.25, bias_dropped=True)
        found.append(Check(case, "epsilon", dropped, {"epsilon": 0.25, "bias": "dropped"}))
    found.append(Check(case, "gradient", partial(sum_of_products, uniform=False, additive=additive)))
    if case.op in PRODUCTS:
        found += _of_factors(case, additive)
    return found + variants_of(case, choices, additive, **more)


PRODUCTS = frozenset(
    f"aten.{name}" for name in "linear addmm addmv addbmm baddbmm mm mv bmm dot outer matmul einsum bilinear".split()
)


def _of_factors(case: Case, additive: tuple[int, ...]) -> list[Check]:
    """What ops have that can multiply two values which carry relevance: evenly, or all to one of them."""
    factors = [k for k in range(len(case.places)) if k not in additive]
    found = []
    for e in (0.0, 0.25):
        oracle = partial(sum_of_products, epsilon=e, additive=additive)
        found.append(Check(case, "uniform", oracle, {"epsilon": e}))
        for name, k in (("first", 0), ("last", -1)):
            chosen = partial(oracle, signal=factors[k] if len(factors) > 1 else None)
            found.append(Check(case, "signal", chosen, {"signal": name, "epsilon": e}))
    return [*found, Check(case, "signal", oracle, {"epsilon": e})]


def _linear() -> list[Check]:
    w, b = rand(3, 4), rand(3)
    found: list[Check] = []
    for shape in ((2, 4), (4,), (2, 3, 4), (2, 1, 2, 4)):
        name, rows = f"{len(shape)}d", len(shape) > 1
        biased = Case("aten.linear", f"{name}-bias", F.linear, (rand(*shape),), (w, b), batched=rows)
        plain = Case("aten.linear", name, F.linear, (rand(*shape),), (w,), batched=rows)
        found += checks_of(biased, choices=MANY, channels=4) + checks_of(plain, choices=FEW)
    weight = Case("aten.linear", "weight", lambda v, x, c: F.linear(x, v, c), (rand(3, 4),), (rand(2, 4), b))
    both = Case("aten.linear", "input-and-weight", F.linear, (rand(2, 4), rand(3, 4)), (b,))
    three = Case("aten.linear", "input-weight-and-bias", F.linear, (rand(2, 4), rand(3, 4), rand(3)))
    bias = Case("aten.linear", "bias", lambda c, x, v: F.linear(x, v, c), (rand(3),), (rand(2, 4), w))
    with_bias = Case("aten.linear", "input-and-bias", lambda x, c, v: F.linear(x, v, c), (rand(2, 4), rand(3)), (w,))
    found += checks_of(weight, choices=FEW) + checks_of(both, choices=MANY)
    found += checks_of(three, (2,), choices=FEW) + checks_of(with_bias, (1,), choices=MANY)
    return found + checks_of(bias, (0,), choices=[(name, more) for name, more in MANY if name in SYMMETRIC])


def _special() -> list[Check]:
    """Inputs of one sign, and zeros among inputs, weights and outputs."""
    w, b, x = rand(3, 4), rand(3), rand(2, 4)
    above = (w, b.abs() + 0.5)
    positive = Case("aten.linear", "positive", F.linear, (x.abs() + 0.1,), (w, b), batched=True, rectified=True)
    zeros = torch.where(x < 0, 0.0, x + 0.1)
    rectified = Case("aten.linear", "rectified", F.linear, (zeros,), (w, b), batched=True, rectified=True)
    alone = Case("aten.linear", "rectified-no-bias", F.linear, (zeros,), (w,), batched=True, rectified=True)
    holes = Case("aten.linear", "zero-weights", F.linear, (x,), (torch.where(w < -0.5, 0.0, w), b), batched=True)
    blind = Case("aten.linear", "unit-without-weights", F.linear, (x,), (w * torch.tensor([[1.0], [0.0], [1.0]]), b),
                 batched=True)  # fmt: skip
    found = variants_of(positive, MANY)
    for case in (rectified, alone):
        found += variants_of(case, [(name, more) for name, more in MANY if name in (*SYMMETRIC, "gamma")])
    for case in (holes, blind, Case("aten.linear", "negative", F.linear, (-x.abs(),), (w.abs(), b), batched=True)):
        found += variants_of(case, FEW)
    for sign in (1.0, -1.0):
        nothing = Case("aten.linear", f"zeros-{sign}", F.linear, (x * torch.tensor([[1.0], [0.0]]),),
                       (w, sign * above[1]), batched=True)  # fmt: skip
        found += variants_of(nothing, [*FEW, *((name, {"epsilon": 0.0}) for name in _WITH_EPSILON)])
    return found


def _passing() -> list[Check]:
    """Ops whose output has the shape of a factor: not a dot or outer product, nor a sum over a batch."""
    square, vector, batch, bias = rand(3, 3), rand(3), rand(2, 3, 3), rand(3)
    rows: dict[str, Any] = {"batched": True}
    scales = {"alpha": 0.5, "beta": 2.0}
    cases = [
        Case("aten.linear", "square", F.linear, (rand(2, 3),), (square, bias), **rows),
        Case("aten.mm", "square-left", torch.mm, (rand(2, 3),), (square,), **rows),
        Case("aten.mm", "square", torch.mm, (rand(3, 3), square)),
        Case("aten.mv", "square", lambda y, x: torch.mv(x, y), (vector,), (square,)),
        Case("aten.bmm", "square", torch.bmm, (rand(2, 3, 3), batch), **rows),
        Case("aten.addmm", "square", partial(_addmm, **scales), (rand(2, 3),), (square, bias), **rows),
        Case("aten.addmv", "square", lambda y, x, c: _addmv(x, y, c, **scales), (vector,), (square, bias)),
        Case("aten.baddbmm", "square", partial(_baddbmm, **scales), (rand(2, 3, 3), batch), (bias,), **rows),
        Case("aten.matmul", "square-left", torch.matmul, (rand(2, 3, 3),), (square,), **rows),
        Case("aten.matmul", "square", torch.matmul, (rand(2, 3, 3), batch), **rows),
        Case("aten.einsum", "square", partial(torch.einsum, "bij,bjk->bik"), (rand(2, 3, 3), batch), **rows),
        Case("aten.einsum", "square-left", partial(torch.einsum, "bi,ij->bj"), (rand(2, 3),), (square,), **rows),
        Case(
            "aten.bilinear",
            "square",
            F.bilinear,
            (rand(2, 3),),
            (rand(2, 2), rand(3, 3, 2), bias),
            per_sample=(0,),
            **rows,
        ),
    ]
    return [check for case in cases for check in passing(case)]


_WITH_EPSILON = ("norm", "zplus", "alpha_beta", "gamma", "flat", "w_square", "zbox")


def _matrices() -> list[Check]:
    a, b, v = rand(3, 4), rand(4, 2), rand(4)
    batch_a, batch_b = rand(2, 3, 4), rand(2, 4, 2)
    alike = {"batched": True}
    found: list[Check] = []

    def add(op: str, name: str, fn: Any, inputs: Any, constants: Any = (), additive: Any = (), **more: Any) -> None:
        choices = FEW if "0.5" in name or "1-1" not in name else ()
        found.extend(checks_of(Case(op, name, fn, inputs, constants, **more), additive, choices=choices))

    add("aten.mm", "left", torch.mm, (a,), (b,), **alike)
    add("aten.mm", "right", lambda y, x: torch.mm(x, y), (b,), (a,))
    add("aten.mm", "both", torch.mm, (a, b))
    add("aten.mm", "itself", torch.mm, (rand(3, 3),), slots=(0, 0))
    add("aten.mv", "matrix", torch.mv, (a,), (v,), **alike)
    add("aten.mv", "vector", lambda y, x: torch.mv(x, y), (v,), (a,))
    add("aten.mv", "both", torch.mv, (a, v))
    add("aten.bmm", "left", torch.bmm, (batch_a,), (batch_b,))
    add("aten.bmm", "both", torch.bmm, (batch_a, batch_b), **alike)
    add("aten.dot", "one", torch.dot, (v,), (rand(4),))
    add("aten.dot", "both", torch.dot, (v, rand(4)))
    add("aten.dot", "itself", torch.dot, (v,), slots=(0, 0))
    add("aten.outer", "one", torch.outer, (rand(3),), (v,))
    add("aten.outer", "both", torch.outer, (rand(3), v))
    bias_vector, bias_matrix = rand(2), rand(3, 2)
    for alpha, beta in ((1, 1), (0.5, 2.0), (-1.5, -0.5)):
        addmm = partial(_addmm, alpha=alpha, beta=beta)
        add("aten.addmm", f"vector-{alpha}-{beta}", addmm, (a,), (b, bias_vector), **alike)
        add("aten.addmm", f"matrix-{alpha}-{beta}", addmm, (a,), (b, bias_matrix))
        add("aten.addmm", f"scalar-{alpha}-{beta}", addmm, (a,), (b, rand()))
        add("aten.addmm", f"both-{alpha}-{beta}", addmm, (a, b), (bias_matrix,))
        add("aten.addmm", f"all-{alpha}-{beta}", addmm, (a, b, bias_matrix), (), (2,))
        add("aten.addmv", f"{alpha}-{beta}", partial(_addmv, alpha=alpha, beta=beta), (a,), (v, rand(3)))
        add("aten.addmv", f"scalar-{alpha}-{beta}", partial(_addmv, alpha=alpha, beta=beta), (a,), (v, rand()), **alike)
        add("aten.addmv", f"all-{alpha}-{beta}", partial(_addmv, alpha=alpha, beta=beta), (a, v, rand(3)), (), (2,))
        baddbmm = partial(_baddbmm, alpha=alpha, beta=beta)
        add("aten.baddbmm", f"left-{alpha}-{beta}", baddbmm, (batch_a,), (batch_b, rand(2, 3, 2)))
        add("aten.baddbmm", f"both-{alpha}-{beta}", baddbmm, (batch_a, batch_b), (rand(3, 2),), **alike)
        add("aten.baddbmm", f"all-{alpha}-{beta}", baddbmm, (batch_a, batch_b, rand(2, 3, 2)), (), (2,), **alike)
        add(
            "aten.addbmm",
            f"both-{alpha}-{beta}",
            partial(_addbmm, alpha=alpha, beta=beta),
            (batch_a, batch_b),
            (rand(3, 2),),
        )
    add("aten.baddbmm", "vector", partial(_baddbmm, alpha=1, beta=1), (batch_a, batch_b), (rand(2),), **alike)
    add("aten.addbmm", "one", partial(_addbmm, alpha=1, beta=1), (batch_a,), (batch_b, rand(2)))
    add("aten.bilinear", "first", F.bilinear, (rand(2, 3),), (rand(2, 2), rand(4, 3, 2), rand(4)))
    add("aten.bilinear", "both", F.bilinear, (rand(2, 3), rand(2, 2)), (rand(4, 3, 2), rand(4)), **alike)
    add("aten.bilinear", "both-no-bias", F.bilinear, (rand(2, 1, 2), rand(2, 1, 3)), (rand(3, 2, 3),), **alike)
    add("aten.bilinear", "three", F.bilinear, (rand(2, 3), rand(2, 2), rand(4, 3, 2)), (rand(4),))
    return found


def _addmm(x: Any, y: Any, c: Any, alpha: float, beta: float) -> Any:
    return torch.addmm(c, x, y, alpha=alpha, beta=beta)


def _addmv(x: Any, y: Any, c: Any, alpha: float, beta: float) -> Any:
    return torch.addmv(c, x, y, alpha=alpha, beta=beta)


def _baddbmm(x: Any, y: Any, c: Any, alpha: float, beta: float) -> Any:
    return torch.baddbmm(c, x, y, alpha=alpha, beta=beta)


def _addbmm(x: Any, y: Any, c: Any, alpha: float, beta: float) -> Any:
    return torch.addbmm(c, x, y, alpha=alpha, beta=beta)


MATMUL_SHAPES = (
    ((4,), (4,)), ((4,), (4, 3)), ((2, 4), (4,)), ((2, 4), (4, 3)), ((4,), (2, 4, 3)), ((2, 3, 4), (4,)),
    ((2, 3, 4), (4, 2)), ((3, 4), (2, 4, 2)), ((2, 3, 4), (2, 4, 2)), ((2, 1, 3, 4), (2, 4, 2)),
    ((1, 2, 3, 4), (2, 1, 4, 2)), ((2, 1, 2, 4), (1, 3, 4, 2)), ((2, 2, 3, 4), (4,)), ((4,), (1, 2, 4, 2)),
)  # fmt: skip


MATMUL_VARIANTS = (
    ((4,), (4,)), ((2, 4), (4, 3)), ((4,), (2, 4, 3)), ((2, 3, 4), (4, 2)), ((3, 4), (2, 4, 2)), ((2, 1, 3, 4), (2, 4, 2)),
)  # fmt: skip
"""Those on which all variants are tried."""


def _matmul() -> list[Check]:
    found: list[Check] = []
    for left, right in MATMUL_SHAPES:
        name = f"{list(left)}{list(right)}".replace(" ", "")
        a, b = rand(*left), rand(*right)
        rows = len(right) <= 2 and len(left) > 1 and len(right) < len(left) + 1
        choices = FEW if (left, right) in MATMUL_VARIANTS else ()
        first = Case("aten.matmul", f"left-{name}", torch.matmul, (a,), (b,), batched=rows)
        second = Case("aten.matmul", f"right-{name}", lambda y, x: torch.matmul(x, y), (b,), (a,))
        both = Case("aten.matmul", f"both-{name}", torch.matmul, (a, b))
        for case in (first, second, both):
            found += checks_of(case, choices=choices)
    x = rand(2, 3, 3)
    found += checks_of(Case("aten.matmul", "itself", torch.matmul, (x,), slots=(0, 0), batched=True), choices=FEW)
    return found


EQUATIONS = (
    ("ij,jk->ik", ((2, 3), (3, 4))), ("bij,bjk->bik", ((2, 3, 2), (2, 2, 3))), ("bhid,bhjd->bhij", ((2, 2, 2, 3),) * 2),
    ("i,j->ij", ((3,), (4,))), ("bi,bi->b", ((2, 3), (2, 3))), ("...i,ji->...j", ((2, 3, 4), (2, 4))), ("ij,ij", ((2, 3),) * 2),
    ("ij->ji", ((2, 3),)), ("ii->i", ((3, 3),)), ("bij->b", ((2, 2, 3),)),
    ("bi,ij,bj->b", ((2, 3), (3, 4), (2, 4))), ("bi,bi,bi->bi", ((2, 3),) * 3),
    ("bik,bjk,bk->bij", ((2, 2, 3), (2, 2, 3), (2, 3))),
)  # fmt: skip


def _einsum() -> list[Check]:
    found: list[Check] = []
    for equation, shapes in EQUATIONS:
        tensors = [rand(*shape) for shape in shapes]
        for carrying in {(0,), (len(shapes) - 1,), tuple(range(len(shapes))), tuple(range(min(2, len(shapes))))}:
            order = [*carrying, *(k for k in range(len(shapes)) if k not in carrying)]
            fn = partial(_in_order, equation, order)
            inputs = tuple(tensors[k] for k in carrying)
            rest = tuple(tensors[k] for k in order[len(carrying) :])
            batched = len(carrying) == len(shapes) and all(
                t.startswith("b") for t in equation.split("->")[0].split(",")
            )
            batched = batched and equation.split("->")[-1].startswith("b")
            name = f"{equation}-{''.join(map(str, carrying))}"
            found += checks_of(
                Case("aten.einsum", name, fn, inputs, rest, batched=batched), epsilons=(0.0, 0.25), choices=FEW
            )
    square = Case("aten.einsum", "itself", lambda x, y: torch.einsum("bi,bj->bij", x, y), (rand(2, 3),), slots=(0, 0))
    return [*found, *checks_of(square, choices=FEW)]


def _in_order(equation: str, order: list[int], *tensors: Any) -> Any:
    return torch.einsum(equation, *[tensors[order.index(k)] for k in range(len(order))])


CHECKS = [*_linear(), *_special(), *_passing(), *_matrices(), *_matmul(), *_einsum()]
