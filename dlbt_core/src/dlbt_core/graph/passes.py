"""Graph passes: the same function, written in another way."""

from __future__ import annotations

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
    """Fold each eval-mode batch norm into the convolution or linear map whose only reader it is.

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
    folds = {fold.linear.index: fold for node in graph.nodes if (fold := _foldable(graph, node)) is not None}
    if not folds:
        return graph
    gone = {fold.norm.index for fold in folds.values()}
    writer = GraphWriter(graph)
    for node in graph.nodes:
        if node.index in folds:
            _write_folded(writer, folds[node.index])
        elif node.index not in gone:
            writer.copy(node)
    for fold in folds.values():
        writer.forget(fold.before)
    return writer.graph()


@dataclass(frozen=True)
class _Fold:
    """A linear map and the batch norm behind it."""

    linear: Node
    norm: Node

    @property
    def before(self) -> int:
        """The value between the two."""
        value = self.linear.outputs[0]
        assert value is not None
        return value

    @property
    def after(self) -> int:
        """The value behind both."""
        value = self.norm.outputs[0]
        assert value is not None
        return value


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
    if packet(linear.op) not in _OUT_AXIS or not all(
        graph.values[p.index].kind in fixed for p in parts if isinstance(p, Ref)
    ):
        return None
    transposed_groups = "transpose" in linear.op and linear.args.get("groups", 1) != 1
    channels_last = packet(linear.op) == "aten.linear" and len(graph.values[x.index].shape) != 2
    return None if transposed_groups or channels_last else _Fold(linear, norm)


_STATISTICS = ("weight", "bias", "running_mean", "running_var")


def _write_folded(writer: GraphWriter, fold: _Fold) -> None:
    """w' = w s and b' = (b - mean) s + beta, with s = gamma / sqrt(var + eps), in float64."""
    site, norm, linear = fold.norm.site, fold.norm.args, fold.linear
    calc = _Calculator(writer, site)
    variance = calc.double(norm["running_var"])
    scale = calc("aten.rsqrt.default", self=calc("aten.add.Scalar", self=variance, other=norm.get("eps", 1e-5)))
    if isinstance(norm.get("weight"), Ref):
        scale = calc("aten.mul.Tensor", self=scale, other=calc.double(norm["weight"]))
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
    writer.let(fold.after, same_as=fold.before)


class _Calculator:
    """Writes nodes that compute small tensors in float64."""

    def __init__(self, writer: GraphWriter, site: Site) -> None:
        self._writer = writer
        self._site = site

    def __call__(self, op: str, /, shape: tuple[int, ...] | None = None, **args: Any) -> Ref:
        like = self._writer.value(args["self"]).shape if shape is None else shape
        return self._writer.emit(op, args, like, torch.float64, self._site)

    def double(self, old: Ref) -> Ref:
        """An old value as float64."""
        return self.cast(self._writer.new(old), torch.float64)

    def cast(self, ref: Ref, dtype: torch.dtype) -> Ref:
        """A new value as another dtype."""
        args = {"self": ref, "dtype": dtype}
        return self._writer.emit("aten.to.dtype", args, self._writer.value(ref).shape, dtype, self._site)
