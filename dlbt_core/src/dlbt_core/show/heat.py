"""From relevance to a picture: heat maps as RGB and PNG, and the same in numbers."""

from __future__ import annotations

import base64
import struct
import zlib

import torch
from torch import Tensor

from dlbt_core.show.colours import Theme, palette

__all__ = ["data_uri", "encode_png", "extremes", "heat", "heat_rgb", "image_rgb", "patches"]


def heat(relevance: Tensor) -> Tensor:
    """Relevance of an image, shape (C, H, W) or (H, W), as one map of shape (H, W): summed over the channels."""
    values = relevance.detach().cpu().double()
    return values.sum(0) if values.dim() == 3 else values


def heat_rgb(values: Tensor, scale: float, theme: Theme = "light") -> Tensor:
    """A map of shape (H, W) in the colours of `diverging`, shape (H, W, 3), uint8; `scale` gets the full colour."""
    colours = torch.tensor(palette(theme), dtype=torch.uint8, device="cpu")
    half = len(colours) // 2
    steps = (values.double() / scale).clamp(-1, 1).nan_to_num(0.0) * half
    return colours[steps.round().long() + half]


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
