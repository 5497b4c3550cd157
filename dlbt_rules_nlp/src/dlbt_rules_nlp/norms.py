"""Normalisations over features, with the statistic they divide by held constant."""

from __future__ import annotations

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

    @add.rule(*_CENTRED, variant="identity", absorbs=("bias",), default=True, reads=("input",))
    def layer_norm(ctx: RuleContext, m: Any) -> dict[str, Any]:
        """y = (x - mean x) / std * w + b with std held constant, then the epsilon rule of what is left: a linear map.

        Achtibat et al. 2024, prop. 3.4; the mean is not held, as in their implementation.
        """
        m = m[0] if ctx.node.many else m
        x, dims = ctx.args["input"], _dims(ctx)
        variance = x.var(dims, unbiased=False, keepdim=True)
        scaled = _weighted(ctx, m) * torch.rsqrt(variance + ctx.args["eps"])
        _absorb_bias(ctx, m)
        return {"input": scaled - scaled.mean(dims, keepdim=True)}

    @add.rule(*_UNCENTRED, variant="identity", default=True, reads=("input",))
    def rms_norm(ctx: RuleContext, m: Tensor) -> dict[str, Any]:
        """y = x / rms * w with rms held constant: R_i = R_i.  Achtibat et al. 2024, prop. 3.4."""
        x = ctx.args["input"]
        eps = ctx.args["eps"] if ctx.args["eps"] is not None else torch.finfo(x.dtype).eps
        return {"input": _weighted(ctx, m) * torch.rsqrt(x.pow(2).mean(_dims(ctx), keepdim=True) + eps)}

    @add.rule(*_CENTRED, *_UNCENTRED, variant="gradient", absorbs=("bias", "norm"),
              reads=("pullback", "carrying", "output"))  # fmt: skip
    def gradient(ctx: RuleContext, m: Any) -> dict[str, Any]:
        """The op's gradient: what a norm hands on nearly vanishes, since its output hardly depends on x's length."""
        handed = ctx.vjp(m)
        ctx.absorb_rest("norm", m, handed)
        return handed


def _dims(ctx: RuleContext) -> list[int]:
    return list(range(-len(ctx.args["normalized_shape"]), 0))


def _weighted(ctx: RuleContext, m: Tensor) -> Tensor:
    weight = ctx.args["weight"]
    return m if weight is None else m * weight


def _absorb_bias(ctx: RuleContext, m: Tensor) -> None:
    if ctx.args["bias"] is not None:
        ctx.absorb("bias", m, ctx.args["bias"])
