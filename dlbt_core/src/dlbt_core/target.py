"""Targets: the number that is explained, one per sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dlbt_core.errors import TargetError
from dlbt_core.rules.context import vanish_where_zero

__all__ = ["FunctionTarget", "Seed", "Target", "as_target", "contrast", "function", "logits", "output", "token"]

Outputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class Seed:
    """A target met with outputs.

    Attributes
    ----------
    score : Tensor
        Shape (B,).
    multipliers : mapping of str to Tensor
        Output path to the target's derivative by that output.
    picked : list
        What was chosen where the target left it open, e.g. the argmax classes.
    """

    score: Tensor
    multipliers: Mapping[str, Tensor]
    picked: list[Any]


class Target:
    """A linear function of one output. Subclasses say which."""

    path: str | None = None

    def weights(self, out: Tensor) -> tuple[Tensor, list[Any]]:
        """The multiplier of the output, shaped like it, and what was picked."""
        raise NotImplementedError

    def score(self, out: Tensor, weights: Tensor, picked: list[Any]) -> Tensor:
        """The sum of the weighted output per sample, shape (B,); where a weight is 0 an infinite output does no harm."""
        weighted = vanish_where_zero(weights, weights * out)
        return weighted.reshape(out.shape[0] if out.dim() > 1 else 1, -1).sum(1)

    def paths(self, floating: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
        """The outputs the target may look at, out of the model's floating ones (path to shape)."""
        return (choose_output(self.path, floating),)

    def seed(self, outputs: Outputs) -> Seed:
        """Score and multipliers for these outputs."""
        path = choose_output(self.path, {p: tuple(o.shape) for p, o in outputs.items() if o.is_floating_point()})
        out = outputs[path]
        with torch.no_grad():
            weights, picked = self.weights(out)
            score = self.score(out, weights, picked)
        return Seed(score, {path: weights}, picked)


def choose_output(path: str | None, floating: Mapping[str, tuple[int, ...]]) -> str:
    """The output of that path; without one ``"logits"``, else the first floating output.

    Raises
    ------
    TargetError
        If there is no such output.
    """
    if not floating:
        raise TargetError("the model returns no floating-point tensor; there is nothing to explain.")
    if path is None:
        return "logits" if "logits" in floating else next(iter(floating))
    if path not in floating:
        raise TargetError(f"the model has no output {path!r}. It returns: {', '.join(repr(p) for p in floating)}.")
    return path


def _one_hot(out: Tensor, index: tuple[Any, ...]) -> Tensor:
    weights = torch.zeros_like(out)
    weights[index] = 1
    return weights


def _rows(out: Tensor) -> Tensor:
    return torch.arange(out.shape[0], device=out.device)


def _per_sample(value: Any, size: int, samples: int, what: str, device: torch.device) -> Tensor:
    """`value` as one index per sample, negative ones counted from the end.

    Raises
    ------
    TargetError
        If it is out of range or has another length.
    """
    index = torch.as_tensor(value, device=device)
    if index.dtype.is_floating_point or index.dtype == torch.bool or index.dim() > 1:
        raise TargetError(f"a {what} is an int, or a tensor of ints with one per sample; not {value!r}.")
    if index.dim() == 0:
        index = index.expand(samples)
    if index.numel() != samples:
        raise TargetError(f"{index.numel()} {what} indices for {samples} samples.\n  fix  give one, or one per sample.")
    if bool(((index >= size) | (index < -size)).any()):
        raise TargetError(f"{what} {value!r} is out of range: the output has {size}, so 0 to {size - 1}.")
    return index % size


@dataclass(frozen=True, eq=False)
class ClassTarget(Target):
    """One class of an output of shape (B, C) or (C,); the largest one if `index` is None."""

    index: Any = None
    path: str | None = None

    def weights(self, out: Tensor) -> tuple[Tensor, list[Any]]:
        if out.dim() == 0:
            return torch.ones_like(out), []
        if out.dim() == 1:
            index = (
                out.argmax()[None]
                if self.index is None
                else _per_sample(self.index, out.shape[0], 1, "class", out.device)
            )
            return _one_hot(out, (index,)), index.tolist()
        if isinstance(self.index, tuple):
            return self._at_place(out)
        if out.dim() > 2:
            raise TargetError(
                f"an output of shape {tuple(out.shape)} has more than one row of classes per sample, so a class alone does "
                "not name a number.\n  fix  target=dlbt.target.token(-1) for the last position, "
                "dlbt.target.output(path, (position, class)), or dlbt.target.function(fn)."
            )
        if self.index is None:
            index = out.argmax(-1)
        else:
            index = _per_sample(self.index, out.shape[1], out.shape[0], "class", out.device)
        return _one_hot(out, (_rows(out), index)), index.tolist()

    def _at_place(self, out: Tensor) -> tuple[Tensor, list[Any]]:
        if len(self.index) != out.dim() - 1:
            raise TargetError(
                f"the index {self.index!r} has {len(self.index)} numbers; an output of shape {tuple(out.shape)} needs "
                f"{out.dim() - 1} after the sample."
            )
        for place, size in zip(self.index, out.shape[1:], strict=True):
            _per_sample(place, size, 1, "index", out.device)
        return _one_hot(out, (slice(None), *self.index)), [self.index] * out.shape[0]

    def __str__(self) -> str:
        where = f" of {self.path}" if self.path else ""
        return f"largest class{where}" if self.index is None else f"class {_plain(self.index)}{where}"


@dataclass(frozen=True, eq=False)
class TokenTarget(Target):
    """One token's logit at one position of an output of shape (B, T, V)."""

    position: Any
    id: Any = None
    path: str | None = None

    def weights(self, out: Tensor) -> tuple[Tensor, list[Any]]:
        if out.dim() != 3:
            raise TargetError(
                f"token() needs an output of shape (samples, positions, vocabulary), not {tuple(out.shape)}.\n"
                "  fix  for classes pass the class: target=3."
            )
        position = _per_sample(self.position, out.shape[1], out.shape[0], "position", out.device)
        rows = _rows(out)
        if self.id is None:
            index = out[rows, position].argmax(-1)
        else:
            index = _per_sample(self.id, out.shape[2], out.shape[0], "token id", out.device)
        return _one_hot(out, (rows, position, index)), list(zip(position.tolist(), index.tolist(), strict=True))

    def score(self, out: Tensor, weights: Tensor, picked: list[Any]) -> Tensor:
        return torch.stack([out[row, position, index] for row, (position, index) in enumerate(picked)])

    def __str__(self) -> str:
        what = "most likely token" if self.id is None else f"token {_plain(self.id)}"
        return f"{what} at position {_plain(self.position)}"


@dataclass(frozen=True, eq=False)
class ContrastTarget(Target):
    """The difference of two targets of the same output."""

    a: Target
    b: Target

    @property
    def path(self) -> str | None:  # type: ignore[override]
        """The output both are about."""
        return self.a.path

    def weights(self, out: Tensor) -> tuple[Tensor, list[Any]]:
        (first, picked), (second, other) = self.a.weights(out), self.b.weights(out)
        return first - second, list(zip(picked, other, strict=True))

    def __str__(self) -> str:
        return f"{self.a} against {self.b}"


@dataclass(frozen=True, eq=False)
class MaskTarget(Target):
    """The sum of an output's elements, weighted by a mask."""

    mask: Any
    path: str | None = None

    def weights(self, out: Tensor) -> tuple[Tensor, list[Any]]:
        mask = torch.as_tensor(self.mask, device=out.device).to(out.dtype)
        try:
            return mask.expand_as(out).clone(), []
        except RuntimeError as error:
            raise TargetError(
                f"the mask of shape {tuple(mask.shape)} does not fit the output of shape {tuple(out.shape)}."
            ) from error

    def __str__(self) -> str:
        return "masked sum of logits"


@dataclass(frozen=True, eq=False)
class FunctionTarget:
    """Any function of the outputs that gives one number per sample; it is recorded, and explained like the model."""

    fn: Callable[[Any], Tensor]

    def paths(self, floating: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
        """All floating outputs: which of them the function uses is known when it has run."""
        if not floating:
            raise TargetError("the model returns no floating-point tensor; there is nothing to explain.")
        return tuple(floating)

    def __str__(self) -> str:
        return getattr(self.fn, "__name__", "function")


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, Tensor) else value


def token(position: Any, id: Any = None, path: str | None = None) -> TokenTarget:
    """A token's logit in an output of shape (B, T, V).

    Parameters
    ----------
    position : int or Tensor of int
        Position, negative ones from the end; one for all samples or one per sample.
    id : int or Tensor of int, optional
        Token id; the most likely token unless given.
    path : str, optional
        Which output.
    """
    return TokenTarget(position, id, path)


def contrast(a: Any, b: Any) -> ContrastTarget:
    """Why `a` and not `b`: the difference of two scores. Classes, or targets of the same output."""
    first, second = as_target(a), as_target(b)
    if not isinstance(first, Target) or not isinstance(second, Target):
        raise TargetError("contrast() takes classes or targets of one output; write a function(fn) for anything else.")
    return ContrastTarget(first, second)


def logits(mask: Any = None, path: str | None = None) -> MaskTarget:
    """The sum of an output's elements, weighted by `mask` (broadcast; all of them unless given)."""
    return MaskTarget(1.0 if mask is None else mask, path)


def output(path: str, index: Any = None) -> ClassTarget:
    """An element of the output named `path`: a class, or a tuple of positions after the sample; the largest if None."""
    return ClassTarget(index, path)


def function(fn: Callable[[Any], Tensor]) -> FunctionTarget:
    """Any function of what the model returns that gives one number per sample, shape (B,)."""
    return FunctionTarget(fn)


def as_target(value: Any) -> Target | FunctionTarget:
    """What the user gave as a target: None, an int, ints, or a target.

    Raises
    ------
    TargetError
        If it is none of these.
    """
    if isinstance(value, (Target, FunctionTarget)):
        return value
    if value is None or (isinstance(value, (int, Tensor)) and not isinstance(value, bool)):
        return ClassTarget(value)
    if isinstance(value, (list, tuple)) and all(isinstance(v, int) and not isinstance(v, bool) for v in value):
        return ClassTarget(torch.tensor(value))
    if callable(value):
        return FunctionTarget(value)
    raise TargetError(
        f"{value!r} is not a target. Pass None, a class, a tensor with one class per sample, a function of the outputs, "
        "or one of dlbt.target.token, contrast, logits, output, function."
    )
