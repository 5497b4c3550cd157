"""Pooling: the mean of a window, or its largest element."""

from __future__ import annotations

from typing import Any

from dlbt_core.rules.context import RuleContext
from dlbt_core.rules.rule import RuleSet

__all__ = ["declare"]

_AVERAGE = tuple(f"aten.{kind}{n}d" for kind in ("avg_pool", "adaptive_avg_pool") for n in (1, 2, 3))
_MAXIMUM = tuple(f"aten.{kind}{n}d" for kind in ("max_pool", "adaptive_max_pool") for n in (1, 2, 3))
_WITH_INDICES = tuple(f"aten.max_pool{n}d_with_indices" for n in (1, 2, 3))


def declare(add: RuleSet) -> None:
    """Declare the rules of this module."""

    @add.rule(*_AVERAGE, variant="gradient", default=True, reads=("pullback",))
    def average(ctx: RuleContext, m: Any) -> dict[str, Any]:
        """R_i = x_i / sum_i x_i R over the window: the epsilon rule of a mean, its adjoint on multipliers."""
        return ctx.vjp(m)

    @add.rule(*_MAXIMUM, *_WITH_INDICES, variant="gradient", default=True, reads=("pullback",))
    def winner(ctx: RuleContext, m: Any) -> dict[str, Any]:
        """All relevance of a window to its largest element.  Bach et al. 2015, sec. 2.4; as in autograd."""
        return ctx.vjp(m)
