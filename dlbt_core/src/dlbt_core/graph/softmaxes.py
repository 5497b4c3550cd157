"""Softmaxes, in one op or spelled out, and those whose results weigh other values: attention."""

from __future__ import annotations

from collections.abc import Set

from dlbt_core.graph.ir import Graph, Node, Ref
from dlbt_core.graph.ops import COPIES, packet

__all__ = ["softmaxes", "weighing"]


def _aten(names: str) -> frozenset[str]:
    return frozenset(f"aten.{name}" for name in names.split())


_SOFTMAX = _aten("softmax _softmax _safe_softmax")
_LOG_SOFTMAX = _aten("log_softmax _log_softmax")
_DIVISIONS = _aten("div divide true_divide")
_PRODUCTS = _aten("mul multiply")
_MATRIX_PRODUCTS = _aten("matmul bmm mm mv dot linear addmm addmv addbmm baddbmm einsum")
_DIFFERENCES = _aten("sub subtract")
_SUMS = _aten("sum mean")
_KEEPS_WEIGHTS = _PRODUCTS | _DIVISIONS | _aten("add clamp clamp_min sum")
"""Of weights and constants alone: masks, factors, and what weights are divided by to sum to 1 once more."""
_WHOLE = _aten(
    """view reshape _unsafe_view flatten unflatten squeeze unsqueeze view_as reshape_as transpose swapaxes permute movedim
    expand expand_as broadcast_to repeat contiguous clone alias to _to_copy type_as dropout masked_fill where nan_to_num"""
)
"""Copies that pick nothing out, and put nothing in among others."""


def softmaxes(graph: Graph, depends: Set[int]) -> dict[str, set[int]]:
    """``softmax``: a softmax's result, also that of exp(x) / sum exp(x), exp(x - logsumexp(x)) and s / sum s.

    ``softmax_step``: the exponentials and quotients of a softmax that is spelled out, or divided by its sum once more. Their
    gradients make up that of the softmax. Constants may mask the exponentials, and be added to their sum.

    Parameters
    ----------
    graph
        The recorded run.
    depends
        Values that depend on any input.
    """
    results: set[int] = set()
    steps: set[int] = set()
    logs: set[int] = set()
    exponentials: dict[int, set[int]] = {}  # by argument; by itself for a softmax, which is to be divided
    normalisers: dict[int, int] = {}
    parts: dict[int, int] = {}
    sums: dict[int, int] = {}
    for node in graph.nodes:
        out, read, op = _first(node), _floating(graph, node, depends), packet(node.op)
        if out is None or not read:
            continue
        first = read[0]
        if op in _SOFTMAX:
            results.add(out)
            parts[out] = out
        elif op in _LOG_SOFTMAX:
            logs.add(out)
        elif op == "aten.exp" and first in logs:
            results.add(out)
            steps.add(out)
            parts[out] = out
        elif op == "aten.logsumexp":
            normalisers[out] = first
        elif op in _DIFFERENCES and len(read) == 2 and normalisers.get(read[1]) == first:
            logs.add(out)
        elif op == "aten.exp":
            exponentials.setdefault(first, set()).add(out)
            parts[out] = first
        elif op in _DIVISIONS and len(read) == 2:
            top, below = read if _numerator(node) == first else reversed(read)
            if top in parts and parts[top] == sums.get(below):
                results.add(out)
                steps.update({out}, exponentials.get(parts[top], ()))
        elif len(read) > 1:
            continue
        elif op in COPIES:
            logs.update({out} if first in logs else ())
            for table in (parts, sums):
                table.update({out: table[first]} if first in table else {})
        elif op == "aten.sum" and first in parts:
            sums[out] = parts[first]
        elif op in _PRODUCTS and first in parts and not _squares(node):
            parts[out] = parts[first]
        elif op in ("aten.add", "aten.clamp", "aten.clamp_min") and first in sums:
            sums[out] = sums[first]
    return {"softmax": results, "softmax_step": steps}


def weighing(graph: Graph, depends: Set[int], results: Set[int]) -> dict[str, set[int]]:
    """``attention_weights``: a softmax that mixes other values, in a matrix product or a product and a sum.

    Parameters
    ----------
    graph
        The recorded run.
    depends
        Values that depend on any input.
    results
        Results of softmaxes.
    """
    weights: dict[int, int] = {}
    whole: set[int] = set()
    mixed: dict[int, int] = {}
    found: set[int] = set()
    for node in graph.nodes:
        out, read, op = _first(node), _floating(graph, node, depends), packet(node.op)
        if out is None:
            continue
        known = [weights[index] for index in read if index in weights]
        if out in results:
            weights[out] = out
            whole.add(out)
        elif op in _MATRIX_PRODUCTS and len(read) > 1:
            found.update(known)
        elif op in _SUMS and read and read[0] in mixed:
            found.add(mixed[read[0]])
        elif known and op in COPIES | {"aten.dropout"} and read[0] in weights:
            weights.update((o, known[0]) for o in node.outputs if o is not None)
            whole.update({out} if read[0] in whole and op in _WHOLE else ())
        elif known and len(known) == len(read) and len(set(known)) == 1 and op in _KEEPS_WEIGHTS:
            weights[out] = known[0]
            whole.update({out} if whole.issuperset(read) else ())
        elif len(read) == 2 and len(known) == 1 and op in _PRODUCTS and whole.intersection(read):
            mixed[out] = known[0]
        elif read and read[0] in mixed and op in _WHOLE:
            mixed[out] = mixed[read[0]]
    return {"attention_weights": found}


def _first(node: Node) -> int | None:
    return node.outputs[0] if node.outputs else None


def _floating(graph: Graph, node: Node, depends: Set[int]) -> list[int]:
    """The floating tensors a node reads that depend on an input, without repetitions."""
    return [i for i in dict.fromkeys(node.inputs) if i in depends and graph.values[i].is_floating]


def _numerator(node: Node) -> int:
    given = node.args.get("self")
    return given.index if isinstance(given, Ref) else -1


def _squares(node: Node) -> bool:
    return len(node.inputs) == 2 and node.inputs[0] == node.inputs[1]
