"""Targets that are elements of one output: a class, a token, a masked sum, and differences and sums of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dlbt_core.errors import TargetError
from dlbt_core.target.base import Outputs, Seed, Target, one_hot, per_sample, plain, rows

__all__ = ["ClassTarget", "ClassesTarget", "ContrastTarget", "MaskTarget", "TokenTarget"]


@dataclass(frozen=True, eq=False)
class ClassTarget(Target):
    """One class of an output of shape (B, C) or (C,); the largest one if `index` is None."""

    index: Any = None
    path: str | None = None

    def weights(self, out: Tensor) -> tuple[Tensor, list[Any]]:
        """The multiplier of the output and what was picked; see `Target.weights`."""
        if out.dim() == 0:
            return torch.ones_like(out), []
        if out.dim() == 1:
            index = (
                out.argmax()[None]
                if self.index is None
                else per_sample(self.index, out.shape[0], 1, "class", out.device)
            )
            return one_hot(out, (index,)), index.tolist()
        if isinstance(self.index, tuple):
            return self._at_place(out)
        if out.dim() > 2:
            _refuse_rows(out)
        if self.index is None:
            index = out.argmax(-1)
        else:
            index = per_sample(self.index, out.shape[1], out.shape[0], "class", out.device)
        return one_hot(out, (rows(out), index)), index.tolist()

    def _at_place(self, out: Tensor) -> tuple[Tensor, list[Any]]:
        if len(self.index) != out.dim() - 1:
            raise TargetError(
                f"the index {self.index!r} has {len(self.index)} numbers; an output of shape {tuple(out.shape)} needs "
                f"{out.dim() - 1} after the sample."
            )
        for place, size in zip(self.index, out.shape[1:], strict=True):
            per_sample(place, size, 1, "index", out.device)
        return one_hot(out, (slice(None), *self.index)), [self.index] * out.shape[0]

    def __str__(self) -> str:
        where = f" of {self.path}" if self.path else ""
        return f"largest class{where}" if self.index is None else f"class {plain(self.index)}{where}"


def _refuse_rows(out: Tensor) -> None:
    """A class of an output with many rows, or pixels, per sample is not one number."""
    what, remedy = "row of classes", "target=dlbt.target.token(-1) for the last position, "
    if out.dim() == 4:
        what, remedy = "pixel", "target=dlbt.target.region(class_) for its mean over a region, "
    raise TargetError(
        f"an output of shape {tuple(out.shape)} has more than one {what} per sample, so a class alone does "
        f"not name a number.\n  fix  {remedy}"
        "dlbt.target.output(path, (position, class)), or dlbt.target.function(fn)."
    )


@dataclass(frozen=True, eq=False)
class ClassesTarget(Target):
    """Several classes of an output of shape (B, C) at once: the sum or mean of their scores."""

    index: Sequence[int]
    reduce: str = "sum"
    path: str | None = None

    def weights(self, out: Tensor) -> tuple[Tensor, list[Any]]:
        """The multiplier of the output and what was picked; see `Target.weights`."""
        if out.dim() != 2:
            raise TargetError(
                f"classes() needs an output of shape (samples, classes), not {tuple(out.shape)}.\n"
                "  fix  dlbt.target.region(class_) for an output with pixels, dlbt.target.function(fn) for any other."
            )
        size = out.shape[1]
        index = torch.stack([per_sample(one, size, 1, "class", out.device)[0] for one in self.index])
        if index.unique().numel() != index.numel():
            raise TargetError(f"classes {list(self.index)!r} name a class twice.\n  fix  name each once.")
        share = 1.0 if self.reduce == "sum" else 1.0 / len(self.index)
        weights = torch.zeros_like(out)
        weights[:, index] = share
        return weights, [tuple(index.tolist())] * out.shape[0]

    def __str__(self) -> str:
        return f"{self.reduce} of classes {', '.join(map(str, self.index))}" + (f" of {self.path}" if self.path else "")


@dataclass(frozen=True, eq=False)
class TokenTarget(Target):
    """One token's logit at one position of an output of shape (B, T, V)."""

    position: Any
    id: Any = None
    path: str | None = None

    def weights(self, out: Tensor) -> tuple[Tensor, list[Any]]:
        """The multiplier of the output and what was picked; see `Target.weights`."""
        if out.dim() != 3:
            raise TargetError(
                f"token() needs an output of shape (samples, positions, vocabulary), not {tuple(out.shape)}.\n"
                "  fix  for classes pass the class: target=3."
            )
        position = per_sample(self.position, out.shape[1], out.shape[0], "position", out.device)
        samples = rows(out)
        if self.id is None:
            index = out[samples, position].argmax(-1)
        else:
            index = per_sample(self.id, out.shape[2], out.shape[0], "token id", out.device)
        return one_hot(out, (samples, position, index)), list(zip(position.tolist(), index.tolist(), strict=True))

    def score(self, out: Tensor, weights: Tensor, picked: list[Any]) -> Tensor:
        """The picked logits themselves, shape (B,)."""
        return torch.stack([out[row, position, index] for row, (position, index) in enumerate(picked)])

    def __str__(self) -> str:
        what = "most likely token" if self.id is None else f"token {plain(self.id)}"
        return f"{what} at position {plain(self.position)}"


@dataclass(frozen=True, eq=False)
class ContrastTarget(Target):
    """The difference of two targets."""

    a: Target
    b: Target

    @property
    def path(self) -> str | None:  # type: ignore[override]
        """The output the first is about."""
        return self.a.path

    def paths(self, floating: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
        """The outputs it is about; see `Target.paths`."""
        return tuple(dict.fromkeys((*self.a.paths(floating), *self.b.paths(floating))))

    def seed(self, outputs: Outputs) -> Seed:
        """Score and multipliers for these outputs; see `Target.seed`."""
        first, second = self.a.seed(outputs), self.b.seed(outputs)
        multipliers = dict(first.multipliers)
        for path, weights in second.multipliers.items():
            multipliers[path] = multipliers[path] - weights if path in multipliers else -weights
        both = len(first.picked) == len(second.picked)
        picked = list(zip(first.picked, second.picked, strict=True)) if both else []
        return Seed(first.score - second.score, multipliers, picked)

    def __str__(self) -> str:
        return f"{self.a} against {self.b}"


@dataclass(frozen=True, eq=False)
class MaskTarget(Target):
    """The sum of an output's elements, weighted by a mask."""

    mask: Any
    path: str | None = None

    def weights(self, out: Tensor) -> tuple[Tensor, list[Any]]:
        """The multiplier of the output and what was picked; see `Target.weights`."""
        mask = torch.as_tensor(self.mask, device=out.device).to(out.dtype)
        try:
            return mask.expand_as(out).clone(), []
        except RuntimeError as error:
            raise TargetError(
                f"the mask of shape {tuple(mask.shape)} does not fit the output of shape {tuple(out.shape)}.\n"
                "  fix  give it the output's shape, or one that broadcasts to it."
            ) from error

    def __str__(self) -> str:
        return "masked sum of logits"
