"""The sample axis: which dimension of each value counts the samples of the batch.

Found by dataflow from the inputs, so that what a rule absorbs can be booked per sample also where a model has folded the
batch into another dimension (windows, heads) or moved it to the back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from dlbt_core.graph.ir import Graph, Node, Ref, refs_in
from dlbt_core.graph.ops import packet

__all__ = ["SampleAxis", "per_sample", "sample_axes"]


class SampleAxis(NamedTuple):
    """Element k along `axis` belongs to sample ``(k // inner) % samples``."""

    axis: int
    inner: int = 1


def sample_axes(graph: Graph, samples: int) -> dict[int, SampleAxis]:
    """The sample axis of each value that has one, for a batch of `samples`."""
    axes: dict[int, SampleAxis] = {}
    for value in graph.inputs.values():
        if graph.values[value].shape[:1] == (samples,):
            axes[value] = SampleAxis(0)
    if samples == 1:
        return axes
    for node in graph.nodes:
        sources = [(i, axes[i]) for i in dict.fromkeys(node.inputs) if i in axes]
        if not sources:
            continue
        source, axis = max(sources, key=lambda s: len(graph.values[s[0]].shape))
        follow = _FOLLOW.get(packet(node.op), _stay)
        for place, output in enumerate(node.outputs):
            if output is not None:
                shape = graph.values[output].shape
                follow = _recurrent_state if place and packet(node.op) in _RECURRENT else follow
                found = follow(node, graph.values[source].shape, axis, shape, samples)
                if found is not None and found.axis < len(shape) and shape[found.axis] % samples == 0:
                    axes[output] = found
    return axes


def per_sample(amount: torch.Tensor, axis: SampleAxis | None, samples: int) -> torch.Tensor | None:
    """The sum of `amount` for each sample, shape (samples,); None where its elements cannot be told apart."""
    if samples == 1:
        return amount.sum().reshape(1)
    if not amount.numel():
        return amount.new_zeros(samples)
    if axis is None or amount.dim() <= axis.axis or amount.shape[axis.axis] % samples:
        return None
    split = amount.movedim(axis.axis, 0).reshape(-1, samples, axis.inner, *_rest(amount.shape, axis.axis))
    return split.transpose(0, 1).reshape(samples, -1).sum(1)


def _rest(shape: torch.Size, axis: int) -> list[int]:
    return [size for i, size in enumerate(shape) if i != axis]


Follow = Callable[[Node, tuple[int, ...], SampleAxis, tuple[int, ...], int], "SampleAxis | None"]


def _stay(_node: Node, before: tuple[int, ...], axis: SampleAxis, after: tuple[int, ...], _samples: int) -> Any:
    """The axis keeps its place, counted from the left if it fits there, else from the right (broadcasting)."""
    fits = axis.axis < len(after) and after[axis.axis] == before[axis.axis]
    if fits and (len(after) >= len(before) or axis.axis == 0):
        return axis
    right = len(after) - (len(before) - axis.axis)
    if 0 <= right < len(after) and after[right] == before[axis.axis]:
        return SampleAxis(right, axis.inner)
    return None


def _reshape(_node: Node, before: tuple[int, ...], axis: SampleAxis, after: tuple[int, ...], samples: int) -> Any:
    """The order of elements stays: look for the dimension that steps over one sample's run of elements."""
    if 0 in before or 0 in after:
        return None
    stride = axis.inner * math.prod(before[axis.axis + 1 :])
    for place in range(len(after)):
        below = math.prod(after[place + 1 :])
        if below <= stride and stride % max(below, 1) == 0 and (after[place] * below) % (stride * samples) == 0:
            return SampleAxis(place, stride // below)
    return None


def _permute(node: Node, before: tuple[int, ...], axis: SampleAxis, _after: tuple[int, ...], _samples: int) -> Any:
    rank = len(before)
    order = list(range(rank))
    args = node.args
    op = packet(node.op)
    if op == "aten.permute":
        order = [d % rank for d in args["dims"]]
    elif op in ("aten.t", "aten.numpy_T", "aten.mT", "aten.adjoint"):
        order = [*range(rank - 2), rank - 1, rank - 2] if op != "aten.numpy_T" else order[::-1]
    elif op in ("aten.movedim", "aten.moveaxis"):
        order = list(torch.empty(before, device="meta").movedim(args["source"], args["destination"]).stride())
        strides = list(torch.empty(before, device="meta").stride())
        order = [strides.index(s) for s in order]
    else:
        first, second = (args[k] % rank for k in (("dim0", "dim1") if "dim0" in args else ("axis0", "axis1")))
        order[first], order[second] = order[second], order[first]
    return SampleAxis(order.index(axis.axis), axis.inner)


def _drop(node: Node, before: tuple[int, ...], axis: SampleAxis, after: tuple[int, ...], samples: int) -> Any:
    """A dimension (or several) is taken away by a select, an unbind or a reduction."""
    if len(after) == len(before):
        return _stay(node, before, axis, after, samples)
    dims = node.args.get("dim", 0 if packet(node.op) in ("aten.select", "aten.unbind") else None)
    if dims is None:
        return None
    gone = {d % len(before) for d in (dims if isinstance(dims, (list, tuple)) else [dims])}
    if axis.axis in gone:
        return None
    return SampleAxis(axis.axis - sum(d < axis.axis for d in gone), axis.inner)


def _insert(node: Node, before: tuple[int, ...], axis: SampleAxis, after: tuple[int, ...], _samples: int) -> Any:
    place = int(node.args.get("dim", 0)) % len(after)
    return SampleAxis(axis.axis + (place <= axis.axis), axis.inner)


def _einsum(node: Node, before: tuple[int, ...], axis: SampleAxis, _after: tuple[int, ...], _samples: int) -> Any:
    equation = node.args["equation"].replace(" ", "")
    if "." in equation or "->" not in equation:
        return None
    left, right = equation.split("->")
    for term in left.split(","):
        if len(term) == len(before) and term[axis.axis] in right:
            return SampleAxis(right.index(term[axis.axis]), axis.inner)
    return None


def _cat(node: Node, before: tuple[int, ...], axis: SampleAxis, after: tuple[int, ...], samples: int) -> Any:
    dim = int(node.args.get("dim", 0)) % len(after)
    return None if dim == axis.axis else _stay(node, before, axis, after, samples)


def _expand(_node: Node, before: tuple[int, ...], axis: SampleAxis, after: tuple[int, ...], _samples: int) -> Any:
    return SampleAxis(axis.axis + len(after) - len(before), axis.inner)


def _select_rows(node: Node, before: tuple[int, ...], axis: SampleAxis, after: tuple[int, ...], samples: int) -> Any:
    """``x[rows, positions]``: one element per sample, told by the index that counts the rows."""
    indices = [ref for ref in refs_in(node.args.get("indices", ())) if isinstance(ref, Ref)]
    if axis.axis == 0 and indices and after[:1] == (samples,):
        return SampleAxis(0)
    return None if axis.axis == 0 else _stay(node, before, axis, after, samples)


def _lost(_node: Node, _before: tuple[int, ...], _axis: SampleAxis, _after: tuple[int, ...], _samples: int) -> None:
    """Regions of any image, in any order: their number may be that of the samples by chance."""


def _recurrent_state(
    _node: Node, _before: tuple[int, ...], axis: SampleAxis, after: tuple[int, ...], _samples: int
) -> Any:
    """The last states lie as (layers, samples, features), whatever the layout of the sequence."""
    return SampleAxis(len(after) - 2, axis.inner)


def _table(entries: Mapping[str, Follow]) -> dict[str, Follow]:
    return {f"aten.{name}": follow for names, follow in entries.items() for name in names.split()}


_RECURRENT = {"aten.lstm", "aten.gru", "aten.rnn_tanh", "aten.rnn_relu"}
_FOLLOW = _table(
    {
        "view reshape _unsafe_view flatten unflatten squeeze unsqueeze view_as reshape_as": _reshape,
        "permute transpose swapaxes swapdims t numpy_T mT adjoint movedim moveaxis": _permute,
        "select unbind mean sum amax amin max min prod var std logsumexp linalg_vector_norm norm argmax any all": _drop,
        "stack": _insert,
        "einsum": _einsum,
        "cat concat concatenate": _cat,
        "expand broadcast_to expand_as": _expand,
        "index": _select_rows,
    }
) | dict.fromkeys((f"torchvision.{name}" for name in ("roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool")), _lost)
