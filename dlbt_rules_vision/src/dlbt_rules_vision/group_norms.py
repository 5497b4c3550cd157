"""Normalisations over groups of channels, and the forms of batch norm that exports write, their statistic held constant."""

from __future__ import annotations

import math
from typing import Any

import torch

from dlbt_core.rules.builtin.normalised import Norm, affine, normalised, passed, with_statistics
from dlbt_core.rules.context import RuleContext
from dlbt_core.rules.rule import RuleSet

__all__ = ["declare"]

_GROUPS = ("aten.group_norm", "aten.native_group_norm")
_INSTANCE = ("aten.instance_norm",)
_BATCH = (
    "aten.native_batch_norm", "aten._native_batch_norm_legit_no_training", "aten._native_batch_norm_legit.no_stats",
)  # fmt: skip


def declare(add: RuleSet) -> None:
    """Declare the rules of this module."""

    @add.rule(*_GROUPS, variant="identity", absorbs=("bias", "constant", "statistic"), default=True,
              reads=("input", "constants", "carrying", "output"))  # fmt: skip
    def group_norm(ctx: RuleContext, m: Any) -> dict[str, Any]:
        """y = (x - mean x) / std * w + b over groups of channels, std held constant.  Achtibat et al. 2024, prop. 3.4."""
        samples, channels, *size = ctx.args["input"].shape
        groups = ctx.args["num_groups"] if "num_groups" in ctx.args else ctx.args["group"]
        grouped = (samples, groups, channels // groups * math.prod(size))
        norm = Norm(grouped, (-1,), ctx.args["eps"], features=_per_channel(channels, len(size)))
        return with_statistics(ctx, m, norm) if ctx.node.many else normalised(ctx, m, norm)

    @add.rule(*_INSTANCE, variant="identity", absorbs=("bias", "constant"), default=True,
              reads=("input", "constants", "carrying"))  # fmt: skip
    def instance_norm(ctx: RuleContext, m: Any) -> dict[str, Any]:
        """y = (x - mean x) / std * w + b over each channel's plane, std held constant.  Achtibat et al. 2024, prop. 3.4.

        With running statistics it is an affine map, and what the running mean takes is booked with the bias.
        """
        return _channel_norm(ctx, m, range(2, ctx.args["input"].dim()), ctx.args["use_input_stats"])

    @add.rule(*_BATCH, variant="identity", absorbs=("bias", "constant", "statistic"), default=True,
              reads=("input", "constants", "carrying", "output"))  # fmt: skip
    def batch_norm(ctx: RuleContext, m: Any) -> dict[str, Any]:
        """y = (x - mean) / std * w + b with mean and std from training: an affine map.  Bach et al. 2015, eq. 58.

        Where they are the batch's own, std is held constant.  Achtibat et al. 2024, prop. 3.4.
        """
        x = ctx.args["input"]
        own = bool(ctx.args.get("training", False)) or ctx.args.get("running_mean") is None
        return _channel_norm(ctx, m, (0, *range(2, x.dim())), own)

    @add.rule(*_GROUPS, *_INSTANCE, *_BATCH, variant="pass", takes="relevance", absorbs=("constant", "statistic"),
              reads=())  # fmt: skip
    def same(ctx: RuleContext, R: Any) -> dict[str, Any]:
        """R_i = R_i, as if nothing was normalised; the bias takes nothing.  Sankarapu et al. 2024; Zennit's Pass."""
        return passed(ctx, R, channel=1)

    @add.rule(*_GROUPS, *_INSTANCE, *_BATCH, variant="gradient", absorbs=("bias", "norm"),
              reads=("pullback", "carrying", "output"))  # fmt: skip
    def gradient(ctx: RuleContext, m: Any) -> dict[str, Any]:
        """m_i = sum_j dy_j/dx_i m_j: the op's gradient, which nearly vanishes, as y hardly depends on the length of x."""
        return ctx.gradient(m, "norm")


def _per_channel(channels: int, behind: int) -> tuple[int, ...]:
    return (channels, *[1] * behind)


def _channel_norm(ctx: RuleContext, m: Any, dims: Any, own_statistics: bool) -> dict[str, Any]:
    """Through a norm of each channel over `dims`, or by the running statistics it was given."""
    x = ctx.args["input"]
    norm = Norm(tuple(x.shape), tuple(dims), ctx.args["eps"], features=_per_channel(x.shape[1], x.dim() - 2))
    if own_statistics:
        return with_statistics(ctx, m, norm) if ctx.node.many else normalised(ctx, m, norm)
    rstd = torch.rsqrt(ctx.args["running_var"] + ctx.args["eps"])
    return affine(ctx, m[0] if ctx.node.many else m, ctx.args["running_mean"], rstd, norm)
