"""Mixtures of experts: one matrix product per group of rows, and routers that rate experts by a sigmoid.

A router with a softmax has the softmax's own rules, of the same names; see `dlbt_rules_nlp.attention`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dlbt_core.rules.builtin.linear import Product, declare_family
from dlbt_core.rules.context import RuleContext, vanish_where_zero
from dlbt_core.rules.rule import RuleSet

__all__ = ["FAMILY", "declare"]

FAMILY: Mapping[str, Product] = {
    "aten._grouped_mm": Product(("self", "mat2")),
    "transformers.grouped_mm_fallback": Product(("input", "weight")),
}
"""Row s of the first factor times the matrix of its group; where groups end says an integer argument, which is constant."""


_SIGMOID = "aten.sigmoid"


def declare(add: RuleSet) -> None:
    """Declare the rules of this module: those of the linear family (Bach et al. 2015, eq. 58, and its variants)."""
    declare_family(add, FAMILY)

    @add.rule(_SIGMOID, variant="taylor", absorbs=("softmax",), reads=("self", "output"))
    def taylor(ctx: RuleContext, m: Tensor) -> dict[str, Any]:
        """R_x = x (1 - s) R: a sigmoid is the softmax of x and 0.  Achtibat et al. 2024, prop. 3.1.

        On multipliers this is the op's gradient, s (1 - s) m. The expansion's bias absorbs the rest.
        """
        s = ctx.output
        x = vanish_where_zero(s, ctx.args["self"])
        ctx.absorb("softmax", m, s * (1 - x * (1 - s)))
        return {"self": m * s * (1 - s)}

    @add.rule(_SIGMOID, variant="detach", absorbs=("stopped",), reads=("output",))
    def stopped(ctx: RuleContext, m: Tensor) -> dict[str, Any]:
        """R_x = 0: what the sigmoid says is held constant, as Ali et al. 2022 hold attention weights."""
        ctx.absorb("stopped", m, ctx.output)
        return {}
