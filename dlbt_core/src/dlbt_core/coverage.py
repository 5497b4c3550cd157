"""Coverage: which ops of a model have rules, from whom, which are written as simpler ones, and which have none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

from dlbt_core.composites.select import Choice
from dlbt_core.explainer import Explainer
from dlbt_core.graph.ir import Node
from dlbt_core.plugins.loader import Plugins, default_plugins
from dlbt_core.plugins.services import help_missing
from dlbt_core.rules.rule import Rule
from dlbt_core.scheduler.plan import Plan
from dlbt_core.scheduler.resolve import describe_missing

__all__ = ["Coverage", "OpCoverage", "coverage"]

Status = Literal["rule", "constant", "lowered", "decomposed", "missing"]


@dataclass(frozen=True)
class OpCoverage:
    """An op of the model, and how relevance gets past it.

    Attributes
    ----------
    op
        Its name, with overload.
    status
        ``"rule"``: a rule hands relevance back. ``"constant"``: it is held constant, by choice. ``"lowered"`` and
        ``"decomposed"``: it was recorded as simpler ops, as a plugin or torch says. ``"missing"``: nothing fits.
    nodes
        How many nodes; for lowered and decomposed ops, how many calls in the whole run.
    rule
        Its name, for ``"rule"``.
    plugin, distribution, version
        Who brought rule or lowering.
    variants
        All variants that the op has.
    module, line
        Where the first of the nodes ran.
    """

    op: str
    status: Status
    nodes: int
    rule: str = ""
    plugin: str = ""
    distribution: str = ""
    version: str = ""
    variants: tuple[str, ...] = ()
    module: str = ""
    line: str = ""


@dataclass(frozen=True)
class Coverage:
    """What `coverage` found.

    Attributes
    ----------
    ops
        One entry per op, rule and status: what is missing first.
    composite_name
        The composite for which rules were chosen.
    nodes, on_path
        Number of nodes in the run, and of those that relevance passes.
    help
        What to do about missing ops; empty if there are none.
    """

    ops: tuple[OpCoverage, ...]
    composite_name: str
    nodes: int
    on_path: int
    help: str = ""

    @property
    def missing(self) -> list[str]:
        """Ops that no rule handles."""
        return list(dict.fromkeys(entry.op for entry in self.ops if entry.status == "missing"))

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        rows = [{**asdict(entry), "variants": list(entry.variants)} for entry in self.ops]
        return {
            "composite": self.composite_name, "nodes": self.nodes, "on_path": self.on_path, "missing": self.missing,
            "ops": rows, "help": self.help,
        }  # fmt: skip


def coverage(
    model: Any,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    composite: Any = "auto",
    rules: Sequence[Choice] = (),
    target: Any = None,
    explain_inputs: Sequence[str] | None = None,
    plugins: Plugins | None = None,
) -> Coverage:
    """Which ops on the way of the relevance have rules. The model is recorded and run; nothing is handed back.

    Parameters
    ----------
    model
        As for `Explainer`.
    args, kwargs
        What it is called with.
    composite, rules, target, explain_inputs, plugins
        As for `Explainer` and its call.

    Raises
    ------
    InputError, ModelStateError, CaptureError
        As `Explainer.__call__`; an op without a rule is no error here.
    """
    plugins = plugins or default_plugins()
    explainer = Explainer(model, composite, explain_inputs=explain_inputs, fallback="gradient", plugins=plugins)
    given = dict(kwargs or {})
    plan = explainer.plan(*args, **given, target=target, rules=rules)
    graph = explainer.graph(*args, **given)
    entries = [*_of_steps(plan, plugins), *_held(plan, plugins), *_expanded(graph.expanded, plugins)]
    entries.sort(key=lambda entry: entry.status != "missing")
    missing = [node for node, rule in _handled(plan) if _is_fallback(rule)]
    return Coverage(
        tuple(entries),
        plan.composite_name,
        len(graph.nodes),
        sum(1 for _ in _handled(plan)),
        describe_missing(missing, partial(help_missing, plugins)) if missing else "",
    )


def _handled(plan: Plan) -> list[tuple[Node, Rule]]:
    """Nodes with their rules, those of a target function last."""
    return [(s.node, s.rule) for s in plan.steps] + ([] if plan.tail is None else _handled(plan.tail))


def _is_fallback(rule: Rule) -> bool:
    return rule.variant == "fallback_gradient"


def _of_steps(plan: Plan, plugins: Plugins) -> list[OpCoverage]:
    groups: dict[tuple[str, str], list[tuple[Node, Rule]]] = {}
    for node, rule in _handled(plan):
        groups.setdefault((node.op, rule.id), []).append((node, rule))
    found = []
    for (op, _), members in sorted(groups.items()):
        node, rule = members[0]
        who = ("", "", "", "") if _is_fallback(rule) else (rule.id, *_source(rule))
        status: Status = "missing" if _is_fallback(rule) else "rule"
        variants = tuple(sorted(plugins.registry.variants(op)))
        found.append(OpCoverage(op, status, len(members), *who, variants, node.site.module, node.site.line))
    return found


def _source(rule: Rule) -> tuple[str, str, str]:
    return rule.source.plugin, rule.source.distribution, rule.source.version


def _held(plan: Plan, plugins: Plugins) -> list[OpCoverage]:
    groups: dict[str, list[Node]] = {}
    for name in plan.held:
        node = plan.graph.node(name)
        groups.setdefault(node.op, []).append(node)
    return [
        OpCoverage(
            op, "constant", len(nodes), variants=tuple(sorted(plugins.registry.variants(op))),
            module=nodes[0].site.module, line=nodes[0].site.line,
        )
        for op, nodes in sorted(groups.items())
    ]  # fmt: skip


def _expanded(expanded: Mapping[str, int], plugins: Plugins) -> list[OpCoverage]:
    by_name = {plugin.name: plugin for plugin in plugins.loaded}
    found = []
    for op, calls in sorted(expanded.items()):
        plugin = by_name.get(plugins.lowerings.plugin_of(op))
        if plugin is None:
            found.append(OpCoverage(op, "decomposed", calls, plugin="torch"))
        else:
            found.append(OpCoverage(op, "lowered", calls, "", plugin.name, plugin.distribution, plugin.version))
    return found
