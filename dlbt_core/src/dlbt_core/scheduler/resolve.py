"""Resolve: graph + composite + target become a plan, with one rule, its parameters and the reason for each node."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType
from typing import Any

from dlbt_core.composites.composite import Composite
from dlbt_core.composites.select import Choice, NodeView
from dlbt_core.errors import InputError, NoRuleError, UnknownVariantError
from dlbt_core.graph.facts import EMBEDDINGS, Facts, carriers, on_path
from dlbt_core.graph.ir import Graph, Node, Ref
from dlbt_core.graph.ops import OF_IDS, packet
from dlbt_core.notices import noted
from dlbt_core.rules.fallback import gradient_fallback, ids_rule
from dlbt_core.rules.registry import Registry
from dlbt_core.rules.rule import Form, Rule
from dlbt_core.scheduler.plan import Plan, Slot, Step

__all__ = ["Layer", "Resolver", "describe_missing"]

Missing = Callable[[str], str]


@dataclass(frozen=True)
class Layer:
    """Choices that come from one place, and how that place is called in reasons."""

    name: str
    choices: Sequence[Choice]


class Resolver:
    """Finds the rule for each node of one graph."""

    def __init__(
        self,
        graph: Graph,
        facts: Facts,
        registry: Registry,
        composite: Composite,
        layers: Iterable[Layer] = (),
        fallback: str | None = None,
    ) -> None:
        self.graph = graph
        self.facts = facts
        self.registry = registry
        self.composite = composite
        self.layers = (*layers, Layer(f"composite {composite.name}", composite.choices))
        self.fallback = fallback
        self._variants = cache(lambda op: frozenset(registry.variants(op)))
        self._check_names()

    def _check_names(self) -> None:
        """A variant that no op has is a typing error, even if its selection fits nothing."""
        for layer in self.layers:
            for select, use in layer.choices:
                if not (use.holds_constant or select.has == use.variant or self.registry.any_offers(use.variant)):
                    raise UnknownVariantError(
                        f"no op has a variant {use.variant!r} (asked by {layer.name}: {select}).\n"
                        f"  Known variants: {', '.join(self.registry.variant_names())}"
                    )

    def plan(self, explained: Mapping[str, int], outputs: Iterable[int], help_missing: Missing = lambda op: "") -> Plan:
        """The plan for handing back from `outputs` to the explained inputs.

        Raises
        ------
        InputError
            If no relevance of the outputs can reach an explained input.
        NoRuleError
            If ops on the way have no rule; all are listed.
        UnknownVariantError, UnknownParameterError, AmbiguousRuleError
            If a choice cannot be carried out.
        """
        outputs = tuple(outputs)
        values = set(explained.values())
        carries = carriers(self.graph, values)
        reasons: dict[int, tuple[Any, str]] = {}
        held: dict[int, str] = {}
        if any(use.holds_constant for layer in self.layers for _, use in layer.choices):
            first = self._choose(on_path(self.graph, carries, outputs))
            held = {index: why for index, (use, why) in first.items() if use is not None and use.holds_constant}
            carries = carriers(self.graph, values, held.keys())
        path = on_path(self.graph, carries, outputs)
        if not path and not values & set(outputs):
            raise InputError(self._nothing_arrives(explained, outputs))
        reasons = self._choose(path)
        steps, forms = _with_forms(self.graph, self._steps(path, carries, reasons, help_missing), carries)
        used = {why for _, why in reasons.values()} | set(held.values())
        unused = tuple(
            f"{layer.name}: {select} -> {use}"
            for layer in self.layers[:-1]
            for select, use in layer.choices
            if _reason(layer, select) not in used
        )
        return Plan(
            graph=self.graph,
            composite=self.composite,
            explained=MappingProxyType(dict(explained)),
            outputs=outputs,
            steps=steps,
            held=MappingProxyType({self.graph.nodes[i].name: why for i, why in held.items()}),
            forms=MappingProxyType(forms),
            unused=unused,
        )

    def _choose(self, path: Sequence[int]) -> dict[int, tuple[Any, str]]:
        """The first choice that fits each node, with the reason."""
        views = {i: self._view(self.graph.nodes[i]) for i in path}
        singled: dict[tuple[int, int], int | None] = {}
        for depth, layer in enumerate(self.layers):
            for rank, (select, _) in enumerate(layer.choices):
                if not select.static:
                    fitting = [i for i in path if select.fits(views[i])]
                    singled[depth, rank] = (fitting[0] if select.first else fitting[-1]) if fitting else None
        found: dict[int, tuple[Any, str]] = {}
        for index in path:
            found[index] = (None, "the op's default")
            for depth, layer in enumerate(self.layers):
                hit = next(
                    (
                        (use, _reason(layer, select))
                        for rank, (select, use) in enumerate(layer.choices)
                        if (singled[depth, rank] == index if not select.static else select.fits(views[index]))
                    ),
                    None,
                )
                if hit is not None:
                    found[index] = hit
                    break
        return found

    def _view(self, node: Node) -> NodeView:
        facts = frozenset[str]().union(*(self.facts.of(o) for o in node.outputs if o is not None))
        return NodeView(node, facts, self._variants(node.op))

    def _steps(
        self, path: Sequence[int], carries: frozenset[int], chosen: Mapping[int, tuple[Any, str]], help_missing: Missing
    ) -> tuple[Step, ...]:
        steps: list[Step] = []
        missing: list[Node] = []
        prefer = self.composite.prefer
        for index in path:
            node = self.graph.nodes[index]
            use, why = chosen[index]
            given: Mapping[str, Any]
            rule: Rule | None
            if packet(node.op) in OF_IDS and not any(self.graph.values[o].is_floating for o in node.outputs if o is not None):
                rule, why, given = ids_rule(node.op), "arithmetic on ids", {}
            elif use is None or use.holds_constant:
                rule = self.registry.default(node.op, prefer)
                given = {}
            else:
                rule = self.registry.find(node.op, use.variant, prefer, why) if self.registry.knows(node.op) else None
                given = use.parameters
            if rule is None and self.fallback == "gradient":
                rule, why = gradient_fallback(node.op), "fallback: the op has no rule"
            if rule is None:
                missing.append(node)
                continue
            if rule.coupled and not self.composite.streams:
                raise UnknownVariantError(
                    f"{rule.id} couples two streams of relevance, and composite {self.composite.name!r} has one.\n"
                    f"  fix  Composite(..., streams=('for', 'against')), or composite='dlb_contrastive'."
                )
            slots = tuple(slot for slot in _slots(node) if self._receives(node, slot, carries))
            with noted(f"  asked by    {why}"):
                parameters = rule.complete(given)
            steps.append(Step(node, rule, parameters, why, slots))
        if missing:
            raise NoRuleError(describe_missing(missing, help_missing))
        return tuple(steps)

    def _receives(self, node: Node, slot: Slot, carries: frozenset[int]) -> bool:
        if slot.value not in carries:
            return False
        floating = any(o is not None and self.graph.values[o].is_floating for o in node.outputs)
        embedding = EMBEDDINGS.get(packet(node.op))
        return self.graph.values[slot.value].is_floating or not floating or slot.name == embedding

    def _nothing_arrives(self, explained: Mapping[str, int], outputs: Sequence[int]) -> str:
        named = ", ".join(
            f"{name!r} ({self.graph.values[v].dtype}, shape {self.graph.values[v].shape})"
            for name, v in explained.items()
        )
        reached = [path for path, value in self.graph.outputs.items() if value in outputs]
        return (
            f"nothing to explain: output {', '.join(map(repr, reached))} does not depend on {named} through floating-point "
            "ops or an embedding.\n"
            "  fix  pass floating-point inputs, or name the inputs to explain with explain_inputs=[...]; integer inputs "
            "are explained where they enter an embedding."
        )


def _reason(layer: Layer, select: Any) -> str:
    return f"{layer.name}: {select}"


def _slots(node: Node) -> Iterable[Slot]:
    for name, arg in node.args.items():
        if isinstance(arg, Ref):
            yield Slot(name, None, arg.index)
        elif isinstance(arg, (list, tuple)):
            for item, entry in enumerate(arg):
                if isinstance(entry, Ref):
                    yield Slot(name, item, entry.index)


def _with_forms(
    graph: Graph, steps: Sequence[Step], carries: frozenset[int]
) -> tuple[tuple[Step, ...], dict[int, Form]]:
    """The steps with the forms in which they take and give the message; and the form in which it arrives at each value.

    A message arrives as relevance if any of its parts does.
    """
    forms: dict[int, Form] = {}
    found: list[Step] = []
    for step in reversed(steps):
        takes, gives = step.rule.takes, step.rule.gives
        if takes == "either":
            outputs = [o for o in step.node.outputs if o is not None and o in carries]
            known = any(forms.get(o) == "relevance" or not graph.values[o].is_floating for o in outputs)
            takes = "relevance" if known else "multiplier"
        gives = takes if gives == "either" else gives
        for slot in step.slots:
            if gives == "relevance" or not graph.values[slot.value].is_floating:
                forms[slot.value] = "relevance"
            else:
                forms.setdefault(slot.value, "multiplier")
        found.append(replace(step, takes=takes, gives=gives))
    return tuple(reversed(found)), forms


def describe_missing(nodes: Sequence[Node], help_missing: Missing) -> str:
    """All ops without a rule, each with where it runs."""
    by_op: dict[str, list[Node]] = {}
    for node in nodes:
        by_op.setdefault(node.op, []).append(node)
    lines = [f"no relevance rule for {', '.join(by_op)}"]
    helped: dict[str, None] = {}
    for op, found in by_op.items():
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        lines.append(f"  op          {op}\n  node        {found[0].name} in {found[0].site}{more}")
        helped.update(dict.fromkeys(help_missing(op).splitlines()))
    lines += helped
    op = next(iter(by_op))
    lines.append(
        f"  fix         in a plugin ('dlbt new-plugin' writes one) write it as ops that have rules: "
        f"@add.lowering({packet(op)!r}),\n"
        f"              or register a rule: @add.rule({packet(op)!r}, variant='epsilon', default=True) def ...(ctx, m); or "
        "hold the node constant:\n"
        f"              rules=[(Select(op={packet(op)!r}), Use('constant'))]; or run the op's gradient: "
        "fallback='gradient'"
    )
    return "\n".join(lines)
