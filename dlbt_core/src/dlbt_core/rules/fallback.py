"""Rules that no plugin declares: for arithmetic on ids, and the op's own gradient for an op without a rule, if allowed."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from dlbt_core.rules.context import RuleContext
from dlbt_core.rules.opkey import OpKey
from dlbt_core.rules.rule import Provenance, Rule

__all__ = ["gradient_fallback", "ids_rule"]


def _gradient(ctx: RuleContext, m: Any) -> dict[str, Any]:
    """m_i = sum_j dz_j/dx_i m_j: the gradient of an op that has no rule; what it does not conserve is booked."""
    return ctx.gradient(m, "fallback")


def gradient_fallback(op: str) -> Rule:
    """A rule for `op` made of its gradient."""
    return Rule(
        OpKey.of(op), "fallback_gradient", _gradient, "multiplier", "multiplier", ("fallback",), False,
        ("pullback", "carrying", "output"), MappingProxyType({}), Provenance("core", "dlbt-core", ""), __file__,
    )  # fmt: skip


def _ids(ctx: RuleContext, R: Any) -> dict[str, Any]:
    """R_i = sum of R_j / n over the ids j made of id i, of as many as n. Convention: ids have no derivative."""
    return {name: (R / len(ctx.carries)).sum_to_size(ctx.shape(name)) for name in sorted(ctx.carries)}


def ids_rule(op: str) -> Rule:
    """The rule of an op that makes new ids of ids at the same positions: hashes, offsets, n-grams."""
    return Rule(
        OpKey.of(op), "ids", _ids, "relevance", "relevance", (), False, (), MappingProxyType({}),
        Provenance("core", "dlbt-core", ""), __file__,
    )  # fmt: skip
