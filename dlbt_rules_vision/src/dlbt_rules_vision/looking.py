"""Ops that look at places of an image: linear maps of what is seen, by weights that follow from where one looks."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

from torch import Tensor

from dlbt_core.rules.context import RuleContext, multiply
from dlbt_core.rules.parameter import NotNegative
from dlbt_core.rules.rule import Asked, RuleSet
from dlbt_rules_vision.alone import main, pull_back, pull_back_alone

__all__ = ["declare_maps"]


def declare_maps(
    add: RuleSet, maps: Mapping[str, tuple[str, ...]], alone: Set[str] = frozenset(), exact: bool = True
) -> None:
    """Declare the rules of linear maps of one argument.

    Parameters
    ----------
    add
        Where to.
    maps
        Op to the names that the mapped argument goes by. All others are places to look at.
    alone
        Ops whose kernel takes one message at a time.
    exact
        Whether their derivative is the one of their result. If not, the difference is booked as ``kernel``.
    """

    def hand_back(ctx: RuleContext, m: Tensor, *names: str) -> dict[str, Any]:
        return (pull_back_alone if ctx.packet in alone else pull_back)(ctx, m, *names)

    mapped = {name for names in maps.values() for name in names}

    def reads(asked: Asked) -> tuple[str, ...]:
        if "epsilon" in asked.parameters and exact:
            plain = not asked.parameters["epsilon"] and bool(asked.carries & mapped)
            return ("pullback",) if plain else ("pullback", "output")
        return ("pullback",) if exact and asked.carries <= mapped else ("pullback", "carrying", "output")

    @add.rule(*maps, variant="epsilon", absorbs=("constant", "epsilon", "kernel"), default=True, reads=reads)
    def seen(ctx: RuleContext, m: Any, *, epsilon: NotNegative = 0.0) -> dict[str, Any]:
        """R_i = x_i w_ji / (z_j + eps sgn z_j) R_j, with what interpolation weighs x_i by as w.  Bach et al. 2015, eq. 58.

        All relevance goes to what is seen. Where one looks (a grid, boxes) gets none of it, also if it was computed from
        the input: it says which x_i are meant, and adds nothing to them. `gradient` gives the places their part.
        """
        found, names = main(ctx, m), _sees(ctx, maps)
        if not names:
            ctx.absorb("constant", found, main(ctx, ctx.output))
            return {}
        if epsilon:
            z = main(ctx, ctx.output)
            damped = found / (1 + epsilon / z.abs())
            ctx.absorb("epsilon", multiply(z, found - damped))
            found = damped
        handed = hand_back(ctx, found, *names)
        if not exact:
            _book_rest(ctx, "kernel", found, handed)
        return handed

    @add.rule(*maps, variant="gradient", absorbs=("location", "kernel"), reads=reads)
    def gradient(ctx: RuleContext, m: Any) -> dict[str, Any]:
        """m_i = sum_j w_ji m_j for what is seen, and the derivative by where one looks for that: the op's gradient."""
        handed = hand_back(ctx, main(ctx, m))
        looked = ctx.carries - set(_sees(ctx, maps))
        if looked or not exact:
            _book_rest(ctx, "location" if looked else "kernel", main(ctx, m), handed)
        return handed


def _book_rest(ctx: RuleContext, name: str, m: Tensor, handed: Mapping[str, Any]) -> None:
    ctx.absorb_rest(name, [m, *[None] * (len(ctx.node.outputs) - 1)] if ctx.node.many else m, handed)


def _sees(ctx: RuleContext, maps: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The name of the mapped argument, if it carries."""
    return tuple(name for name in maps[ctx.packet] if name in ctx.carries)
