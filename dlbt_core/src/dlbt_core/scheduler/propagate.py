"""The backward pass of a plan: each node's rule hands its message back, from the target to the explained inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from dlbt_core.errors import RuleContractError
from dlbt_core.graph.facts import Facts
from dlbt_core.graph.ir import Graph, Ref, refs_in, substitute
from dlbt_core.graph.ops import arguments
from dlbt_core.graph.samples import SampleAxis
from dlbt_core.rules.context import RuleContext, multiply, stabilise
from dlbt_core.rules.rule import Form
from dlbt_core.scheduler.forward import ForwardRun, read_values
from dlbt_core.scheduler.ledger import Bookkeeper
from dlbt_core.scheduler.plan import Plan, Step

__all__ = ["BackwardProgram", "Propagation"]

TO_MULTIPLIER_EPSILON = 1e-12


@dataclass
class Propagation:
    """What came out of one backward pass: tensors only, so that it can be mapped over targets."""

    relevance: dict[int, Tensor] = field(default_factory=dict)
    multipliers: dict[int, Tensor] = field(default_factory=dict)
    amounts: dict[tuple[int, str], Tensor] = field(default_factory=dict)
    unassigned: dict[tuple[int, str], Tensor] = field(default_factory=dict)
    received: dict[int, Tensor] = field(default_factory=dict)
    handed_on: dict[int, Tensor] = field(default_factory=dict)


class BackwardProgram:
    """Hands messages back along a plan.

    Parameters
    ----------
    plan
        The resolved rules.
    facts
        Facts of the graph, for rules that ask.
    report
        Values whose relevance is wanted besides that of the explained inputs.
    """

    def __init__(self, plan: Plan, facts: Facts, report: Iterable[int] = ()) -> None:
        self.plan = plan
        self.graph: Graph = plan.graph
        self.facts = facts
        self.forms: Mapping[int, Form] = plan.forms
        self.report = frozenset(report) | frozenset(plan.explained.values())
        self._steps = [_Prepared(step, plan, facts) for step in reversed(plan.steps)]

    def run(
        self,
        forward: ForwardRun,
        seeds: Mapping[int, Tensor],
        axes: Mapping[int, SampleAxis],
        samples: int,
        *,
        audit: bool = False,
        multipliers: bool = False,
        release: bool = True,
        cache: Callable[[Any, Callable[[], Any]], Any] | None = None,
        on_step: Callable[[Step], None] | None = None,
    ) -> Propagation:
        """One backward pass.

        Parameters
        ----------
        forward
            The forward pass it belongs to.
        seeds
            Value to multiplier: the derivative of the target by that output.
        axes, samples
            Where the samples of the batch lie, for the books.
        audit
            Whether to sum what comes in and goes out at each node.
        multipliers
            Whether the messages of the explained inputs are wanted as multipliers, too.
        release
            Whether forward values may be freed on the way.
        """
        books = Bookkeeper(self.graph, axes, samples)
        result = Propagation(amounts=books.amounts, unassigned=books.unassigned)
        messages: dict[int, tuple[Form, Tensor]] = {index: ("multiplier", seed) for index, seed in seeds.items()}
        values = forward.values
        for prepared in self._steps:
            node = prepared.step.node
            incoming = [messages.pop(o, None) if o is not None else None for o in node.outputs]
            if any(message is not None for message in incoming):
                for index, message in zip(node.outputs, incoming, strict=True):
                    if index in self.report and message is not None:
                        result.relevance[index] = self._as(message, "relevance", index, values)
                self._hand_back(prepared, incoming, messages, forward, books, result, audit, cache)
            if release:
                forward.pullbacks.pop(node.index, None)
                for index in prepared.frees:
                    values[index] = None
            if on_step is not None:
                on_step(prepared.step)
        for index, message in messages.items():
            if index in self.report:
                result.relevance[index] = self._as(message, "relevance", index, values)
                if multipliers:
                    result.multipliers[index] = self._as(message, "multiplier", index, values)
        return result

    def _hand_back(
        self,
        prepared: _Prepared,
        incoming: Sequence[tuple[Form, Tensor] | None],
        messages: dict[int, tuple[Form, Tensor]],
        forward: ForwardRun,
        books: Bookkeeper,
        result: Propagation,
        audit: bool,
        cache: Any,
    ) -> None:
        step, node, values = prepared.step, prepared.step.node, forward.values
        taken = [
            None if message is None else self._as(message, prepared.takes, index, values)
            for index, message in zip(node.outputs, incoming, strict=True)
        ]
        books.allowed = step.rule.absorbs
        ctx = prepared.context(values, forward.pullbacks.get(node.index), books, cache)
        handed = step.rule.function(ctx, taken if node.many else taken[0], **step.parameters)
        flows: list[Tensor] = []
        for slot, message in prepared.distribute(handed):
            if message is None:
                continue
            self._check(prepared, slot.value, message)
            form: Form = prepared.gives
            if audit:
                flows.append(self._flow(form, message, slot.value, values, books))
            self._add(messages, slot.value, form, message, values)
        if audit:
            arriving = [
                self._flow(message[0], message[1], index, values, books)
                for index, message in zip(node.outputs, incoming, strict=True)
                if message is not None and index is not None
            ]
            result.received[node.index] = _sum(arriving)
            result.handed_on[node.index] = _sum(flows) if flows else torch.zeros_like(result.received[node.index])

    def _flow(self, form: Form, message: Tensor, value: int, values: list[Any], books: Bookkeeper) -> Tensor:
        factor = values[value] if form == "multiplier" and self.graph.values[value].is_floating else None
        return books.total(message, factor, books.axes.get(value)).double()

    def _add(
        self, messages: dict[int, tuple[Form, Tensor]], index: int, form: Form, message: Tensor, values: list[Any]
    ) -> None:
        wanted = self.forms.get(index, form)
        message = self._as((form, message), wanted, index, values)
        known = messages.get(index)
        if known is not None and known[0] != wanted:
            known = (wanted, self._as(known, wanted, index, values))
        messages[index] = (wanted, message if known is None else known[1] + message)

    def _as(self, message: tuple[Form, Tensor], form: Form, index: int | None, values: list[Any]) -> Tensor:
        """The message of a value in another form. ``R -> m`` is the only stabilised division of the core."""
        have, tensor = message
        if have == form or form == "either" or index is None or not self.graph.values[index].is_floating:
            return tensor
        if form == "relevance":
            infinite = self.facts.has(index, "infinite")
            return multiply(values[index], tensor) if infinite else values[index] * tensor
        return tensor / stabilise(values[index], TO_MULTIPLIER_EPSILON)

    def _check(self, prepared: _Prepared, index: int, message: Tensor) -> None:
        expected = self.graph.values[index]
        if tuple(message.shape) != expected.shape:
            step = prepared.step
            raise RuleContractError(
                f"{step.rule.id} returned a message of shape {tuple(message.shape)} for a value of shape "
                f"{expected.shape} (node {step.node.name} in {step.node.site}).\n  where  {step.rule.location}"
            )


class _Arguments(Mapping[str, Any]):
    """A node's arguments by schema name, defaults included, with the tensors of one run; looked up when asked for."""

    __slots__ = ("_prepared", "_values")

    def __init__(self, prepared: _Prepared, values: list[Any]) -> None:
        self._prepared = prepared
        self._values = values

    def __getitem__(self, name: str) -> Any:
        prepared = self._prepared
        node = prepared.step.node
        if name not in node.args:
            return prepared.defaults[name]
        given = node.args[name]
        if isinstance(given, list):
            return [self._values[x.index] if isinstance(x, Ref) else x for x in given]
        for ref in refs_in(given):
            if ref.index not in prepared.available:
                rule = prepared.step.rule
                raise RuleContractError(
                    f"{rule.id} uses ctx.args[{name!r}], which it did not declare; its reads are {prepared.step.reads}.\n"
                    f"  fix    reads=(..., {name!r}) in its declaration, or no reads at all.\n  where  {rule.location}"
                )
        return substitute(given, lambda ref: self._values[ref.index])

    def __iter__(self) -> Iterator[str]:
        return iter(self._prepared.defaults)

    def __len__(self) -> int:
        return len(self._prepared.defaults)


class _Prepared:
    """A step with all that does not change from run to run."""

    def __init__(self, step: Step, plan: Plan, facts: Facts) -> None:
        graph = plan.graph
        self.step = step
        self.takes = step.takes(plan.forms, graph)
        self.gives = step.gives(plan.forms, graph)
        self.available = frozenset(read_values(step)) | {
            ref for ref in step.node.inputs if graph.values[ref].kind != "result"
        }
        self.values = {(slot.name, slot.item): graph.values[slot.value] for slot in step.slots}
        self.defaults = {a.name: a.default for a in arguments(step.node.op)}
        self.facts = MappingProxyType(
            {name: facts.of(arg.index) for name, arg in step.node.args.items() if isinstance(arg, Ref)}
        )
        self.frees = tuple(
            o
            for o in step.node.outputs
            if o is not None and o not in plan.explained.values() and o not in graph.outputs.values()
        )

    def context(self, values: list[Any], pullback: Any, books: Bookkeeper, cache: Any) -> RuleContext:
        step = self.step
        node = step.node
        args = _Arguments(self, values)
        if step.reads is None or "output" in step.reads:
            outs = tuple(None if o is None else values[o] for o in node.outputs)
            output: Any = outs if node.many else outs[0]
        else:
            output = None
        return RuleContext(
            node, args, output, step.carrying_names, self.values, self.facts, books, pullback, cache, step.rule.id
        )

    def distribute(self, handed: Any) -> Iterable[tuple[Any, Tensor | None]]:
        """The messages of a rule's mapping, each with its place."""
        step = self.step
        if not isinstance(handed, Mapping):
            raise RuleContractError(
                f"{step.rule.id} returned {type(handed).__name__}; a rule returns a mapping from argument name to message."
                f"\n  where  {step.rule.location}"
            )
        unknown = sorted(set(handed) - step.carrying_names)
        if unknown:
            raise RuleContractError(
                f"{step.rule.id} returned a message for {unknown[0]!r}, which carries no relevance here; "
                f"{', '.join(sorted(step.carrying_names))} do.\n  where  {step.rule.location}"
            )
        for slot in step.slots:
            given = handed.get(slot.name)
            if slot.item is not None and given is not None:
                given = given[slot.item]
            yield slot, given


def _sum(tensors: Sequence[Tensor]) -> Tensor:
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total + tensor
    return total
