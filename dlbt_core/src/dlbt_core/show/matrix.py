"""Tables of relevance with named rows and columns: layers by tokens, layers by heads, positions by tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dlbt_core.errors import InputError
from dlbt_core.show import words
from dlbt_core.show.colours import diverging, hexadecimal, robust_scale
from dlbt_core.show.sheet import Sheet, text_width

__all__ = ["Matrix", "MatrixView", "matrix_figure", "matrix_view"]

_MOST = 6000
"""Up to so many cells a page has a table; beyond, a picture."""

_SIZE, _CELL = 7.5, 0.19  # points; inches


@dataclass(frozen=True, eq=False)
class Matrix:
    """Relevance in rows and columns.

    Attributes
    ----------
    values : Tensor
        Shape (rows, columns).
    rows, columns : sequence of str
        Their names.
    title, note : str
        What it shows, and a line on how to read it.
    """

    values: Tensor
    rows: Sequence[str]
    columns: Sequence[str]
    title: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if tuple(self.values.shape) != (len(self.rows), len(self.columns)):
            raise InputError(
                f"{len(self.rows)} names of rows and {len(self.columns)} of columns for a table of shape "
                f"{tuple(self.values.shape)}.\n  fix  give one name per row and per column."
            )


@dataclass(frozen=True)
class Cell:
    """A cell: its colours on a light and on a dark page, and its number."""

    light: str
    dark: str
    number: str


@dataclass(frozen=True)
class MatrixView:
    """A table in colour, ready for the template; a picture where it has too many cells."""

    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]
    scale: str
    picture: Any = None


def matrix_view(matrix: Matrix) -> MatrixView:
    """All that a page shows of a table."""
    values = matrix.values.detach().cpu().double()
    scale = robust_scale(values)
    if values.numel() > _MOST:
        from dlbt_core.show import pictures

        picture = pictures.layer(matrix.title, values)
        return MatrixView(matrix.title, matrix.note, (), (), picture.scale, picture)
    return MatrixView(
        title=matrix.title,
        note=matrix.note,
        columns=list(matrix.columns),
        rows=[
            (name, [_cell(amount, scale) for amount in line])
            for name, line in zip(matrix.rows, values.tolist(), strict=True)
        ],
        scale=words.amount(scale),
    )


def _cell(amount: float, scale: float) -> Cell:
    light, dark = (hexadecimal(diverging(amount / scale, theme)) for theme in ("light", "dark"))
    return Cell(light, dark, words.at_scale(amount, scale))


def matrix_figure(matrix: Matrix, *, note: str = "") -> Any:
    """The same as a matplotlib figure, with a colour bar that has 0 in its centre.

    Raises
    ------
    DlbtError
        If matplotlib is not installed.
    """
    from dlbt_core.show.heat import heat_rgb

    values = matrix.values.detach().cpu().double()
    scale = robust_scale(values)
    rows, columns = values.shape
    wide, high = (_CELL if count <= 80 else max(_CELL * 80 / count, 0.02) for count in (columns, rows))
    names, heads = ([_short(name) for name in side] for side in (matrix.rows, matrix.columns))
    left = 0.25 + max((text_width(name, _SIZE) for name in names), default=0.0)
    above = 0.1 + max((text_width(name, _SIZE) for name in heads), default=0.0)
    width, height = columns * wide, rows * high
    lines = "\n".join(line for line in (matrix.note, note) if line)
    sheet = Sheet(max(left + width + 0.25, 3.6), matrix.title, lines)
    left += (sheet.width - left - width - 0.25) / 2
    made = sheet.make(above + height + 0.1)
    axes = sheet.axes((left, above, width, height))
    axes.imshow(heat_rgb(values, scale).numpy(), interpolation="nearest", aspect="auto")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(color="#c9c7bf", linewidth=0.6)
    for place, name in list(enumerate(heads))[:: _step(wide)]:
        sheet.text(left + (place + 0.5) * wide, above - 0.05, name, size=_SIZE, rotation=90, va="bottom")
    for place, name in list(enumerate(names))[:: _step(high)]:
        sheet.text(left - 0.06, above + (place + 0.5) * high, name, size=_SIZE, ha="right", va="center")
    sheet.colour_bar(scale)
    return made


def _step(cell: float) -> int:
    """Every how many cells there is room for a name."""
    return max(1, round(0.14 / cell))


def _short(name: str, most: int = 32) -> str:
    """A name that fits: of a path the end, which tells it from the others, else the beginning."""
    if len(name) <= most:
        return name
    if " " in name or "." not in name:
        return f"{name[: most - 1]}…"
    cut = name.find(".", len(name) - most + 1)
    return f"…{name[cut + 1 :] if 0 <= cut < len(name) - 1 else name[1 - most :]}"
