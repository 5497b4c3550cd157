"""The rules: for our own op in both forms of the message, and one more variant for an op of torch.

At every value ``a`` a message is either relevance ``R`` or the multiplier ``m`` with ``R = a * m``. A rule says which
it takes and gives; dlbt converts where two rules differ. Multipliers need no division and are the better choice where
the formula allows them.
"""

from __future__ import annotations

import dlbt_core as dlbt
from torch import Tensor

__all__ = ["declare"]


def declare(add: dlbt.RuleSet) -> None:
    """Declare them."""

    @add.rule("example::mix", variant="epsilon", absorbs=("epsilon",), default=True, reads=("output", "weight"))
    def epsilon(ctx: dlbt.RuleContext, m: Tensor, *, epsilon: float = 0.0) -> dict[str, Tensor]:
        """R_i = sum_j x_i w_ji / (z_j + epsilon sgn z_j) R_j. Bach et al. 2015, eq. 58.

        With multipliers that is m_i = sum_j w_ji m_j z_j / (z_j + epsilon sgn z_j): `damp` is the fraction.
        """
        return {"x": ctx.damp(m, epsilon) @ ctx.args["weight"]}

    @add.rule("example::mix", variant="zplus", takes="relevance", absorbs=("undivided",), reads=("x", "weight"))
    def zplus(ctx: dlbt.RuleContext, R: Tensor) -> dict[str, Tensor]:
        """R_i = sum_j (x_i w_ji)^+ / sum_k (x_k w_jk)^+ R_j. Montavon et al. 2017, eq. 11, for inputs of any sign."""
        x, weight = ctx.args["x"], ctx.args["weight"]
        positive = (x.unsqueeze(-2) * weight).clamp(min=0)
        whole = positive.sum(-1)
        share = R / whole.where(whole > 0, 1.0)
        ctx.absorb("undivided", R * (whole == 0))  # where nothing contributes there is nothing to divide among
        return {"x": (positive * share.unsqueeze(-1)).sum(-2)}

    @add.rule(
        "aten.add.Tensor", variant="by_magnitude", takes="relevance", absorbs=("undivided",), reads=("self", "other")
    )
    def by_magnitude(ctx: dlbt.RuleContext, R: Tensor) -> dict[str, Tensor]:
        """R_a = |a| / (|a| + |b|) R for a + b. Otsuki et al. 2024, ratio-based splitting of residual connections."""
        first, second = ctx.args["self"], ctx.args["other"] * ctx.args["alpha"]
        whole = first.abs() + second.abs()
        share = R / whole.where(whole > 0, 1.0)
        parts = {"self": first.abs() * share, "other": second.abs() * share}
        kept = {name: part.sum_to_size(ctx.shape(name)) for name, part in parts.items() if name in ctx.carries}
        lost = R * (whole == 0)
        for name in parts.keys() - ctx.carries:
            lost = lost + parts[name]
        ctx.absorb("undivided", lost)
        return kept
