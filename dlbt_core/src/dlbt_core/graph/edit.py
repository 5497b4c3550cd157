"""Editing a graph: the old one is read, a new one is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch

from dlbt_core.graph.ir import Graph, ModuleCall, Namer, Node, Ref, Site, Value, substitute

__all__ = ["GraphWriter"]


class GraphWriter:
    """Writes a graph that is like `old` except where the caller adds, replaces or leaves out nodes."""

    def __init__(self, old: Graph) -> None:
        self.old = old
        self._values: list[Value] = []
        self._nodes: list[Node] = []
        self._new: dict[int, int] = {}
        self._namer, self._derived = Namer(), Namer()
        for value in old.values:
            if value.kind != "result":
                self._new[value.index] = self._add_value(replace(value, index=len(self._values)))

    def _add_value(self, value: Value) -> int:
        self._values.append(value)
        return value.index

    def copy(self, node: Node, **changed: Any) -> None:
        """Write an old node, with some arguments changed (given as new references)."""
        kept = {name: arg for name, arg in node.args.items() if name not in changed}
        args = {name: substitute(arg, lambda ref: Ref(self._new[ref.index])) for name, arg in kept.items()}
        index, name = len(self._nodes), self._namer(node.op)
        outputs: list[int | None] = []
        for output in node.outputs:
            if output is None:
                outputs.append(None)
                continue
            old = self.old.values[output]
            self._new[output] = self._add_value(replace(old, index=len(self._values), node=index))
            outputs.append(self._new[output])
        given = MappingProxyType({**args, **changed})
        self._nodes.append(replace(node, index=index, name=name, args=given, outputs=tuple(outputs)))

    def emit(
        self, op: str, args: Mapping[str, Any], shape: tuple[int, ...], dtype: torch.dtype, site: Site
    ) -> Ref:
        """Write a new node of one result."""
        index, name = len(self._nodes), "derived_" + self._derived(op)
        value = self._add_value(Value(len(self._values), "result", name, shape, dtype, index))
        self._nodes.append(Node(index, name, op, MappingProxyType(dict(args)), (value,), False, site))
        return Ref(value)

    def new(self, old: Ref) -> Ref:
        """The new reference to an old value."""
        return Ref(self._new[old.index])

    def value(self, ref: Ref) -> Value:
        """A new value."""
        return self._values[ref.index]

    def let(self, old: int, same_as: int) -> None:
        """Whatever read the old value shall read what stands for another old value now."""
        self._new[old] = self._new[same_as]

    def forget(self, old: int) -> None:
        """An old value has no counterpart any more."""
        del self._new[old]

    def graph(self) -> Graph:
        """The new graph."""
        old = self.old
        calls = (
            ModuleCall(c.module, c.call, tuple((p, self._new[v]) for p, v in c.outputs if v in self._new))
            for c in old.modules
        )
        return Graph(
            values=tuple(self._values),
            nodes=tuple(self._nodes),
            inputs=MappingProxyType({p: self._new[v] for p, v in old.inputs.items()}),
            outputs=MappingProxyType({p: self._new[v] for p, v in old.outputs.items()}),
            states=MappingProxyType({n: self._new[v] for n, v in old.states.items()}),
            constants=MappingProxyType({self._new[v]: t for v, t in old.constants.items()}),
            modules=tuple(calls),
            random=old.random,
        )
