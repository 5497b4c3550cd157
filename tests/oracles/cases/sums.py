"""Sums of values and over dimensions, and picking."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import torch

from oracles.cases.family import Choice, variants_of
from oracles.dlb import contrastive_sum, sum_by_size
from oracles.harness import Case, Check, source
from oracles.picks import all_equal, by_index, largest_of_scattered, of_two, picked
from oracles.sums import elementwise_sum, sum_of_products

__all__ = ["CHECKS"]

T = torch.ops.aten
rand = source(4)
EPSILONS = (0.0, 1e-6, 0.25)
REDUCED: tuple[Choice, ...] = (
    ("dlb_default", {}),
    ("dlb_default", {"low": -0.5}),
    ("dlb_default", {"low": -1.0, "high": 0.5}),
    ("dlb_contrastive", {}),
)


def _of_terms(op: str, name: str, fn: Any, inputs: Any, constants: Any, terms: Any, **more: Any) -> list[Check]:
    case = Case(op, name, fn, inputs, constants, **more)
    found = [Check(case, "epsilon", partial(elementwise_sum, terms=terms, epsilon=e), {"epsilon": e}) for e in EPSILONS]
    found.append(Check(case, "gradient", partial(elementwise_sum, terms=terms)))
    return found + _by_size(case, terms)


def _by_size(case: Case, terms: Any) -> list[Check]:
    return [
        Check(case, "dlb_default", partial(sum_by_size, terms=terms)),
        Check(case, "dlb_contrastive", partial(contrastive_sum, terms=terms), streams=True),
    ]


def _added(op: str, fn: Any, first: float, second: float, label: str) -> list[Check]:
    """z = first * a + second * b."""
    found: list[Check] = []
    for left, right in (((2, 3), (2, 3)), ((2, 3), (3,)), ((2, 1, 3), (4, 1)), ((2, 3), ()), ((3,), (2, 3))):
        name = f"{label}-{left}{right}".replace(" ", "")
        x, y = rand(*left), rand(*right)
        rows = left[:1] == (2,) and len(right) <= len(left)
        found += _of_terms(
            op, f"left-{name}", fn, (x,), (y,), lambda a, b: (first * a, second * b), batched=rows and right[:1] != (2,)
        )
        found += _of_terms(op, f"right-{name}", lambda b, a: fn(a, b), (y,), (x,), lambda b, a: (second * b, first * a))
        found += _of_terms(
            op, f"both-{name}", fn, (x, y), (), lambda a, b: (first * a, second * b), batched=rows and right[:1] == (2,)
        )
    found += (
        _of_terms(
            op,
            f"itself-{label}",
            fn,
            (rand(2, 3) + (0.0 if first + second else 2.0),),
            (),
            lambda a, b: (first * a, second * b),
            slots=(0, 0),
            batched=True,
        )
        if first + second
        else []
    )
    number = torch.tensor(0.7, dtype=torch.float64)
    found += _of_terms(
        op,
        f"number-{label}",
        lambda a: fn(a, 0.7),
        (rand(2, 3),),
        (),
        lambda a: (first * a, second * number),
        batched=True,
    )
    return found


def _additions() -> list[Check]:
    found = _added("aten.add", torch.add, 1.0, 1.0, "plain")
    found += _added("aten.add", partial(torch.add, alpha=-0.5), 1.0, -0.5, "alpha")
    found += _added("aten.sub", torch.sub, 1.0, -1.0, "plain")
    found += _added("aten.sub", partial(torch.sub, alpha=2.5), 1.0, -2.5, "alpha")
    found += _added("aten.subtract", torch.subtract, 1.0, -1.0, "plain")
    found += _added("aten.rsub", torch.rsub, -1.0, 1.0, "plain")
    found += _added("aten.rsub", partial(torch.rsub, alpha=0.5), -0.5, 1.0, "alpha")
    zeros = torch.tensor([[0.0, 0.0, 1.0, -1.0], [0.0, 2.0, 0.0, 3.0]], dtype=torch.float64)
    case = Case("aten.add", "zeros", torch.add, (zeros, zeros.flip(1)), batched=True)
    found += _by_size(case, lambda a, b: (a, b))
    index = torch.tensor([0, 2, 2])
    places = torch.tensor([[0, 1, 1], [2, 0, 0]])
    additive: list[tuple[str, str, Any, Any, Any, tuple[int, ...], bool]] = [
        (
            "index_add",
            "both",
            lambda a, s, i: torch.index_add(a, 1, i, s),
            (rand(2, 4), rand(2, 3)),
            (index,),
            (0, 1),
            True,
        ),
        (
            "index_add",
            "alpha",
            lambda a, s, i: torch.index_add(a, 1, i, s, alpha=-0.5),
            (rand(2, 4), rand(2, 3)),
            (index,),
            (0, 1),
            True,
        ),
        (
            "index_add",
            "source-constant",
            lambda a, s, i: torch.index_add(a, 0, i, s),
            (rand(4, 2),),
            (rand(3, 2), index),
            (0,),
            False,
        ),
        (
            "index_add",
            "self-constant",
            lambda s, a, i: torch.index_add(a, 0, i, s),
            (rand(3, 2),),
            (rand(4, 2), index),
            (0,),
            False,
        ),
        (
            "scatter_add",
            "both",
            lambda a, s, i: torch.scatter_add(a, 1, i, s),
            (rand(2, 4), rand(2, 3)),
            (places,),
            (0, 1),
            False,
        ),
        (
            "scatter_add",
            "source-constant",
            lambda a, s, i: torch.scatter_add(a, 1, i, s),
            (rand(2, 4),),
            (rand(2, 3), places),
            (0,),
            False,
        ),
        (
            "scatter_add",
            "self-constant",
            lambda s, a, i: torch.scatter_add(a, 1, i, s),
            (rand(2, 3),),
            (rand(2, 4), places),
            (0,),
            False,
        ),
    ]
    for op, name, fn, inputs, constants, slots, rows in additive:
        case = Case(f"aten.{op}", name, fn, inputs, constants, batched=rows)
        found += [
            Check(
                case,
                "epsilon",
                partial(sum_of_products, epsilon=e, additive=slots, offset_name="constant"),
                {"epsilon": e},
            )
            for e in EPSILONS
        ]
        found.append(Check(case, "gradient", partial(sum_of_products, additive=slots, offset_name="constant")))
    return found


def _maps() -> list[Check]:
    """Linear maps of one tensor: R_i = x_i w_ji / z_j R_j with weights 1, 1 / n or -1."""
    x = rand(2, 3, 2)
    rows: list[tuple[str, str, Any]] = [
        ("neg", "all", torch.neg),
        ("negative", "all", torch.negative),
        ("sum", "last", lambda a: a.sum(-1)),
        ("sum", "two", lambda a: a.sum((1, 2), keepdim=True)),
        ("sum", "kept", lambda a: a.sum(1, keepdim=True)),
        ("sum", "to-float64", lambda a: a.sum(1, dtype=torch.float64)),
        ("mean", "last", lambda a: a.mean(-1)),
        ("mean", "two", lambda a: a.mean((1, 2))),
        ("mean", "kept", lambda a: a.mean(1, keepdim=True)),
        ("cumsum", "1", lambda a: a.cumsum(1)),
        ("cumsum", "last", lambda a: a.cumsum(-1)),
        ("diff", "last", lambda a: torch.diff(a)),
        ("diff", "twice", lambda a: torch.diff(a, n=2, dim=1)),
    ]
    whole: list[tuple[str, str, Any, Any]] = [
        ("sum", "all", torch.sum, (2, 3)),
        ("sum", "first", lambda a: a.sum(0), (3, 2)),
        ("mean", "all", torch.mean, (2, 3)),
        ("mean", "first", lambda a: a.mean(0), (3, 2)),
        ("cumsum", "first", lambda a: a.cumsum(0), (3, 2)),
        ("sum", "empty-dims", lambda a: a.sum(()), (2, 3)),
        ("trace", "square", torch.trace, (3, 3)),
        ("trace", "wide", torch.trace, (2, 4)),
    ]
    cases = [Case(f"aten.{op}", name, fn, (x,), batched=True) for op, name, fn in rows]
    cases += [Case(f"aten.{op}", name, fn, (rand(*shape),)) for op, name, fn, shape in whole]
    ends = rand(2, 1)
    cases.append(Case("aten.diff", "between-constants", _diff, (rand(2, 3),), (ends, rand(2, 2))))
    cases.append(Case("aten.diff", "all-carry", _diff, (rand(2, 3), rand(2, 1), rand(2, 2)), batched=True))
    found = []
    for case in cases:
        slots = tuple(range(len(case.inputs)))
        found.append(Check(case, "gradient", partial(sum_of_products, additive=slots, offset_name="constant")))
        if case.batched and case.op in ("aten.sum", "aten.mean"):
            found += variants_of(case, REDUCED)
    zeros = Case(
        "aten.mean",
        "row-of-zeros",
        lambda a: a.mean(1),
        (torch.tensor([[0.0, 0.0], [1.0, -2.0]]).double(),),
        batched=True,
    )
    return found + variants_of(zeros, REDUCED)


def _diff(x: Any, before: Any, after: Any) -> Any:
    return torch.diff(x, prepend=before, append=after)


def _reduced_into() -> list[Check]:
    """Several numbers to one place: the largest or smallest of them, or their mean with what was there."""
    found = []
    rows, one = torch.tensor([[0, 1, 1], [2, 0, 0]]), torch.tensor([0, 2, 2])
    for op, index in (("scatter_reduce", rows), ("index_reduce", one)):

        def reduce(a: Any, s: Any, i: Any, how: str, op: str = op) -> Any:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", r"index_reduce\(\) is in beta", UserWarning)
                return getattr(torch, op)(a, 1, i, s, how)

        for how in ("amax", "amin"):
            oracle = partial(picked, owners=largest_of_scattered)
            fn = partial(reduce, how=how)
            both = Case(f"aten.{op}", f"{how}-both", fn, (rand(2, 4), rand(2, 3)), (index,), batched=index is one)
            onto = Case(f"aten.{op}", f"{how}-onto-constant", lambda s, a, i, fn=fn: fn(a, s, i), (rand(2, 3),),
                        (rand(2, 4), index), batched=index is one, per_sample=(0,))  # fmt: skip
            found += [Check(both, "gradient", oracle), Check(onto, "gradient", oracle)]
        mean = Case(f"aten.{op}", "mean", partial(reduce, how="mean"), (rand(2, 4), rand(2, 3)), (index,))
        found.append(Check(mean, "gradient", partial(sum_of_products, additive=(0, 1), offset_name="constant")))
    return found


def _picks() -> list[Check]:
    found: list[Check] = []
    tied = torch.tensor([[1.0, 3.0, 3.0, -2.0], [0.5, 0.5, -1.0, -1.0]], dtype=torch.float64)

    def add(op: str, name: str, fn: Any, inputs: Any, owners: Any, constants: Any = (), **more: Any) -> None:
        case = Case(f"aten.{op}", name, fn, inputs, constants, **more)
        found.append(Check(case, "gradient", partial(picked, owners=owners)))

    for name, x in (("random", rand(2, 4)), ("ties", tied)):
        for op in ("max", "min"):
            fn = getattr(torch, op)
            add(op, f"last-{name}", lambda a, fn=fn: fn(a, -1), (x,), by_index(-1), batched=True)
            add(op, f"first-{name}", lambda a, fn=fn: fn(a, 0, keepdim=True), (x,), by_index(0))
            add(op, f"all-{name}", fn, (x,), all_equal(None))
            amost = getattr(torch, f"a{op}")
            add(f"a{op}", f"last-{name}", lambda a, fn=amost: fn(a, -1), (x,), all_equal((-1,)), batched=True)
            add(f"a{op}", f"kept-{name}", lambda a, fn=amost: fn(a, 0, keepdim=True), (x,), all_equal((0,)))
            add(f"a{op}", f"two-{name}", lambda a, fn=amost: fn(a, (0, 1)), (x,), all_equal((0, 1)))
        add("median", f"last-{name}", lambda a: torch.median(a, -1), (x,), by_index(-1), batched=True)
        add("median", f"all-{name}", torch.median, (x,), all_equal(None))
        add("kthvalue", f"last-{name}", lambda a: torch.kthvalue(a, 2, -1), (x,), by_index(-1), batched=True)
        add("kthvalue", f"kept-{name}", lambda a: torch.kthvalue(a, 1, 0, keepdim=True), (x,), by_index(0))
        add("topk", f"last-{name}", lambda a: torch.topk(a, 2), (x,), by_index(-1), batched=True)
        add("topk", f"smallest-{name}", lambda a: torch.topk(a, 1, 0, largest=False), (x,), by_index(0))
        add("sort", f"last-{name}", lambda a: torch.sort(a), (x,), by_index(-1), batched=True)
        add("sort", f"down-{name}", lambda a: torch.sort(a, 1, descending=True), (x,), by_index(1), batched=True)
        add("sort", f"stable-{name}", lambda a: torch.sort(a, dim=0, stable=True), (x,), by_index(0))
    found += _reduced_into()
    for op in ("maximum", "minimum", "fmax", "fmin", "max", "min"):
        fn = getattr(torch, op)
        if op in ("max", "min"):
            fn = getattr(T, op).other
        other = torch.tensor([0.5, 3.0, -4.0, -2.0], dtype=torch.float64)
        add(op, "binary-both", fn, (tied, rand(2, 4)), of_two, batched=True)
        add(op, "binary-broadcast", fn, (tied, other), of_two)
        add(op, "binary-constant", fn, (tied,), of_two, (other,), batched=True)
        add(op, "binary-constant-first", lambda y, x, fn=fn: fn(x, y), (rand(2, 4),), of_two, (rand(4),), batched=True)
    return found


CHECKS = [*_additions(), *_maps(), *_picks()]
