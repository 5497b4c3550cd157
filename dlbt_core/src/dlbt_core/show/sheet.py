"""A figure with a heading, a body measured in inches, a colour bar and a foot: what is drawn of text. Needs matplotlib."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

from dlbt_core.show import figure

__all__ = ["Sheet", "families", "text_width"]

_EDGE = 0.2  # inches
_HEAD, _NOTE = 11.5, 7.5  # points
_LINE = 0.14
_MORE = (
    "Noto Sans CJK JP", "Noto Sans CJK SC", "WenQuanYi Zen Hei", "Hiragino Sans", "Microsoft YaHei", "Malgun Gothic",
    "Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Devanagari", "Noto Sans Thai", "Arial Unicode MS",
)  # fmt: skip


class Sheet:
    """Places things in inches from the left and from the top of the body.

    Parameters
    ----------
    width : float
        In inches.
    title, note : str
        A heading, and small print at the foot.

    Raises
    ------
    DlbtError
        If matplotlib is not installed.
    """

    def __init__(self, width: float, title: str = "", note: str = "") -> None:
        self._matplotlib = figure._matplotlib()
        self.width = width
        self._heading = figure._lines(title, width - 2 * _EDGE, _HEAD * 1.12)
        self._foot = figure._lines(note, width - 2 * _EDGE, _NOTE)
        self._made: Any = None

    def make(self, height: float) -> Any:
        """The figure, with a body of that height."""
        above = 0.16 + (len(self._heading) * 0.23 + 0.1 if self._heading else 0.0)
        self._below = 0.62 + len(self._foot) * _LINE
        self._above, self.height = above, above + height + self._below
        self._made = self._matplotlib.figure.Figure(figsize=(self.width, self.height), facecolor="white", dpi=150)
        if self._heading:
            top = 1 - 0.16 / self.height
            figure._text(
                self._made, 0.5, top, "\n".join(self._heading), size=_HEAD, weight="bold", va="top", **_family()
            )
        if self._foot:
            low = 0.07 / self.height
            colour = figure._QUIET
            figure._text(
                self._made, 0.5, low, "\n".join(self._foot), size=_NOTE, colour=colour, va="bottom", **_family()
            )
        return self._made

    def axes(self, box: tuple[float, float, float, float]) -> Any:
        """Axes at (left, top, width, height)."""
        left, top, width, height = box
        low = self.height - self._above - top - height
        return self._made.add_axes((left / self.width, low / self.height, width / self.width, height / self.height))

    def text(self, x: float, y: float, text: str, *, size: float, colour: str = figure._INK, **options: Any) -> None:
        """Words at a place of the body."""
        place = (x / self.width, 1 - (self._above + y) / self.height)
        figure._text(self._made, *place, text, size=size, colour=colour, **{**_family(), **options})

    def box(self, box: tuple[float, float, float, float], colour: str, edge: str, dashed: bool = False) -> None:
        """A filled box with rounded corners at (left, top, width, height)."""
        from matplotlib.patches import FancyBboxPatch

        left, top, width, height = box
        low = self.height - self._above - top - height
        patch = FancyBboxPatch(
            (left, low), width, height, boxstyle="round,pad=0,rounding_size=0.035", facecolor=colour, edgecolor=edge,
            linewidth=0.6, linestyle=(0, (3, 2)) if dashed else "-", transform=self._made.dpi_scale_trans,
        )  # fmt: skip
        self._made.add_artist(patch)

    def colour_bar(self, scale: float) -> None:
        """The colour bar below the body."""
        figure._colour_bar(self._made, self._matplotlib, scale, (self.width, self.height), self._below)


def text_width(text: str, size: float) -> float:
    """How wide words are, in inches."""
    figure._matplotlib()
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a letter that the font does not have is told when the figure is drawn
        width, _, _ = text_to_path.get_text_width_height_descent(text, FontProperties(size=size, **_family()), False)
    return float(width) / 72


def _family() -> dict[str, Any]:
    return {"family": list(families())}


@cache
def families() -> tuple[str, ...]:
    """Fonts to look for a letter in, those of them that are installed."""
    from matplotlib.font_manager import fontManager

    known = {font.name for font in fontManager.ttflist}
    return ("DejaVu Sans", *(name for name in _MORE if name in known))
