"""Pooling: the mean of a window, or its largest element."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from dlbt_core.rules.builtin.linear import Product, declare_family
from dlbt_core.rules.context import RuleContext
from dlbt_core.rules.rule import Asked, RuleSet
from dlbt_rules_vision.alone import main, pull_back_alone
from dlbt_rules_vision.windows import Windows

__all__ = ["FAMILY", "declare"]

_AVERAGE = tuple(f"aten.{kind}{n}d" for kind in ("avg_pool", "adaptive_avg_pool") for n in (1, 2, 3))
_OF_EXPORTS = tuple(f"aten._adaptive_avg_pool{n}d" for n in (2, 3))
_MAXIMUM = tuple(f"aten.{kind}{n}d" for kind in ("max_pool", "adaptive_max_pool") for n in (1, 2, 3))
_WITH_INDICES = tuple(f"aten.max_pool{n}d_with_indices" for n in (1, 2, 3))
_FRACTIONAL = ("aten.fractional_max_pool2d", "aten.fractional_max_pool3d")
_UNPOOL = ("aten.max_unpool2d", "aten.max_unpool3d")

FAMILY: Mapping[str, Product] = {op: Product(("self",)) for op in (*_AVERAGE, *_OF_EXPORTS)}
"""Average pools: linear maps with the weights 1 / n."""


def declare(add: RuleSet) -> None:
    """Declare the rules of this module."""
    declare_family(add, FAMILY)

    @add.rule(*_MAXIMUM, *_WITH_INDICES, variant="gradient", takes="either", default=True, reads=("pullback",))
    def gradient(ctx: RuleContext, m: Any) -> dict[str, Any]:
        """R_i = R for the largest element i of a window, else 0.  Bach et al. 2015; as in autograd."""
        return ctx.vjp(m)

    @add.rule(*_FRACTIONAL, variant="gradient", takes="either", default=True, reads=("pullback",))
    def fractional(ctx: RuleContext, m: Any) -> dict[str, Any]:
        """R_i = R for the largest element i of a window that was drawn at random, else 0.  Bach et al. 2015."""
        return pull_back_alone(ctx, main(ctx, m))

    @add.rule(*_MAXIMUM, *_WITH_INDICES, variant="winner", takes="either", reads=_reads_of_winner)
    def winner(ctx: RuleContext, m: Any, *, ties: Literal["first", "shared"] = "first") -> dict[str, Any]:
        """R_i = R / n for the n largest elements of a window, n = 1 where the first is taken.  Bach et al. 2015."""
        return ctx.vjp(m) if ties == "first" else _to_the_largest(ctx, m)

    @add.rule(*_MAXIMUM, *_WITH_INDICES, variant="dlb_default", takes="either", reads=("self", "output"))
    def shared_winner(ctx: RuleContext, m: Any) -> dict[str, Any]:
        """R_i = R / n for each of the n largest elements of a window, else 0.  Sankarapu et al. 2024."""
        return _to_the_largest(ctx, m)

    @add.rule(*_AVERAGE, *_OF_EXPORTS, *_MAXIMUM, *_WITH_INDICES, variant="uniform", takes="relevance", reads=())
    def uniform(ctx: RuleContext, R: Any) -> dict[str, Any]:
        """R_i = R / n for each of the n elements that a window sees; padding is none: the flat rule.  Bach et al. 2016."""
        R = main(ctx, R)
        windows = Windows.of(ctx, R)
        return {"self": windows.hand_back(R[..., None] * _evenly(windows.valid.to(R.dtype)))}

    @add.rule(*_AVERAGE, *_OF_EXPORTS, *_MAXIMUM, *_WITH_INDICES, variant="proportional", takes="relevance",
              reads=("self",))  # fmt: skip
    def proportional(ctx: RuleContext, R: Any) -> dict[str, Any]:
        """R_i = |x_i| / sum_i |x_i| R over the window, evenly where all x_i are 0.  Sankarapu et al. 2024, for means."""
        R = main(ctx, R)
        windows = Windows.of(ctx, R)
        valid = windows.valid.to(R.dtype)
        size = windows.see(ctx.args["self"].abs()) * valid
        return {"self": windows.hand_back(R[..., None] * torch.where(_any(size), _evenly(size), _evenly(valid)))}

    @add.rule(*_UNPOOL, variant="identity", takes="either", absorbs=("constant",), default=True,
              reads=("indices", "pullback"))  # fmt: skip
    def unpooled(ctx: RuleContext, m: Tensor) -> dict[str, Any]:
        """R_i = R_j / n, for n elements i put at one j. Convention: evenly, as overlapping windows send one twice."""
        rank = int(ctx.packet[-2])
        place = ctx.args["indices"].flatten(-rank)
        flat = torch.zeros((*place.shape[:-1], m.shape[-rank:].numel()), dtype=m.dtype, device=m.device)
        meeting = flat.scatter_add(-1, place, torch.ones_like(place, dtype=m.dtype))
        if ctx.form == "relevance":
            ctx.absorb("constant", torch.where(meeting.view(m.shape) == 0, m, torch.zeros_like(m)))
        return ctx.vjp(m / meeting.view(m.shape).clamp(min=1))

    @add.rule(*_UNPOOL, variant="gradient", absorbs=("overlap",), reads=("pullback", "carrying", "output"))
    def unpooled_gradient(ctx: RuleContext, m: Tensor) -> dict[str, Any]:
        """m_i = m_j, also for several i that are put at the same j: the op's gradient."""
        return ctx.gradient(m, "overlap")


def _reads_of_winner(asked: Asked) -> tuple[str, ...]:
    return ("pullback",) if asked.parameters["ties"] == "first" else ("self", "output")


def _to_the_largest(ctx: RuleContext, message: Any) -> dict[str, Any]:
    """R_i = R / n for each of the n elements of a window that equal its largest."""
    m, z = main(ctx, message), main(ctx, ctx.output)
    windows = Windows.of(ctx, z)
    wins = (windows.see(ctx.args["self"]) == z[..., None]) & windows.valid
    return {"self": windows.hand_back(m[..., None] * _evenly(wins.to(m.dtype)))}


def _any(weight: Tensor) -> Tensor:
    return weight.sum(-1, keepdim=True) > 0


def _evenly(weight: Tensor) -> Tensor:
    """Each weight's share in its window, 0 where all are."""
    total = weight.sum(-1, keepdim=True)
    return weight / torch.where(total > 0, total, torch.ones_like(total))
