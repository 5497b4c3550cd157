"""How two plans differ: node by node, by rule and parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["NodeDifference", "called", "plan_differences"]

Kind = Literal["op", "rule", "parameters", "only in a", "only in b"]


@dataclass(frozen=True)
class NodeDifference:
    """A node that two plans treat differently.

    Attributes
    ----------
    node, op, module
        Which node.
    kind : {"op", "rule", "parameters", "only in a", "only in b"}
        What differs: the op itself (the plans are of different models), the rule, its parameters; or whether any relevance
        passes the node at all.
    a, b : mapping or None
        Row of the node in either plan, as `Plan.table` has it; None where the plan does not have the node.
    """

    node: str
    op: str
    module: str
    kind: Kind
    a: Mapping[str, Any] | None
    b: Mapping[str, Any] | None

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        sides = {
            side: None if row is None else {key: row[key] for key in ("op", "rule", "parameters", "reason")}
            for side, row in (("a", self.a), ("b", self.b))
        }
        return {"node": self.node, "op": self.op, "module": self.module, "kind": self.kind, **sides}


def plan_differences(a: Any, b: Any) -> list[NodeDifference]:
    """The nodes whose rule or parameters differ between two plans, in the order of the first.

    Nodes are told apart by name. Why a rule was chosen makes no difference.

    Parameters
    ----------
    a, b : Plan or PlanRecord
        The plans.
    """
    first, second = ({row["node"]: row for row in plan.table()} for plan in (a, b))
    found = []
    for node in dict.fromkeys((*first, *second)):
        one, other = first.get(node), second.get(node)
        kind = _kind(one, other)
        if kind is not None:
            row: Any = other if one is None else one
            found.append(NodeDifference(node, row["op"], row["module"], kind, one, other))
    return found


def _kind(a: Mapping[str, Any] | None, b: Mapping[str, Any] | None) -> Kind | None:
    if a is None or b is None:
        return "only in b" if a is None else "only in a"
    if a["op"] != b["op"]:
        return "op"
    if a["rule"] != b["rule"]:
        return "rule"
    return None if _plain(a["parameters"]) == _plain(b["parameters"]) else "parameters"


def _plain(value: Any) -> Any:
    """As JSON gives it back: tuples as lists."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def called(row: Mapping[str, Any] | None, others: Sequence[Mapping[str, Any] | None] = ()) -> str:
    """A node's rule in words, without the op's name: ``core:epsilon(epsilon=0.1)``.

    Parameters
    ----------
    row
        A row of a plan; None where the plan does not have the node.
    others
        Rows it stands beside: parameters that those of them that have it all have alike are left out.
    """
    if row is None:
        return "not on the path"
    if row["rule"] == "constant":
        return "held constant"
    plugin, _, name = row["rule"].partition(":")
    beside = [other["parameters"] for other in others if other is not None and other is not row]

    def is_told(key: str, value: Any) -> bool:
        known = [_plain(parameters[key]) for parameters in beside if key in parameters]
        return not known or any(other != _plain(value) for other in known)

    given = {key: value for key, value in row["parameters"].items() if is_told(key, value)}
    inside = ", ".join(f"{key}={value!r}" for key, value in given.items())
    return f"{plugin}:{name.partition('#')[2]}({inside})"
