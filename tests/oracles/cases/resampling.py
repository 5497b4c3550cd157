"""Images made larger, smaller or bent, and copies of pixels."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from oracles.copies import copied
from oracles.harness import Case, Check, source
from oracles.looking import places_get_nothing, sampled_gradient
from oracles.sums import sum_of_products

__all__ = ["ABSENT", "CHECKS", "COPIED"]

T = torch.ops.aten
rand = source(13)
X = {1: rand(2, 2, 4), 2: rand(2, 2, 4, 3), 3: rand(2, 1, 3, 2, 3)}
LARGER = {1: [7], 2: [6, 5], 3: [4, 3, 5]}
SMALLER = {1: [3], 2: [3, 2], 3: [2, 2, 2]}
CORNERED = "linear1d bilinear2d bicubic2d trilinear3d".split()
ANTIALIASED = "_upsample_bilinear2d_aa _upsample_bicubic2d_aa _upsample_lanczos2d_aa".split()

ABSENT = frozenset(f"aten.{name}" for name in ANTIALIASED if not hasattr(T, name))
"""Ops that this torch does not have."""


def maps(case: Case) -> list[Check]:
    """A linear map: what contributes gets its share."""
    found = [Check(case, "epsilon", partial(sum_of_products, epsilon=e), {"epsilon": e}) for e in (0.0, 0.25)]
    return [*found, Check(case, "gradient", sum_of_products)]


def _interpolated() -> list[Check]:
    found: list[Check] = []
    for name in CORNERED:
        n, op = int(name[-2]), f"upsample_{name}"
        for label, size in (("larger", LARGER[n]), ("smaller", SMALLER[n])):
            for corners in (True, False):
                fn = partial(_to_size, getattr(T, op).default, size, (corners,))
                found += maps(Case(f"aten.{op}", f"{label}-corners{corners}", fn, (X[n],), batched=True))
        by_factor = partial(_by_factors, getattr(T, op).vec, (False,), [1.5, 2.0, 1.4][:n])
        found += maps(Case(f"aten.{op}", "vec", by_factor, (X[n],), batched=True))
    for op in ANTIALIASED:
        if hasattr(T, op):
            fn = partial(_to_size, getattr(T, op).default, SMALLER[2], (False,))
            found += maps(Case(f"aten.{op}", "smaller", fn, (X[2],), batched=True))
            by_factor = partial(_by_factors, getattr(T, op).vec, (False,), [0.6, 0.7])
            found += maps(Case(f"aten.{op}", "vec", by_factor, (X[2],), batched=True))
    for name, shape, window in (
        ("apart", (2, 8, 4), ((4, 4), (2, 2), 1, 0, 2)),
        ("overlapping", (2, 4, 6), ((3, 4), (2, 2), 1, 0, 1)),
        ("padded", (2, 4, 9), ((3, 4), (2, 2), (2, 1), (1, 0), 1)),
    ):
        found += maps(Case("aten.col2im", name, partial(_fold, window), (rand(*shape),), batched=True))
    return found


def _to_size(op: Any, size: list[int], more: tuple[bool, ...], x: Tensor) -> Tensor:
    result: Tensor = op(x, size, *more)
    return result


def _by_factors(op: Any, more: tuple[bool, ...], factors: list[float], x: Tensor) -> Tensor:
    result: Tensor = op(x, None, *more, factors)
    return result


def _fold(window: Any, x: Tensor) -> Tensor:
    return F.fold(x, *window)


# -- copies --------------------------------------------------------------------------------------------------------------


def _copied() -> list[Check]:
    def case(op: str, name: str, fn: Any, x: Tensor) -> Check:
        return Check(Case(f"aten.{op}", name, fn, (x,), batched=True), "gradient", copied)

    found: list[Check] = []
    for kind in ("upsample_nearest", "_upsample_nearest_exact"):
        for n in (1, 2, 3):
            op = f"{kind}{n}d"
            for label, size in (("larger", LARGER[n]), ("smaller", SMALLER[n])):
                found.append(case(op, label, partial(_to_size, getattr(T, op).default, size, ()), X[n]))
            by_factor = partial(_by_factors, getattr(T, op).vec, (), [2.0, 1.5, 1.4][:n])
            found.append(case(op, "vec", by_factor, X[n]))
    for n in (1, 2, 3):
        for kind in ("reflection", "replication"):
            op = f"{kind}_pad{n}d"
            found.append(case(op, "sides", partial(_padded, getattr(T, op), [1, 1, 1, 0, 1, 1][: 2 * n]), X[n]))
    found.append(case("pixel_shuffle", "two", lambda a: F.pixel_shuffle(a, 2), rand(2, 8, 2, 1)))
    found.append(case("pixel_unshuffle", "two", lambda a: F.pixel_unshuffle(a, 2), rand(2, 2, 4, 2)))
    for op, fn in (("channel_shuffle", F.channel_shuffle), ("native_channel_shuffle", F.native_channel_shuffle)):
        for groups in (2, 3):
            found.append(case(op, str(groups), partial(_grouped, fn, groups), rand(2, 6, 2, 1)))
    for name, window in (("plain", (2,)), ("padded", (2, 1, 1, 2)), ("dilated", ((2, 1), (2, 1), (1, 0), 1))):
        found.append(case("im2col", name, partial(_unfold, window), X[2]))
    return found


def _padded(op: Any, sides: list[int], x: Tensor) -> Tensor:
    result: Tensor = op(x, sides)
    return result


def _grouped(fn: Any, groups: int, x: Tensor) -> Tensor:
    result: Tensor = fn(x, groups)
    return result


def _unfold(window: Any, x: Tensor) -> Tensor:
    return F.unfold(x, *window)


# -- samplers ------------------------------------------------------------------------------------------------------------


def _sampled() -> list[Check]:
    found: list[Check] = []
    outside = {2: 0.8 * rand(2, 2, 3, 2), 3: 0.8 * rand(2, 2, 2, 1, 3)}
    grids = {n: grid.clamp(-0.7, 0.7) for n, grid in outside.items()}
    for op, n, modes in (("grid_sampler", 2, (0, 1, 2)), ("grid_sampler_2d", 2, (0,)), ("grid_sampler_3d", 3, (0, 1)),
                         ("grid_sampler", 3, (0,))):  # fmt: skip
        for mode in modes:
            for border, corners in ((0, False), (1, True)):
                fn = partial(_look, getattr(T, op), mode, border, corners)
                name = f"{n}d-mode{mode}-border{border}"
                found += maps(Case(f"aten.{op}", name, fn, (X[n],), (grids[n],), batched=True, per_sample=(0,)))
        fn = partial(_look, getattr(T, op), 0, 0, False)
        both = Case(f"aten.{op}", f"{n}d-grid", fn, (X[n], grids[n]), batched=True)
        beside = Case(f"aten.{op}", f"{n}d-grid-outside", fn, (X[n], outside[n]), batched=True)
        only = Case(
            f"aten.{op}", f"{n}d-only-grid", partial(_swapped, fn), (grids[n],), (X[n],), batched=True, per_sample=(0,)
        )
        found.append(Check(both, "epsilon", partial(places_get_nothing, places=(1,))))
        found.append(
            Check(beside, "epsilon", partial(places_get_nothing, places=(1,), epsilon=0.25), {"epsilon": 0.25})
        )
        found.append(Check(only, "epsilon", partial(places_get_nothing, places=(0,))))
        found += [Check(case, "gradient", sampled_gradient) for case in (both, beside)]
    for size in ([2, 1, 3, 2], [2, 1, 2, 2, 3]):
        theta = rand(2, len(size) - 2, len(size) - 1)
        for corners in (True, False):
            fn = partial(_grid, size, corners)
            found += maps(
                Case("aten.affine_grid_generator", f"{len(size) - 2}d-corners{corners}", fn, (theta,), batched=True)
            )
    return found


def _look(op: Any, mode: int, border: int, corners: bool, x: Tensor, grid: Tensor) -> Tensor:
    result: Tensor = op(x, grid, mode, border, corners)
    return result


def _swapped(fn: Any, b: Tensor, a: Tensor) -> Any:
    return fn(a, b)


def _grid(size: list[int], corners: bool, theta: Tensor) -> Tensor:
    result: Tensor = T.affine_grid_generator(theta, [len(theta), *size[1:]], corners)
    return result


COPIED = _copied()
CHECKS = [*_interpolated(), *COPIED, *_sampled()]
