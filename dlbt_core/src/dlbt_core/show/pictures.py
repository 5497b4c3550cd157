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
from dlbt_core.show.tokens import Span, token_spans

__all__ = ["BarsView", "ImageView", "Kind", "Picture", "TokensView", "bars", "image", "tokens"]

Kind = Literal["tokens", "image", "bars"]


@dataclass(frozen=True)
class TokensView:
    """Coloured tokens, each with its number; what the full colour stands for; what is not shown."""

    spans: Sequence[tuple[Span, str]]
    scale: str
    rest: str
    kind: Kind = "tokens"


@dataclass(frozen=True)
class ImageView:
    """A heat map for light and for dark pages, the image beside it if there is one, and the map in numbers."""

    image: str
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
        return max(self.size) > 64


@dataclass(frozen=True)
class BarsView:
    """The largest entries: place, number, length in percent of the largest; what is not shown."""

    rows: Sequence[tuple[str, str, float]]
    rest: str
    kind: Kind = "bars"


Picture = TokensView | ImageView | BarsView


def tokens(relevance: Tensor, given: Sequence[str] | None, special: Collection[str] = ()) -> TokensView:
    """Tokens coloured by relevance of shape (T,), or (T, ...) to be summed.

    Raises
    ------
    InputError
        If there are more tokens than positions.
    """
    amounts = relevance.sum(tuple(range(1, relevance.dim()))) if relevance.dim() > 1 else relevance.reshape(-1)
    shown = [str(position) for position in range(len(amounts))] if given is None else list(given)
    if len(shown) > len(amounts):
        raise InputError(
            f"{len(shown)} tokens for {len(amounts)} positions.\n"
            "  fix  give one token per position, in the order of the ids."
        )
    amounts, rest = amounts[: len(shown)], amounts[len(shown) :]
    scale = robust_scale(amounts)
    return TokensView(
        spans=[(s, words.at_scale(s.relevance, scale)) for s in token_spans(shown, amounts.tolist(), scale, special)],
        scale=_amount(scale),
        rest=f"{len(rest)} further positions, together {words.signed(float(rest.sum()))}" if len(rest) else "",
    )


def image(relevance: Tensor, given: Tensor | None) -> ImageView:
    """A heat map of relevance of shape (C, H, W) or (H, W).

    Raises
    ------
    InputError
        If it has another number of dimensions.
    """
    values = heat.heat(relevance)
    if values.dim() != 2:
        raise InputError(f"relevance of shape {tuple(relevance.shape)} per sample is not that of an image.")
    rows, columns = values.shape
    scale, grid = robust_scale(values), heat.patches(values)
    is_whole = values.numel() == sum(map(len, grid))
    size = robust_scale(torch.tensor(grid, dtype=torch.float64, device="cpu"))
    return ImageView(
        image="" if given is None else heat.data_uri(heat.image_rgb(given)),
        light=heat.data_uri(heat.heat_rgb(values, scale, "light")),
        dark=heat.data_uri(heat.heat_rgb(values, scale, "dark")),
        alt="; ".join([f"heat map of {rows} by {columns} pixels", *_extremes(values)]),
        scale=_amount(scale),
        grid=[[words.at_scale(cell, size) for cell in line] for line in grid],
        grid_title="numbers" if is_whole else f"numbers: sums over {len(grid)} by {len(grid[0])} patches",
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


def _amount(scale: float) -> str:
    return words.signed(scale, 2).lstrip("+")
