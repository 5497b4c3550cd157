"""Gated linear units in one op: y = a sigmoid(b), where a and b are the two halves of the argument."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dlbt_core.rules.context import RuleContext, share_of_epsilon, stabilise
from dlbt_core.rules.parameter import NotNegative
from dlbt_core.rules.rule import RuleSet

__all__ = ["declare"]

_GLU = "aten.glu"


def declare(add: RuleSet) -> None:
    """Declare the rules of this module."""

    @add.rule(_GLU, variant="signal", default=True, reads=("self",))
    def signal(ctx: RuleContext, m: Tensor) -> dict[str, Any]:
        """R_a = R, R_b = 0: all to the signal, none to the gate.  Arras et al. 2017."""
        _, b = _halves(ctx)
        return {"self": torch.cat([m * torch.sigmoid(b), torch.zeros_like(m)], ctx.args["dim"])}

    @add.rule(_GLU, variant="uniform", absorbs=("epsilon",), reads=("self", "output"))
    def uniform(ctx: RuleContext, m: Tensor, *, epsilon: NotNegative = 1e-6) -> dict[str, Any]:
        """R_a = R / 2, R_b = b / (b + eps sgn b) R / 2: a product, and the identity rule for its gate.

        Achtibat et al. 2024, prop. 3.2, eq. 7, and prop. 3.4, eq. 9.
        """
        _, b = _halves(ctx)
        half = m * 0.5
        ctx.absorb("epsilon", half * share_of_epsilon(b, epsilon), ctx.output)
        parts = [half * torch.sigmoid(b), half * ctx.output / stabilise(b, epsilon)]
        return {"self": torch.cat(parts, ctx.args["dim"])}

    @add.rule(_GLU, variant="gradient", absorbs=("product",), reads=("pullback", "self", "output"))
    def gradient(ctx: RuleContext, m: Tensor) -> dict[str, Any]:
        """m_a = m sigmoid(b), m_b = m a sigmoid'(b): the op's gradient, which hands on the gate's part besides."""
        return ctx.gradient(m, "product")


def _halves(ctx: RuleContext) -> tuple[Tensor, ...]:
    halves: tuple[Tensor, ...] = ctx.args["self"].chunk(2, ctx.args["dim"])
    return halves
