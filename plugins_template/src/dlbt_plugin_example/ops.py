"""Ops of our own."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["mix", "swap_halves"]


@torch.library.custom_op("example::mix", mutates_args=())
def mix(x: Tensor, weight: Tensor) -> Tensor:
    """Mix channels: ``y_j = sum_i w_ji x_i`` over the last dimension.

    Parameters
    ----------
    x
        Shape (..., inputs).
    weight
        Shape (outputs, inputs).
    """
    return x @ weight.t()


@mix.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


def _save(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor]:
    x, weight = ctx.saved_tensors  # type: ignore[attr-defined]
    return grad @ weight, grad.flatten(0, -2).t() @ x.flatten(0, -2)


mix.register_autograd(_backward, setup_context=_save)


@torch.library.custom_op("example::swap_halves", mutates_args=())
def swap_halves(x: Tensor) -> Tensor:
    """The second half of the last dimension before the first, with its sign turned, as rotary embeddings do.

    Parameters
    ----------
    x
        Shape (..., d) with d even.
    """
    first, second = x.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)


@swap_halves.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)
