"""Ops that copy and select: what comes back goes to where it was copied from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from dlbt_core.graph.ops import COPIES, COPIES_OF_PIXELS
from dlbt_core.rules.context import RuleContext
from dlbt_core.rules.rule import RuleSet

__all__ = ["declare", "declare_copies"]

_OWN = frozenset(
    f"aten.{name}"
    for name in "detach copy nan_to_num as_strided_scatter _pack_padded_sequence _pad_packed_sequence".split()
)
_WITH_CONSTANTS = frozenset(
    f"aten.{name}"
    for name in (
        "cat concat concatenate stack hstack vstack dstack column_stack row_stack where masked_fill slice_scatter "
        "select_scatter diagonal_scatter index_put index_copy index_fill scatter masked_scatter constant_pad_nd pad "
        "type_as expand_as view_as reshape_as broadcast_tensors"
    ).split()
)
_CASTS = frozenset({"aten.to", "aten._to_copy"})
_WITH_ZEROS = frozenset({"aten.tril", "aten.triu", "aten.im2col"})


def declare_copies(add: RuleSet, ops: Iterable[str]) -> None:
    """Declare the one rule of copying ops."""

    @add.rule(*sorted(ops), variant="gradient", takes="either", absorbs=("constant",), default=True,
              reads=("pullback", "constants"))  # fmt: skip
    def copied(ctx: RuleContext, m: Any) -> dict[str, Any]:
        """R_i = sum of R_j over the copies j of i: the adjoint of a copy. Exact in both forms of the message."""
        if ctx.packet in _WITH_CONSTANTS or (ctx.packet in _WITH_ZEROS and ctx.form == "relevance"):
            ctx.absorb_offset("constant", m)
        if ctx.packet in _CASTS and ctx.form == "relevance":  # of ids, which have no derivative
            return dict.fromkeys(ctx.carries, m)
        return ctx.vjp(m)


def declare(add: RuleSet) -> None:
    """Declare the rules of this module."""
    declare_copies(add, COPIES - COPIES_OF_PIXELS - _OWN)

    @add.rule("aten.detach", variant="identity", takes="either", default=True, reads=())
    def detached(ctx: RuleContext, m: Tensor) -> dict[str, Tensor]:
        """R_i = R_i. Exact: a detach stops gradients in training; the value it hands on is the same."""
        return {"self": m}

    @add.rule("aten.detach", variant="gradient", takes="either", absorbs=("stopped",), reads=("output",))
    def stopped(ctx: RuleContext, m: Tensor) -> dict[str, Tensor]:
        """R_i = 0: nothing passes a detach, which is the op's gradient in autograd."""
        ctx.absorb("stopped", m, None if ctx.form == "relevance" else ctx.output)
        return {}

    @add.rule("aten.nan_to_num", variant="gradient", takes="either", absorbs=("constant",), default=True,
              reads=("self", "output"))  # fmt: skip
    def finite(ctx: RuleContext, m: Tensor) -> dict[str, Tensor]:
        """R_i = R_i where x is finite. Exact: elsewhere the result is a constant, which keeps what it gets."""
        kept, nothing = torch.isfinite(ctx.args["self"]), torch.zeros_like(m)
        ctx.absorb("constant", torch.where(kept, nothing, m), None if ctx.form == "relevance" else ctx.output)
        return {"self": torch.where(kept, m, nothing)}

    @add.rule("aten.copy", variant="gradient", takes="either", absorbs=("constant",), default=True,
              reads=lambda asked: () if "src" in asked.carries else ("output",))  # fmt: skip
    def overwritten(ctx: RuleContext, m: Tensor) -> dict[str, Tensor]:
        """R_src = R. Exact: the result is the source, broadcast; of what was overwritten nothing is left."""
        if "src" in ctx.carries:
            return {"src": m.sum_to_size(ctx.shape("src"))}
        ctx.absorb("constant", m, None if ctx.form == "relevance" else ctx.output)
        return {}

    @add.rule("aten.as_strided_scatter", variant="gradient", takes="either", absorbs=("constant",), default=True,
              reads=("constants",))  # fmt: skip
    def scattered(ctx: RuleContext, m: Tensor) -> dict[str, Tensor]:
        """R_src = R where it was written, R_self = R elsewhere. Exact. (torch's own derivative mixes the two up.)"""
        ctx.absorb_offset("constant", m)
        shape, place = m.shape, (ctx.args["size"], ctx.args["stride"], ctx.args["storage_offset"])
        where = torch.arange(shape.numel(), device=m.device).as_strided(*place)
        untouched = torch.ones(shape.numel(), dtype=torch.bool, device=m.device).index_fill(0, where.flatten(), False)
        handed = {"src": m.flatten()[where], "self": torch.where(untouched.view(shape), m, torch.zeros_like(m))}
        return {name: message for name, message in handed.items() if name in ctx.carries}
