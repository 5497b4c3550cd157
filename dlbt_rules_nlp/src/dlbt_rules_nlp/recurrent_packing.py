"""Packed sequences: rows of all samples' steps, time by time, without the steps that a shorter sample does not have."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from dlbt_core.rules.context import RuleContext
from dlbt_core.rules.rule import RuleSet

__all__ = ["Packing", "declare"]


class Packing(NamedTuple):
    """Where the rows of packed data lie among (time, samples), and which of those have a row.

    Attributes
    ----------
    place
        (rows,): time * samples + sample.
    row
        (time, samples): its row; 0 where there is none.
    mask
        (time, samples, 1): whether there is one.
    """

    place: Tensor
    row: Tensor
    mask: Tensor

    @staticmethod
    def of(batch_sizes: Tensor, rows: int, samples: int, device: torch.device) -> Packing:
        """From the number of samples at each time; without a look at the numbers, so that it can be traced."""
        sizes = batch_sizes.to(device)
        ends = sizes.cumsum(0)
        starts = ends - sizes
        every = torch.arange(rows, device=device)
        time = torch.searchsorted(ends, every, right=True)
        sample = torch.arange(samples, device=device)
        mask = sample < sizes[:, None]
        row = torch.where(mask, starts[:, None] + sample, 0)
        return Packing(time * samples + every - starts[time], row, mask[..., None])

    def pad(self, data: Tensor) -> Tensor:
        """(rows, ...) as (time, samples, ...), 0 where there is no row."""
        found = data.index_select(0, self.row.flatten()).unflatten(0, self.row.shape)
        return torch.where(self.mask.reshape(*self.row.shape, *[1] * (data.dim() - 1)), found, 0)

    def pack(self, padded: Tensor) -> Tensor:
        """(time, samples, ...) as (rows, ...)."""
        return padded.flatten(0, 1).index_select(0, self.place)


def declare(add: RuleSet) -> None:
    """Declare the rules of this module."""

    @add.rule("aten._pack_padded_sequence", variant="gradient", takes="either", default=True, reads=("output",))
    def packed(ctx: RuleContext, m: Any) -> dict[str, Any]:
        """R_tb = R_row. Exact: each row is a copy of one step of one sample; padding gets 0."""
        first = 0 if ctx.args["batch_first"] else 1
        shape, sizes = ctx.shape("input"), ctx.output[1]
        padded = Packing.of(sizes, len(m[0]), shape[first], m[0].device).pad(m[0])
        missing = shape[1 - first] - len(padded)
        padded = torch.cat([padded, padded.new_zeros(missing, *padded.shape[1:])]) if missing else padded
        return {"input": padded.transpose(0, 1) if first == 0 else padded}

    @add.rule("aten._pad_packed_sequence", variant="gradient", takes="either", absorbs=("constant",), default=True,
              reads=("batch_sizes",))  # fmt: skip
    def unpacked(ctx: RuleContext, m: Any) -> dict[str, Any]:
        """R_row = R_tb. Exact: each row is copied to its step of its sample; the padding value is a constant."""
        first = bool(ctx.args["batch_first"])
        message = m[0].transpose(0, 1) if first else m[0]
        sizes = ctx.args["batch_sizes"]
        packing = Packing.of(sizes, ctx.shape("data")[0], message.shape[1], message.device)
        _absorb_padding(ctx, m[0], packing, first)
        return {"data": packing.pack(message[: len(sizes)])}


def _absorb_padding(ctx: RuleContext, m: Tensor, packing: Packing, batch_first: bool) -> None:
    """Book what lies on steps that no sample has."""
    steps = m.shape[1] if batch_first else m.shape[0]
    mask = packing.mask.squeeze(-1)
    mask = torch.cat([mask, mask.new_zeros(steps - len(mask), mask.shape[1])])
    mask = (mask.T if batch_first else mask).reshape(*m.shape[:2], *[1] * (m.dim() - 2))
    beside = torch.where(mask, 0, m)
    value = ctx.args["padding_value"]
    if ctx.form == "relevance":
        ctx.absorb("constant", beside)
    elif value:
        ctx.absorb("constant", beside * value)
