"""Facts about a recorded graph: names for values, found by how they were computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dlbt_core.graph.ir import Graph, Ref

__all__ = ["residual"]


def residual(graph: Graph) -> Mapping[str, Iterable[int]]:
    """``residual``: sums of a value and something that was computed from that same value, ``x + f(x)``.

    Parameters
    ----------
    graph
        The recorded run. Its nodes are in the order of execution; each has arguments by name, where a `Ref` stands
        for a value, and the indices of its results.
    """
    ancestors: dict[int, frozenset[int]] = {}
    found: list[int] = []
    for node in graph.nodes:
        sources = frozenset(node.inputs)
        above = sources.union(*(ancestors.get(index, frozenset()) for index in sources))
        ancestors.update((output, above) for output in node.outputs if output is not None)
        if node.op == "aten.add.Tensor":
            terms = [arg.index for arg in (node.args["self"], node.args["other"]) if isinstance(arg, Ref)]
            if len(terms) == 2 and any(a in ancestors.get(b, ()) for a, b in (terms, reversed(terms))):
                found += [output for output in node.outputs if output is not None]
    return {"residual": found}
