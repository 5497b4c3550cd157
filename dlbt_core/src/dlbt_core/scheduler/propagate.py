"""The backward pass of a plan: each node's rule hands its message back, from the target to the explained inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from dlbt_core.errors import DlbtError, RuleContractError
from dlbt_core.graph.facts import Facts
from dlbt_core.graph.ir import Graph, Node, Ref, refs_in, substitute
from dlbt_core.graph.ops import arguments
from dlbt_core.graph.samples import Samples
from dlbt_core.rules.context import Books, RuleContext, multiply, paired, share_of_epsilon, stabilise
from dlbt_core.rules.rule import Form
from dlbt_core.scheduler.derived import RuleCache
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
        self.rule_cache = RuleCache(self.graph)
        self.forms: Mapping[int, Form] = plan.forms
        self.report = frozenset(report) | frozenset(plan.explained.values())
        self._steps = [_Prepared(step, plan, facts) for step in reversed(plan.steps)]

    def run(
        self,
        forward: ForwardRun,
        streams: Sequence[Mapping[int, Tensor]],
        samples: Samples,
        *,
        audit: bool = False,
        multipliers: bool = False,
        release: bool = True,
        on_step: Callable[[Step], None] | None = None,
    ) -> list[Propagation]:
        """One backward pass; what came out of each stream.

        Parameters
        ----------
        forward
            The forward pass it belongs to.
        streams
            For each stream of messages value to multiplier: the derivative of the target by that output. All streams enter
            at the same values.
        samples
            Where the samples of the batch lie, for the books.
        audit
            Whether to sum what comes in and goes out at each node.
        multipliers
            Whether the messages of the explained inputs are wanted as multipliers, also where they arrive as relevance.
        release
            Whether forward values may be freed on the way.
        """
        passes = [_Pass(self, forward, Bookkeeper(self.graph, samples.axes, samples.count), audit) for _ in streams]
        for one, seeds in zip(passes, streams, strict=True):
            one.enter(seeds)
        for prepared in self._steps:
            if prepared.step.rule.coupled:
                _step_together(passes, prepared)
            else:
                for one in passes:
                    one.step(prepared)
            if release:
                passes[0].release(prepared)
            if on_step is not None:
                on_step(prepared.step)
        return [one.finish(multipliers) for one in passes]


Message = tuple[Form, Tensor]


def _step_together(passes: Sequence[_Pass], prepared: _Prepared) -> None:
    """Let one node's rule hand the messages of all streams back at once."""
    arrived = [one.arrived(prepared) for one in passes]
    if not all(arrived):
        for one in passes:
            one.pass_over(prepared)
        return
    messages = [one.taken(prepared, came) for one, came in zip(passes, arrived, strict=True)]
    together = [None if parts[0] is None else torch.stack(parts) for parts in zip(*messages, strict=True)]
    books = _BooksOfStreams([one.books for one in passes])
    handed = passes[0].ask(prepared, together, books)
    for stream, (one, came) in enumerate(zip(passes, arrived, strict=True)):
        one.hand_on(prepared, came, {name: _of_stream(given, stream) for name, given in handed.items()})


def _of_stream(given: Any, stream: int) -> Any:
    return [x if x is None else x[stream] for x in given] if isinstance(given, list) else given[stream]


class _BooksOfStreams:
    """Books an amount with a leading stream axis in the books of each stream."""

    def __init__(self, books: Sequence[Bookkeeper]) -> None:
        self._books = books

    def absorb(self, node: Node, name: str, amount: Tensor, times: Tensor | None, like: int | None) -> None:
        """See `Bookkeeper.absorb`."""
        for books, part in zip(self._books, amount, strict=True):
            books.absorb(node, name, part, times, like)


class _Pass:
    """One stream of a backward pass: the messages on their way, the books, and what has come out so far."""

    def __init__(self, program: BackwardProgram, forward: ForwardRun, books: Bookkeeper, audit: bool) -> None:
        self.graph = program.graph
        self.messages: dict[int, Message] = {}
        self._program = program
        self._forward = forward
        self._values = forward.values
        self.books = books
        self._audit = audit
        self._result = Propagation(amounts=books.amounts, unassigned=books.unassigned)

    def enter(self, seeds: Mapping[int, Tensor]) -> None:
        """Let relevance enter at the values a target looks at."""
        self._device = next((seed.device for seed in seeds.values()), torch.device("cpu"))
        self.messages.update((index, ("multiplier", seed)) for index, seed in seeds.items())

    def step(self, prepared: _Prepared) -> None:
        """Let one node's rule hand its message back."""
        arrived = self.arrived(prepared)
        if not arrived:
            self.pass_over(prepared)
        else:
            handed = self.ask(prepared, self.taken(prepared, arrived), self.books)
            self.hand_on(prepared, arrived, handed)

    def pass_over(self, prepared: _Prepared) -> None:
        """A node that no message has come to: under an audit it has an account all the same."""
        if self._audit:
            nothing = torch.zeros(self.books.samples, dtype=torch.float64, device=self._device)
            self._result.received[prepared.step.node.index] = self._result.handed_on[prepared.step.node.index] = nothing

    def arrived(self, prepared: _Prepared) -> dict[int, Message]:
        """The messages that have come to a node's results."""
        node = prepared.step.node
        arrived = {o: self.messages.pop(o) for o in node.outputs if o is not None and o in self.messages}
        for index in arrived.keys() & self._program.report:
            self._result.relevance[index] = self._as("relevance", arrived[index], index)
        return arrived

    def taken(self, prepared: _Prepared, arrived: Mapping[int, Message]) -> list[Tensor | None]:
        """The same in the form that the rule takes, one for each result."""
        self.books.rule = prepared.step.rule
        taken = {index: self._take(prepared, message, index) for index, message in arrived.items()}
        return [None if o is None else taken.get(o) for o in prepared.step.node.outputs]

    def ask(self, prepared: _Prepared, message: Sequence[Tensor | None], books: Books) -> Any:
        """What the rule hands back."""
        node = prepared.step.node
        pullback = self._forward.pullbacks.get(node.index)
        ctx = prepared.context(self._values, pullback, books, self._program.rule_cache)
        given = message if node.many else message[0]
        rule = prepared.step.rule
        try:
            return rule.function(ctx, given, **prepared.step.parameters)
        except Exception as error:
            if not isinstance(error, DlbtError):
                error.add_note(f"in rule {rule.id} of node {node.name} in {node.site}\n  where  {rule.location}")
            raise

    def hand_on(self, prepared: _Prepared, arrived: Mapping[int, Message], handed: Any) -> None:
        """Check what a rule hands back, and send it on."""
        node = prepared.step.node
        sent = [(slot.value, (prepared.gives, part)) for slot, part in prepared.distribute(handed) if part is not None]
        for index, (_, part) in sent:
            prepared.check(index, part, self.graph)
        if self._audit:
            self._weigh(node.index, list(arrived.items()), sent)
        for index, outgoing in sent:
            self._send(index, outgoing)

    def _take(self, prepared: _Prepared, message: Message, index: int) -> Tensor:
        """The message as the rule takes it; what a conversion to a multiplier loses is booked."""
        tensor = self._as(prepared.takes, message, index)
        if message[0] == "relevance" and prepared.takes == "multiplier" and self.graph.values[index].is_floating:
            lost = message[1] * share_of_epsilon(self._values[index], TO_MULTIPLIER_EPSILON)
            self.books.absorb_anyway(prepared.step.node, "epsilon", lost, index)
        return tensor

    def _send(self, index: int, message: Message) -> None:
        """Add a message to those that have met at a value; if any of them is relevance, all are turned into it."""
        form = self._program.forms.get(index, message[0])
        tensor = self._as(form, message, index)
        known = self.messages.get(index)
        self.messages[index] = (form, tensor if known is None else self._as(form, known, index) + tensor)

    def _as(self, form: Form, message: Message, index: int) -> Tensor:
        """A message in another form. ``R -> m`` is the only stabilised division of the core."""
        have, tensor = message
        value = self.graph.values[index]
        if have == form or form == "either" or not value.is_floating:
            return tensor
        if form == "multiplier":
            return tensor / stabilise(self._values[index].conj(), TO_MULTIPLIER_EPSILON)
        if value.kind == "input" or self._program.facts.has(index, "infinite"):
            return multiply(self._values[index], tensor)
        return paired(self._values[index], tensor)

    def _weigh(self, node: int, arrived: Sequence[tuple[int, Message]], sent: Sequence[tuple[int, Message]]) -> None:
        """Sum what came in and what goes out; over all samples where they cannot be told apart."""
        received, handed_on = ([self._weight(*item) for item in items] for items in (arrived, sent))
        if any(total.dim() == 0 for total in (*received, *handed_on)):
            received, handed_on = [t.sum() for t in received], [t.sum() for t in handed_on]
        nothing = torch.zeros_like(received[0])
        self._result.received[node] = sum(received, nothing)
        self._result.handed_on[node] = sum(handed_on, nothing)

    def _weight(self, index: int, message: Message) -> Tensor:
        form, tensor = message
        if form == "multiplier" and self.graph.values[index].is_floating:
            tensor = multiply(self._values[index], tensor)
        return self.books.total(tensor, self.books.axes.get(index)).double()

    def release(self, prepared: _Prepared) -> None:
        """Free what nobody will read any more."""
        self._forward.pullbacks.pop(prepared.step.node.index, None)
        for index in prepared.frees:
            self._values[index] = None

    def finish(self, multipliers: bool) -> Propagation:
        """What has arrived at the explained inputs."""
        for index in self.messages.keys() & self._program.report:
            self._result.relevance[index] = self._as("relevance", self.messages[index], index)
            if multipliers or self.messages[index][0] == "multiplier":
                self._result.multipliers[index] = self._as("multiplier", self.messages[index], index)
        return self._result


class _NoArgument(RuleContractError, KeyError):
    """Also a `KeyError`, so that ``in`` and ``get`` work."""

    def __init__(self, name: str, step: Step, there: Iterable[str]) -> None:
        super().__init__(
            f"{step.rule.id} uses ctx.args[{name!r}], which {step.node.op} does not have.\n"
            f"  fix    one of its arguments: {', '.join(there)}.\n  where  {step.rule.location}"
        )

    __str__ = Exception.__str__  # KeyError's own is a repr


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
            if name not in prepared.defaults:
                raise _NoArgument(name, prepared.step, prepared.defaults)
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
        self.takes = step.takes
        self.gives = step.gives
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

    def context(self, values: list[Any], pullback: Any, books: Books, cache: RuleCache) -> RuleContext:
        step = self.step
        node = step.node
        args = _Arguments(self, values)
        if step.reads is None or "output" in step.reads:
            outs = tuple(None if o is None else values[o] for o in node.outputs)
            output: Any = outs if node.many else outs[0]
        else:
            output = None
        return RuleContext(
            node,
            args,
            output,
            step.carrying_names,
            self.values,
            self.facts,
            books,
            pullback,
            partial(cache.get, node, values),
            step.rule.id,
            self.takes,
        )

    def check(self, index: int, message: Tensor, graph: Graph) -> None:
        """Refuse a message that does not have its value's shape."""
        if tuple(message.shape) != graph.values[index].shape:
            step = self.step
            raise RuleContractError(
                f"{step.rule.id} returned a message of shape {tuple(message.shape)} for a value of shape "
                f"{graph.values[index].shape} (node {step.node.name} in {step.node.site}).\n"
                "  fix    hand on a message of that shape; where the rule is not yours, give the op another variant.\n"
                f"  where  {step.rule.location}"
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
