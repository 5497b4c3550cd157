"""Gated units, triangular systems and sums of exponentials."""

from __future__ import annotations

from functools import partial

import torch
from torch.nn import functional as F

from oracles.gating import entropy, glu_gradient, glu_signal, glu_uniform, solved, solved_gradient
from oracles.harness import Case, Check, source

__all__ = ["CHECKS"]

rand = source(22)


def _glu() -> list[Check]:
    found: list[Check] = []
    for shape, dim in (((2, 6), -1), ((2, 4, 3), 1), ((2, 2, 3, 4), 3)):
        case = Case("aten.glu", f"{len(shape)}d-{dim}", partial(F.glu, dim=dim), (rand(*shape),), batched=True)
        found += [
            Check(case, "signal", partial(glu_signal, dim=dim)),
            Check(case, "uniform", partial(glu_uniform, dim=dim)),
            Check(case, "uniform", partial(glu_uniform, dim=dim, epsilon=0.1), {"epsilon": 0.1}),
            Check(case, "gradient", partial(glu_gradient, dim=dim)),
        ]
    return found


def _solve() -> list[Check]:
    found: list[Check] = []
    for left in (True, False):
        solve = partial(torch.linalg.solve_triangular, upper=False, left=left)
        a = rand(2, 3, 3).tril() + 2 * torch.eye(3, dtype=torch.float64)
        b = rand(2, 3, 4) if left else rand(2, 4, 3)
        name = "left" if left else "right"
        both = Case("aten.linalg_solve_triangular", f"both-{name}", solve, (a, b), batched=True)
        side = Case("aten.linalg_solve_triangular", f"side-{name}", lambda y, x, f=solve: f(x, y), (b,), (a,), batched=True,
                    per_sample=(0,))  # fmt: skip
        matrix = Case(
            "aten.linalg_solve_triangular", f"matrix-{name}", solve, (a,), (b,), batched=True, per_sample=(0,)
        )
        for case, places in ((both, (0, 1)), (side, (None, 0)), (matrix, (0, None))):
            more = {"matrix": places[0], "side": places[1], "left": left}
            found.append(Check(case, "signal", partial(solved, **more)))
            found.append(Check(case, "gradient", partial(solved_gradient, **more)))
    return found


def _exponentials() -> list[Check]:
    cases = [
        (Case("aten.logsumexp", "last-taylor", lambda a: a.logsumexp(-1), (rand(2, 3, 4),), batched=True), 2),
        (Case("aten.logsumexp", "kept-taylor", lambda a: a.logsumexp(1, True), (rand(2, 3, 4),), batched=True), 1),
    ]
    return [Check(case, "taylor", partial(entropy, dim=dim)) for case, dim in cases]


CHECKS = [*_glu(), *_solve(), *_exponentials()]
