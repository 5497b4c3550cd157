"""Ops of torchvision, where it is installed: regions, and convolutions that look beside their place."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from oracles.cases.resampling import maps
from oracles.harness import Case, Check, source
from oracles.looking import places_get_nothing, regions_winner
from oracles.sums import sum_of_products

__all__ = ["ABSENT", "CHECKS", "UNBATCHED"]

rand = source(14)
UNBATCHED = frozenset(f"torchvision.{name}" for name in ("roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool"))
"""Regions are no samples."""
ABSENT = frozenset() if find_spec("torchvision") else UNBATCHED | {"torchvision.deform_conv2d"}


def _regions() -> list[Check]:
    x, wide = rand(2, 2, 5, 6), rand(2, 8, 5, 6)
    rois = torch.tensor(
        [[0, 0.0, 0.0, 3.2, 3.0], [1, 1.1, 1.0, 5.0, 4.0], [0, 2.0, 1.5, 5.0, 4.5]], dtype=torch.float64
    )
    inside = torch.tensor([[0, 0.0, 0.0, 3.2, 3.0], [1, 1.1, 1.0, 4.0, 3.0]], dtype=torch.float64)
    found: list[Check] = []
    for name, more in (("roi_align", (2, True)), ("ps_roi_align", (2,)), ("ps_roi_pool", ())):
        for scale in (1.0, 0.5):
            image = wide if name.startswith("ps") else x
            places = inside if name == "ps_roi_pool" else rois
            fn = partial(_region, name, scale, more)
            found += maps(Case(f"torchvision.{name}", f"scale{scale}", fn, (image,), (places,)))
            both = Case(f"torchvision.{name}", f"scale{scale}-regions", fn, (image, places))
            found.append(Check(both, "epsilon", partial(places_get_nothing, places=(1,))))
            found.append(Check(both, "gradient", partial(places_get_nothing, places=(1,))))
        only = Case(f"torchvision.{name}", "only-regions", partial(_swapped, fn), (places,), (image,))
        found.append(Check(only, "epsilon", partial(places_get_nothing, places=(0,))))
    pool = partial(_region, "roi_pool", 1.0, ())
    for name, inputs, constants in (("plain", (x,), (rois,)), ("regions", (x, rois), ())):
        found.append(Check(Case("torchvision.roi_pool", name, pool, inputs, constants), "gradient", regions_winner))
    only = Case("torchvision.roi_pool", "only-regions", partial(_swapped, pool), (rois,), (x,))
    found.append(Check(only, "gradient", partial(places_get_nothing, places=(0,))))
    return found


def _region(name: str, scale: float, more: tuple[Any, ...], x: Tensor, rois: Tensor) -> Any:
    found = getattr(torch.ops.torchvision, name)(x, rois, scale, 2, 2, *more)
    return found[0] if name.startswith("ps") else found


def _swapped(fn: Any, b: Tensor, a: Tensor) -> Any:
    return fn(a, b)


def _deformed() -> list[Check]:
    x, w, b = rand(2, 2, 4, 3), rand(3, 2, 2, 2), rand(3)
    offset, mask = 0.7 * rand(2, 8, 3, 2), rand(2, 4, 3, 2).abs()
    tensors = {"x": x, "w": w, "o": offset, "m": mask, "b": b}
    found: list[Check] = []
    for carrying, use_mask in (("x", True), ("x", False), ("xm", True), ("xw", True), ("xwm", True), ("xmb", True)):
        case = _case(tensors, carrying, use_mask)
        additive = (carrying.index("b"),) if "b" in carrying else ()
        for e in (0.0, 0.25):
            oracle = partial(sum_of_products, epsilon=e, additive=additive)
            found.append(Check(case, "epsilon", oracle, {"epsilon": e}))
        found.append(Check(case, "gradient", partial(sum_of_products, uniform=False, additive=additive)))
    for carrying in ("xo", "xom"):
        case = _case(tensors, carrying, True)
        found.append(Check(case, "epsilon", partial(places_get_nothing, places=(1,))))
    return found


def _case(tensors: dict[str, Tensor], carrying: str, use_mask: bool) -> Case:
    rest = [name for name in "xwomb" if name not in carrying]
    fn = partial(_deform, [*carrying, *rest], use_mask)
    inputs, constants = tuple(tensors[k] for k in carrying), tuple(tensors[k] for k in rest)
    alike = tuple(k for k, name in enumerate(rest) if name in "om")
    rows = not set(carrying) & set("wb")
    return Case("torchvision.deform_conv2d", f"{carrying}-mask{use_mask}", fn, inputs, constants, (), rows, alike)


def _deform(order: list[str], use_mask: bool, *given: Tensor) -> Tensor:
    t = dict(zip(order, given, strict=True))
    result: Tensor = torch.ops.torchvision.deform_conv2d(
        t["x"], t["w"], t["o"], t["m"], t["b"], 1, 1, 0, 0, 1, 1, 1, 1, use_mask
    )
    return result


def _checks() -> list[Check]:
    if ABSENT:
        return []
    import torchvision  # noqa: F401  (registers the ops)

    return [*_regions(), *_deformed()]


CHECKS = _checks()
