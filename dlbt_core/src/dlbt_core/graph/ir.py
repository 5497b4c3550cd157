"""The graph: what one run of a model did. Ops in order, and the tensors between them. Immutable."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch

__all__ = ["Graph", "Guard", "ModuleCall", "Node", "Ref", "Site", "Value", "refs_in", "substitute"]

ValueKind = Literal["input", "parameter", "buffer", "constant", "result"]


@dataclass(frozen=True, slots=True)
class Ref:
    """Stands for a value in a node's arguments."""

    index: int

    def __repr__(self) -> str:
        return f"%{self.index}"


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of the run: an input, a weight, a constant, or the result of a node."""

    index: int
    kind: ValueKind
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    node: int | None = None

    @property
    def is_floating(self) -> bool:
        """Whether its numbers are real or complex ones."""
        return self.dtype.is_floating_point or self.dtype.is_complex


@dataclass(frozen=True, slots=True)
class Site:
    """Where in the model an op ran: module path and type, how often the module had run before, source line."""

    module: str = ""
    module_type: str = ""
    call: int = 0
    line: str = ""

    def __str__(self) -> str:
        name = self.module or "(model)"
        times = f" call {self.call}" if self.call else ""
        kind = f" ({self.module_type.rsplit('.', 1)[-1]})" if self.module_type else ""
        return f"{name}{kind}{times}" + (f" at {self.line}" if self.line else "")


@dataclass(frozen=True, slots=True)
class Guard:
    """What must hold again when the node is replayed, since Python has looked at it."""

    kind: Literal["result", "shape", "content"]
    expected: Any


@dataclass(frozen=True, slots=True)
class Node:
    """One op: its name with overload, its arguments by schema name (`Ref` for tensors), its results."""

    index: int
    name: str
    op: str
    args: Mapping[str, Any]
    outputs: tuple[int | None, ...]
    many: bool = False
    site: Site = field(default_factory=Site)
    guard: Guard | None = None

    @property
    def inputs(self) -> tuple[int, ...]:
        """Indices of the values read, in order, with repetitions."""
        return tuple(ref.index for arg in self.args.values() for ref in refs_in(arg))

    def __str__(self) -> str:
        args = ", ".join(f"{k}={_short(v)}" for k, v in self.args.items())
        left = ", ".join("_" if o is None else f"%{o}" for o in self.outputs) or "()"
        return f"{left} = {self.op}({args})"


@dataclass(frozen=True, slots=True)
class ModuleCall:
    """One call of a module: its outputs as (path, value) pairs."""

    module: str
    call: int
    outputs: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Graph:
    """The recorded run. Nodes are in the order of execution, values are numbered.

    Attributes
    ----------
    values, nodes
        All values and nodes, by index.
    inputs, outputs
        Path in the call's arguments or result (``"input_ids"``, ``"logits"``, ``"0.1"``) to value index.
    states
        Parameter or buffer name to value index. Only those the run has read.
    constants
        Value index to a tensor that is neither input nor state.
    modules
        Calls of modules, in order of their return.
    random
        Names of nodes that drew random numbers; their results are kept as constants.
    expanded
        Ops that no rule fits and that were recorded as functions of simpler ones, with how often they were called.
    """

    values: tuple[Value, ...]
    nodes: tuple[Node, ...]
    inputs: Mapping[str, int]
    outputs: Mapping[str, int]
    states: Mapping[str, int]
    constants: Mapping[int, torch.Tensor]
    modules: tuple[ModuleCall, ...] = ()
    random: tuple[str, ...] = ()
    expanded: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def consumers(self) -> tuple[tuple[int, ...], ...]:
        """Per value: indices of the nodes that read it, in order, without repetitions."""
        found: list[list[int]] = [[] for _ in self.values]
        for node in self.nodes:
            for index in dict.fromkeys(node.inputs):
                found[index].append(node.index)
        return tuple(map(tuple, found))

    def node(self, name: str) -> Node:
        """The node of that name."""
        return self.nodes[self._by_name[name]]

    @cached_property
    def _by_name(self) -> dict[str, int]:
        return {node.name: node.index for node in self.nodes}

    def __str__(self) -> str:
        return "\n".join(f"{node.name:<28} {node}    # {node.site}" for node in self.nodes)

    def __repr__(self) -> str:
        return f"<Graph of {len(self.nodes)} nodes, inputs {list(self.inputs)}, outputs {list(self.outputs)}>"


class Namer:
    """Gives each node a name of its own: ``linear``, ``linear_1``, ..."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}

    def __call__(self, op: str) -> str:
        parts = op.split(".")
        base = re.sub(r"^_+|_+$", "", parts[1] if len(parts) > 1 else parts[0]) or "op"
        count = self._seen.get(base, 0)
        self._seen[base] = count + 1
        return f"{base}_{count}" if count else base


def refs_in(arg: Any) -> Iterator[Ref]:
    """The references in one argument, which may be a list of them."""
    if isinstance(arg, Ref):
        yield arg
    elif isinstance(arg, (list, tuple)):
        for item in arg:
            if isinstance(item, Ref):
                yield item


def substitute(arg: Any, function: Callable[[Ref], Any]) -> Any:
    """The argument with `function` applied to each reference in it."""
    if isinstance(arg, Ref):
        return function(arg)
    if isinstance(arg, (list, tuple)) and any(isinstance(item, Ref) for item in arg):
        return [function(item) if isinstance(item, Ref) else item for item in arg]
    return arg


def _short(arg: Any) -> str:
    text = repr(arg)
    return text if len(text) <= 40 else text[:37] + "..."
