"""The plan: one rule per node on the relevance path, its parameters, and why."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

from dlbt_core.composites.composite import Composite
from dlbt_core.graph.ir import Graph, Node
from dlbt_core.graph.ops import packet
from dlbt_core.rules.rule import Asked, Form, Rule

__all__ = ["FORMAT", "VERSION", "Plan", "Slot", "Step", "summarise"]

FORMAT, VERSION = "dlbt-plan", 1
"""What a saved plan says of itself."""


class Slot(NamedTuple):
    """A place in a node's arguments that holds a value: argument name, position in a list argument, value."""

    name: str
    item: int | None
    value: int


@dataclass(frozen=True)
class Step:
    """One node and the rule that hands its relevance back.

    Attributes
    ----------
    node, rule, parameters, reason
        What runs, and who chose it.
    slots
        Where the message goes: the carrying arguments.
    takes, gives
        The form in which the rule gets the message here, and hands it on.
    """

    node: Node
    rule: Rule
    parameters: Mapping[str, Any]
    reason: str
    slots: tuple[Slot, ...]
    takes: Form = "multiplier"
    gives: Form = "multiplier"

    @cached_property
    def carrying_names(self) -> frozenset[str]:
        """Names of the carrying arguments."""
        return frozenset(slot.name for slot in self.slots)

    @cached_property
    def reads(self) -> tuple[str, ...] | None:
        """What the rule needs of the forward pass."""
        return self.rule.needs(Asked(packet(self.node.op), self.parameters, self.carrying_names, self.takes))

    @property
    def call(self) -> str:
        """The rule with its parameters, as in ``core:aten.linear#epsilon(epsilon=1e-06)``."""
        given = ", ".join(f"{k}={v!r}" for k, v in self.parameters.items())
        return f"{self.rule.id}({given})"


@dataclass(frozen=True)
class Plan:
    """Graph, composite and target, resolved.

    Attributes
    ----------
    graph, composite
        What was resolved.
    explained
        Explained inputs: name to value.
    outputs
        Values at which relevance enters.
    steps
        Nodes on the relevance path in the order of execution, each with its rule.
    held
        Names of nodes whose results are held constant, with the reason.
    forms
        Value to the form of its message.
    unused
        Choices of the user that fit no node.
    tail
        The plan of a target function, which hands back to the model's outputs.
    """

    graph: Graph
    composite: Composite
    explained: Mapping[str, int]
    outputs: tuple[int, ...]
    steps: tuple[Step, ...]
    held: Mapping[str, str]
    forms: Mapping[int, Form]
    unused: tuple[str, ...] = ()
    tail: Plan | None = None

    @property
    def composite_name(self) -> str:
        """What the composite is called, and why it was chosen if it was chosen by rule."""
        return self.composite.name + (f" ({self.composite.note})" if self.composite.note else "")

    def reached_from(self, values: Iterable[int]) -> Plan:
        """The plan without the steps that no message from `values` reaches."""
        reached = set(values)
        steps: list[Step] = []
        for step in reversed(self.steps):
            if reached.intersection(o for o in step.node.outputs if o is not None):
                steps.append(step)
                reached.update(slot.value for slot in step.slots)
        return replace(self, steps=tuple(reversed(steps)))

    def table(self) -> list[dict[str, Any]]:
        """One plain row per node: what runs there, with which parameters, from whom, and why.

        Nodes of a target function come last; their names begin with ``"target "``.
        """
        rows = [_row(s.node, s.rule.id, dict(s.parameters), str(s.rule.source), s.reason) for s in self.steps]
        rows += [_row(self.graph.node(name), "constant", {}, "", why) for name, why in self.held.items()]
        if self.tail is not None:
            rows += [{**row, "node": f"target {row['node']}"} for row in self.tail.table()]
        return rows

    def to_json(self) -> str:
        """The plan as JSON; `dlbt_core.storage.read_plan` and ``dlbt diff`` read it."""
        return json.dumps({"format": FORMAT, "version": VERSION, **self.to_dict()}, indent=2, ensure_ascii=False)

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values."""
        return {
            "composite": self.composite.name, "note": self.composite.note, "explained": list(self.explained),
            "steps": self.table(), "unused": list(self.unused),
        }  # fmt: skip

    def summary(self) -> list[tuple[str, str, int]]:
        """(rule with parameters, reason, number of nodes), most frequent first."""
        return summarise(self.table())

    def __str__(self) -> str:
        head = f"plan: {len(self.steps)} nodes, composite {self.composite.name}"
        head += f" ({self.composite.note})" if self.composite.note else ""
        width = max((len(s.node.name) for s in self.steps), default=0)
        rows = [f"  {s.node.name:<{width}}  {s.call}  [{s.reason}]  {s.node.site}" for s in self.steps]
        rows += [f"  {name:<{width}}  held constant  [{why}]" for name, why in self.held.items()]
        rows += [f"  unused choice: {text}" for text in self.unused]
        rows += [] if self.tail is None else [f"target {self.tail}"]
        return "\n".join([head, *rows])

    def __repr__(self) -> str:
        return f"<Plan of {len(self.steps)} nodes, composite {self.composite.name!r}>"


def _row(node: Node, rule: str, parameters: dict[str, Any], source: str, reason: str) -> dict[str, Any]:
    site = node.site
    return {
        "node": node.name,
        "op": node.op,
        "module": site.module,
        "module_type": site.module_type,
        "line": site.line,
        "rule": rule,
        "parameters": parameters,
        "source": source,
        "reason": reason,
    }


def summarise(rows: Iterable[Mapping[str, Any]]) -> list[tuple[str, str, int]]:
    """Rows of a plan, counted: (rule with parameters, reason, number of nodes), most frequent first."""
    counts: dict[tuple[str, str], int] = {}
    for row in rows:
        given = ", ".join(f"{k}={v!r}" for k, v in row["parameters"].items())
        rule = "held constant" if row["rule"] == "constant" else f"{row['rule']}({given})"
        counts[rule, row["reason"]] = counts.get((rule, row["reason"]), 0) + 1
    return sorted(((rule, why, n) for (rule, why), n in counts.items()), key=lambda row: (-row[2], row[0]))
