"""The samples of one value: an axis, and the sample of each place along it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

__all__ = ["LOST", "SampleAxis", "compress", "join", "labels"]


@dataclass(frozen=True, eq=False)
class SampleAxis:
    """Element k along `axis` belongs to sample ``ids[k]``; to none where that is -1.

    Attributes
    ----------
    axis
        A dimension; None if the whole value belongs to one sample, ``ids[0]``.
    ids
        Shape (n,), int64, on the CPU. Empty if nothing is known.
    """

    axis: int | None
    ids: Tensor

    @staticmethod
    def of(axis: int, ids: Tensor) -> SampleAxis:
        """Along an axis; of the whole value where it is the same all along."""
        first = ids[:1]
        whole = len(ids) > 0 and bool(first >= 0) and bool((ids == first).all())
        return SampleAxis(None, first) if whole else SampleAxis(axis, ids)

    @staticmethod
    def batch(samples: int, inner: int = 1, outer: int = 1, axis: int = 0) -> SampleAxis:
        """Runs of `inner` places for each sample, all that `outer` times."""
        return SampleAxis.of(axis, torch.arange(samples).repeat_interleave(inner).repeat(outer))

    @property
    def lost(self) -> bool:
        """Whether the samples cannot be told apart."""
        return not len(self.ids)

    @property
    def whole(self) -> bool:
        """Whether all of the value belongs to one sample."""
        return self.axis is None and not self.lost

    @cached_property
    def partial(self) -> bool:
        """Whether some places belong to no sample."""
        return bool((self.ids < 0).any())

    @cached_property
    def _ordered(self) -> bool:
        return self.axis is not None and bool((self.ids == torch.arange(len(self.ids))).all())

    def in_order(self, samples: int) -> bool:
        """Whether there is one place for each sample, the first first."""
        return len(self.ids) == samples and self._ordered

    def same(self, other: SampleAxis) -> bool:
        """Whether both say the same."""
        return self is other or (self.axis == other.axis and torch.equal(self.ids, other.ids))

    def at(self, axis: int) -> SampleAxis:
        """The same samples along another axis."""
        return self if self.axis in (None, axis) else SampleAxis(axis, self.ids)

    def places(self, samples: int) -> Tensor | None:
        """The places of each sample, shape (samples, places); None if some have more than others."""
        counts = torch.bincount(self.ids[self.ids >= 0], minlength=samples)
        if self.axis is None or self.partial or len(counts) != samples or bool((counts != counts[0]).any()):
            return None
        return self.ids.argsort(stable=True).view(samples, -1)


LOST = SampleAxis(None, torch.empty(0, dtype=torch.int64))
"""The samples of a value that depends on them in a way that cannot be told."""


def join(parts: Iterable[SampleAxis]) -> SampleAxis:
    """The samples of what is made of several parts: `LOST` where those of two samples meet."""
    known: SampleAxis | None = None
    for part in parts:
        known = part if known is None else _meet(known, part)
        if known.lost:
            return LOST
    return LOST if known is None else known


def _meet(a: SampleAxis, b: SampleAxis) -> SampleAxis:
    if a.lost or b.lost:
        return LOST
    if a.same(b):
        return a
    if a.axis is None and b.axis is None:
        return LOST
    if a.axis is not None and b.axis is not None and (a.axis != b.axis or len(a.ids) != len(b.ids)):
        return LOST
    if bool(((a.ids != b.ids) & (a.ids >= 0) & (b.ids >= 0)).any()):
        return LOST
    axis = a.axis if a.axis is not None else b.axis
    assert axis is not None
    return SampleAxis.of(axis, torch.maximum(a.ids, b.ids))


def labels(axis: SampleAxis | None, shape: tuple[int, ...]) -> Tensor:
    """For each element the number of its sample, counted from 1; 0 where it belongs to none. In float32, for any op."""
    if axis is None:
        return torch.zeros(()).expand(shape)
    numbers = (axis.ids + 1).to(torch.float32)
    if axis.axis is None:
        return numbers.reshape(()).expand(shape)
    return numbers.view([-1 if d == axis.axis else 1 for d in range(len(shape))]).expand(shape)


def compress(found: Tensor) -> SampleAxis | None:
    """From the labels of all elements back to an axis; None if no element has one, `LOST` if one axis does not tell."""
    if not found.numel() or not bool(found.any()):
        return None
    least = torch.where(found > 0, found, torch.inf)
    low, high = least.min(), found.max()
    if bool(low == high) and bool((found > 0).all()):
        return SampleAxis(None, high.reshape(1).long() - 1)
    for axis in range(found.dim()):
        others = [d for d in range(found.dim()) if d != axis]
        low, high = (least.amin(others), found.amax(others)) if others else (least, found)
        if bool(((low == high) | (high == 0)).all()):
            return SampleAxis.of(axis, high.long() - 1)
    return LOST
