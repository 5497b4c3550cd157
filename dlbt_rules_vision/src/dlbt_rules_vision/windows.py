"""The windows of a pooling op: which elements of its input each element of its output sees."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from dlbt_core.rules.context import RuleContext

__all__ = ["Windows"]


class Windows:
    """Elements in view, window by window; padding is not seen.

    Parameters
    ----------
    places
        Per spatial dimension a table (outputs, places) of positions in the input; negative where there is none.
    size
        Spatial shape of the input.
    """

    def __init__(self, places: Sequence[Tensor], size: Sequence[int]) -> None:
        self.places = tuple(places)
        self.size = tuple(size)

    @classmethod
    def of(cls, ctx: RuleContext, result: Tensor) -> Windows:
        """The windows of a node with results like `result`."""
        rank = int(re.findall(r"(\d)d", ctx.packet)[0])
        size, out = ctx.shape("self")[-rank:], result.shape[-rank:]
        if "adaptive" in ctx.packet:
            return cls([_adaptive(n, m, result.device) for n, m in zip(size, out, strict=True)], size)
        kernel = _each(ctx.args["kernel_size"], rank)
        stride = _each(ctx.args["stride"] or kernel, rank)
        padding = _each(ctx.args["padding"], rank)
        dilation = _each(ctx.args.get("dilation", 1), rank)
        steps = zip(kernel, stride, padding, dilation, strict=True)
        return cls([_fixed(n, m, *step, result.device) for n, m, step in zip(size, out, steps, strict=True)], size)

    @property
    def valid(self) -> Tensor:
        """Which places hold an element: shape (outputs..., places)."""
        seen = torch.ones((), dtype=torch.bool, device=self.places[0].device)
        for place in self.places:
            seen = seen[..., None, None] & (place >= 0)
        return self._windows_last(seen)

    def see(self, x: Tensor) -> Tensor:
        """The elements in view: shape (..., outputs..., places); where there is none, some element."""
        for d, place in enumerate(self.places, -len(self.places)):
            x = x.index_select(d, place.clamp(min=0).flatten())
        lead = x.shape[: x.dim() - len(self.places)]
        return self._windows_last(x.reshape(*lead, *(n for place in self.places for n in place.shape)))

    def hand_back(self, parts: Tensor) -> Tensor:
        """What each element gets of all windows that see it, for parts as `see` gives them: the adjoint of `see`."""
        rank = len(self.places)
        lead, counts = parts.shape[: parts.dim() - rank - 1], [place.shape for place in self.places]
        parts = parts.reshape(*lead, *(n for n, _ in counts), *(k for _, k in counts))
        order = [len(lead) + d + side for d in range(rank) for side in (0, rank)]
        total = parts.permute(*range(len(lead)), *order).reshape(*lead, *(n * k for n, k in counts))
        for d, (place, n) in enumerate(zip(self.places, self.size, strict=True), -rank):
            shape = (*total.shape[:d], n, *total.shape[d + 1 :]) if d + 1 else (*total.shape[:d], n)
            empty = torch.zeros(shape, dtype=total.dtype, device=total.device)
            total = empty.index_add(d, place.clamp(min=0).flatten(), total)
        return total

    def _windows_last(self, x: Tensor) -> Tensor:
        """(..., outputs and places of the first dimension, of the second, ...) as (..., outputs..., places)."""
        rank = len(self.places)
        lead = x.dim() - 2 * rank
        outputs, places = range(lead, x.dim(), 2), range(lead + 1, x.dim(), 2)
        return x.permute(*range(lead), *outputs, *places).flatten(lead + rank)


def _each(given: int | Sequence[int], rank: int) -> list[int]:
    """One number per dimension."""
    numbers = [given] if isinstance(given, int) else list(given)
    return numbers * rank if len(numbers) == 1 else numbers


def _fixed(size: int, out: int, kernel: int, stride: int, padding: int, dilation: int, device: torch.device) -> Tensor:
    """Positions of a window that moves on by `stride`."""
    outputs, places = torch.arange(out, device=device), torch.arange(kernel, device=device)
    place = outputs[:, None] * stride - padding + places * dilation
    return torch.where((place >= 0) & (place < size), place, -1)


def _adaptive(size: int, out: int, device: torch.device) -> Tensor:
    """Positions from floor(p n / m) to ceil((p + 1) n / m) for output p of m, over n elements."""
    outputs = torch.arange(out, device=device)
    start, stop = outputs * size // out, -(-(outputs + 1) * size // out)
    place = start[:, None] + torch.arange((size + out - 1) // out + 1, device=device)
    return torch.where(place < stop[:, None], place, -1)
