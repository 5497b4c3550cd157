"""Targets: the number that is explained, one per sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from dlbt_core.errors import TargetError
from dlbt_core.target.base import FunctionTarget, Seed, Target, choose_output
from dlbt_core.target.detection import COORDINATES, DetectionTarget
from dlbt_core.target.region import RegionTarget
from dlbt_core.target.scores import ClassesTarget, ClassTarget, ContrastTarget, MaskTarget, TokenTarget
from dlbt_core.target.similarity import Cosine
from dlbt_core.target.text import (
    MEASURES,
    ContinuationTarget,
    EachTarget,
    LabelTarget,
    LogProbability,
    Similarity,
    SpanTarget,
)

__all__ = [
    "FunctionTarget",
    "Seed",
    "Target",
    "as_target",
    "choose_output",
    "classes",
    "continuation",
    "contrast",
    "cosine",
    "detection",
    "each",
    "function",
    "label",
    "logits",
    "output",
    "region",
    "similarity",
    "span",
    "token",
]


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
    """Why `a` and not `b`: the difference of two scores. Classes, or targets that are not functions."""
    first, second = as_target(a), as_target(b)
    if not isinstance(first, Target) or not isinstance(second, Target):
        raise TargetError("contrast() takes classes or targets of one output; write a function(fn) for anything else.")
    return ContrastTarget(first, second)


def logits(mask: Any = None, path: str | None = None) -> MaskTarget:
    """The sum of an output's elements, weighted by `mask` (broadcast; all of them unless given)."""
    return MaskTarget(1.0 if mask is None else mask, path)


def classes(index: Sequence[int], reduce: str = "sum", path: str | None = None) -> ClassesTarget:
    """Several classes of an output of shape (B, C) in one explanation; ``targets=[...]`` explains several each.

    Parameters
    ----------
    index : sequence of int
        The classes.
    reduce : {"sum", "mean"}
        What is made of their scores.
    path : str, optional
        Which output.
    """
    _check_reduce(reduce)
    found = tuple(index.tolist() if isinstance(index, Tensor) else index)
    if not found:
        raise TargetError("classes() got no class.\n  fix  classes([281, 282]).")
    return ClassesTarget(found, reduce, path)


def region(
    class_: Any = None,
    mask: Any = None,
    *,
    box: Sequence[float] | None = None,
    pixel: Sequence[float] | None = None,
    reduce: str = "mean",
    threshold: float | None = None,
    size: Sequence[int] | None = None,
    path: str | None = None,
) -> RegionTarget:
    """A class over a region of an output of shape (B, C, H, W), or of (B, H, W), which is taken as one class.

    Without `mask`, `box` and `pixel` the region is the model's own: the pixels for which it predicts the class, which are
    those where it is the largest, or above `threshold`. With one class alone the threshold is 0 unless given.

    Parameters
    ----------
    class_ : int or Tensor of int, optional
        The class, or one per sample; unless given the one that is predicted for most pixels of the region.
    mask : Tensor or array of bool or int, optional
        Shape (H, W) or (B, H, W); what is not 0 belongs to the region.
    box : (x1, y1, x2, y2), optional
        Left, top, right, bottom; right and bottom no longer belong to it. As Pillow counts.
    pixel : (x, y), optional
        Column and row.
    reduce : {"mean", "sum"}
        What is made of the class's values in the region.
    threshold : float, optional
        Above which value (of the output, before any sigmoid or softmax) a pixel belongs to the model's own region.
    size : (height, width), optional
        Size of the image in whose pixels `mask`, `box` and `pixel` are given, where the output has another.
    path : str, optional
        Which output.

    Raises
    ------
    TargetError
        If more than one region is given. When it is explained: if the region does not fit the output or is empty.
    """
    _check_reduce(reduce)
    given = [name for name, value in (("mask", mask), ("box", box), ("pixel", pixel)) if value is not None]
    if len(given) > 1:
        raise TargetError(f"region() got {' and '.join(given)}.\n  fix  give one of mask, box and pixel.")
    if given and threshold is not None:
        raise TargetError(
            f"region() got {given[0]} and threshold; a threshold finds the model's own region.\n  fix  give one of them."
        )
    return RegionTarget(class_, mask, box, pixel, reduce, threshold, size, path)


def detection(index: Any = 0, label: Any = None, what: str = "score", classes: int | None = None) -> DetectionTarget:
    """A detection's class score or a coordinate of its box.

    Reads what torchvision's detectors return (per image ``boxes``, ``scores``, ``labels``) and what those of transformers do
    (``logits`` of shape (B, Q, C), ``pred_boxes`` of shape (B, Q, 4)); of the latter the score is the class's logit.

    Parameters
    ----------
    index : int or Tensor of int
        Which detection, counted from the one with the highest score; one for all samples or one per sample.
    label : int or Tensor of int, optional
        Count only detections of this class; with transformers, order the queries by their score for it.
    what : {"score", "x1", "y1", "x2", "y2", "cx", "cy", "width", "height"}
        The number: the score, an edge, the centre or the size of the box, in the units in which the model gives boxes.
    classes : int, optional
        For transformers: how many classes the model knows, ``model.config.num_labels``. Where the output has one more, the
        last stands for "no object" (DETR, YOLOS), which is assumed unless given.

    Raises
    ------
    TargetError
        If `what` is none of these. When it is explained: if there is no such detection.
    """
    if what != "score" and what not in COORDINATES:
        raise TargetError(
            f"a detection has no {what!r}.\n  fix  what= one of: 'score', {', '.join(map(repr, COORDINATES))}."
        )
    return DetectionTarget(index, label, what, classes)


def cosine(embedding: Any, path: str | None = None) -> FunctionTarget:
    """How similar the model's embedding is to another: their cosine.

    Parameters
    ----------
    embedding : Tensor
        The other embedding, shape (D,), or (B, D) with one per sample. It is a constant.
    path : str, optional
        Which output is the embedding; it is flattened to (B, D). Unless given the output named like one
        (``image_embeds``, ``pooler_output``), or the only one of that size.
    """
    return FunctionTarget(Cosine(embedding, path))


def continuation(
    ids: Any, start: Any = None, measure: str = "logit", path: str | None = None
) -> ContinuationTarget | FunctionTarget:
    """Several tokens of an output of shape (B, T, V), each at the position that predicts it: the sum of their scores.

    Parameters
    ----------
    ids : sequence of int, or one such sequence per sample
        Token ids of the continuation.
    start : int or sequence of int, optional
        The position that predicts the first of them, one for all samples or one per sample. Unless given the continuation is
        the end of the model's input, so that its first token is predicted by the position before it.
    measure : {"logit", "log_probability"}
        What is summed. A sum of logits is handed back whole; of log-probabilities the normaliser keeps a part, which the
        ledger names.
    path : str, optional
        Which output.
    """
    if measure not in MEASURES:
        raise TargetError(f"measure is 'logit' or 'log_probability', not {measure!r}.")
    found = ids.tolist() if isinstance(ids, Tensor) else list(ids)
    several = [list(row) for row in found] if found and isinstance(found[0], (list, tuple, Tensor)) else [found]
    starts = start.tolist() if isinstance(start, Tensor) else start
    starts = [starts] if isinstance(starts, int) else starts
    tokens = ContinuationTarget([[int(id_) for id_ in row] for row in several], starts, path)
    return tokens if measure == "logit" else FunctionTarget(LogProbability(tokens))


def span(
    start: int | None = None,
    end: int | None = None,
    part: str = "both",
    within: Sequence[int] | None = None,
    longest: int = 30,
) -> SpanTarget:
    """An answer in a text, from ``start_logits`` and ``end_logits`` of shape (B, T).

    Parameters
    ----------
    start, end : int, optional
        Positions of its first and last token; unless given the best answer is looked for.
    part : {"both", "start", "end"}
        The sum of the two logits, or one of them.
    within : sequence of int, optional
        Positions that may be the answer's.
    longest : int
        Up to how many tokens an answer that is looked for may have.
    """
    if part not in ("both", "start", "end"):
        raise TargetError(f"part is 'both', 'start' or 'end', not {part!r}.")
    return SpanTarget(start, end, part, within, longest)


def label(
    position: int | None = None,
    label: int | None = None,
    within: Sequence[int] | None = None,
    outside: int | None = None,
    path: str | None = None,
) -> LabelTarget:
    """A token's label in an output of shape (B, T, C).

    Parameters
    ----------
    position : int, optional
        Of the token; unless given the one whose label the model is surest of.
    label : int, optional
        The label; the largest one unless given.
    within : sequence of int, optional
        Positions to look at for a token.
    outside : int, optional
        The label that says "nothing here": passed over when a token is looked for, if any has another label.
    path : str, optional
        Which output.
    """
    return LabelTarget(position, label, within, outside, path)


def each(targets: Sequence[Any]) -> EachTarget:
    """A target of its own for each sample: ``each([0, token(-1)])``. None of them may be a function."""
    found = [as_target(target) for target in targets]
    if not found:
        raise TargetError("each() got no target.\n  fix  give one per sample.")
    linear = [target for target in found if isinstance(target, Target)]
    if len(linear) != len(found):
        raise TargetError(
            "each() takes no functions.\n  fix  a function(fn) gets all samples at once; write one for all."
        )
    return EachTarget(linear)


def similarity(
    embedding: Tensor, mask: Tensor | None = None, pooling: str = "mean", path: str | None = None
) -> FunctionTarget:
    """How similar the embedding of a text is to another: the cosine of the pooled hidden states with it.

    Parameters
    ----------
    embedding : Tensor
        The other embedding, shape (D,), or (B, D) with one per sample. It is a constant.
    mask : Tensor, optional
        Which tokens count, shape (B, T): the attention mask of a padded batch.
    pooling : {"mean", "first", "last"}
        What is made of the hidden states of the tokens.
    path : str, optional
        Which output, of shape (B, T, D); ``last_hidden_state`` unless given.
    """
    if pooling not in ("mean", "first", "last"):
        raise TargetError(f"pooling is 'mean', 'first' or 'last', not {pooling!r}.")
    return FunctionTarget(Similarity(embedding, mask, pooling, path))


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
        f"{value!r} is not a target. Pass None, a class, a tensor with one class per sample, a function of the outputs, or "
        "one of dlbt.target.token, continuation, label, span, contrast, classes, region, detection, cosine, similarity, each, "
        "logits, output, function."
    )


def _check_reduce(reduce: str) -> None:
    if reduce not in ("sum", "mean"):
        raise TargetError(f"reduce is 'sum' or 'mean', not {reduce!r}.")
