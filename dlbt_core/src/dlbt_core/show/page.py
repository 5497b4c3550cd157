"""Pages: one self-contained HTML file that needs no network and no script."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from dlbt_core.explanation import Explanation
from dlbt_core.show.colours import hexadecimal, palette
from dlbt_core.show.matrix import Matrix, MatrixView, matrix_view
from dlbt_core.show.pictures import LayerView
from dlbt_core.show.views import Exhibit, view

__all__ = ["HOW_TO_READ", "Exhibit", "Section", "Side", "Table", "environment", "ramp", "write_page", "write_report"]

HOW_TO_READ = (
    "The score is one number that the model computed. Relevance splits it up: positive relevance (warm) spoke for the "
    "score, negative relevance (cool) against it, and the number next to a colour says how much. Within one sample "
    "equal colours are equal amounts; between samples the scale may differ and is given each time.",
    "Not all of a score comes from the input. What did not was absorbed on the way, and the ledger says by what: "
    "biases, values that the input does not enter such as position embeddings (“constant”), softmax, and so on. "
    "Score = inputs + absorbed; the ledger's error says how exactly that holds.",
    "This is an attribution: it tells how the model's own arithmetic, read with the rules in the plan, made up this "
    "score. It is not a causal claim. It does not say what would happen if a word or a pixel were changed, nor that "
    "the model is right, and other rules would give other numbers.",
)
"""How to read a page: for whoever gets one without having made it."""


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes
    ----------
    caption
        What it shows.
    header
        Names of the columns.
    rows
        Cells as text; the first of a row is its heading.
    strong
        Cells to set in bold: (row, column), from 0.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    strong: frozenset[tuple[int, int]] = frozenset()


@dataclass(frozen=True, eq=False)
class Side:
    """What stands side by side below a heading: maps in a row, or a table in colour.

    Attributes
    ----------
    heading
        What it shows.
    maps
        Pictures with their names.
    matrix
        Shares in rows and columns.
    """

    heading: str
    maps: Sequence[LayerView] = ()
    matrix: Matrix | None = None

    @property
    def table(self) -> MatrixView | None:
        """The table, ready for the template."""
        return None if self.matrix is None else matrix_view(self.matrix)


@dataclass(frozen=True)
class Section:
    """A part of a report: text, tables, what is set side by side, explanations, in this order."""

    heading: str = ""
    paragraphs: Sequence[str] = ()
    tables: Sequence[Table] = ()
    exhibits: Sequence[Exhibit] = ()
    sides: Sequence[Side] = ()


def write_page(
    explanations: Iterable[Explanation | Exhibit],
    path: str | Path,
    *,
    title: str = "Explanation",
    intro: Sequence[str] = (),
    how_to_read: Sequence[str] = HOW_TO_READ,
    **options: Any,
) -> Path:
    """Write a page about explanations: inputs in colour and in numbers, the ledger, the plan.

    Parameters
    ----------
    explanations : iterable of Explanation or Exhibit
        What to show. An `Exhibit` brings its own options.
    path : str or Path
        The file to write; its folders are made.
    title : str
        Heading of the page.
    intro : sequence of str
        Paragraphs below it.
    how_to_read : sequence of str
        Paragraphs that explain the page to its readers; empty for none.
    **options
        For each explanation that is not an `Exhibit`: `tokens`, `images`, `labels`, `names`, `special`,
        `hide_special`, `kinds`, `heading`, `note`, `samples`, `top`, `only`, `pool`, `quantile`, `layer_maps`, `matrices`,
        `picked`, as `Exhibit` describes them.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        If tokens, images or names do not fit an explanation.
    """
    exhibits = [e if isinstance(e, Exhibit) else Exhibit(e, **options) for e in explanations]
    return write_report([Section(exhibits=exhibits)], path, title=title, intro=intro, how_to_read=how_to_read)


def write_report(
    sections: Iterable[Section],
    path: str | Path,
    *,
    title: str,
    intro: Sequence[str] = (),
    how_to_read: Sequence[str] = HOW_TO_READ,
) -> Path:
    """Write a page with several sections.

    Parameters
    ----------
    sections : iterable of Section
        Its parts.
    path, title, intro, how_to_read
        See `write_page`.
    """
    from dlbt_core import __version__

    shown = [(section, [view(exhibit) for exhibit in section.exhibits]) for section in sections]
    text = environment().get_template("page.html").render(
        title=title,
        intro=[intro] if isinstance(intro, str) else intro,
        how_to_read=how_to_read,
        sections=shown,
        light_ramp=ramp("light"),
        dark_ramp=ramp("dark"),
        version=__version__,
    )  # fmt: skip
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    return target


@cache
def environment() -> Environment:
    """The templates, with everything escaped."""
    return Environment(
        loader=PackageLoader("dlbt_core.show", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def ramp(theme: Any) -> str:
    """The colour map as stops of a CSS gradient."""
    return ", ".join(hexadecimal(colour) for colour in palette(theme, 13))
