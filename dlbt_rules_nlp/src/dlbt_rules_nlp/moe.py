"""Mixtures of experts: all tokens through the experts they were sent to, in one matrix product per group of rows."""

from __future__ import annotations

from collections.abc import Mapping

from dlbt_core.rules.builtin.linear import Product, declare_family
from dlbt_core.rules.rule import RuleSet

__all__ = ["FAMILY", "declare"]

FAMILY: Mapping[str, Product] = {
    "aten._grouped_mm": Product(("self", "mat2")),
    "transformers.grouped_mm_fallback": Product(("input", "weight")),
}
"""Row s of the first factor times the matrix of its group; where groups end says an integer argument, which is constant."""


def declare(add: RuleSet) -> None:
    """Declare the rules of this module: those of the linear family (Bach et al. 2015, eq. 58, and its variants)."""
    declare_family(add, FAMILY)
