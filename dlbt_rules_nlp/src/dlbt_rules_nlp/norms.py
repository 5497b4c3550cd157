"""Normalisations over features, with the statistic they divide by held constant."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from dlbt_core.rules.context import RuleContext
from dlbt_core.rules.rule import RuleSet

__all__ = ["declare"]

_CENTRED = ("aten.layer_norm", "aten.native_layer_norm")
_UNCENTRED = ("aten.rms_norm",)


def declare(add: RuleSet) -> None:
    """Declare the rules of this module."""

    @add.rule(*_CENTRED, variant="identity", absorbs=("bias", "constant", "statistic"), default=True,
              reads=("input", "constants", "carrying", "output"))  # fmt: skip
    def layer_norm(ctx: RuleContext, m: Any) -> dict[str, Any]:
        """y = (x - mean x) / std * w + b with std held constant, then the epsilon rule of what is left: a linear map.

        Achtibat et al. 2024, prop. 3.4; the mean is not held, as in their implementation.
        """
        if ctx.node.many:
            return _several_results(ctx, m)
        return _centred(ctx, m)

    @add.rule(*_UNCENTRED, variant="identity", absorbs=("constant",), default=True,
              reads=("input", "constants", "carrying"))  # fmt: skip
    def rms_norm(ctx: RuleContext, m: Tensor) -> dict[str, Any]:
        """y = x / rms * w with rms held constant: R_i = R_i.  Achtibat et al. 2024, prop. 3.4."""
        x = ctx.args["input"]
        eps = ctx.args["eps"] if ctx.args["eps"] is not None else torch.finfo(x.dtype).eps
        rstd = torch.rsqrt(x.pow(2).mean(_dims(ctx), keepdim=True) + eps)
        return _scaled(ctx, m, x * rstd, rstd)

    @add.rule(*_CENTRED, *_UNCENTRED, variant="gradient", absorbs=("bias", "norm"),
              reads=("pullback", "carrying", "output"))  # fmt: skip
    def gradient(ctx: RuleContext, m: Any) -> dict[str, Any]:
        """The op's gradient: what a norm hands on nearly vanishes, since its output hardly depends on x's length."""
        handed = ctx.vjp(m)
        ctx.absorb_rest("norm", m, handed)
        return handed


def _dims(ctx: RuleContext) -> list[int]:
    return list(range(-len(ctx.args["normalized_shape"]), 0))


def _centred(ctx: RuleContext, m: Tensor) -> dict[str, Tensor]:
    """Through (x - mean x) rstd w + b with rstd constant."""
    x, dims = ctx.args["input"], _dims(ctx)
    rstd = torch.rsqrt(x.var(dims, unbiased=False, keepdim=True) + ctx.args["eps"])
    handed = _scaled(ctx, m, (x - x.mean(dims, keepdim=True)) * rstd, rstd)
    if "bias" in ctx.carries:
        handed["bias"] = m.sum_to_size(ctx.shape("bias"))
    elif ctx.args["bias"] is not None:
        ctx.absorb("bias", m, ctx.args["bias"])
    if "input" in handed:
        handed["input"] = handed["input"] - handed["input"].mean(dims, keepdim=True)
    return handed


def _several_results(ctx: RuleContext, m: Any) -> dict[str, Tensor]:
    """Where mean and 1 / std are results, too: the mean is linear, the deviation held constant."""
    main, mean, rstd = m
    handed = {} if main is None else _centred(ctx, main)
    if mean is not None and "input" in ctx.carries:
        shape, dims = ctx.shape("input"), _dims(ctx)
        shared = (mean / math.prod(shape[d] for d in dims)).expand(shape)
        handed["input"] = handed["input"] + shared if "input" in handed else shared
    if rstd is not None:
        ctx.absorb("statistic", rstd, ctx.output[2], 2)
    return handed


def _scaled(ctx: RuleContext, m: Tensor, normalised: Tensor, rstd: Tensor) -> dict[str, Tensor]:
    """Messages for x and w in x rstd w: a product, shared evenly if both carry."""
    weight = ctx.args["weight"]
    share = 0.5 if {"input", "weight"} <= ctx.carries else 1.0
    handed: dict[str, Tensor] = {}
    if "input" in ctx.carries:
        handed["input"] = (m if weight is None else m * weight) * (rstd * share)
    if "weight" in ctx.carries:
        handed["weight"] = (m * normalised * share).sum_to_size(ctx.shape("weight"))
    if not handed:
        ctx.absorb("constant", m, normalised if weight is None else normalised * weight)
    return handed
