"""Figures for files: panels in rows and columns with their words and one colour bar. Needs matplotlib."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from dlbt_core.errors import DlbtError, InputError
from dlbt_core.show import words
from dlbt_core.show.colours import hexadecimal, palette

__all__ = ["FORMATS", "Panel", "encode", "figure", "save", "show"]

FORMATS = ("png", "svg", "pdf")
"""File formats of figures."""

_INK, _QUIET = "#1d1d22", "#5d5d66"
_LINE = 0.19  # inches per line of text
_GAP = 0.14
_TITLE, _HEAD, _NOTE = 8.5, 11.5, 7.5  # points


@dataclass(frozen=True)
class Panel:
    """One picture of a figure.

    Attributes
    ----------
    rgb : Tensor
        Shape (H, W, 3), uint8.
    title, note : str
        Words above and below it.
    """

    rgb: Tensor
    title: str = ""
    note: str = ""


def figure(
    panels: Sequence[Sequence[Panel | None]],
    *,
    title: str = "",
    note: str = "",
    rows: Sequence[str] = (),
    scale: float | None = None,
    width: float = 2.5,
) -> Any:
    """Lay out panels in rows and columns, over a colour bar that has 0 in its centre.

    Parameters
    ----------
    panels : sequence of sequence of Panel or None
        Rows of panels; None leaves a place free.
    title, note : str
        A heading, and a line in small print at the foot.
    rows : sequence of str
        Names of the rows.
    scale : float, optional
        What the full colours stand for. Unless given each panel has its own scale and should say it in its note.
    width : float
        Width of a column in inches.

    Returns
    -------
    matplotlib.figure.Figure
        It is not known to pyplot; nothing global is changed.

    Raises
    ------
    DlbtError
        If matplotlib is not installed.
    """
    matplotlib = _matplotlib()
    columns = max(len(row) for row in panels)
    left = 0.2 + (1.05 if any(rows) else 0.0)
    total = max(left + columns * width + (columns - 1) * _GAP + 0.2, 3.4)
    heading = _lines(title, total - 0.4, _HEAD * 1.12)
    bands = [_Band(row, width) for row in panels]
    top = 0.16 + (len(heading) * 0.23 + 0.1 if title else 0.0)
    foot = _lines(note, total - 0.4, _NOTE)
    bottom = 0.62 + (len(foot) * _LINE if note else 0.0)
    height = top + sum(band.height for band in bands) + (len(bands) - 1) * _GAP + bottom

    made = matplotlib.figure.Figure(figsize=(total, height), facecolor="white", dpi=150)
    if title:
        _text(made, 0.5, 1 - 0.16 / height, "\n".join(heading), size=_HEAD, weight="bold", va="top")
    y = height - top
    shift = (total - left - 0.2 - columns * width - (columns - 1) * _GAP) / 2
    for number, band in enumerate(bands):
        if number < len(rows) and rows[number]:
            name = "\n".join(_lines(rows[number], 1.0, _TITLE))
            middle = y - band.above - band.picture / 2
            _text(made, (left - 0.1) / total, middle / height, name, size=_TITLE, ha="right", va="center")
        for place, panel in enumerate(band.panels):
            if panel is not None:
                corner = left + shift + place * (width + _GAP)
                _draw(made, panel, band, (corner, y, width), (total, height))
        y -= band.height + _GAP
    _colour_bar(made, matplotlib, scale, (total, height), bottom)
    if note:
        _text(made, 0.5, 0.07 / height, "\n".join(foot), size=_NOTE, colour=_QUIET, va="bottom")
    return made


class _Band:
    """A row of panels with its heights in inches: words above, picture, words below."""

    def __init__(self, panels: Sequence[Panel | None], width: float) -> None:
        there = [panel for panel in panels if panel is not None]
        self.panels = panels
        self.titles = {id(p): _lines(p.title, width, _TITLE) for p in there}
        self.notes = {id(p): _lines(p.note, width, _NOTE) for p in there}
        self.picture = max((width * p.rgb.shape[0] / p.rgb.shape[1] for p in there), default=width)
        self.above = _LINE * max((len(t) for t in self.titles.values()), default=0) + 0.05
        self.below = _LINE * max((len(n) for n in self.notes.values()), default=0) + 0.05
        self.height = self.above + self.picture + self.below


def _draw(made: Any, panel: Panel, band: _Band, place: tuple[float, float, float], size: tuple[float, float]) -> None:
    (left, top, width), (total, height) = place, size
    own = width * panel.rgb.shape[0] / panel.rgb.shape[1]
    axes = made.add_axes(
        (left / total, (top - band.above - own) / height, width / total, own / height), xticks=[], yticks=[]
    )
    for spine in axes.spines.values():
        spine.set(color="#c9c7bf", linewidth=0.6)
    # Few pixels are shown as what they are; many are averaged down to those of the figure.
    axes.imshow(panel.rgb.numpy(), interpolation=_sampling(panel.rgb))
    middle = (left + width / 2) / total
    title, note = band.titles[id(panel)], band.notes[id(panel)]
    _text(made, middle, (top - band.above + 0.045) / height, "\n".join(title), size=_TITLE, va="bottom")
    below = (top - band.above - own - 0.05) / height
    _text(made, middle, below, "\n".join(note), size=_NOTE, colour=_QUIET, va="top")


def _sampling(rgb: Tensor) -> str:
    return "nearest" if max(rgb.shape[:2]) <= 64 else "antialiased"


def _colour_bar(made: Any, matplotlib: Any, scale: float | None, size: tuple[float, float], bottom: float) -> None:
    """Exactly centred: as many colours on both sides, 0 in the middle one."""
    total, height = size
    wide = min(2.6, total - 1.9)
    axes = made.add_axes(((total - wide) / 2 / total, (bottom - 0.26) / height, wide / total, 0.12 / height))
    colours = matplotlib.colors.ListedColormap([hexadecimal(colour) for colour in palette("light")], name="dlbt")
    end = 1.0 if scale is None else scale
    shades = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(-end, end), colours)
    ticks = ["−max", "0", "+max"] if scale is None else [words.signed(-end, 2), "0", words.signed(end, 2)]
    bar = made.colorbar(shades, cax=axes, orientation="horizontal", ticks=[-end, 0, end])
    bar.outline.set(edgecolor="#c9c7bf", linewidth=0.6)
    bar.ax.set_xticklabels(ticks, fontsize=_NOTE, color=_INK)
    bar.ax.tick_params(length=2.5, width=0.6, color=_QUIET, pad=2)
    middle = (bottom - 0.2) / height
    _text(made, ((total - wide) / 2 - 0.08) / total, middle, "against", size=8, colour=_QUIET, ha="right", va="center")
    _text(made, ((total + wide) / 2 + 0.08) / total, middle, "for", size=8, colour=_QUIET, ha="left", va="center")


def _text(made: Any, x: float, y: float, text: str, *, size: float, colour: str = _INK, **options: Any) -> None:
    """Words as they are: a ``$`` in the name of a class is no formula."""
    made.text(x, y, text, fontsize=size, color=colour, parse_math=False, **{"ha": "center", **options})


def _lines(text: str, inches: float, size: float) -> list[str]:
    """Words broken into lines that fit, by the mean width of a letter: 0.57 of the font's size."""
    most = max(8, int(inches * 72 / (0.57 * size)))
    lines: list[str] = []
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split():
            for number, piece in enumerate(_pieces(word, most)):
                longer = line + (" " if line and not number else "") + piece
                if len(longer) > most and line:
                    lines.append(line)
                line = piece if len(longer) > most else longer
        lines += [line] if line else []
    return lines


def _pieces(word: str, most: int) -> list[str]:
    """A word that fits a line, or parts of it: names of modules break after a dot or an underscore."""
    if len(word) <= most:
        return [word]
    cut = max(word.rfind(sign, 0, most) for sign in "._") + 1 or most
    return [word[:cut], *_pieces(word[cut:], most)]


# -- files and windows -------------------------------------------------------------------------------------------------


def encode(made: Any, kind: str, dpi: int = 150) -> bytes:
    """A figure as a file of that format, the same bytes each time."""
    matplotlib = _matplotlib()
    metadata: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "dlbt"}):
        made.savefig(file, format=kind, dpi=dpi, metadata=metadata)
    return file.getvalue()


def save(made: Any, path: str | Path, dpi: int = 150) -> Path:
    """Write a figure to a file; its ending says the format. Its folders are made.

    Raises
    ------
    InputError
        If the ending is none of `FORMATS`.
    """
    target = Path(path)
    kind = target.suffix.lower().lstrip(".")
    if kind not in FORMATS:
        raise InputError(
            f"no picture can be written to {str(path)!r}: the ending says the format.\n"
            f"  fix  end it in one of: {', '.join('.' + known for known in FORMATS)}."
        )
    content = encode(made, kind, dpi)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    return target


def show(made: Any) -> None:
    """Open a figure: in the notebook, else in a window.

    Raises
    ------
    DlbtError
        If there is no window to open.
    """
    import sys

    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell is not None and hasattr(shell, "kernel"):
        import importlib

        display: Any = importlib.import_module("IPython.display")
        display.display(display.Image(encode(made, "png")))
        return
    matplotlib = _matplotlib()
    import matplotlib.pyplot as plt

    if matplotlib.get_backend().lower() in ("agg", "pdf", "svg", "ps", "cairo", "template"):
        raise DlbtError(
            f"no window can be opened: matplotlib's backend is {matplotlib.get_backend()!r}, which only writes files.\n"
            "  fix  save('picture.png') or to_html('page.html') instead."
        )
    # A window wants a figure of pyplot's own; ours goes into it as a picture, and the window is forgotten when it closes.
    window = plt.figure(figsize=made.get_size_inches())
    axes = window.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.imshow(plt.imread(io.BytesIO(encode(made, "png"))))
    plt.show()
    plt.close(window)


def _matplotlib() -> Any:
    """matplotlib with the parts that are used, imported when a figure is wanted.

    Raises
    ------
    DlbtError
        If it is not installed.
    """
    try:
        import matplotlib
        import matplotlib.cm
        import matplotlib.colors
        import matplotlib.figure
    except ImportError as error:
        raise DlbtError(
            "figures need matplotlib, which cannot be imported.\n"
            "  fix  pip install matplotlib, or dlbt-core[plots]; to_html() needs neither."
        ) from error
    return matplotlib
