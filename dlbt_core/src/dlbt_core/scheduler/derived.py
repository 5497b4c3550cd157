"""Values derived from weights alone: computed once, and again when a weight has changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from dlbt_core.graph.ir import Graph, Node, refs_in

__all__ = ["DerivedWeights", "RuleCache", "weights_only"]

_PROBES = 4


def weights_only(graph: Graph, nodes: Sequence[Node]) -> frozenset[int]:
    """Indices of nodes that read at least one weight, and nothing that depends on an input."""
    known = {value.index for value in graph.values if value.kind in ("parameter", "buffer")}
    fixed = known | set(graph.constants)
    found: set[int] = set()
    for node in nodes:
        plain = node.guard is None and not node.many
        if plain and all(i in fixed for i in node.inputs) and any(i in known for i in node.inputs):
            found.add(node.index)
            fixed.update(o for o in node.outputs if o is not None)
            known.update(o for o in node.outputs if o is not None)
    return frozenset(found)


class DerivedWeights:
    """Keeps the results of weights-only nodes while the weights stay the same.

    A change is seen by storage, by version counter, and, since writes through ``.data`` leave no version behind, by a few
    elements of each weight.
    """

    def __init__(self, sources: Sequence[int]) -> None:
        self._sources = tuple(sources)
        self._stamp: tuple[Any, ...] = ()
        self._probe: Tensor | None = None
        self.values: dict[int, Tensor] = {}

    def fresh(self, values: Sequence[Any]) -> bool:
        """Whether what is kept still holds; if not, it is dropped."""
        stamp, probe = _stamp([values[index] for index in self._sources])
        same = stamp == self._stamp and (probe is None or (self._probe is not None and torch.equal(probe, self._probe)))
        if not same:
            self._stamp, self._probe = stamp, probe
            self.values.clear()
        return same


class RuleCache:
    """What rules derive from weights (`RuleContext.cached`), kept per node until a weight that it came from changes."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._fixed = weights_only(graph, graph.nodes)
        self._kept: dict[tuple[int, Any], tuple[DerivedWeights | None, dict[str, Any]]] = {}

    def get(
        self, node: Node, values: Sequence[Any], key: Any, make: Callable[[], Any], arguments: Sequence[str]
    ) -> Any:
        """The value kept for a node under `key`, made if there is none or a weight behind the arguments has changed."""
        known = self._kept.get((node.index, key))
        if known is None:
            read = [ref.index for name in arguments for ref in refs_in(node.args.get(name))]
            weights = self._weights_behind(read)
            known = self._kept[node.index, key] = (None if weights is None else DerivedWeights(sorted(weights)), {})
        weights_of_node, kept = known
        if weights_of_node is None:
            return make()
        if not weights_of_node.fresh(values) or not kept:
            kept["value"] = make()
        return kept["value"]

    def _weights_behind(self, read: Sequence[int]) -> set[int] | None:
        """The parameters and buffers that some values are computed from; None if they depend on anything else."""
        found: set[int] = set()
        waiting = list(read)
        while waiting:
            value = self._graph.values[waiting.pop()]
            if value.kind in ("parameter", "buffer"):
                found.add(value.index)
            elif value.node is not None and value.node in self._fixed:
                waiting.extend(self._graph.nodes[value.node].inputs)
            elif value.kind != "constant":
                return None
        return found


def _stamp(tensors: Sequence[Tensor]) -> tuple[tuple[Any, ...], Tensor | None]:
    """What tells one state of some weights from another."""
    stamp = tuple((id(t), t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors)
    return stamp, torch.cat([_sample(t) for t in tensors]) if tensors else None


def _sample(tensor: Tensor) -> Tensor:
    plain = tensor.detach().resolve_conj()
    flat = (torch.view_as_real(plain) if plain.is_complex() else plain).reshape(-1)
    return flat[:: max(1, flat.numel() // _PROBES)][:_PROBES].to(torch.float64)
