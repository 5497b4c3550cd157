"""One input of one sample as a picture with its numbers: coloured tokens, a heat map, or bars."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dlbt_core.errors import InputError
from dlbt_core.show import heat, words
from dlbt_core.show.colours import robust_scale
from dlbt_core.show.heat import Pool
from dlbt_core.show.tokens import Piece, Span, pieces_of, token_spans

__all__ = ["BarsView", "ImageView", "Kind", "LayerView", "Picture", "TokensView", "bars", "image", "layer", "tokens"]

SMALL = 64
"""Up to this many pixels in a row or column an image stands with others in a row."""

Kind = Literal["tokens", "image", "bars"]


@dataclass(frozen=True)
class TokensView:
    """Coloured tokens, each with its number; what the full colour stands for; what is not shown."""

    spans: Sequence[tuple[Span, str]]
    scale: str
    rest: str
    full: float = 1.0
    kind: Kind = "tokens"


@dataclass(frozen=True)
class ImageView:
    """A heat map for light and for dark pages, the image and both in one if there is an image, and the map in numbers.

    The overlay is left out of small images, whose pixels can be compared by eye.
    """

    image: str
    overlay: str
    light: str
    dark: str
    alt: str
    scale: str
    grid: Sequence[Sequence[str]]
    grid_title: str
    size: tuple[int, int]
    kind: Kind = "image"

    @property
    def is_large(self) -> bool:
        """Whether it is too large to stand with others in a row."""
        return max(self.size) > SMALL


@dataclass(frozen=True)
class LayerView:
    """A layer's relevance as a map, with its name, its sum and what the full colour stands for."""

    name: str
    light: str
    dark: str
    alt: str
    total: str
    scale: str
    size: tuple[int, int]


@dataclass(frozen=True)
class BarsView:
    """The largest entries: place, number, length in percent of the largest; what is not shown."""

    rows: Sequence[tuple[str, str, float]]
    rest: str
    kind: Kind = "bars"


Picture = TokensView | ImageView | BarsView


def tokens(
    relevance: Tensor,
    given: Sequence[str | Piece] | None,
    special: Collection[str] = (),
    hide_special: bool = False,
    full: float | None = None,
) -> TokensView:
    """Tokens coloured by relevance of shape (T,), or (T, ...) to be summed.

    Parameters
    ----------
    relevance : Tensor
        Of one sample.
    given : sequence of str or Piece, optional
        Tokens in the order of the positions; or pieces, which know their positions and may be words.
    special : collection of str
        Tokens that stand for no text; see `dlbt_core.show.tokens.token_spans`.
    hide_special : bool
        Whether to show of those only the sum.
    full : float, optional
        The amount that gets the full colour, where other tokens share the scale.

    Raises
    ------
    InputError
        If there are more tokens than positions.
    """
    amounts = relevance.sum(tuple(range(1, relevance.dim()))) if relevance.dim() > 1 else relevance.reshape(-1)
    shown = pieces_of([str(position) for position in range(len(amounts))] if given is None else list(given), special)
    if max((piece.positions[-1] for piece in shown), default=-1) >= len(amounts):
        raise InputError(
            f"{len(shown)} tokens for {len(amounts)} positions.\n"
            "  fix  give one token per position, in the order of the ids."
        )
    hidden = [piece for piece in shown if piece.special] if hide_special else []
    shown = [piece for piece in shown if not piece.special] if hide_special else shown
    named = {position for piece in (*shown, *hidden) for position in piece.positions}
    rest = [position for position in range(len(amounts)) if position not in named]
    sums = [float(amounts[list(piece.positions)].sum()) for piece in shown]
    scale = robust_scale(torch.tensor(sums, dtype=torch.float64, device="cpu")) if full is None else full
    apart = [position for piece in hidden for position in piece.positions]
    left_out = {"special token" + "s" * (len(apart) > 1): apart, "further positions": rest}
    return TokensView(
        spans=[(s, words.at_scale(s.relevance, scale)) for s in token_spans(shown, sums, scale)],
        scale=words.amount(scale),
        rest="; ".join(
            f"{len(places)} {what}, together {words.signed(float(amounts[places].sum()))}"
            for what, places in left_out.items()
            if places
        ),
        full=scale,
    )


def image(relevance: Tensor, given: Tensor | None, pool: Pool = "sum", quantile: float = 0.99) -> ImageView:
    """A heat map of relevance of shape (C, H, W) or (H, W).

    Parameters
    ----------
    relevance : Tensor
        Of one sample.
    given : Tensor, optional
        The image, shape (C, H, W) or (H, W).
    pool : str or int
        What is made of the channels; see `dlbt_core.show.heat.heat`.
    quantile : float
        Share of the pixels that stay inside the scale of colours.

    Raises
    ------
    InputError
        If it has another number of dimensions.
    """
    values = heat.heat(relevance, pool)
    if values.dim() != 2:
        raise InputError(
            f"relevance of shape {tuple(relevance.shape)} per sample is not that of an image.\n"
            "  fix  leave kinds= out, or give relevance of shape (C, H, W) or (H, W)."
        )
    rows, columns = values.shape
    scale, grid = robust_scale(values, quantile), heat.patches(values)
    is_whole = values.numel() == sum(map(len, grid))
    size = robust_scale(torch.tensor(grid, dtype=torch.float64, device="cpu"))
    below = None if given is None else heat.image_rgb(given)
    has_overlay = below is not None and below.shape[:2] == values.shape and max(values.shape) > SMALL
    return ImageView(
        image="" if below is None else heat.data_uri(below),
        overlay=heat.data_uri(heat.overlay_rgb(below, values, scale)) if below is not None and has_overlay else "",
        light=heat.data_uri(heat.heat_rgb(values, scale, "light")),
        dark=heat.data_uri(heat.heat_rgb(values, scale, "dark")),
        alt="; ".join([f"heat map of {rows} by {columns} pixels", *_extremes(values)]),
        scale=words.amount(scale),
        grid=[[words.at_scale(cell, size) for cell in line] for line in grid],
        grid_title="numbers" if is_whole else f"numbers: sums over {len(grid)} by {len(grid[0])} patches",
        size=(rows, columns),
    )


def layer(name: str, values: Tensor, quantile: float = 0.99) -> LayerView:
    """A layer's map of shape (h, w)."""
    scale, (rows, columns) = robust_scale(values, quantile), values.shape
    return LayerView(
        name=name,
        light=heat.data_uri(heat.heat_rgb(values, scale, "light")),
        dark=heat.data_uri(heat.heat_rgb(values, scale, "dark")),
        alt="; ".join([f"relevance of {name}, {rows} by {columns}", *_extremes(values)]),
        total=words.signed(float(values.sum())),
        scale=words.amount(scale),
        size=(rows, columns),
    )


def _extremes(values: Tensor) -> Iterator[str]:
    for word, amount, row, column in heat.extremes(values):
        yield f"most {word}: {words.signed(amount)} in row {row}, column {column}"


def bars(relevance: Tensor, top: int) -> BarsView:
    """The `top` largest entries of relevance of any shape."""
    flat = relevance.reshape(-1)
    order = flat.abs().nan_to_num(0.0).argsort(descending=True, stable=True)[:top].tolist()
    scale = float(flat[order[0]].abs()) if order else 0.0
    entries = [(_place(place, relevance.shape), float(flat[place])) for place in order]
    hidden, rest = flat.numel() - len(order), float(flat.sum() - flat[order].sum())
    return BarsView(
        rows=[(place, words.at_scale(a, scale), 100 * a / scale if scale else 0.0) for place, a in entries],
        rest=f"{hidden} further entries, together {words.signed(rest)}" if hidden else "",
    )


def _place(place: int, shape: Sequence[int]) -> str:
    index: list[int] = []
    for size in reversed(shape):
        place, at = divmod(place, size)
        index.insert(0, at)
    return f"[{', '.join(map(str, index))}]" if index else "value"
