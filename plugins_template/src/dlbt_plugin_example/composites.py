"""Composites: an ordered choice of variants for a whole model, used by name."""

from __future__ import annotations

from dataclasses import replace

import dlbt_core as dlbt
from dlbt_core.composites.composite import CompositeSet

__all__ = ["declare"]


def declare(add: CompositeSet) -> None:
    """Declare them."""

    @add.recipe("example_ratio", plugin="example")
    def ratio(base: str = "attnlrp") -> dlbt.Composite:
        """Residual connections divided by magnitude (Otsuki et al. 2024), all else as in another composite."""
        choice = (dlbt.Select(op="aten.add.Tensor", fact="residual"), dlbt.Use("example:by_magnitude"))
        return replace(dlbt.composite(base).but(choice), name="example_ratio")
