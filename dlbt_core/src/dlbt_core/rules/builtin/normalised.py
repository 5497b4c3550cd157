"""Normalisations: y = (x - mean) / std * w + b with the statistic they divide by held constant, whatever is normalised."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dlbt_core.rules.context import RuleContext

__all__ = ["Norm", "affine", "normalised", "passed", "with_statistics"]


class Norm(NamedTuple):
    """What an op normalises.

    Attributes
    ----------
    grouped
        The shape in which to look at the input, so that a statistic belongs to a run of whole dimensions.
    dims
        These dimensions.
    eps
        What is added to the variance.
    centred
        Whether the mean is subtracted, and the statistic is the deviation from it.
    features
        The shape in which weight and bias broadcast against the input; None for their own.
    """

    grouped: tuple[int, ...]
    dims: tuple[int, ...]
    eps: float
    centred: bool = True
    features: tuple[int, ...] | None = None

    def scale(self, x: Tensor) -> Tensor:
        """1 / std of the grouped input, its dimensions kept."""
        power = (
            x.var(self.dims, unbiased=False, keepdim=True) if self.centred else x.pow(2).mean(self.dims, keepdim=True)
        )
        return torch.rsqrt(power + self.eps)

    def centre(self, x: Tensor) -> Tensor:
        """The grouped input, less its mean."""
        return x - x.mean(self.dims, keepdim=True) if self.centred else x

    def spread(self, message: Tensor) -> Tensor:
        """The message for the mean of each group, shared by its elements: grouped."""
        kept = [1 if d in self.dims or d - len(self.grouped) in self.dims else n for d, n in enumerate(self.grouped)]
        share = message / math.prod(self.grouped[d] for d in self.dims)
        return share.reshape(kept).expand(self.grouped)


def normalised(ctx: RuleContext, m: Tensor, norm: Norm) -> dict[str, Tensor]:
    """Messages for input, weight and bias of (x - mean x) / std * w + b with std held: a linear map of x.

    Achtibat et al. 2024, prop. 3.4; the mean is not held, as in their implementation. Books the bias, and all of it if
    nothing carries but the statistic.
    """
    x = ctx.args["input"].reshape(norm.grouped)
    rstd = norm.scale(x)
    handed = _scaled(ctx, m, norm, lambda: norm.centre(x) * rstd, rstd)
    if norm.centred and "input" in handed:
        handed["input"] = norm.centre(handed["input"].reshape(norm.grouped)).reshape(ctx.shape("input"))
    return handed


def with_statistics(ctx: RuleContext, m: Any, norm: Norm) -> dict[str, Tensor]:
    """The same where mean and 1 / std are results, too: the mean is linear, the deviation held constant."""
    main, mean, rstd, *_ = m
    handed = {} if main is None else normalised(ctx, main, norm)
    if mean is not None and "input" in ctx.carries:
        shared = norm.spread(mean).reshape(ctx.shape("input"))
        handed["input"] = handed["input"] + shared if "input" in handed else shared
    if rstd is not None:
        ctx.absorb("statistic", rstd, ctx.output[2], 2)
    return handed


def affine(ctx: RuleContext, m: Tensor, mean: Tensor, rstd: Tensor, norm: Norm) -> dict[str, Tensor]:
    """Messages for input, weight and bias of (x - mean) / std * w + b with mean and std constants of each feature.

    What the mean takes is booked with the bias.
    """
    scale, shift = rstd.view(norm.features or rstd.shape), -(mean * rstd).view(norm.features or rstd.shape)
    handed = _scaled(ctx, m, norm, lambda: ctx.args["input"] * scale + shift, scale)
    if "input" in ctx.carries:
        weight = _features(ctx, "weight", norm)
        taken = shift if weight is None else shift * weight
        ctx.absorb("bias", m, taken / 2 if "weight" in ctx.carries else taken)
    return handed


def passed(ctx: RuleContext, R: Any, channel: int = 0) -> dict[str, Tensor]:
    """R_i = R_i, as if nothing was normalised; a weight that carries shares evenly. It lies along `channel`, or at the end."""
    first, *others = R if ctx.node.many else [R]
    for place, rest in enumerate(others, 1):
        if rest is not None:
            ctx.absorb("statistic", rest, result=place)
    sides = [name for name in ("input", "weight") if name in ctx.carries]
    if first is None:
        return {}
    if not sides:
        ctx.absorb("constant", first)
    handed: dict[str, Tensor] = {name: first / len(sides) for name in sides}
    if "weight" in handed:
        shape = ctx.shape("weight")
        aligned = (*shape, *[1] * (first.dim() - channel - 1)) if channel else shape
        handed["weight"] = handed["weight"].sum_to_size(aligned).reshape(shape)
    return handed


def _features(ctx: RuleContext, name: str, norm: Norm) -> Tensor | None:
    given: Tensor | None = ctx.args.get(name)
    return given if given is None or norm.features is None else given.view(norm.features)


def _scaled(ctx: RuleContext, m: Tensor, norm: Norm, values: Callable[[], Tensor], rstd: Tensor) -> dict[str, Tensor]:
    """Messages for x, w and b in x rstd w + b: a product, shared evenly if both carry, and a sum. `values` gives x rstd."""
    weight, bias = _features(ctx, "weight", norm), _features(ctx, "bias", norm)
    share = 0.5 if {"input", "weight"} <= ctx.carries else 1.0
    handed: dict[str, Tensor] = {}
    if "input" in ctx.carries:
        weighted = m if weight is None else m * weight
        handed["input"] = (weighted.reshape(norm.grouped) * (rstd * share)).reshape(m.shape)
    if "weight" in ctx.carries:
        of_weight = (m * values().reshape(m.shape) * share).sum_to_size(norm.features or ctx.shape("weight"))
        handed["weight"] = of_weight.reshape(ctx.shape("weight"))
    if not handed:
        ctx.absorb("constant", m, values().reshape(m.shape) * (1.0 if weight is None else weight))
    if "bias" in ctx.carries:
        handed["bias"] = m.sum_to_size(norm.features or ctx.shape("bias")).reshape(ctx.shape("bias"))
    elif bias is not None:
        ctx.absorb("bias", m, bias)
    return handed
