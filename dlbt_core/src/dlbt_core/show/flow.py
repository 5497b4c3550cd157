"""Tokens as a figure: coloured boxes in lines like text, each with its number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from dlbt_core.show import words
from dlbt_core.show.colours import robust_scale
from dlbt_core.show.sheet import Sheet, text_width
from dlbt_core.show.tokens import Piece, Span, token_spans

__all__ = ["flow_figure"]

_TEXT, _SMALL, _LABEL = 9.0, 6.0, 7.5  # points
_PAD, _GAP, _HIGH, _BETWEEN = 0.055, 0.05, 0.4, 0.09  # inches
_EDGE = 0.25


def flow_figure(
    rows: Sequence[tuple[str, Sequence[Piece], Tensor]], *, title: str = "", note: str = "", width: float = 7.0
) -> Any:
    """Tokens in colour, in lines as long as the figure is wide, with a colour bar that has 0 in its centre.

    Parameters
    ----------
    rows : sequence of (name, pieces, amounts)
        One or more texts; a name is shown above its text.
    title, note : str
        A heading, and small print at the foot.
    width : float
        In inches; a short text makes the figure less wide.

    Returns
    -------
    matplotlib.figure.Figure
        It is not known to pyplot.

    Raises
    ------
    DlbtError
        If matplotlib is not installed.
    """
    amounts = [values.detach().cpu().double() for _, _, values in rows]
    scale = max(robust_scale(values) for values in amounts) if any(bool(values.any()) for values in amounts) else 1.0
    sheet = Sheet(width, title, note)
    placed: list[tuple[float, float, float, Span, str]] = []
    labels: list[tuple[float, str]] = []
    y = 0.0
    for (name, pieces, _), values in zip(rows, amounts, strict=True):
        if name:
            labels.append((y + 0.09, name))
            y += 0.22
        x = _EDGE
        for span in token_spans(pieces, values.tolist(), scale):
            number = words.at_scale(span.relevance, scale)
            size = _size(span)
            wide = max(text_width(span.text, size), text_width(number, _SMALL)) + 2 * _PAD
            x = x if span.joined or x == _EDGE else x + _GAP
            if x + wide > width - _EDGE and x > _EDGE:
                x, y = _EDGE, y + _HIGH + _BETWEEN
            placed.append((x, y, min(wide, width - 2 * _EDGE), span, number))
            x += wide
        y += _HIGH + _BETWEEN + 0.06
    made = sheet.make(y)
    for x, top, wide, span, number in placed:
        sheet.box((x, top, wide, _HIGH), span.light, "#8a8a92" if span.special else "#d2d0c8", dashed=span.special)
        sheet.text(x + wide / 2, top + 0.15, span.text, size=_size(span), colour=span.light_ink, va="center")
        sheet.text(x + wide / 2, top + 0.31, number, size=_SMALL, colour=span.light_ink, va="center")
    for top, name in labels:
        sheet.text(_EDGE, top, name, size=_LABEL, colour="#5d5d66", ha="left", va="center")
    sheet.colour_bar(scale)
    return made


def _size(span: Span) -> float:
    return _TEXT - 1.5 if span.special else _TEXT
