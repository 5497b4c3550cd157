"""What a target is: the number that is explained, one per sample, as a function of the model's outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dlbt_core.errors import TargetError
from dlbt_core.rules.context import vanish_where_zero

__all__ = [
    "FunctionTarget",
    "Outputs",
    "Seed",
    "Target",
    "choose_output",
    "ints",
    "one_hot",
    "per_sample",
    "plain",
    "rows",
]

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
    """A linear function of the outputs; of one of them, where a subclass only says its `weights`."""

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


_NO_OUTPUT = (
    "the model returns no floating-point tensor; there is nothing to explain.\n"
    "  fix  a model that returns its logits or scores, not the classes it picked from them."
)


@dataclass(frozen=True, eq=False)
class FunctionTarget:
    """Any function of the outputs that gives one number per sample; it is recorded, and explained like the model."""

    fn: Callable[[Any], Tensor]

    def paths(self, floating: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
        """All floating outputs: which of them the function uses is known when it has run."""
        if not floating:
            raise TargetError(_NO_OUTPUT)
        return tuple(floating)

    def __str__(self) -> str:
        return getattr(self.fn, "__name__", "function")


def choose_output(path: str | None, floating: Mapping[str, tuple[int, ...]]) -> str:
    """The output of that path; without one ``"logits"``, else the first floating output.

    Raises
    ------
    TargetError
        If there is no such output.
    """
    if not floating:
        raise TargetError(_NO_OUTPUT)
    if path is None:
        return "logits" if "logits" in floating else next(iter(floating))
    if path not in floating:
        raise TargetError(f"the model has no output {path!r}. It returns: {', '.join(repr(p) for p in floating)}.")
    return path


def one_hot(out: Tensor, index: tuple[Any, ...]) -> Tensor:
    """Zeros like `out`, with 1 at `index`."""
    weights = torch.zeros_like(out)
    weights[index] = 1
    return weights


def rows(out: Tensor) -> Tensor:
    """The numbers of the samples, shape (B,)."""
    return torch.arange(out.shape[0], device=out.device)


def ints(value: Any, samples: int, what: str, device: torch.device) -> Tensor:
    """`value` as one int per sample, shape (B,).

    Raises
    ------
    TargetError
        If it is something else or has another length.
    """
    index = torch.as_tensor(value, device=device)
    if index.dtype.is_floating_point or index.dtype == torch.bool or index.dim() > 1:
        raise TargetError(f"a {what} is an int, or a tensor of ints with one per sample; not {value!r}.")
    if index.dim() == 0:
        index = index.expand(samples)
    if index.numel() != samples:
        raise TargetError(f"{index.numel()} {what} indices for {samples} samples.\n  fix  give one, or one per sample.")
    return index


def per_sample(value: Any, size: int, samples: int, what: str, device: torch.device) -> Tensor:
    """`value` as one index per sample, shape (B,), negative ones counted from the end.

    Raises
    ------
    TargetError
        If it is out of range or has another length.
    """
    index = ints(value, samples, what, device)
    if bool(((index >= size) | (index < -size)).any()):
        raise TargetError(f"{what} {value!r} is out of range: the output has {size}, so 0 to {size - 1}.")
    return index % size


def plain(value: Any) -> Any:
    """A tensor as plain numbers, for messages; anything else as it is."""
    return value.tolist() if isinstance(value, Tensor) else value
