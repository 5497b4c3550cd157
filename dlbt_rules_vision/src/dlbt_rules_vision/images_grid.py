"""Several explained images in a grid: images by targets, images by composites, targets by composites."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from dlbt_core.errors import DlbtError, InputError
from dlbt_core.show import figure, heat, words
from dlbt_core.show.colours import robust_scale
from dlbt_core.show.figure import Panel
from dlbt_core.show.heat import Pool
from dlbt_rules_vision.images import OF_PAGE, ImageExplanation

__all__ = ["ImageGrid", "Scale"]

Scale = Literal["each", "row", "all"]


@dataclass(frozen=True, eq=False)
class ImageGrid:
    """Explained images in rows and columns: ``grid[row, column]``, ``grid[row]``, ``for row in grid``.

    Attributes
    ----------
    cells : sequence of sequence of ImageExplanation
        Rows of explained images.
    rows, columns : sequence of str
        What the rows and columns are called.
    scale : {"each", "row", "all"}
        Which of them share a scale of colours, unless said otherwise: amounts of different targets can be compared, those of
        different composites are best seen each on its own.
    """

    cells: Sequence[Sequence[ImageExplanation]]
    rows: Sequence[str]
    columns: Sequence[str]
    scale: Scale = "each"

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns."""
        return len(self.cells), len(self.cells[0])

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, tuple):
            row, column = place
            return self.cells[row][column]
        return self.cells[place]

    def __len__(self) -> int:
        return len(self.cells)

    def __iter__(self) -> Iterator[Sequence[ImageExplanation]]:
        return iter(self.cells)

    def figure(
        self, pool: Pool = "sum", *, style: str = "heat", scale: Scale | float | None = None, quantile: float = 0.99
    ) -> Any:
        """All heat maps, each row beside its image, with a colour bar: a matplotlib figure.

        Parameters
        ----------
        pool : str or int
            What is made of the channels, as for `ImageExplanation.heat`.
        style : {"heat", "overlay"}
            Heat maps alone, or over their images.
        scale : {"each", "row", "all"} or float, optional
            What shares a scale of colours, or the amount that gets the full colour.
        quantile : float
            Share of the pixels that stay inside the scale.

        Raises
        ------
        InputError
            If style or scale is none of these.
        """
        if style not in ("heat", "overlay"):
            raise InputError(f"style is 'heat' or 'overlay', not {style!r}.")
        maps = [[cell.heat(pool) for cell in row] for row in self.cells]
        scales = _scales(maps, self.scale if scale is None else scale, quantile)
        panels = [
            self._row(number, values, amounts, style)
            for number, (values, amounts) in enumerate(zip(maps, scales, strict=True))
        ]
        shared = {amount for row in scales for amount in row}
        composites = dict.fromkeys(cell.explanation.plan.composite_name for row in self.cells for cell in row)
        note = f"Full colour: ±max as noted below each map. Composite {'; '.join(composites)}."
        if len(shared) == 1:
            note = f"Composite {'; '.join(composites)}."
        return figure.figure(
            panels, rows=self.rows, note=note, scale=shared.pop() if len(shared) == 1 else None, width=2.2
        )

    def _row(self, number: int, maps: Sequence[Tensor], scales: Sequence[float], style: str) -> list[Panel | None]:
        cells = self.cells[number]
        panels: list[Panel | None] = []
        if (seen := cells[0].seen) is not None:
            panels.append(Panel(heat.image_rgb(seen), "what the model saw" if number == 0 else ""))
        for place, (cell, values, scale) in enumerate(zip(cells, maps, scales, strict=True)):
            if style == "overlay" and cell.seen is not None:
                rgb = heat.overlay_rgb(heat.image_rgb(cell.seen), values, scale)
            else:
                rgb = heat.heat_rgb(values, scale)
            said = "" if cell.title in (self.columns[place], self.rows[number]) else f"{cell.title}\n"
            note = f"{said}score {words.signed(cell.score)}, max ±{words.amount(scale)}"
            panels.append(Panel(rgb, self.columns[place] if number == 0 else "", note))
        return panels

    def show(self, pool: Pool = "sum", **options: Any) -> None:
        """Open the figure: in the notebook, else in a window. Options as for `figure`."""
        figure.show(self.figure(pool, **options))

    def save(self, path: str | Path, pool: Pool = "sum", *, dpi: int = 150, **options: Any) -> Path:
        """Write the figure to a file: ``.png``, ``.svg``, ``.pdf``, or ``.html`` for a page. Options as for `figure`."""
        if Path(path).suffix.lower() in (".html", ".htm"):
            return self.to_html(path, pool=pool, **options)
        return figure.save(self.figure(pool, **options), path, dpi)

    def to_html(self, path: str | Path, **options: Any) -> Path:
        """Write a page that is complete in itself, with a part for each explained image.

        Parameters
        ----------
        path : str or Path
            The file.
        **options
            As for `dlbt_core.show.page.write_page`. Maps of layers only if asked for: ``layer_maps=True``.
        """
        from dlbt_core.show.page import write_page

        own = {name: options.pop(name) for name in OF_PAGE if name in options}
        exhibits = []
        for name, row in zip(self.rows, self.cells, strict=True):
            for column, cell in zip(self.columns, row, strict=True):
                heading = ", ".join(part for part in (name, column) if part)
                exhibits.append(cell.exhibit(**{"layer_maps": False, "heading": heading, **options}))
        return write_page(exhibits, path, **{"title": "Explanations", **own})

    def _repr_png_(self) -> bytes | None:
        try:
            return figure.encode(self.figure(), "png")
        except DlbtError:  # without matplotlib
            return None

    def __repr__(self) -> str:
        rows, columns = self.shape
        return f"<ImageGrid of {rows} by {columns}: {', '.join(self.rows)}; {', '.join(self.columns)}>"


def _scales(maps: Sequence[Sequence[Tensor]], scale: Scale | float, quantile: float) -> list[list[float]]:
    """The amount that gets the full colour, for each map; what shares a scale has the largest of its own ones."""
    each = [[robust_scale(values, quantile) for values in row] for row in maps]
    if scale == "each":
        return each
    if scale == "row":
        return [[max(row)] * len(row) for row in each]
    if scale == "all":
        return [[max(map(max, each))] * len(row) for row in each]
    if isinstance(scale, (int, float)) and scale > 0:
        return [[float(scale)] * len(row) for row in each]
    raise InputError(f"scale is 'each', 'row', 'all' or an amount above 0, not {scale!r}.")
