"""What a page shows of an explanation: plain values, computed here, laid out by the template."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from dlbt_core.errors import InputError
from dlbt_core.explanation import Explanation
from dlbt_core.show import pictures, words
from dlbt_core.show.heat import Pool
from dlbt_core.show.layers import layer_maps
from dlbt_core.show.matrix import Matrix, MatrixView, matrix_view
from dlbt_core.show.pictures import Kind
from dlbt_core.show.tokens import Piece

__all__ = ["Exhibit", "ExhibitView", "view"]

Tokens = Sequence[Sequence[str | Piece]]


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
        Per sample the tokens, as the tokenizer gives them, or pieces. A sample may have fewer than positions: the rest is
        padding, of which only the sum is shown. Positions are numbered if no tokens are given.
    special : collection of str
        Tokens that stand for no text, besides those that look like it (``[CLS]``, ``<s>``).
    hide_special : bool
        Whether to show of those only the sum.
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
    only : sequence of int, optional
        Numbers of the samples to show, in place of the first `samples`.
    pool : str or int
        What is made of the channels of an image; see `dlbt_core.show.heat.heat`.
    quantile : float
        Share of an image's pixels that stay inside the scale of colours; those beyond have the full colour.
    layer_maps : bool or sequence of str
        Whether to show the relevance of layers as maps, or globs on the names of those to show.
    matrices : sequence of Matrix
        Tables of relevance to show below the samples: layers by tokens, and the like.
    picked : sequence of str, optional
        Per sample what the target left open and the outputs decided, in words, in place of its numbers.
    """

    explanation: Explanation
    heading: str = ""
    note: str = ""
    tokens: Tokens | Mapping[str, Tokens] | None = None
    special: Collection[str] = ()
    hide_special: bool = False
    images: Tensor | Mapping[str, Tensor] | None = None
    labels: words.Labels | None = None
    names: Sequence[str] | None = None
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    samples: int = 32
    top: int = 20
    only: Sequence[int] | None = None
    pool: Pool = "sum"
    quantile: float = 0.99
    layer_maps: bool | Sequence[str] = False
    matrices: Sequence[Matrix] = ()
    picked: Sequence[str] | None = None

    @property
    def count(self) -> int:
        """Number of samples."""
        return int(self.explanation.score.numel())


@dataclass(frozen=True)
class InputView:
    """One input of one sample."""

    name: str
    total: str
    picture: pictures.Picture


@dataclass(frozen=True)
class SampleView:
    """One sample: what was explained of it, what it sums up from, its inputs."""

    name: str
    picked: str
    score: str
    terms: Sequence[tuple[str, str]]
    inputs: Sequence[InputView]
    layers: Sequence[pictures.LayerView] = ()

    @property
    def is_picture(self) -> bool:
        """Whether it is small enough to stand beside others."""
        return all(isinstance(i.picture, pictures.ImageView) and not i.picture.is_large for i in self.inputs)


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
    matrices: Sequence[MatrixView] = ()


def view(exhibit: Exhibit) -> ExhibitView:
    """All that a page shows of an explanation.

    Raises
    ------
    InputError
        If tokens, images or names do not fit the explanation.
    """
    explanation = exhibit.explanation
    _check_counts(exhibit)
    shown = range(min(exhibit.samples, exhibit.count)) if exhibit.only is None else exhibit.only
    return ExhibitView(
        heading=exhibit.heading,
        note=exhibit.note,
        target=explanation.target,
        composite=explanation.plan.composite_name,
        samples=[_sample(exhibit, index) for index in shown],
        hidden=0 if exhibit.only is not None else exhibit.count - len(shown),
        ledger=_ledger(exhibit, shown),
        plan=_plan(explanation.plan),
        matrices=[matrix_view(matrix) for matrix in exhibit.matrices],
    )


# -- samples -----------------------------------------------------------------------------------------------------------


def _sample(exhibit: Exhibit, index: int) -> SampleView:
    explanation = exhibit.explanation
    ledger = explanation.ledger
    score = float(explanation.score.reshape(-1)[index])
    parts = [*ledger.inputs.items(), *ledger.absorbed.items()]
    inputs = [_input(exhibit, name, index) for name in explanation.inputs]
    scales = [view.picture.full for view in inputs if isinstance(view.picture, pictures.TokensView)]
    if len(set(scales)) > 1:  # within a sample equal colours are equal amounts
        inputs = [_input(exhibit, name, index, max(scales)) for name in explanation.inputs]
    terms = [(name, float(amount.reshape(-1)[index])) for name, amount in parts if amount.numel() > index]
    return SampleView(
        name=_name(exhibit, index),
        picked=_picked(exhibit, index),
        score=_part(score, score),
        terms=[(name, _part(amount, score)) for name, amount in terms],
        inputs=inputs,
        layers=_layers(exhibit, index),
    )


def _picked(exhibit: Exhibit, index: int) -> str:
    if exhibit.picked is not None:
        return exhibit.picked[index]
    found = exhibit.explanation.picked
    picked = found[index] if index < len(found) else None
    return "" if picked is None else words.picked_in_words(exhibit.explanation.target, picked, exhibit.labels)


def _name(exhibit: Exhibit, index: int) -> str:
    if exhibit.names is not None:
        return exhibit.names[index]
    return f"sample {index}" if exhibit.count > 1 else ""


def _input(exhibit: Exhibit, name: str, index: int, full: float | None = None) -> InputView:
    relevance = _of_sample(exhibit.explanation.inputs[name], index, exhibit.count).detach().cpu().double()
    kind = exhibit.kinds.get(name) or _kind(exhibit, name, relevance)
    picture: pictures.Picture
    if kind == "tokens":
        given = _given(exhibit.tokens, name)
        own = None if given is None else given[index]
        picture = pictures.tokens(relevance, own, exhibit.special, exhibit.hide_special, full)
    elif kind == "image":
        given = _given(exhibit.images, name)
        given = exhibit.explanation.values.get(name) if given is None else given
        below = None if given is None else _of_sample(given, index, exhibit.count)
        picture = pictures.image(relevance, below, exhibit.pool, exhibit.quantile)
    else:
        picture = pictures.bars(relevance, exhibit.top)
    return InputView(name, words.signed(float(relevance.sum())), picture)


def _layers(exhibit: Exhibit, index: int) -> list[pictures.LayerView]:
    """Maps of the layers, if they were asked for: their places are those of the first input that is an image."""
    if exhibit.layer_maps is False:
        return []
    for name in exhibit.explanation.inputs:
        relevance = _of_sample(exhibit.explanation.inputs[name], index, exhibit.count)
        if (exhibit.kinds.get(name) or _kind(exhibit, name, relevance)) == "image":
            size = (int(relevance.shape[-2]), int(relevance.shape[-1]))
            globs = None if exhibit.layer_maps is True else exhibit.layer_maps
            maps = layer_maps(exhibit.explanation, index, size, pool=exhibit.pool, layers=globs)
            return [pictures.layer(layer, values, exhibit.quantile) for layer, values in maps.items()]
    raise InputError("layer_maps: no explained input is an image, so the layers have no places to show.")


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
    return "tokens" if relevance.dim() == 1 and _holds_ids(exhibit.explanation, name) else "bars"


def _holds_ids(explanation: Explanation, name: str) -> bool:
    """Whether an input holds ids."""
    value = explanation.values.get(name)
    return value is not None and not value.is_floating_point()


def _given(option: Any, name: str) -> Any:
    return option.get(name) if isinstance(option, Mapping) else option


# -- ledger and plan ---------------------------------------------------------------------------------------------------


def _ledger(exhibit: Exhibit, shown: Sequence[int]) -> LedgerView:
    ledger = exhibit.explanation.ledger
    scores = _at(ledger.score, shown)
    rows: list[tuple[str, str, Sequence[tuple[str, str]]]] = []
    for entry, amount in ledger.rows():
        pairs = zip(_at(amount, shown), scores, strict=False)
        cells = [(_part(a, s), f"{a / s:.1%} of the score" if s else "") for a, s in pairs]
        rows.append((entry, words.meaning(entry), cells))
    if not ledger.unassigned:
        gaps = _at(ledger.gap, shown)
        rows.append(("unaccounted for", "score − inputs − absorbed", [(words.signed(gap, 1), "") for gap in gaps]))
    columns = [_name(exhibit, index) or "amount" for index in shown]
    return LedgerView(columns, rows, f"{ledger.error:.1e}".replace("-", "−"), words.verdict(ledger.error))


def _at(amounts: Tensor, shown: Sequence[int]) -> list[float]:
    """The amounts of the samples that are shown; the only amount where they cannot be told apart."""
    found = amounts.reshape(-1).tolist()
    return [found[index] for index in shown] if len(found) > max(shown, default=0) else found


def _part(amount: float, score: float) -> str:
    """A part of a score with as many decimals as the score has for its first four figures, so that one can add up."""
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
    return {"node": row["node"], "rule": rule, "reason": where + row["reason"], "module": row["module"], "line": line}


# -- checks ------------------------------------------------------------------------------------------------------------


def _check_counts(exhibit: Exhibit) -> None:
    given = [
        ("names", exhibit.names),
        ("picked", exhibit.picked),
        ("images", exhibit.images),
        ("tokens", exhibit.tokens),
    ]
    for what, option in given:
        for part in option.values() if isinstance(option, Mapping) else [option]:
            if part is not None and len(part) != exhibit.count:
                raise InputError(
                    f"{len(part)} {what} for {exhibit.count} samples.\n  fix  {what} has one entry per sample."
                )
    beyond = [index for index in exhibit.only or () if not 0 <= index < exhibit.count]
    if beyond:
        raise InputError(f"only: there is no sample {beyond[0]}; there are {exhibit.count}, 0 to {exhibit.count - 1}.")
    names = exhibit.explanation.inputs
    for what, option in (*given, ("kinds", exhibit.kinds)):
        unknown = sorted(set(option) - set(names)) if isinstance(option, Mapping) else []
        if unknown:
            raise InputError(f"{what}: no explained input {unknown[0]!r}. There are: {', '.join(map(repr, names))}.")
