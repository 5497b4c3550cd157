"""How alike two attributions are: Spearman's rank correlation and the cosine, per sample."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["cosine", "ranks", "spearman"]


def ranks(values: Tensor) -> Tensor:
    """Ranks from 1 along the last dimension; equal values share the mean of theirs, and where one is NaN all are.

    Parameters
    ----------
    values : Tensor
        Shape (..., N).

    Returns
    -------
    Tensor
        Shape (..., N), float64.
    """
    rows = values.reshape(-1, values.shape[-1])
    found = torch.empty(rows.shape, dtype=torch.float64, device=values.device)
    for row, place in zip(rows, found, strict=True):
        _, group, counts = torch.unique(row, return_inverse=True, return_counts=True)
        last = counts.cumsum(0).double()
        place.copy_((last - (counts.double() - 1) / 2)[group])
    found[rows.isnan().any(1)] = torch.nan
    return found.reshape(values.shape)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """``a b / (|a| |b|)`` along the last dimension, in float64; NaN where one of them is 0 throughout.

    Parameters
    ----------
    a, b : Tensor
        Shape (..., N).

    Returns
    -------
    Tensor
        Shape (...).
    """
    a, b = a.double(), b.double()
    a, b = (t / t.abs().amax(-1, keepdim=True) for t in (a, b))  # so that no square leaves the range of floats
    return (a * b).sum(-1) / (a.square().sum(-1) * b.square().sum(-1)).sqrt()


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's rank correlation along the last dimension: the cosine of centred ranks (Spearman 1904).

    NaN where one of them is the same throughout.

    Parameters
    ----------
    a, b : Tensor
        Shape (..., N).

    Returns
    -------
    Tensor
        Shape (...).
    """
    first, second = (_centred(ranks(values)) for values in (a, b))
    return cosine(first, second)


def _centred(values: Tensor) -> Tensor:
    return values - values.mean(-1, keepdim=True)
