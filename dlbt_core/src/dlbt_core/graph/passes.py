"""Graph passes: the same function, written in another way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from dlbt_core.graph.edit import GraphWriter
from dlbt_core.graph.ir import Graph, Node, Ref, Site
from dlbt_core.graph.ops import packet

__all__ = ["fold_batch_norm"]

_OUT_AXIS = {
    "aten.linear": 0, "aten.conv1d": 0, "aten.conv2d": 0, "aten.conv3d": 0,
    "aten.conv_transpose1d": 1, "aten.conv_transpose2d": 1, "aten.conv_transpose3d": 1,
}  # fmt: skip


def fold_batch_norm(graph: Graph, _state: Any = None) -> Graph:
    """Fold each eval-mode batch norm into the convolution or linear map whose only reader it is, or that is its only reader.

    Into a map behind it only where that is exact: without zero padding, which the norm's shift does not reach.

    The new weights are nodes of the graph, computed in float64 from the model's own, which stay as they are; a changed
    weight is seen by the next call. What Zennit calls canonisation, found by dataflow instead of by module order.

    Parameters
    ----------
    graph
        The recorded run.

    Returns
    -------
    Graph
        Without the batch norms that could be folded; outputs equal to about 1e-6 relative in float32.
    """
    for find, write in ((_foldable, _write_folded), (_foldable_ahead, _write_folded_ahead)):
        graph = _folded(graph, find, write)
    return graph


@dataclass(frozen=True)
class _Fold:
    """A linear map and the batch norm before or behind it."""

    linear: Node
    norm: Node
    between: int


def _folded(
    graph: Graph, find: Callable[[Graph, Node], _Fold | None], write: Callable[[GraphWriter, _Fold], None]
) -> Graph:
    folds = {fold.linear.index: fold for node in graph.nodes if (fold := find(graph, node)) is not None}
    if not folds:
        return graph
    gone = {fold.norm.index for fold in folds.values()}
    writer = GraphWriter(graph)
    for node in graph.nodes:
        if node.index in folds:
            write(writer, folds[node.index])
        elif node.index not in gone:
            writer.copy(node)
    return writer.graph()


def _foldable(graph: Graph, norm: Node) -> _Fold | None:
    if packet(norm.op) != "aten.batch_norm" or norm.args.get("training"):
        return None
    x = norm.args["input"]
    maker = graph.values[x.index].node
    if maker is None or graph.consumers[x.index] != (norm.index,) or x.index in graph.outputs.values():
        return None
    linear = graph.nodes[maker]
    fixed = {"parameter", "buffer", "constant"}
    parts = [linear.args.get("weight"), linear.args.get("bias"), *(norm.args.get(n) for n in _STATISTICS)]
    if packet(linear.op) not in _OUT_AXIS or not all(_is_fixed(graph, p, fixed) for p in parts if isinstance(p, Ref)):
        return None
    transposed_groups = "transpose" in linear.op and linear.args.get("groups", 1) != 1
    channels_last = packet(linear.op) == "aten.linear" and len(graph.values[x.index].shape) != 2
    return None if transposed_groups or channels_last else _Fold(linear, norm, x.index)


def _foldable_ahead(graph: Graph, norm: Node) -> _Fold | None:
    """A batch norm whose result only enters a map that pads nothing."""
    if packet(norm.op) != "aten.batch_norm" or norm.args.get("training"):
        return None
    after = norm.outputs[0]
    if after is None or len(graph.consumers[after]) != 1 or after in graph.outputs.values():
        return None
    linear = graph.nodes[graph.consumers[after][0]]
    fixed = {"parameter", "buffer", "constant"}
    parts = [linear.args.get("weight"), linear.args.get("bias"), *(norm.args.get(n) for n in _STATISTICS)]
    entered = linear.args.get("input")
    if (
        packet(linear.op) not in _IN_AXIS
        or not isinstance(entered, Ref)
        or entered.index != after
        or not all(_is_fixed(graph, p, fixed) for p in parts if isinstance(p, Ref))
        or (packet(linear.op) == "aten.linear" and len(graph.values[after].shape) != 2)
    ):
        return None
    padding = linear.args.get("padding", 0)
    pads = padding == "same" or (not isinstance(padding, str) and any(_as_tuple(padding)))
    return None if pads else _Fold(linear, norm, after)


def _is_fixed(graph: Graph, ref: Ref, kinds: set[str]) -> bool:
    return graph.values[ref.index].kind in kinds


def _as_tuple(value: Any) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


_IN_AXIS = {"aten.linear", "aten.conv1d", "aten.conv2d", "aten.conv3d"}


_STATISTICS = ("weight", "bias", "running_mean", "running_var")


def _write_folded(writer: GraphWriter, fold: _Fold) -> None:
    """w' = w s and b' = (b - mean) s + beta, with s = gamma / sqrt(var + eps), in float64."""
    norm, linear = fold.norm.args, fold.linear
    calc = _Calculator(writer, fold.norm.site)
    scale = calc.scale(norm)
    shift = calc("aten.neg.default", self=calc.double(norm["running_mean"]))
    if isinstance(linear.args.get("bias"), Ref):
        shift = calc("aten.add.Tensor", self=shift, other=calc.double(linear.args["bias"]))
    shift = calc("aten.mul.Tensor", self=shift, other=scale)
    if isinstance(norm.get("bias"), Ref):
        shift = calc("aten.add.Tensor", self=shift, other=calc.double(norm["bias"]))
    weight = writer.value(writer.new(linear.args["weight"]))
    axis = _OUT_AXIS[packet(linear.op)]
    broadcast = [-1 if d == axis else 1 for d in range(len(weight.shape))]
    shaped = calc("aten.view.default", self=scale, size=broadcast)
    folded = calc("aten.mul.Tensor", shape=weight.shape, self=calc.double(linear.args["weight"]), other=shaped)
    writer.copy(
        linear,
        weight=calc.cast(folded, weight.dtype),
        bias=calc.cast(shift, weight.dtype),
    )
    after = fold.norm.outputs[0]
    assert after is not None
    writer.let(after, same_as=fold.between)
    writer.forget(fold.between)


def _write_folded_ahead(writer: GraphWriter, fold: _Fold) -> None:
    """w' = w s and b' = b + sum w t, with s as above and t = beta - mean s, in float64."""
    norm, linear = fold.norm.args, fold.linear
    calc = _Calculator(writer, fold.norm.site)
    scale = calc.scale(norm)
    shift = calc("aten.neg.default", self=calc("aten.mul.Tensor", self=calc.double(norm["running_mean"]), other=scale))
    if isinstance(norm.get("bias"), Ref):
        shift = calc("aten.add.Tensor", self=shift, other=calc.double(norm["bias"]))
    old = calc.double(linear.args["weight"])
    shape, groups = writer.value(old).shape, int(linear.args.get("groups", 1))
    weight = calc("aten.mul.Tensor", shape=shape, self=old, other=calc.per_input(scale, shape, groups))
    moved = calc("aten.mul.Tensor", shape=shape, self=old, other=calc.per_input(shift, shape, groups))
    bias = calc("aten.sum.dim_IntList", shape=shape[:1], self=moved, dim=list(range(1, len(shape))))
    if isinstance(linear.args.get("bias"), Ref):
        bias = calc("aten.add.Tensor", self=bias, other=calc.double(linear.args["bias"]))
    dtype = writer.value(writer.new(linear.args["weight"])).dtype
    writer.copy(linear, input=writer.new(norm["input"]), weight=calc.cast(weight, dtype), bias=calc.cast(bias, dtype))


class _Calculator:
    """Writes nodes that compute small tensors in float64."""

    def __init__(self, writer: GraphWriter, site: Site) -> None:
        self._writer = writer
        self._site = site

    def __call__(self, op: str, /, shape: tuple[int, ...] | None = None, **args: Any) -> Ref:
        like = self._writer.value(args["self"]).shape if shape is None else shape
        if "shape_" in args:  # the op's own argument of that name
            args["shape"] = args.pop("shape_")
        return self._writer.emit(op, args, like, torch.float64, self._site)

    def scale(self, norm: Mapping[str, Any]) -> Ref:
        """s = gamma / sqrt(var + eps) of a batch norm."""
        variance = self.double(norm["running_var"])
        scale = self("aten.rsqrt.default", self=self("aten.add.Scalar", self=variance, other=norm.get("eps", 1e-5)))
        if isinstance(norm.get("weight"), Ref):
            scale = self("aten.mul.Tensor", self=scale, other=self.double(norm["weight"]))
        return scale

    def per_input(self, vector: Ref, shape: tuple[int, ...], groups: int) -> Ref:
        """One number per input channel, in the shape of a convolution's weight."""
        outs, ins, *kernel = shape
        split = self("aten.view.default", shape=(groups, 1, ins), self=vector, size=[groups, 1, ins])
        spread = (groups, outs // groups, ins)
        wide = self("aten.expand.default", shape=spread, self=split, size=list(spread))
        flat = [outs, ins, *[1] * len(kernel)]
        return self("aten.reshape.default", shape=tuple(flat), self=wide, shape_=flat)

    def double(self, old: Ref) -> Ref:
        """An old value as float64."""
        return self.cast(self._writer.new(old), torch.float64)

    def cast(self, ref: Ref, dtype: torch.dtype) -> Ref:
        """A new value as another dtype."""
        args = {"self": ref, "dtype": dtype}
        return self._writer.emit("aten.to.dtype", args, self._writer.value(ref).shape, dtype, self._site)
