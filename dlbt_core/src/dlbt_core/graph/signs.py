"""Facts about the sign of values, and about what a value is used for: found by dataflow, readable by rules and composites."""

from __future__ import annotations

from collections.abc import Mapping

from dlbt_core.graph.ir import Graph, Node, Ref
from dlbt_core.graph.ops import COPIES, packet

__all__ = ["activations", "gates", "nonnegative"]


def _aten(names: str) -> frozenset[str]:
    return frozenset(f"aten.{name}" for name in names.split())


_ALWAYS = _aten(
    """relu relu6 sigmoid hardsigmoid softplus softmax _softmax _safe_softmax exp exp2 square abs absolute sqrt rsqrt
    var std linalg_vector_norm norm cosh"""
)
"""Ops that never give a negative number."""

_KEEPS = (COPIES - {"aten.where", "aten.masked_scatter"}) | _aten(
    """add mul multiply div divide true_divide mean sum cumsum amax amin max min maximum minimum
    max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices
    adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d avg_pool1d avg_pool2d avg_pool3d
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d upsample_nearest1d upsample_nearest2d
    upsample_nearest3d upsample_linear1d upsample_bilinear2d upsample_trilinear3d _upsample_bilinear2d_aa
    _adaptive_avg_pool2d _adaptive_avg_pool3d max_unpool2d max_unpool3d pixel_shuffle pixel_unshuffle
    channel_shuffle native_channel_shuffle reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d
    replication_pad2d replication_pad3d im2col col2im hardswish silu clamp_max where topk sort"""
)
"""Ops that give no negative number if they are given none."""

_NUMBERS = ("other", "value", "alpha", "min", "max", "min_val", "max_val")


def nonnegative(graph: Graph) -> dict[str, set[int]]:
    """``nonnegative``: values without a negative element, whatever the inputs and weights."""
    found = {
        index for index, tensor in graph.constants.items()
        if tensor.is_floating_point() and bool((tensor >= 0).all())
    }  # fmt: skip
    for node in graph.nodes:
        if _is_nonnegative(graph, node, found):
            found.update(o for o in node.outputs if o is not None and graph.values[o].is_floating)
    return {"nonnegative": found}


def _is_nonnegative(graph: Graph, node: Node, known: set[int]) -> bool:
    op, args = packet(node.op), node.args
    if op in _ALWAYS:
        return True
    if op in ("aten.clamp", "aten.clamp_min", "aten.hardtanh", "aten.clip"):
        low = args.get("min", args.get("min_val", -1.0 if op == "aten.hardtanh" else None))
        if isinstance(low, (int, float)) and low >= 0:
            return True
    if op == "aten.pow" and args.get("exponent") in (2, 2.0, 4, 4.0):
        return True
    if op in ("aten.mul", "aten.multiply") and len(node.inputs) == 2 and node.inputs[0] == node.inputs[1]:
        return True
    if op not in _KEEPS:
        return False
    read = [i for i in node.inputs if graph.values[i].is_floating]
    numbers = [args[name] for name in _NUMBERS if isinstance(args.get(name), (int, float))]
    return bool(read) and all(i in known for i in read) and all(number >= 0 for number in numbers)


_GATES = _aten("sigmoid hardsigmoid")
_PRODUCTS = _aten("mul multiply")
_ACTIVATIONS: Mapping[str, str] = {
    "aten.relu": "before_relu",
    "aten.tanh": "before_tanh",
    "aten.sigmoid": "before_sigmoid",
    "aten.silu": "before_swish",
}


def gates(graph: Graph) -> dict[str, set[int]]:
    """``gate``: results of a sigmoid, and what is left of 1 by one. ``gated``: products of a gate and a value that is none."""
    found: set[int] = set()
    gated: set[int] = set()
    for node in graph.nodes:
        op, outputs = packet(node.op), {o for o in node.outputs if o is not None and graph.values[o].is_floating}
        read = set(node.inputs)
        if op in _GATES or ((op in COPIES or _is_rest(node)) and read & found):
            found |= outputs
        elif op in _PRODUCTS and read & found:
            if len(read - found) == 1:
                gated |= outputs
            else:
                found |= outputs
    return {"gate": found, "gated": gated}


def _is_rest(node: Node) -> bool:
    """``1 - x``."""
    numbers = [node.args.get(name) for name in ("self", "other")]
    return packet(node.op) in ("aten.rsub", "aten.sub", "aten.subtract") and 1 in [n for n in numbers if not isinstance(n, Ref)]


def activations(graph: Graph) -> dict[str, set[int]]:
    """``before_relu``, ``before_tanh``, ...: values that enter only that function."""
    found: dict[str, set[int]] = {}
    for node in reversed(graph.nodes):
        for output in node.outputs:
            name = _entered(graph, output, found) if output is not None else None
            if name is not None and output is not None:
                found.setdefault(name, set()).add(output)
    return found


def _entered(graph: Graph, value: int, found: Mapping[str, set[int]]) -> str | None:
    """The fact of a value all of whose readers are one and the same activation, seen through copies."""
    names: set[str | None] = set()
    for user in graph.consumers[value]:
        node = graph.nodes[user]
        op = packet(node.op)
        if op in COPIES and not node.many and node.outputs[0] is not None:
            names.add(next((name for name in _ACTIVATIONS.values() if node.outputs[0] in found.get(name, ())), None))
        else:
            names.add(_ACTIVATIONS.get(op))
    return names.pop() if len(names) == 1 and value not in graph.outputs.values() else None
