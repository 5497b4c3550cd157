"""Ops recorded as functions of simpler ones, which have rules and whose facts are known."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dlbt_core.plugins.hookspecs import LoweringSet

__all__ = ["declare"]


def declare(add: LoweringSet) -> None:
    """Declare the lowerings of this module."""

    @add.lowering("aten.addcmul")
    def addcmul(self: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Any = 1) -> Tensor:
        """z = self + value t1 t2."""
        return torch.add(self, tensor1 * tensor2, alpha=value)

    @add.lowering("aten.addcdiv")
    def addcdiv(self: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Any = 1) -> Tensor:
        """z = self + value t1 / t2."""
        return torch.add(self, tensor1 / tensor2, alpha=value)

    @add.lowering("aten.lerp")
    def lerp(self: Tensor, end: Tensor, weight: Any) -> Tensor:
        """z = (1 - w) self + w end."""
        return torch.add(self * (1 - weight), end * weight)

    @add.lowering("aten.mse_loss")
    def mse_loss(self: Tensor, target: Tensor, reduction: int = 1) -> Tensor:
        """z = (x - y)^2, its mean (1) or its sum (2)."""
        squares = (self - target).square()
        return squares if reduction == 0 else squares.mean() if reduction == 1 else squares.sum()

    @add.lowering("aten.polar")
    def polar(abs: Tensor, angle: Tensor) -> Tensor:
        """z = r (cos phi + i sin phi)."""
        return torch.complex(abs * torch.cos(angle), abs * torch.sin(angle))

    @add.lowering("aten.var_mean.correction")
    def var_mean(
        self: Tensor, dim: Any = None, *, correction: Any = None, keepdim: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Variance and mean, each by itself."""
        return torch.var(self, dim, correction=_correction(correction), keepdim=keepdim), _mean(self, dim, keepdim)

    @add.lowering("aten.std_mean.correction")
    def std_mean(
        self: Tensor, dim: Any = None, *, correction: Any = None, keepdim: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Deviation and mean, each by itself."""
        return torch.std(self, dim, correction=_correction(correction), keepdim=keepdim), _mean(self, dim, keepdim)


def _correction(given: Any) -> Any:
    return 1 if given is None else given


def _mean(x: Tensor, dim: Any, keepdim: bool) -> Tensor:
    dims = list(range(x.dim())) if dim is None or (isinstance(dim, (list, tuple)) and not dim) else dim
    return torch.mean(x, dims, keepdim=keepdim)
