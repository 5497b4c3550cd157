"""The fallback for an op without a rule, where the user allows it: the op's own gradient, marked as such."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from dlbt_core.rules.context import RuleContext
from dlbt_core.rules.opkey import OpKey
from dlbt_core.rules.rule import Provenance, Rule

__all__ = ["gradient_fallback"]


def _gradient(ctx: RuleContext, m: Any) -> dict[str, Any]:
    """m_i = sum_j dz_j/dx_i m_j: the gradient of an op that has no rule; what it does not conserve is booked."""
    handed = ctx.vjp(m)
    ctx.absorb_rest("fallback", m, handed)
    return handed


def gradient_fallback(op: str) -> Rule:
    """A rule for `op` made of its gradient."""
    return Rule(
        OpKey.of(op), "fallback_gradient", _gradient, "multiplier", "multiplier", ("fallback",), False,
        ("pullback", "carrying", "output"), MappingProxyType({}), Provenance("core", "dlbt-core", ""), __file__,
    )  # fmt: skip
