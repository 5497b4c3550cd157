"""From relevance to a picture: heat maps as RGB and PNG, and the same in numbers."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from dlbt_core.errors import InputError
from dlbt_core.show.colours import Theme, diverging, palette

__all__ = [
    "POOLS",
    "Pool",
    "data_uri",
    "encode_png",
    "extremes",
    "heat",
    "heat_rgb",
    "image_rgb",
    "overlay_rgb",
    "patches",
]

Pool = str | int
"""How channels become one map: a name out of `POOLS`, or the number of the only channel to show."""

POOLS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda r: r.sum(0),
    "abs_sum": lambda r: r.abs().sum(0),
    "max_abs": lambda r: r.gather(0, r.abs().nan_to_num(0.0).argmax(0, keepdim=True))[0],
    "positive": lambda r: r.clamp(min=0).sum(0),
    "negative": lambda r: r.clamp(max=0).sum(0),
}
"""Ways to make one map of shape (H, W) of relevance of shape (C, H, W).

``sum`` keeps the books: the map sums up to the relevance. ``max_abs`` is the channel of the largest amount, with its sign.
``positive`` and ``negative`` sum what is for and what is against; together they are ``sum``.
"""


def heat(relevance: Tensor, pool: Pool = "sum") -> Tensor:
    """Relevance of an image as one map.

    Parameters
    ----------
    relevance : Tensor
        Shape (C, H, W) or (H, W), any floating-point dtype, on any device.
    pool : str or int
        What is made of the channels: one of `POOLS`, or the number of a channel.

    Returns
    -------
    Tensor
        Shape (H, W), float64, on the CPU.

    Raises
    ------
    InputError
        If there is no such way to pool, or no such channel.
    """
    values = relevance.detach().cpu().double()
    values = values if values.dim() == 3 else values[None]
    if isinstance(pool, int):
        if not -len(values) <= pool < len(values):
            raise InputError(f"pool={pool}: there is no such channel; there are {len(values)}, 0 to {len(values) - 1}.")
        return values[pool]
    if pool not in POOLS:
        raise InputError(
            f"no way to pool channels is called {pool!r}.\n"
            f"  fix  pool= one of {', '.join(map(repr, POOLS))}, or the number of a channel."
        )
    return POOLS[pool](values)


def heat_rgb(values: Tensor, scale: float, theme: Theme = "light") -> Tensor:
    """A map of shape (H, W) in the colours of `diverging`, shape (H, W, 3), uint8; `scale` gets the full colour."""
    colours = torch.tensor(palette(theme), dtype=torch.uint8, device="cpu")
    half = len(colours) // 2
    steps = (values.double() / scale).clamp(-1, 1).nan_to_num(0.0) * half
    return colours[steps.round().long() + half]


def overlay_rgb(image: Tensor, values: Tensor, scale: float, opacity: float = 0.85, grey: bool = True) -> Tensor:
    """A map laid over its image: the stronger the relevance, the more of its colour; where it is 0 the image is untouched.

    Parameters
    ----------
    image : Tensor
        Shape (H, W, 3), uint8.
    values : Tensor
        The map, shape (H, W).
    scale : float
        The amount that gets the full colour.
    opacity : float
        How much of the image the full colour hides, 0 to 1.
    grey : bool
        Whether the image is shown in shades of grey, so that all colour is relevance.

    Returns
    -------
    Tensor
        Shape (H, W, 3), uint8.
    """
    below = image.double()
    if grey:
        below = (below @ below.new_tensor([0.299, 0.587, 0.114]))[..., None].expand(-1, -1, 3)
    strength = (values.double() / scale).clamp(-1, 1).nan_to_num(0.0)[..., None]
    warm, cool = (torch.tensor(diverging(end), dtype=torch.float64, device="cpu") for end in (1.0, -1.0))
    colour = torch.where(strength > 0, warm, cool)
    share = opacity * strength.abs()
    return (below * (1 - share) + colour * share).round().to(torch.uint8)


def image_rgb(image: Tensor) -> Tensor:
    """An image of shape (C, H, W) or (H, W) as RGB, shape (H, W, 3), uint8.

    Numbers from 0 to 1 are taken as they are, all others (uint8, normalised images) are stretched from their smallest
    to their largest. Of images that have neither one nor three channels the mean over the channels is shown.
    """
    values = image.detach().cpu().double().nan_to_num(0.0)
    values = values[None] if values.dim() == 2 else values
    values = values if values.shape[0] in (1, 3) else values.mean(0, keepdim=True)
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        low, high = (0.0, 255.0) if image.dtype == torch.uint8 else (low, high)
        values = (values - low) / (high - low or 1.0)
    return (values.expand(3, -1, -1).movedim(0, -1) * 255).round().to(torch.uint8)


def encode_png(rgb: Tensor) -> bytes:
    """A PNG file, 8 bits per channel, without filters.

    Parameters
    ----------
    rgb : Tensor
        Shape (H, W, 3), uint8.
    """
    height, width, _ = rgb.shape
    unfiltered = torch.zeros(height, 1, dtype=torch.uint8, device="cpu")
    lines = torch.cat((unfiltered, rgb.reshape(height, -1)), 1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(lines.flatten().tolist()), 9)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def data_uri(rgb: Tensor) -> str:
    """A picture of shape (H, W, 3) as a ``data:`` address, which needs no file."""
    return "data:image/png;base64," + base64.b64encode(encode_png(rgb)).decode("ascii")


def patches(values: Tensor, most: int = 8) -> list[list[float]]:
    """A map of shape (H, W) in numbers: sums over a grid of at most `most` by `most` patches."""
    rows, columns = (min(size, most) for size in values.shape)
    strips = values.tensor_split(rows, 0)
    return [[float(cell.sum()) for cell in strip.tensor_split(columns, 1)] for strip in strips]


def extremes(values: Tensor) -> list[tuple[str, float, int, int]]:
    """Where a map of shape (H, W) speaks loudest for and against: ("for" or "against", amount, row, column)."""
    width = values.shape[1]
    found = []
    for word, amounts in (("for", values), ("against", -values)):
        place = int(amounts.nan_to_num(0.0).argmax())
        amount = float(values.flatten()[place])
        if amount * (1 if word == "for" else -1) > 0:
            found.append((word, amount, place // width, place % width))
    return found
