"""Targets for text: a continuation, an answer, a token's label, one target per sample, similarity of a text's embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dlbt_core.errors import TargetError
from dlbt_core.graph.structure import leaves
from dlbt_core.target.base import Outputs, Seed, Target, choose_output, one_hot, per_sample

__all__ = ["MEASURES", "ContinuationTarget", "EachTarget", "LabelTarget", "LogProbability", "Similarity", "SpanTarget"]

MEASURES = ("logit", "log_probability")
"""What is summed over the tokens of a continuation."""


@dataclass(frozen=True, eq=False)
class ContinuationTarget(Target):
    """The sum of the logits of several tokens, each at the position that predicts it.

    Attributes
    ----------
    ids : sequence of sequence of int
        Per sample the ids of its continuation; one for all samples if there is only one.
    start : sequence of int, optional
        Per sample the position that predicts the first of them. Unless given the continuation is the end of the input, and
        the first is predicted by the position before it.
    path : str, optional
        Which output, of shape (B, T, V).
    """

    ids: Sequence[Sequence[int]]
    start: Sequence[int] | None = None
    path: str | None = None

    def places(self, out: Tensor) -> list[list[tuple[int, int]]]:
        """Per sample the (position, token id) of each token.

        Raises
        ------
        TargetError
            If the continuation does not fit the output.
        """
        if out.dim() != 3:
            raise TargetError(
                f"continuation() needs an output of shape (samples, positions, vocabulary), not {tuple(out.shape)}.\n"
                "  fix  a language model, or path= names its logits."
            )
        samples, positions, size = out.shape
        ids = _each(self.ids, samples, "continuations")
        starts = _each([None] if self.start is None else self.start, samples, "starts")
        found = []
        for row, start in zip(ids, starts, strict=True):
            if not row:
                raise TargetError("a continuation has no tokens.\n  fix  give at least one token id.")
            first = positions - len(row) - 1 if start is None else start + positions if start < 0 else start
            if first < 0 or first + len(row) > positions:
                raise TargetError(
                    f"a continuation of {len(row)} tokens that is predicted from position {first} on does not fit "
                    f"{positions} positions.\n  fix  pass the ids of text and continuation as the model's input."
                )
            tokens = per_sample(list(row), size, len(row), "token id", out.device).tolist()
            found.append(list(zip(range(first, first + len(row)), tokens, strict=True)))
        return found

    def weights(self, out: Tensor) -> tuple[Tensor, list[Any]]:
        """The multiplier of the output and what was picked; see `Target.weights`."""
        weights = torch.zeros_like(out)
        places = self.places(out)
        for row, pairs in enumerate(places):
            for position, token in pairs:
                weights[row, position, token] = 1
        return weights, [None] * len(places)

    def __str__(self) -> str:
        return "sum of the continuation's logits"


@dataclass(frozen=True, eq=False)
class LogProbability:
    """The sum of the log-probabilities of a continuation's tokens: a function of the outputs."""

    tokens: ContinuationTarget

    @property
    def __name__(self) -> str:
        """How the target is called in the explanation."""
        return "log-probability of the continuation"

    def __call__(self, outputs: Any) -> Tensor:
        """Shape (B,)."""
        floating = _floating(outputs)
        path = choose_output(self.tokens.path, {name: tuple(out.shape) for name, out in floating.items()})
        out = floating[path]
        places = self.tokens.places(out)
        longest = max(map(len, places))
        # Rows of one length: what is missing repeats the first token and counts 0.
        full = torch.tensor([row + row[:1] * (longest - len(row)) for row in places], device=out.device)
        counts = torch.tensor([[1.0] * len(row) + [0.0] * (longest - len(row)) for row in places]).to(out)
        rows = torch.arange(out.shape[0], device=out.device)[:, None]
        # The same as picking from log_softmax, which would be computed for every position.
        predicted = out[rows, full[..., 0]].log_softmax(-1)
        picked = (predicted * torch.nn.functional.one_hot(full[..., 1], out.shape[2]).to(out)).sum(-1)
        return (picked * counts).sum(-1)


@dataclass(frozen=True, eq=False)
class SpanTarget(Target):
    """An answer in a text: the logit of its start, of its end, or their sum.

    Attributes
    ----------
    start, end : int, optional
        Positions of its first and last token; unless given those with the largest sum, end not before start.
    part : {"both", "start", "end"}
        What is explained.
    within : sequence of int, optional
        Positions that may be an answer's, where start or end is left open; all unless given.
    longest : int
        Up to how many tokens an answer that is looked for may have.
    """

    start: int | None = None
    end: int | None = None
    part: str = "both"
    within: Sequence[int] | None = None
    longest: int = 30
    names: tuple[str, str] = ("start_logits", "end_logits")

    def paths(self, floating: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
        """The outputs it is about; see `Target.paths`."""
        return tuple(choose_output(name, floating) for name in self.names)

    def seed(self, outputs: Outputs) -> Seed:
        """Score and multipliers for these outputs; see `Target.seed`."""
        shapes = {path: tuple(out.shape) for path, out in outputs.items() if out.is_floating_point()}
        starts, ends = (outputs[choose_output(name, shapes)] for name in self.names)
        if starts.dim() != 2:
            raise TargetError(
                f"span() needs outputs of shape (samples, positions), not {tuple(starts.shape)}.\n"
                "  fix  a question answering model; dlbt.target.function(fn) for outputs of another form."
            )
        picked = [self._best(*pair) for pair in zip(starts, ends, strict=True)]
        multipliers, score = {}, starts.new_zeros(starts.shape[0])
        for side, out in enumerate((starts, ends)):
            if self.part in ("both", ("start", "end")[side]):
                places = torch.tensor([pair[side] for pair in picked], device=out.device)
                rows = torch.arange(out.shape[0], device=out.device)
                multipliers[self.names[side]] = one_hot(out, (rows, places))
                score = score + out[rows, places]
        return Seed(score, multipliers, picked)

    def _best(self, starts: Tensor, ends: Tensor) -> tuple[int, int]:
        """First and last position of the answer in one sample."""
        count = starts.shape[0]
        allowed = torch.zeros(count, dtype=torch.bool, device=starts.device)
        allowed[list(range(count) if self.within is None else self.within)] = True
        places = torch.arange(count, device=starts.device)
        first, last = allowed.clone(), allowed
        if self.start is not None:
            first = places == per_sample(self.start, count, 1, "position", starts.device)
        if self.end is not None:
            last = places == per_sample(self.end, count, 1, "position", starts.device)
        length = places[None] - places[:, None]
        fits = first[:, None] & last[None] & (length >= 0)
        if self.start is None or self.end is None:
            fits &= length < self.longest
        if not bool(fits.any()):
            raise TargetError(
                f"no answer fits: start {self.start}, end {self.end}, at most {self.longest} tokens.\n"
                "  fix  an end that is not before the start."
            )
        best = int((starts[:, None] + ends[None]).masked_fill(~fits, float("-inf")).argmax())
        return best // count, best % count

    def __str__(self) -> str:
        what = {"both": "start and end", "start": "start", "end": "end"}[self.part]
        place = "the best answer" if self.start is None or self.end is None else f"answer {self.start} to {self.end}"
        return f"{what} of {place}"


@dataclass(frozen=True, eq=False)
class LabelTarget(Target):
    """A token's label in an output of shape (B, T, C).

    Attributes
    ----------
    position : int, optional
        Of the token; unless given the one whose label the model is surest of.
    label : int, optional
        The label; the largest one unless given.
    within : sequence of int, optional
        Positions to look at for a token; all unless given.
    outside : int, optional
        The label that says "nothing here", which is passed over when a token is looked for, if any has another label.
    """

    position: int | None = None
    label: int | None = None
    within: Sequence[int] | None = None
    outside: int | None = None
    path: str | None = None

    def weights(self, out: Tensor) -> tuple[Tensor, list[Any]]:
        """The multiplier of the output and what was picked; see `Target.weights`."""
        if out.dim() != 3:
            raise TargetError(
                f"label() needs an output of shape (samples, positions, labels), not {tuple(out.shape)}.\n"
                "  fix  for classes pass the class: target=3; path= names another output."
            )
        weights = torch.zeros_like(out)
        picked = [self._pick(row) for row in out]
        for row, (position, label) in enumerate(picked):
            weights[row, position, label] = 1
        return weights, picked

    def _pick(self, out: Tensor) -> tuple[int, int]:
        count, labels = out.shape
        places = list(range(count) if self.within is None else self.within)
        if self.position is not None:
            places = per_sample(self.position, count, 1, "position", out.device).tolist()
        sure = out.log_softmax(-1)[places]
        if self.label is not None:
            label = int(per_sample(self.label, labels, 1, "label", out.device))
            return int(places[int(sure[:, label].argmax())]), label
        best, label_of = sure.max(-1)
        if self.outside is not None and len(places) > 1:
            inside = label_of != self.outside
            best = best.masked_fill(~inside, float("-inf")) if bool(inside.any()) else best
        at = int(best.argmax())
        return int(places[at]), int(label_of[at])

    def __str__(self) -> str:
        what = "largest label" if self.label is None else f"label {self.label}"
        return f"{what} of " + ("the surest token" if self.position is None else f"the token at {self.position}")


@dataclass(frozen=True, eq=False)
class EachTarget(Target):
    """A target of its own for each sample of a batch; none of them may be a function."""

    targets: Sequence[Target]

    def paths(self, floating: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
        """The outputs they are about; see `Target.paths`."""
        return tuple(dict.fromkeys(path for target in self.targets for path in target.paths(floating)))

    def seed(self, outputs: Outputs) -> Seed:
        """Score and multipliers for these outputs; see `Target.seed`."""
        multipliers: dict[str, Tensor] = {}
        scores: list[Tensor] = []
        picked: list[Any] = []
        wanted = self.paths({path: tuple(out.shape) for path, out in outputs.items() if out.is_floating_point()})
        for row, target in enumerate(_each(self.targets, outputs[wanted[0]].shape[0], "targets")):
            seed = target.seed({path: outputs[path][row : row + 1] for path in wanted})
            scores.append(seed.score.reshape(1))
            picked.append(seed.picked[0] if seed.picked else None)
            for path, weights in seed.multipliers.items():
                if path not in multipliers:
                    multipliers[path] = torch.zeros_like(outputs[path])
                multipliers[path][row] = weights[0]
        return Seed(torch.cat(scores), multipliers, picked)

    def __str__(self) -> str:
        named = list(dict.fromkeys(map(str, self.targets)))
        return (
            named[0]
            if len(named) == 1
            else f"{len(self.targets)} targets, one per sample: {', '.join(named[:3])}"
            + (", ..." if len(named) > 3 else "")
        )


@dataclass(frozen=True, eq=False)
class Similarity:
    """The cosine of a text's embedding with a constant one: the mean over the tokens of the last hidden states, or the first.

    Attributes
    ----------
    embedding : Tensor
        The other embedding, shape (D,) or (B, D).
    mask : Tensor, optional
        Which tokens count, shape (B, T); all unless given.
    pooling : {"mean", "first", "last"}
        What is made of the tokens.
    path : str, optional
        Which output, of shape (B, T, D); ``last_hidden_state`` unless given.
    """

    embedding: Tensor
    mask: Tensor | None = None
    pooling: str = "mean"
    path: str | None = None

    @property
    def __name__(self) -> str:
        """How the target is called in the explanation."""
        return "cosine with the given embedding"

    def __call__(self, outputs: Any) -> Tensor:
        """Shape (B,)."""
        mine = self.pooled(outputs)
        other = torch.nn.functional.normalize(self.embedding.detach().to(mine).reshape(-1, mine.shape[-1]), dim=-1)
        return (torch.nn.functional.normalize(mine, dim=-1) * other).sum(-1)

    def pooled(self, outputs: Any) -> Tensor:
        """The embedding of each sample, shape (B, D)."""
        floating = _floating(outputs)
        named = self.path or ("last_hidden_state" if "last_hidden_state" in floating else None)
        states = floating[choose_output(named, {name: tuple(out.shape) for name, out in floating.items()})]
        if states.dim() != 3:
            raise TargetError(
                f"similarity() needs an output of shape (samples, positions, features), not {tuple(states.shape)}.\n"
                "  fix  path= names the output; dlbt.target.cosine(embedding) takes one that is the embedding itself."
            )
        mask = torch.ones(states.shape[:2]) if self.mask is None else self.mask
        mask = mask.to(states)
        if self.pooling != "mean":
            places = torch.arange(1, mask.shape[1] + 1, device=mask.device) * (mask > 0)
            first = torch.where(places == 0, mask.shape[1] + 1, places).argmin(1)
            at = first if self.pooling == "first" else places.argmax(1)
            mask = torch.nn.functional.one_hot(at, mask.shape[1]).to(states)
        weights = mask.unsqueeze(-1)
        return (states * weights).sum(1) / weights.sum(1)


def _each(given: Sequence[Any], samples: int, what: str) -> list[Any]:
    """One per sample; the only one for all."""
    if len(given) not in (1, samples):
        raise TargetError(f"{len(given)} {what} for {samples} samples.\n  fix  give one, or one per sample.")
    return list(given) * (samples if len(given) == 1 else 1)


def _floating(outputs: Any) -> dict[str, Tensor]:
    return {p: leaf for p, leaf in leaves(outputs) if isinstance(leaf, Tensor) and leaf.is_floating_point()}
