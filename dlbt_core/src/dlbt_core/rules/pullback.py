"""An op's vector-Jacobian product, kept ready from the forward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from dlbt_core.graph.ops import packet

__all__ = ["Pullback", "in_memory_order", "memory_order"]


class _Entry(torch.autograd.Function):
    """Lets a tensor enter a graph of its own. Unlike a leaf, its node does not keep the tensor alive."""

    @staticmethod
    def forward(ctx: Any, seed: Tensor, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        return None, None


class Pullback:
    """One op, run once with autograd on: its vector-Jacobian product, without its arguments or results held."""

    __slots__ = ("_edges", "_like", "_outputs")

    def __init__(self, op: str, outputs: Sequence[Any], entries: Mapping[tuple[str, int | None], Tensor]) -> None:
        self._like = memory_order(op, next(iter(entries.values())))
        self._outputs = tuple(
            get_gradient_edge(out) if isinstance(out, Tensor) and out.requires_grad else None for out in outputs
        )
        # One entry is kept alive by the output it leads to; of several some may lead to none and need an owner.
        alone = len(entries) == 1 and any(self._outputs)
        self._edges = {
            key: GradientEdge(entry.grad_fn, 0) if alone and entry.grad_fn is not None else get_gradient_edge(entry)
            for key, entry in entries.items()
        }

    @staticmethod
    def enter(seed: Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
        """`x` as an argument to differentiate by; ids as numbers, for the ops that only copy them."""
        entered: Tensor = _Entry.apply(seed, x if x.is_floating_point() or x.is_complex() else x.to(dtype))
        return entered

    def __call__(self, cotangents: Sequence[Tensor | None]) -> dict[tuple[str, int | None], Tensor | None]:
        """The products by (argument, item), for one cotangent per result."""
        laid = [in_memory_order(c, self._like) for c in cotangents]
        pairs = [(o, c) for o, c in zip(self._outputs, laid, strict=True) if o is not None and c is not None]
        if not pairs:
            return dict.fromkeys(self._edges)
        outs, cots = zip(*pairs, strict=True)
        grads = torch.autograd.grad(outs, tuple(self._edges.values()), cots, retain_graph=True, allow_unused=True)
        return dict(zip(self._edges, grads, strict=True))


def memory_order(op: str, x: Tensor) -> tuple[int, ...]:
    """The dimensions of `x` as they lie in memory, where that matters to the op's derivative; else none.

    torch's derivative of a batch norm mixes elements up if a cotangent lies in memory otherwise than what was normalised.
    """
    if packet(op) != "aten.batch_norm":
        return ()
    return tuple(sorted(range(x.dim()), key=lambda d: x.stride(d), reverse=True))


def in_memory_order(cotangent: Tensor | None, order: tuple[int, ...]) -> Tensor | None:
    """The same numbers with the dimensions in that order in memory."""
    if cotangent is None or not order:
        return cotangent
    back = sorted(range(len(order)), key=lambda d: order[d])
    return cotangent.permute(order).contiguous().permute(back)
