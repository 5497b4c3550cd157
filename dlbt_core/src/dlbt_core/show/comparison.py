"""Several composites side by side: as text, as a figure, and as a page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dlbt_core.comparison import Comparison
from dlbt_core.errors import InputError
from dlbt_core.show import figure, heat, pictures, views, words
from dlbt_core.show.colours import robust_scale
from dlbt_core.show.figure import Panel
from dlbt_core.show.heat import Pool
from dlbt_core.show.matrix import Matrix, matrix_figure
from dlbt_core.show.page import HOW_TO_READ, Section, Side, Table, write_report
from dlbt_core.show.tokens import pieces_of
from dlbt_core.show.views import Exhibit

__all__ = ["comparison_figure", "comparison_fragment", "comparison_page", "text"]

_ENTRIES = 40
"""So many entries of an input that is neither tokens nor an image stand side by side."""

_SCALED = (
    "Each row in shares of its largest amount: amounts of different composites are seen best each on its own scale."
)


@dataclass(frozen=True)
class _Sample:
    """One explained input of one sample under all composites: maps of an image, or rows of amounts with their names."""

    heading: str
    names: Sequence[str]
    maps: Sequence[Tensor] = ()
    below: Tensor | None = None
    amounts: Tensor | None = None
    columns: Sequence[str] = ()

    @property
    def matrix(self) -> Matrix:
        """The amounts of each composite in shares of its largest."""
        assert self.amounts is not None
        largest = self.amounts.abs().amax(1, keepdim=True)
        shares = self.amounts / torch.where(largest == 0, torch.ones_like(largest), largest)
        return Matrix(shares, list(self.names), list(self.columns), self.heading, _SCALED)


def _samples(
    comparison: Comparison, names: Iterable[str], shown: Iterable[int], pool: Pool, entries: int, **options: Any
) -> list[_Sample]:
    """Explained inputs of some samples; options as for `Exhibit`."""
    numbers = list(shown)
    first = Exhibit(comparison[comparison.names[0]], only=numbers, **options)
    views._check_counts(first)
    return [_sample(comparison, first, name, index, pool, entries) for index in numbers for name in names]


def _sample(comparison: Comparison, first: Exhibit, name: str, index: int, pool: Pool, entries: int) -> _Sample:
    rows = [
        views._of_sample(explanation.inputs[name], index, first.count).detach().cpu().double()
        for explanation in comparison.explanations.values()
    ]
    of = [
        views._name(first, index),
        f"input {name}" if len(first.explanation.inputs) > 1 else "",
        views._picked(first, index),
    ]
    heading = ", ".join(part for part in of if part) or first.explanation.target
    kind = first.kinds.get(name) or views._kind(first, name, rows[0])
    if kind == "image":
        given = views._given(first.images, name)
        given = first.explanation.values.get(name) if given is None else given
        below = None if given is None else views._of_sample(given, index, first.count)
        return _Sample(heading, comparison.names, [heat.heat(row, pool) for row in rows], below)
    if kind == "tokens":
        flat = torch.stack([row.reshape(row.shape[0], -1).sum(1) for row in rows])
        given = views._given(first.tokens, name)
        pieces = None if given is None else pieces_of(list(given[index]), first.special)
        if pieces is not None:
            flat = torch.stack([flat[:, list(piece.positions)].sum(1) for piece in pieces], 1)
        return _Sample(
            heading,
            comparison.names,
            amounts=flat,
            columns=[p.text for p in pieces] if pieces is not None else list(map(str, range(flat.shape[1]))),
        )
    flat = torch.stack([row.reshape(-1) for row in rows])
    order = _largest(flat, entries)
    places = [pictures._place(place, rows[0].shape) for place in order]
    heading += f", the {len(places)} largest of {flat.shape[1]} entries" if len(places) < flat.shape[1] else ""
    return _Sample(heading, comparison.names, amounts=flat[:, order], columns=places)


def _largest(amounts: Tensor, most: int) -> list[int]:
    """The places of the largest shares of any composite, in order; amounts have shape (composites, N)."""
    largest = amounts.abs().amax(1, keepdim=True).clamp_min(torch.finfo(amounts.dtype).tiny)
    shares = (amounts.abs() / largest).nan_to_num(0.0).amax(0)
    return sorted(shares.argsort(descending=True, stable=True)[:most].tolist())


# -- figure ------------------------------------------------------------------------------------------------------------


def comparison_figure(
    comparison: Comparison,
    input: str | None = None,
    *,
    sample: int | None = None,
    pool: Pool = "sum",
    entries: int = _ENTRIES,
    quantile: float = 0.99,
    **options: Any,
) -> Any:
    """Samples by composites as heat maps, each with a scale of its own; of an input that is no image, a table in colour.

    Parameters
    ----------
    comparison : Comparison
        What to show.
    input : str, optional
        Which explained input; the first unless given.
    sample : int, optional
        Number of the sample to show alone; unless given the first four of images, and the first of anything else.
    entries : int
        How many entries of an input that is neither tokens nor an image.
    pool, quantile
        As for `Exhibit`.
    **options
        `tokens`, `images`, `labels`, `names`, `kinds` as for `Exhibit`.

    Raises
    ------
    InputError
        If there is no such input.
    DlbtError
        If matplotlib is not installed.
    """
    known = list(comparison[comparison.names[0]].inputs)
    if input is not None and input not in known:
        raise InputError(f"no explained input {input!r}. There are: {', '.join(map(repr, known))}.")
    name, count = input or known[0], comparison[comparison.names[0]].score.numel()
    shown = range(min(4, count)) if sample is None else [sample]
    found = _samples(comparison, [name], shown, pool, entries, **options)
    title = f"{comparison[comparison.names[0]].target}: {len(comparison)} composites"
    note = _agreement_line(comparison)
    if found[0].maps:
        panels = [_panels(one, quantile, number == 0) for number, one in enumerate(found)]
        return figure.figure(panels, title=title, rows=[one.heading for one in found], note=note, width=2.2)
    return matrix_figure(found[0].matrix, note=note)


def _panels(sample: _Sample, quantile: float, is_first: bool) -> list[Panel | None]:
    panels: list[Panel | None] = []
    if sample.below is not None:
        panels.append(Panel(heat.image_rgb(sample.below), "input" if is_first else ""))
    for name, values in zip(sample.names, sample.maps, strict=True):
        scale = robust_scale(values, quantile)
        note = f"sum {words.signed(float(values.sum()))}, full colour ±{words.amount(scale)}"
        panels.append(Panel(heat.heat_rgb(values, scale), name if is_first else "", note))
    return panels


def _agreement_line(comparison: Comparison) -> str:
    means = [f"{p.a} and {p.b} {_correlation(p.spearman)}" for p in comparison.pairs]
    return f"Mean rank correlation (Spearman): {'; '.join(means)}." if means else ""


# -- tables ------------------------------------------------------------------------------------------------------------


def _correlation(values: Tensor) -> str:
    mean = float(values.nanmean())
    return "undefined" if mean != mean else f"{mean:+.3f}".replace("-", "−")


def _tables(comparison: Comparison) -> list[Table]:
    """Composites, pairs, plans."""
    samples = comparison[comparison.names[0]].score.numel()
    repeats = len(comparison.times[comparison.names[0]])
    counted = f"sums over {samples} samples" if samples > 1 else "1 sample"
    threads = f"{comparison.threads} thread{'s' * (comparison.threads != 1)}"
    found = [
        Table(
            f"Composites, {counted}. Time: median of {repeats}, {threads}.",
            ("composite", "score", "ledger error", "absorbed", "time", "nodes", "same plan as"),
            [_composite_cells(row) for row in comparison.table()],
        )
    ]
    if comparison.pairs:
        found.append(
            Table(
                "Agreement of relevance, elementwise over all explained inputs"
                + (", mean over the samples" * (samples > 1)),
                ("composites", "rank correlation", "cosine", "nodes that differ"),
                [
                    (f"{p.a}, {p.b}", _correlation(p.spearman), _correlation(p.cosine), str(len(p.differences)))
                    for p in comparison.pairs
                ],
            )
        )
    plans = comparison.plan_table()
    if plans:
        found.append(
            Table(
                "Where the plans differ",
                ("op", "nodes", *comparison.names),
                [(row["op"], str(len(row["nodes"])), *row["rules"].values()) for row in plans],
            )
        )
    return found


def _composite_cells(row: dict[str, Any]) -> tuple[str, ...]:
    chosen = row["name"] if row["composite"] == row["name"] else f"{row['name']}: {row['composite']}"
    totals = {name: total for name, amount in row["absorbed"].items() if (total := _total(amount))}
    largest = sorted(totals.items(), key=lambda item: -abs(item[1]))
    parts = [f"{words.signed(amount)} {name}" for name, amount in largest[:3]]
    absorbed = (", ".join(parts) or "nothing") + (f" and {len(largest) - 3} more" if len(largest) > 3 else "")
    return (
        chosen, words.signed(_total(row["score"]), 4), f"{row['ledger_error']:.1e}".replace("-", "−"), absorbed,
        _duration(row["seconds"]), str(row["nodes"]), row["same_plan_as"] or "",
    )  # fmt: skip


def _total(amount: float | list[float]) -> float:
    return sum(amount) if isinstance(amount, list) else amount


def _duration(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


# -- text --------------------------------------------------------------------------------------------------------------


def text(comparison: Comparison, samples: int = 2, entries: int = 8, **options: Any) -> str:
    """The comparison in lines: composites, agreement, plans, and the largest entries of relevance side by side.

    Parameters
    ----------
    comparison : Comparison
        What to show.
    samples, entries : int
        How many samples, and how many entries of each.
    **options
        `tokens`, `labels`, `names` as for `Exhibit`.
    """
    explanation = comparison[comparison.names[0]]
    parts = [f"comparison of {len(comparison)} composites: {explanation.target}", *map(_aligned, _tables(comparison))]
    shown = range(min(samples, explanation.score.numel()))
    kinds = {name: _kind_in_text(explanation, name, **options) for name in explanation.inputs}
    found = _samples(comparison, explanation.inputs, shown, "sum", entries, **{**options, "kinds": kinds})
    return "\n\n".join([*parts, *(_beside(sample, entries) for sample in found), *comparison.notes])


def _kind_in_text(explanation: Any, name: str, **options: Any) -> Any:
    """Pixels are entries like any other where there are no pictures."""
    relevance = views._of_sample(explanation.inputs[name], 0, explanation.score.numel())
    kind = views._kind(Exhibit(explanation, **options), name, relevance)
    return "bars" if kind == "image" else kind


def _beside(sample: _Sample, entries: int) -> str:
    assert sample.amounts is not None
    order = _largest(sample.amounts, entries)
    scale = [float(row.abs().max()) for row in sample.amounts]
    rows = [
        (
            sample.columns[place],
            *(words.at_scale(float(row[place]), size) for row, size in zip(sample.amounts, scale, strict=True)),
        )
        for place in order
    ]
    more = f", the {len(order)} largest of {len(sample.columns)} tokens" if len(order) < len(sample.columns) else ""
    return _aligned(Table(sample.heading + more, ("entry", *sample.names), rows))


def _aligned(table: Table) -> str:
    rows = [table.header, *table.rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.header))]
    lines = [
        "  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return "\n".join([table.caption, *lines])


# -- page --------------------------------------------------------------------------------------------------------------


def comparison_page(
    comparison: Comparison,
    path: str | Path,
    *,
    title: str = "Composites compared",
    samples: int = 8,
    pool: Pool = "sum",
    entries: int = _ENTRIES,
    **options: Any,
) -> Path:
    """Write a self-contained page: agreement, costs, plans, relevance side by side, and each explanation.

    Parameters
    ----------
    comparison : Comparison
        What to show.
    path : str or Path
        The file; its folders are made.
    title : str
        Heading of the page.
    samples, entries : int
        How many samples, and how many entries of an input that is neither tokens nor an image.
    pool : str or int
        What is made of the channels of an image.
    **options
        For each explanation, as for `Exhibit`: `tokens`, `images`, `labels`, `names`, `kinds`, ...
    """
    sections = [
        Section("", comparison.notes, _tables(comparison)),
        Section("Side by side", sides=_sides(comparison, samples, pool, entries, **options)),
        Section(
            "Each explanation",
            exhibits=[
                Exhibit(explanation, heading=name, samples=samples, pool=pool, **options)
                for name, explanation in comparison.explanations.items()
            ],
        ),
    ]
    return write_report(sections, path, title=title, how_to_read=(*HOW_TO_READ, *_HOW_TO_COMPARE))


_HOW_TO_COMPARE = (
    "Rank correlation (Spearman) is 1 where two composites put all entries in the same order, 0 where their orders have "
    "nothing in common, −1 where one is the other reversed. The cosine weighs large entries more. Agreement does not make "
    "either of them right.",
)


def _sides(comparison: Comparison, samples: int, pool: Pool, entries: int, **options: Any) -> list[Side]:
    names = list(comparison[comparison.names[0]].inputs)
    shown = range(min(samples, comparison[comparison.names[0]].score.numel()))
    found = _samples(comparison, names, shown, pool, entries, **options)
    return [
        Side(sample.heading, maps=[pictures.layer(n, v) for n, v in zip(sample.names, sample.maps, strict=True)])
        if sample.maps
        else Side(sample.heading, matrix=replace(sample.matrix, title=""))
        for sample in found
    ]


def comparison_fragment(comparison: Comparison) -> str:
    """A piece of HTML for notebooks: the tables, and the first samples side by side."""
    from dlbt_core.show.notebook import fragment

    return fragment(
        [], tables=_tables(comparison), sides=_sides(comparison, 4, "sum", _ENTRIES), notes=comparison.notes
    )
