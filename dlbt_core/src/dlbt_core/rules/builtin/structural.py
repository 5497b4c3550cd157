"""Ops that copy and select: what comes back goes to where it was copied from."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dlbt_core.graph.ops import COPIES
from dlbt_core.rules.context import RuleContext
from dlbt_core.rules.rule import RuleSet

__all__ = ["declare"]

_STOPS = ("aten.detach",)
_WITH_CONSTANTS = frozenset(
    f"aten.{name}"
    for name in (
        "cat concat concatenate stack hstack vstack dstack column_stack row_stack where masked_fill slice_scatter "
        "select_scatter as_strided_scatter diagonal_scatter index_put index_copy index_fill scatter masked_scatter copy "
        "constant_pad_nd pad"
    ).split()
)


def declare(add: RuleSet) -> None:
    """Declare the rules of this module."""

    @add.rule(*sorted(COPIES), variant="gradient", takes="either", absorbs=("constant",), default=True,
              reads=("pullback", "constants"))  # fmt: skip
    def copied(ctx: RuleContext, m: Any) -> dict[str, Any]:
        """R_i = sum of R_j over the copies j of i: the adjoint of a copy. Exact in both forms of the message."""
        if ctx.packet in _WITH_CONSTANTS:
            ctx.absorb_offset("constant", m)
        return ctx.vjp(m)

    @add.rule(*_STOPS, variant="stop", takes="either", absorbs=("stopped",), reads=("output",))
    def stopped(ctx: RuleContext, m: Tensor) -> dict[str, Tensor]:
        """R_i = 0: nothing passes a detach, as in autograd."""
        ctx.absorb("stopped", m, ctx.output)
        return {}
