"""Normalisations over features, with the statistic they divide by held constant."""

from __future__ import annotations

from typing import Any

import torch

from dlbt_core.rules.builtin.normalised import Norm, normalised, passed, with_statistics
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
        norm = _over_features(ctx, ctx.args["eps"], centred=True)
        return with_statistics(ctx, m, norm) if ctx.node.many else normalised(ctx, m, norm)

    @add.rule(*_UNCENTRED, variant="identity", absorbs=("constant",), default=True,
              reads=("input", "constants", "carrying"))  # fmt: skip
    def rms_norm(ctx: RuleContext, m: Any) -> dict[str, Any]:
        """y = x / rms * w with rms held constant: R_i = R_i.  Achtibat et al. 2024, prop. 3.4."""
        eps = ctx.args["eps"] if ctx.args["eps"] is not None else torch.finfo(ctx.args["input"].dtype).eps
        return normalised(ctx, m, _over_features(ctx, eps, centred=False))

    @add.rule(*_CENTRED, *_UNCENTRED, variant="pass", takes="relevance", absorbs=("constant", "statistic"), reads=())
    def same(ctx: RuleContext, R: Any) -> dict[str, Any]:
        """R_i = R_i, as if nothing was normalised; the bias takes nothing.  Sankarapu et al. 2024."""
        return passed(ctx, R)

    @add.rule(*_CENTRED, *_UNCENTRED, variant="gradient", absorbs=("bias", "norm"),
              reads=("pullback", "carrying", "output"))  # fmt: skip
    def gradient(ctx: RuleContext, m: Any) -> dict[str, Any]:
        """m_i = sum_j dy_j/dx_i m_j: the op's gradient, which nearly vanishes, as y hardly depends on the length of x."""
        return ctx.gradient(m, "norm")


def _over_features(ctx: RuleContext, eps: float, centred: bool) -> Norm:
    dims = range(-len(ctx.args["normalized_shape"]), 0)
    return Norm(tuple(ctx.args["input"].shape), tuple(dims), eps, centred)
