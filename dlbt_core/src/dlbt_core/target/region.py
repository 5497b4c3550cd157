"""Targets over pixels: a class summed or averaged over a region of an output of shape (B, C, H, W)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dlbt_core.errors import TargetError
from dlbt_core.target.base import Target, per_sample, plain, rows

__all__ = ["RegionTarget"]


@dataclass(frozen=True, eq=False)
class RegionTarget(Target):
    """One class over a region: a mask, a box, a pixel, or the pixels for which the model itself predicts the class.

    See `dlbt_core.target.region` for the parameters.
    """

    index: Any = None
    mask: Any = None
    box: Sequence[float] | None = None
    pixel: Sequence[float] | None = None
    reduce: str = "mean"
    threshold: float | None = None
    size: Sequence[int] | None = None
    path: str | None = None

    def weights(self, out: Tensor) -> tuple[Tensor, list[Any]]:
        """The multiplier of the output and what was picked; see `Target.weights`."""
        if out.dim() not in (3, 4):
            raise TargetError(
                "region() needs an output of shape (samples, classes, height, width) or (samples, height, width), not "
                f"{tuple(out.shape)}.\n  fix  for classes pass the class: target=3; region(path=...) names another output."
            )
        dense = out if out.dim() == 4 else out.unsqueeze(1)
        given = self._given(dense)
        index = self._class(dense, given)
        where = self._own(dense, index) if given is None else given
        count = where.flatten(1).sum(1)
        self._check_not_empty(dense, index, count)
        share = where.to(out.dtype)
        if self.reduce == "mean":
            share = share / count.to(out.dtype)[:, None, None]
        weights = torch.zeros_like(dense)
        weights[rows(dense), index] = share
        return weights.reshape(out.shape), index.tolist()

    # -- which class, which pixels ----------------------------------------------------------------------------------

    def _class(self, dense: Tensor, given: Tensor | None) -> Tensor:
        """The class of each sample; unless one was named, the one predicted for most pixels of the region."""
        samples, channels = dense.shape[:2]
        if self.index is not None:
            return per_sample(self.index, channels, samples, "class", dense.device)
        predicted = dense.argmax(1).flatten(1)
        inside = torch.ones_like(predicted) if given is None else given.flatten(1).long()
        votes = torch.zeros(samples, channels, dtype=torch.long, device=dense.device)
        return votes.scatter_add(1, predicted, inside).argmax(1)

    def _own(self, dense: Tensor, index: Tensor) -> Tensor:
        """The pixels for which the model predicts the class, shape (B, H, W)."""
        plane = dense[rows(dense), index]
        if self.threshold is not None or dense.shape[1] == 1:
            return plane > (0.0 if self.threshold is None else self.threshold)
        return dense.argmax(1) == index[:, None, None]

    def _given(self, dense: Tensor) -> Tensor | None:
        """The region that was given, shape (B, H, W), or None."""
        samples, (height, width) = dense.shape[0], dense.shape[2:]
        if self.mask is not None:
            mask = self._mask(height, width, dense.device)
            if len(mask) not in (1, samples):
                raise TargetError(f"{len(mask)} masks for {samples} samples.\n  fix  give one, or one per sample.")
            return mask.expand(samples, -1, -1)
        if self.box is None and self.pixel is None:
            return None
        where = torch.zeros(height, width, dtype=torch.bool, device=dense.device)
        left, top, right, bottom = self._edges(height, width)
        where[top:bottom, left:right] = True
        return where.expand(samples, -1, -1)

    def _edges(self, height: int, width: int) -> tuple[int, int, int, int]:
        """First and last (exclusive) column and row of the box or pixel, in pixels of the output."""
        rows_given, columns_given = (height, width) if self.size is None else self.size
        if self.pixel is not None:
            what, (x, y) = f"pixel {tuple(self.pixel)}", self.pixel
            fits = 0 <= x < columns_given and 0 <= y < rows_given
            x, y = math.floor(x * width / columns_given), math.floor(y * height / rows_given)
            edges = (x, y, x + 1, y + 1)
        else:
            assert self.box is not None
            what, (left, top, right, bottom) = f"box {tuple(self.box)}", self.box
            fits = 0 <= left < right <= columns_given and 0 <= top < bottom <= rows_given
            edges = (
                math.floor(left * width / columns_given), math.floor(top * height / rows_given),
                math.ceil(right * width / columns_given), math.ceil(bottom * height / rows_given),
            )  # fmt: skip
        if not fits:
            raise TargetError(
                f"the {what} does not lie in {columns_given} by {rows_given} pixels (width by height).\n"
                "  fix  pixel=(x, y) and box=(x1, y1, x2, y2) count from the upper left corner, in pixels of the output, or "
                "of an image whose size=(height, width) you give."
            )
        return edges

    def _mask(self, height: int, width: int, device: torch.device) -> Tensor:
        mask = torch.as_tensor(self.mask, device=device)
        if mask.is_floating_point():
            raise TargetError(
                f"the mask has dtype {mask.dtype}; the mask of a region says yes or no.\n"
                "  fix  mask > 0.5, or dlbt.target.logits(mask) for a weighted sum."
            )
        if mask.dim() not in (2, 3):
            raise TargetError(
                f"the mask has shape {tuple(mask.shape)}; it must be (height, width), or (samples, height, width)."
            )
        mask = mask.ne(0).reshape(-1, *mask.shape[-2:])
        if tuple(mask.shape[1:]) == (height, width):
            return mask
        if self.size is None or tuple(self.size) != tuple(mask.shape[1:]):
            raise TargetError(
                f"the mask has {mask.shape[1]} by {mask.shape[2]} pixels (height by width), the output {height} by {width}.\n"
                f"  fix  size={tuple(mask.shape[1:])} lets the mask be read at the centres of the output's pixels."
            )
        down, across = (
            ((torch.arange(n, device=device) + 0.5) * m / n).long()
            for n, m in ((height, mask.shape[1]), (width, mask.shape[2]))
        )
        return mask[:, down][:, :, across]

    def _check_not_empty(self, dense: Tensor, index: Tensor, count: Tensor) -> None:
        empty = (count == 0).nonzero().flatten().tolist()
        if not empty:
            return
        sample = empty[0]
        if self.mask is not None:
            raise TargetError(
                f"the mask holds no pixel of the output for sample {sample}.\n"
                "  fix  a mask that is true where the output has a pixel: it is read at the centres of the output's pixels."
            )
        if self.threshold is not None or dense.shape[1] == 1:
            most, limit = float(dense[sample, index[sample]].max()), self.threshold or 0.0
            found = f"its largest value is {most:.4g}, the threshold is {limit:.4g}"
            remedy = "a lower threshold=, or a region: mask=, box= or pixel="
        else:
            classes = dense[sample].argmax(0).unique().tolist()
            names = ", ".join(map(str, classes[:8])) + (", ..." if len(classes) > 8 else "")
            found, remedy = f"what is predicted: class {names}", "one of these, or a region: mask=, box= or pixel="
        raise TargetError(
            f"class {int(index[sample])} is predicted for no pixel of sample {sample}.\n  found  {found}\n  fix    {remedy}"
        )

    def __str__(self) -> str:
        what = "the most frequent class" if self.index is None else f"class {plain(self.index)}"
        if self.mask is not None:
            where = "a mask"
        elif self.box is not None:
            where = f"the box {tuple(self.box)}"
        elif self.pixel is not None:
            return f"{what} at pixel {tuple(self.pixel)}"
        else:
            where = "the pixels predicted as it" + ("" if self.threshold is None else f" (above {self.threshold:g})")
        return f"{self.reduce} of {what} over {where}"
