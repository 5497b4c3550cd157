"""The fact ``selective``: the discretised parameters of a state space model's scan, found by dataflow.

A selective scan is ``h_t = exp(A d_t) h_(t-1) + (d_t B_t) x_t``, ``y_t = C_t h_t``, with step sizes d, B and C computed from
the input, as a loop over t (Mamba, Gu & Dao 2023) or as products of matrices per chunk (Mamba-2, Dao & Gu 2024). MambaLRP
(Jafari et al. 2024) holds exp(A d), d B and C constant, so that the scan is linear in x.
"""

from __future__ import annotations

from collections.abc import Set
from enum import IntEnum

from dlbt_core.graph.facts import carriers
from dlbt_core.graph.ir import Graph, Node, Ref
from dlbt_core.graph.ops import COPIES, ELEMENTWISE, packet
from dlbt_core.graph.softmaxes import softmaxes
from dlbt_core.plugins.hookspecs import AnalyserSet

__all__ = ["declare", "selective"]


class Kind(IntEnum):
    """What a value is in a scan."""

    PLAIN = 0
    STATE = 1
    SCALED = 2
    DECAYED = 3
    STEP = 4
    DECAY = 5


_ELEMENT_PRODUCTS = frozenset({"aten.mul", "aten.multiply"})
_MATRIX_PRODUCTS = frozenset(f"aten.{name}" for name in "matmul bmm einsum baddbmm".split())
_PRODUCTS = _ELEMENT_PRODUCTS | _MATRIX_PRODUCTS
_KEEPS = COPIES | ELEMENTWISE | {"aten.cumsum", "aten.sum"}


def selective(graph: Graph) -> dict[str, set[int]]:
    """``selective``: step sizes, decays, and what else of a scan is a parameter computed from the input: d B and C.

    Where two values meet in a product, the parameter is told from the signal by what each has been through:

    - STEP: softplus of something, if an exponential is taken of it; DECAY: an exponential that scales a value. Parameters.
    - SCALED: a value times a step: d B, or d x. Times a plain value it is the parameter, and the other the signal x.
    - DECAYED: a value times a decay: B exp(...), or the matrix (C B^T) exp(...). Times d x it is the parameter.
    - STATE: a parameter times a signal, and sums of such. Contracted with a plain value, that one is the parameter C.

    There is a scan only if something that was decayed or scaled is multiplied once more. The exponential of a size that scales
    a box is none.
    """
    carries = carriers(graph, graph.inputs.values())
    decays = _decays(graph, carries)
    steps = _steps(graph, carries, decays)
    kinds: dict[int, Kind] = {}
    held = decays | steps
    parameters: set[int] = set()
    scans = False
    for node in graph.nodes if decays else ():
        read, outputs = _carrying(node, carries)
        if not read or not outputs:
            continue
        op, found = packet(node.op), [kinds.get(index, Kind.PLAIN) for index in read]
        if outputs[0] in held:
            kinds[outputs[0]] = Kind.DECAY if outputs[0] in decays else Kind.STEP
        elif op in _PRODUCTS and len(read) == 2:
            scans = scans or not {Kind.STATE, Kind.SCALED, Kind.DECAYED}.isdisjoint(found)
            kinds[outputs[0]], parameter = _product(found, _contracts(graph, node))
            parameters.update(() if parameter is None else (read[parameter],))
        elif op in _KEEPS:
            together = Kind.STATE if Kind.STATE in found else min(found)
            kinds.update((output, together) for output in outputs)
    if not scans:
        return {"selective": set()}
    held.update(value for value in parameters if _only_scales(graph, value))
    # Holding one of several results would hold the others, too.
    several = {o for node in graph.nodes if len(node.outputs) > 1 for o in node.outputs}
    return {"selective": held - several}


def _product(kinds: list[Kind], contracts: bool) -> tuple[Kind, int | None]:
    """The kind of a product of two values; and which of them is a parameter, if it is not known to be one already."""
    low, high = sorted(kinds)
    lower, upper = kinds.index(low), 1 if kinds[1] == high else 0
    if high >= Kind.STEP:
        made = Kind.DECAYED if high == Kind.DECAY else Kind.SCALED
        return (made if low == Kind.PLAIN else low), None
    if (low, high) in ((Kind.PLAIN, Kind.SCALED), (Kind.SCALED, Kind.DECAYED)):
        return Kind.STATE, upper
    if low == Kind.STATE and high > Kind.STATE:
        return Kind.STATE, upper
    if (low, high) == (Kind.PLAIN, Kind.STATE) and contracts:
        return Kind.STATE, lower
    return Kind.PLAIN, None


def _carrying(node: Node, carries: Set[int]) -> tuple[list[int], list[int]]:
    """What a node reads and gives of the values that depend on the input."""
    read = [index for index in dict.fromkeys(node.inputs) if index in carries]
    return read, [output for output in node.outputs if output is not None and output in carries]


def _decays(graph: Graph, carries: Set[int]) -> set[int]:
    """Exponentials that scale another value, be it through copies; with exp(a - m) also every exp(b - m), as in RWKV.

    Not those of a softmax that is spelled out.
    """
    weights = set().union(*softmaxes(graph, carries).values())
    found: set[int] = set()
    names: dict[int, int] = {}
    less: dict[int, int] = {}
    for node in graph.nodes:
        read, outputs = _carrying(node, carries)
        op = packet(node.op)
        if op in ("aten.exp", "aten.exp2") and not weights.intersection(outputs):
            names.update((output, output) for output in outputs)
            less.update((output, less[read[0]]) for output in outputs if read[0] in less)
        elif op == "aten.sub" and read and node.args["other"] == Ref(read[-1]):
            less.update((output, read[-1]) for output in outputs)
        elif op in COPIES and len(read) == 1 and read[0] in names:
            names.update((output, names[read[0]]) for output in outputs)
        elif op in _PRODUCTS and len(read) == 2:
            found.update(names[index] for index in read if index in names)
    maxima = {less[decay] for decay in found if decay in less}
    return found | {value for value in names.values() if less.get(value) in maxima}


def _steps(graph: Graph, carries: Set[int], decays: Set[int]) -> set[int]:
    """Results of a softplus from which a decay comes, through copies, constants and sums along a dimension."""
    steps: dict[int, int] = {}
    found: set[int] = set()
    for node in graph.nodes:
        read, outputs = _carrying(node, carries)
        op = packet(node.op)
        if op == "aten.softplus":
            steps.update((output, output) for output in outputs)
        elif outputs and outputs[0] in decays:
            found.update(steps[index] for index in read if index in steps)
        elif read and all(index in steps for index in read) and op in _KEEPS:
            steps.update((output, steps[read[0]]) for output in outputs)
    return found


def _only_scales(graph: Graph, value: int) -> bool:
    """Whether all that is done with a value is to multiply others by it."""
    shown = value in graph.outputs.values() or value in graph.inputs.values()
    return not shown and all(packet(graph.nodes[user].op) in _PRODUCTS for user in graph.consumers[value])


def _contracts(graph: Graph, node: Node) -> bool:
    """Whether a product sums over a dimension of its factors."""
    if packet(node.op) in _MATRIX_PRODUCTS:
        return True
    users = graph.consumers[node.outputs[0]] if node.outputs[0] is not None else ()
    return bool(users) and all(packet(graph.nodes[user].op) == "aten.sum" for user in users)


def declare(add: AnalyserSet) -> None:
    """Declare the analysers of this module."""
    add.analyser("selective")(selective)
