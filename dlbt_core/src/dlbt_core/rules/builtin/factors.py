"""Matrix products of factors that carry relevance themselves: to share it evenly, or to give all of it to the signal."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from dlbt_core.rules.builtin.linear import stabilised
from dlbt_core.rules.builtin.product import FAMILY, Product
from dlbt_core.rules.context import RuleContext
from dlbt_core.rules.parameter import NotNegative
from dlbt_core.rules.rule import Asked, RuleSet

__all__ = ["declare"]

_GATES = frozenset({"gate", "attention_weights"})
"""Facts of a factor that only says how much of the other one passes."""

Place = tuple[str, int | None]


def _reads(asked: Asked) -> tuple[str, ...]:
    return ("pullback", "constants", *(("output",) if asked.parameters["epsilon"] else ()))


def declare(add: RuleSet) -> None:
    """Declare the rules of this module."""

    @add.rule(*FAMILY, variant="uniform", absorbs=("bias", "epsilon", "constant"), reads=_reads)
    def uniform(ctx: RuleContext, m: Tensor, *, epsilon: NotNegative = 0.0) -> dict[str, Any]:
        """R_i = sum_j x_i w_ji / n (z_j + eps sgn z_j) R_j, w the product of the other factors, for each of n that carry.

        Achtibat et al. 2024, prop. 3.3, for n = 2. The epsilon rule itself, by the name that elementwise products know.
        """
        return stabilised(ctx, m, FAMILY[ctx.packet], epsilon)

    @add.rule(*FAMILY, variant="signal", absorbs=("bias", "epsilon", "constant"), reads=_reads)
    def signal(
        ctx: RuleContext, m: Tensor, *, signal: Literal["auto", "first", "last"] = "auto", epsilon: NotNegative = 0.0
    ) -> dict[str, Any]:
        """R_signal = sum_j x_i w_ji / (z_j + eps sgn z_j) R_j, R_gate = 0, w the gate.  Arras et al. 2017.

        With attention weights for a gate these are the shares of Ali et al. 2022. A gate is a factor with the fact
        `gate` or `attention_weights`; the factors share evenly if it is not clear which one is the signal.
        """
        product = FAMILY[ctx.packet]
        handed = stabilised(ctx, m, product, epsilon)
        places = [place for place in ctx.places() if place[0] in product.factors]
        chosen = _signal(ctx, places, signal)
        if chosen is None or len(places) < 2:
            return handed
        return _all_to(chosen, len(places), handed, product)


def _signal(ctx: RuleContext, places: list[Place], asked: str) -> Place | None:
    """Which factor is the signal; None if that is not clear."""
    if asked != "auto":
        return None if not places else places[0 if asked == "first" else -1]
    signals = [place for place in places if not _GATES.intersection(ctx.facts.get(place[0], ()))]
    return signals[0] if len(signals) == 1 else None


def _all_to(signal: Place, count: int, handed: dict[str, Any], product: Product) -> dict[str, Any]:
    """Give the signal what all factors were given together; an offset keeps its own."""
    name, item = signal
    given = handed[name]
    whole = given * count if item is None else [x * count if i == item else None for i, x in enumerate(given)]
    return {**{other: part for other, part in handed.items() if other not in product.factors}, name: whole}
