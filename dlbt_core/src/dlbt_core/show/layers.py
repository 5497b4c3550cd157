"""Relevance of layers as maps: feature maps pooled over their channels, rows of patch tokens put back in place."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from dlbt_core.errors import InputError
from dlbt_core.explanation import Explanation
from dlbt_core.show.heat import Pool, heat

__all__ = ["as_feature_map", "layer_maps"]

_MOST_EXTRA_TOKENS = 5  # class token, distillation token, registers


def layer_maps(
    explanation: Explanation,
    index: int,
    size: tuple[int, int],
    *,
    pool: Pool = "sum",
    layers: Sequence[str] | None = None,
) -> dict[str, Tensor]:
    """The relevance of each layer that has one number or more per place of the image, as maps.

    Parameters
    ----------
    explanation : Explanation
        With relevance of layers (``explain(..., layers="blocks")`` or more).
    index : int
        Which sample.
    size : (height, width)
        Size of the image, by which places are told from channels and tokens.
    pool : str or int
        What is made of the channels; see `dlbt_core.show.heat.heat`.
    layers : sequence of str, optional
        Globs on the names of layers, e.g. ``["layer?.1"]``; unless given all but those whose last part has the same map.

    Returns
    -------
    dict of str to Tensor
        Name to map of shape (h, w), in the order in which the layers ran.

    Raises
    ------
    InputError
        If `layers` is given and fits no layer that can be shown.
    """
    count = int(explanation.score.numel())
    found: dict[str, Tensor] = {}
    for name, relevance in explanation.layers.items():
        if not name or not relevance.dim() or relevance.shape[0] != count:
            continue
        if layers is not None and not any(fnmatchcase(name, glob) for glob in layers):
            continue
        features = as_feature_map(relevance[index], size)
        if features is None:
            continue
        values = heat(features, pool)
        if layers is None and any(n.startswith(f"{name}.") and torch.equal(v, values) for n, v in found.items()):
            continue  # a block that ends with its last part has that part's map
        found[name] = values
    if layers is not None and not found:
        raise InputError(
            f"no layer that fits {', '.join(map(repr, layers))} has relevance that can be shown as a map.\n"
            f"  found  {', '.join(map(repr, explanation.layers)) or 'no layers were kept'}\n"
            "  fix    explain(..., layers='modules') keeps every module's output, layers=[...] those that match."
        )
    return found


def as_feature_map(relevance: Tensor, size: tuple[int, int]) -> Tensor | None:
    """Relevance of one sample as a feature map of shape (C, h, w); None where it has no places, or just one.

    Feature maps of shape (C, h, w) and (h, w, C) and rows of tokens, shape (T, D), are told apart by the image's size: a map
    has its proportions. Tokens before the first patch (class token, registers) have no place and are left out.
    """
    if relevance.dim() == 3:
        for features in (relevance, relevance.movedim(-1, 0)):
            if features[0].numel() > 1 and _alike(tuple(features.shape[1:]), size):
                return features
    if relevance.dim() == 2:
        for extra in range(min(_MOST_EXTRA_TOKENS, len(relevance) - 1) + 1):
            grid = _grid(len(relevance) - extra, size)
            if grid is not None and grid[0] * grid[1] >= 4 * extra:
                return relevance[extra:].T.reshape(-1, *grid)
    return None


def _alike(places: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Whether a map has the image's proportions, to one pixel of the map, and is not larger."""
    (h, w), (height, width) = places, size
    return h <= height and w <= width and abs(h * width - w * height) < max(height, width)


def _grid(tokens: int, size: tuple[int, int]) -> tuple[int, int] | None:
    """Rows and columns of square patches that cover the image, if that many do."""
    height, width = size
    rows = round((tokens * height / width) ** 0.5)
    if tokens < 4 or rows < 1 or tokens % rows:
        return None
    grid = (rows, tokens // rows)
    return grid if height * grid[1] == width * grid[0] and height % rows == 0 else None
