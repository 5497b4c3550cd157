"""The fact ``activated_gate``: the activated branch of a gated MLP, found by dataflow, however it is spelled."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, replace

from dlbt_core.graph.ir import Graph
from dlbt_core.graph.ops import COPIES, ELEMENTWISE, packet

__all__ = ["activated_gates"]


def _aten(names: str) -> frozenset[str]:
    return frozenset(f"aten.{name}" for name in names.split())


_ACTIVATIONS = _aten("relu relu6 leaky_relu prelu rrelu silu gelu elu celu selu mish hardswish square pow")
"""Activations that gate another branch in the variants of the gated linear unit. A sigmoid is a ``gate`` by its own."""

_PRODUCTS = _aten("mul multiply")
_SPELLED = _PRODUCTS | _aten("div divide true_divide")
"""Ops by which an activation is spelled out: x * sigmoid(x), x / (1 + exp(-x))."""
_WEIGHTED = _aten("linear addmm addmv mm mv matmul bmm baddbmm einsum _grouped_mm conv1d conv2d conv3d") | {
    "transformers.grouped_mm_fallback"
}
"""Ops that apply weights, if one of their arguments carries."""


@dataclass(frozen=True)
class _Branch:
    """What a value is of a linear map's result: `bent` if a nonlinear function of it, element by element."""

    source: int
    root: int
    bent: bool = False


def activated_gates(graph: Graph, carries: Set[int]) -> dict[str, set[int]]:
    """``activated_gate``: f(W x) in the product f(W x) * (V x), with f an activation.  Shazeer 2020, eq. 5 and 6.

    Both branches are linear maps of one value, so that a mask or a scale from elsewhere makes no gate; and nothing but
    such products reads the gate. An activation that is spelled out is one, too: x * sigmoid(x).

    Parameters
    ----------
    graph
        The recorded run.
    carries
        Values that depend on any input. An expert's weights, picked by an index, do not.
    """
    original = {value: value for value in carries}
    branches: dict[int, _Branch] = {}
    products: dict[int, set[int]] = {}
    for node in graph.nodes:
        read = [index for index in dict.fromkeys(node.inputs) if index in carries]
        outputs = [o for o in node.outputs if o is not None and o in carries]
        op = packet(node.op)
        known = [branches[index] for index in read if index in branches]
        if len(read) == 1 and op in COPIES:
            original.update((output, original[read[0]]) for output in outputs)
        if len(read) == 1 and op in _WEIGHTED:
            branches.update((output, _Branch(original[read[0]], output)) for output in outputs)
        elif len(known) != len(read) or not known:
            continue
        elif len(read) == 1 and op in COPIES:
            whole = not node.many and _same_size(graph, read[0], outputs)
            branches.update((o, known[0] if whole else replace(known[0], root=o)) for o in outputs)
        elif op in ELEMENTWISE and len({branch.root for branch in known}) == 1:
            bent = any(branch.bent for branch in known) or op in _ACTIVATIONS or (op in _SPELLED and len(read) == 2)
            branches.update((output, replace(known[0], bent=bent)) for output in outputs)
        elif (
            op in _PRODUCTS
            and known[0].source == known[1].source
            and known[0].bent != known[1].bent
            and not _is_outer(graph, read, outputs)
        ):
            products.setdefault(read[0] if known[0].bent else read[1], set()).add(node.index)
    shown = set(graph.outputs.values())
    gates = {gate for gate, users in products.items() if users.issuperset(graph.consumers[gate])}
    return {"activated_gate": gates - shown}


def _is_outer(graph: Graph, read: list[int], outputs: list[int]) -> bool:
    """Whether a product broadcasts both of its factors: keys and values make the state of a linear attention so."""
    return all(graph.values[index].shape != graph.values[outputs[0]].shape for index in read)


def _same_size(graph: Graph, value: int, outputs: list[int]) -> bool:
    return sorted(graph.values[value].shape) == sorted(graph.values[outputs[0]].shape) if outputs else False
