"""Embeddings: where token ids turn into vectors, and vectors' relevance into that of tokens."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dlbt_core.rules.context import RuleContext, multiply
from dlbt_core.rules.rule import RuleSet

__all__ = ["declare"]


def declare(add: RuleSet) -> None:
    """Declare the rules of this module."""

    @add.rule(
        "aten.embedding", variant="gradient", gives="relevance", default=True, reads=("output", "weight", "indices")
    )
    def summed(ctx: RuleContext, m: Tensor) -> dict[str, Any]:
        """R_t = sum_d e_td m_td: a token's relevance is the sum over its vector.  Arras et al. 2017.

        A table that carries relevance itself gets half, as the other factor of the product of one-hot ids and table.
        """
        share = 1.0 / len(ctx.carries)
        handed: dict[str, Any] = {}
        if "indices" in ctx.carries:
            handed["indices"] = multiply(ctx.output, m).sum(-1) * share
        if "weight" in ctx.carries:
            handed["weight"] = multiply(ctx.args["weight"], ctx.vjp(m, "weight")["weight"]) * share
        return handed
