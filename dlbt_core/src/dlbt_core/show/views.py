"""What a page shows of an explanation: plain values, computed here, laid out by the template."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from dlbt_core.errors import InputError
from dlbt_core.explanation import Explanation
from dlbt_core.show import heat, words
from dlbt_core.show.colours import robust_scale
from dlbt_core.show.tokens import Span, token_spans

__all__ = ["Exhibit", "ExhibitView", "view"]

Kind = Literal["tokens", "image", "bars"]
Tokens = Sequence[Sequence[str]]


@dataclass(frozen=True)
class Exhibit:
    """An explanation and how to show it.

    Parameters
    ----------
    explanation : Explanation
        What to show.
    heading, note : str
        Its title and a line below it.
    tokens : sequence of sequence of str, or mapping of input name to such, optional
        Per sample the tokens, as the tokenizer gives them. A sample may have fewer than positions: the rest is padding,
        of which only the sum is shown. Positions are numbered if no tokens are given.
    special : collection of str
        Tokens that stand for no text, besides those that look like it (``[CLS]``, ``<s>``).
    images : Tensor or mapping of input name to Tensor, optional
        Pictures to show beside the heat maps, shape (B, C, H, W) or (B, H, W); an explanation does not keep its inputs.
    labels : sequence or mapping of int to str, optional
        Names of the classes.
    names : sequence of str, optional
        What each sample is called.
    kinds : mapping of str to {"tokens", "image", "bars"}
        How to show an input, where its shape or its place in the model does not say it.
    samples : int
        How many samples to show.
    top : int
        How many entries of an input that is neither tokens nor an image.
    """

    explanation: Explanation
    heading: str = ""
    note: str = ""
    tokens: Tokens | Mapping[str, Tokens] | None = None
    special: Collection[str] = ()
    images: Tensor | Mapping[str, Tensor] | None = None
    labels: words.Labels | None = None
    names: Sequence[str] | None = None
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    samples: int = 32
    top: int = 20

    @property
    def count(self) -> int:
        """Number of samples."""
        return int(self.explanation.score.numel())


@dataclass(frozen=True)
class TokensView:
    """Coloured tokens."""

    spans: Sequence[tuple[Span, str]]
    scale: str
    rest: str
    kind: Kind = "tokens"


@dataclass(frozen=True)
class ImageView:
    """A heat map beside its image, and its numbers."""

    image: str
    light: str
    dark: str
    alt: str
    scale: str
    grid: Sequence[Sequence[str]]
    grid_title: str
    size: tuple[int, int]
    kind: Kind = "image"


@dataclass(frozen=True)
class BarsView:
    """The largest entries: place, number, length in percent of the largest."""

    rows: Sequence[tuple[str, str, float]]
    rest: str
    kind: Kind = "bars"


@dataclass(frozen=True)
class InputView:
    """One input of one sample."""

    name: str
    total: str
    picture: TokensView | ImageView | BarsView


@dataclass(frozen=True)
class SampleView:
    """One sample: what was explained of it, what it sums up from, its inputs."""

    name: str
    picked: str
    score: str
    terms: Sequence[tuple[str, str]]
    inputs: Sequence[InputView]

    @property
    def is_picture(self) -> bool:
        """Whether it is small enough to stand beside others."""
        return all(i.picture.kind == "image" for i in self.inputs)


@dataclass(frozen=True)
class LedgerView:
    """The ledger: per entry its name, its meaning, and (number, share of the score) per sample."""

    columns: Sequence[str]
    rows: Sequence[tuple[str, str, Sequence[tuple[str, str]]]]
    error: str
    verdict: str


@dataclass(frozen=True)
class PlanView:
    """The plan: a summary by rule and reason, and one row per node."""

    composite: str
    summary: Sequence[tuple[str, str, int]]
    rows: Sequence[Mapping[str, str]]
    unused: Sequence[str]


@dataclass(frozen=True)
class ExhibitView:
    """An explanation, ready for the template."""

    heading: str
    note: str
    target: str
    composite: str
    samples: Sequence[SampleView]
    hidden: int
    ledger: LedgerView
    plan: PlanView


def view(exhibit: Exhibit) -> ExhibitView:
    """All that a page shows of an explanation.

    Raises
    ------
    InputError
        If tokens, images or names do not fit the explanation.
    """
    explanation = exhibit.explanation
    _check_counts(exhibit)
    shown = min(exhibit.samples, exhibit.count)
    return ExhibitView(
        heading=exhibit.heading,
        note=exhibit.note,
        target=explanation.target,
        composite=explanation.plan.composite_name,
        samples=[_sample(exhibit, index) for index in range(shown)],
        hidden=exhibit.count - shown,
        ledger=_ledger(exhibit, shown),
        plan=_plan(explanation.plan),
    )


# -- samples -----------------------------------------------------------------------------------------------------------


def _sample(exhibit: Exhibit, index: int) -> SampleView:
    explanation = exhibit.explanation
    picked = explanation.picked[index] if index < len(explanation.picked) else None
    ledger = explanation.ledger
    score = float(explanation.score.reshape(-1)[index])
    parts = [*ledger.inputs.items(), *ledger.absorbed.items()]
    terms = [(name, float(amount.reshape(-1)[index])) for name, amount in parts if amount.numel() > index]
    return SampleView(
        name=_name(exhibit, index),
        picked="" if picked is None else words.picked_in_words(explanation.target, picked, exhibit.labels),
        score=_part(score, score),
        terms=[(name, _part(amount, score)) for name, amount in terms],
        inputs=[_input(exhibit, name, index) for name in explanation.inputs],
    )


def _name(exhibit: Exhibit, index: int) -> str:
    if exhibit.names is not None:
        return exhibit.names[index]
    return f"sample {index}" if exhibit.count > 1 else ""


def _input(exhibit: Exhibit, name: str, index: int) -> InputView:
    relevance = _of_sample(exhibit.explanation.inputs[name], index, exhibit.count).detach().cpu().double()
    kind = exhibit.kinds.get(name) or _kind(exhibit, name, relevance)
    picture = {"tokens": _tokens, "image": _image, "bars": _bars}[kind](exhibit, name, index, relevance)
    return InputView(name, words.signed(float(relevance.sum())), picture)


def _of_sample(values: Tensor, index: int, count: int) -> Tensor:
    """A sample's part; all of it where the samples share it or there is only one."""
    return values[index] if values.dim() and values.shape[0] == count else values


def _kind(exhibit: Exhibit, name: str, relevance: Tensor) -> Kind:
    if relevance.dim() in (2, 3) and _given(exhibit.images, name) is not None:
        return "image"
    if relevance.dim() == 3 and relevance.shape[0] <= 4:
        return "image"
    if relevance.dim() and _given(exhibit.tokens, name) is not None:
        return "tokens"
    return "tokens" if relevance.dim() == 1 and _holds_ids(exhibit.explanation.plan, name) else "bars"


def _holds_ids(plan: Any, name: str) -> bool:
    """Whether an input holds ids. A saved plan does not say it of an input, but of the model: then it has an embedding."""
    if hasattr(plan, "explained"):
        return not plan.graph.values[plan.explained[name]].is_floating
    return any(row["op"].startswith("aten.embedding") for row in plan.table())


def _given(option: Any, name: str) -> Any:
    return option.get(name) if isinstance(option, Mapping) else option


# -- pictures ----------------------------------------------------------------------------------------------------------


def _tokens(exhibit: Exhibit, name: str, index: int, relevance: Tensor) -> TokensView:
    amounts = relevance.reshape(relevance.shape[0], -1).sum(1)
    given = _given(exhibit.tokens, name)
    tokens = list(given[index]) if given is not None else [str(position) for position in range(len(amounts))]
    if len(tokens) > len(amounts):
        raise InputError(
            f"{len(tokens)} tokens for the {len(amounts)} positions of input {name!r}, sample {index}.\n"
            "  fix  give one token per position, in the order of the ids."
        )
    shown, rest = amounts[: len(tokens)], amounts[len(tokens) :]
    scale = robust_scale(shown)
    spans = token_spans(tokens, shown.tolist(), scale, exhibit.special)
    return TokensView(
        spans=[(span, words.at_scale(span.relevance, scale)) for span in spans],
        scale=words.signed(scale, 2).lstrip("+"),
        rest=f"{len(rest)} positions of padding, together {words.signed(float(rest.sum()))}" if len(rest) else "",
    )


def _image(exhibit: Exhibit, name: str, index: int, relevance: Tensor) -> ImageView:
    values = heat.heat(relevance)
    if values.dim() != 2:
        raise InputError(f"input {name!r} of shape {tuple(relevance.shape)} per sample is not an image.")
    given = _given(exhibit.images, name)
    image = None if given is None else _of_sample(given, index, exhibit.count)
    scale = robust_scale(values)
    grid = heat.patches(values)
    size = robust_scale(torch.tensor(grid, dtype=torch.float64, device="cpu"))
    return ImageView(
        image="" if image is None else heat.data_uri(heat.image_rgb(image)),
        light=heat.data_uri(heat.heat_rgb(values, scale, "light")),
        dark=heat.data_uri(heat.heat_rgb(values, scale, "dark")),
        alt="; ".join([f"heat map of {values.shape[0]} by {values.shape[1]} pixels", *_extremes(values)]),
        scale=words.signed(scale, 2).lstrip("+"),
        grid=[[words.at_scale(cell, size) for cell in line] for line in grid],
        grid_title="numbers" if values.numel() == sum(map(len, grid)) else f"sums over {len(grid)} by {len(grid[0])} patches",
        size=(values.shape[0], values.shape[1]),
    )


def _extremes(values: Tensor) -> Iterator[str]:
    for word, amount, row, column in heat.extremes(values):
        yield f"most {word}: {words.signed(amount)} in row {row}, column {column}"


def _bars(exhibit: Exhibit, name: str, index: int, relevance: Tensor) -> BarsView:
    flat = relevance.reshape(-1)
    order = flat.abs().nan_to_num(0.0).argsort(descending=True, stable=True)[: exhibit.top].tolist()
    scale = float(flat[order[0]].abs()) if order else 0.0
    rest = float(flat.sum()) - float(flat[order].sum())
    return BarsView(
        rows=[
            (_place(place, relevance.shape), words.at_scale(float(flat[place]), scale), 100 * float(flat[place]) / (scale or 1.0))
            for place in order
        ],
        rest=f"{flat.numel() - len(order)} further entries, together {words.signed(rest)}" if flat.numel() > len(order) else "",
    )  # fmt: skip


def _place(place: int, shape: Sequence[int]) -> str:
    index: list[int] = []
    for size in reversed(shape):
        place, at = divmod(place, size)
        index.insert(0, at)
    return f"[{', '.join(map(str, index))}]" if index else "value"


# -- ledger and plan ---------------------------------------------------------------------------------------------------


def _ledger(exhibit: Exhibit, shown: int) -> LedgerView:
    ledger = exhibit.explanation.ledger
    scores = ledger.score.reshape(-1).tolist()
    rows: list[tuple[str, str, Sequence[tuple[str, str]]]] = []
    for entry, amount in ledger.rows():
        pairs = list(zip(amount.reshape(-1).tolist(), scores, strict=False))[:shown]
        rows.append((entry, words.meaning(entry), [(_part(a, s), f"{a / s:.1%} of the score" if s else "") for a, s in pairs]))
    if not ledger.unassigned:
        gaps = ledger.gap.reshape(-1).tolist()[:shown]
        rows.append(("unaccounted for", "score − inputs − absorbed", [(words.signed(gap, 2), "") for gap in gaps]))
    columns = [_name(exhibit, index) or "amount" for index in range(shown)]
    return LedgerView(columns, rows, f"{ledger.error:.1e}".replace("-", "−"), words.verdict(ledger.error))


def _part(amount: float, score: float) -> str:
    """A part of a score with as many decimals as the score's own three or four figures have, so that one can add up."""
    return words.at_scale(amount, abs(score) / 10)


def _plan(plan: Any) -> PlanView:
    tail = getattr(plan, "tail", None)
    parts = [("", plan)] + ([("target function: ", tail)] if tail is not None else [])
    return PlanView(
        composite=plan.composite_name,
        summary=[(rule, where + reason, count) for where, part in parts for rule, reason, count in part.summary()],
        rows=[_row(row, where) for where, part in parts for row in part.table()],
        unused=[choice for _, part in parts for choice in getattr(part, "unused", ())],
    )


def _row(row: Mapping[str, Any], where: str) -> Mapping[str, str]:
    given = ", ".join(f"{k}={v!r}" for k, v in row["parameters"].items())
    rule = "held constant" if row["rule"] == "constant" else f"{row['rule']}({given})"
    line = words.short_line(row.get("line") or "")
    return {"node": row["node"], "module": row["module"] or "", "line": line, "rule": rule, "reason": where + row["reason"]}


# -- checks ------------------------------------------------------------------------------------------------------------


def _check_counts(exhibit: Exhibit) -> None:
    given = [("names", exhibit.names), ("images", exhibit.images), ("tokens", exhibit.tokens)]
    for what, option in given:
        for part in option.values() if isinstance(option, Mapping) else [option]:
            if part is not None and len(part) != exhibit.count:
                raise InputError(
                    f"{len(part)} {what} for {exhibit.count} samples.\n  fix  {what} has one entry per sample."
                )
    names = exhibit.explanation.inputs
    for what, option in (*given, ("kinds", exhibit.kinds)):
        unknown = sorted(set(option) - set(names)) if isinstance(option, Mapping) else []
        if unknown:
            raise InputError(f"{what}: no explained input {unknown[0]!r}. There are: {', '.join(map(repr, names))}.")
