"""Linear systems with a triangular matrix, as delta-rule attention solves them, and the sum of exponentials."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dlbt_core.rules.context import RuleContext
from dlbt_core.rules.rule import RuleSet

__all__ = ["declare"]

_SOLVE = "aten.linalg_solve_triangular"


def declare(add: RuleSet) -> None:
    """Declare the rules of this module."""

    @add.rule(_SOLVE, variant="signal", absorbs=("constant",), default=True, reads=("pullback", "constants", "output"))
    def signal(ctx: RuleContext, m: Tensor) -> dict[str, Any]:
        """R_B = R, R_A = 0 for X = A^-1 B: the LRP-0 rule of a linear map of B, whose weights A are held constant.

        Bach et al. 2015, eq. 56, with what mixes the signal held as by Jafari et al. 2024.
        """
        if "B" not in ctx.carries:
            ctx.absorb("constant", m, ctx.output)
            return {}
        return {"B": ctx.vjp(m)["B"]}

    @add.rule(_SOLVE, variant="gradient", absorbs=("product",), reads=("pullback", "carrying", "output"))
    def gradient(ctx: RuleContext, m: Tensor) -> dict[str, Any]:
        """m_B = A^-T m, m_A = -m_B X^T: the op's gradient, which hands on all of it to B, and the opposite of a part to A."""
        return ctx.gradient(m, "product")

    @add.rule("aten.logsumexp", variant="taylor", absorbs=("softmax",), default=True,
              reads=("pullback", "carrying", "output"))  # fmt: skip
    def taylor(ctx: RuleContext, m: Tensor) -> dict[str, Any]:
        """R_i = x_i s_i m with s the softmax of x: the Taylor expansion at x, whose bias, the entropy of s, absorbs.

        Achtibat et al. 2024, eq. 4-5, as for the softmax itself (prop. 3.1). On multipliers this is the op's gradient.
        """
        return ctx.gradient(m, "softmax")
