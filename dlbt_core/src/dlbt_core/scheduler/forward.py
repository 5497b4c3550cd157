"""The forward pass of a plan: replay the recorded ops, keep what the rules will read, free the rest."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dlbt_core.errors import GuardError
from dlbt_core.graph.ir import Graph, Guard, Node, Ref, refs_in
from dlbt_core.graph.ops import arguments, resolve_op
from dlbt_core.rules.pullback import Pullback
from dlbt_core.scheduler.derived import DerivedWeights, weights_only
from dlbt_core.scheduler.plan import Plan, Slot, Step

__all__ = ["ForwardProgram", "ForwardRun", "state_getters"]


@dataclass(slots=True)
class ForwardRun:
    """What a forward pass left for the backward pass: values by index (None where freed) and pullbacks by node."""

    values: list[Any]
    pullbacks: dict[int, Pullback]


class _Call(NamedTuple):
    """One op, ready to run: where its tensors go among its arguments, and what may be freed afterwards."""

    node: Node
    op: Any
    positional: list[Any]
    keywords: dict[str, Any]
    places: tuple[tuple[int, Any], ...]
    keyed: tuple[tuple[str, Any], ...]
    frees: tuple[int, ...]
    entries: tuple[_Entry, ...]


class _Entry(NamedTuple):
    """A carrying argument: its slot, and its place among the positional arguments, if it is one of them."""

    slot: Slot
    place: int | None


class ForwardProgram:
    """Runs the recorded ops on new inputs.

    Parameters
    ----------
    graph
        The recorded run.
    plan
        What will be handed back; None just computes the outputs.
    keep
        Further values to keep.
    """

    def __init__(self, graph: Graph, plan: Plan | None = None, keep: Iterable[int] = ()) -> None:
        self.graph = graph
        steps = {step.node.index: step for step in plan.steps} if plan is not None else {}
        kept = set(keep) | set(graph.outputs.values()) | set(_needed_backward(plan))
        nodes = _living(graph, kept, steps)
        derived = weights_only(graph, nodes)
        kept |= {o for index in derived for o in graph.nodes[index].outputs if o is not None}
        self._frees = _last_uses(nodes, kept, graph)
        prepared = [self._prepare(node, steps.get(node.index)) for node in nodes]
        self._calls = [call for call in prepared if call.node.index not in derived]
        self._deriving = [call for call in prepared if call.node.index in derived]
        sources = {i for call in self._deriving for i in call.node.inputs if graph.values[i].kind != "result"}
        self._derived = DerivedWeights(sorted(sources))
        self._fixed: dict[int, Tensor] = {}
        self._constant = _input_free(graph)
        self._id_dtype = graph.values[plan.outputs[0]].dtype if plan is not None and plan.outputs else torch.float32

    def _prepare(self, node: Node, step: Step | None) -> _Call:
        positional: list[Any] = []
        keywords: dict[str, Any] = {}
        places: list[tuple[int, Any]] = []
        keyed: list[tuple[str, Any]] = []
        for argument in arguments(node.op):
            value = node.args.get(argument.name, argument.default)
            if argument.name == "end" and isinstance(value, int) and value == sys.maxsize:
                value = None  # "to the end"; as a number it overflows in torch's own batching rules
            tensors = _tensor_template(value)
            if argument.keyword_only:
                if argument.name in node.args:
                    keywords[argument.name] = value
                    if tensors is not None:
                        keyed.append((argument.name, tensors))
            else:
                if tensors is not None:
                    places.append((len(positional), tensors))
                positional.append(value)
        entries: tuple[_Entry, ...] = ()
        if step is not None and step.reads is not None and "pullback" in step.reads:
            order = [a.name for a in arguments(node.op) if not a.keyword_only]
            entries = tuple(_Entry(s, order.index(s.name) if s.name in order else None) for s in step.slots)
        return _Call(
            node, resolve_op(node.op), positional, keywords, tuple(places), tuple(keyed),
            self._frees.get(node.index, ()), entries,
        )  # fmt: skip

    def run(self, inputs: Mapping[str, Tensor], states: Callable[[str], Tensor]) -> ForwardRun:
        """Replay the ops.

        Parameters
        ----------
        inputs
            Input tensors by path.
        states
            Gives the model's parameter or buffer of a name, as it is now.

        Raises
        ------
        GuardError
            If the run would have gone another way than the recorded one.
        """
        graph = self.graph
        values: list[Any] = [None] * len(graph.values)
        for path, index in graph.inputs.items():
            values[index] = inputs[path]
        for name, index in graph.states.items():
            values[index] = states(name)
        for index, tensor in graph.constants.items():
            values[index] = tensor
        pullbacks: dict[int, Pullback] = {}
        device = next((v.device for v in values if isinstance(v, Tensor)), torch.device("cpu"))
        seeds: dict[torch.device, Tensor] = {}
        with torch.inference_mode(False), torch.no_grad():
            self._derive(values)
            for call in self._calls:
                if call.entries:
                    self._run_with_pullback(call, values, pullbacks, seeds, device)
                else:
                    self._run_plain(call, values)
                for index in call.frees:
                    values[index] = None
        return ForwardRun(values, pullbacks)

    def _derive(self, values: list[Any]) -> None:
        """Fill in what depends on weights alone; computed anew only if a weight has changed."""
        if not self._deriving:
            return
        if not self._derived.fresh(values):
            for call in self._deriving:
                self._run_plain(call, values)
            read = {index for call in self._calls for index in call.node.inputs}
            self._derived.values.update(
                (o, values[o]) for call in self._deriving for o in call.node.outputs if o is not None and o in read
            )
        for index, value in self._derived.values.items():
            values[index] = value

    def _run_plain(self, call: _Call, values: list[Any]) -> None:
        node = call.node
        if node.outputs and node.outputs[0] in self._fixed:
            values[node.outputs[0]] = self._fixed[node.outputs[0]]
            return
        args, kwargs = _fill(call, values)
        out = call.op(*args, **kwargs)
        if node.guard is not None:
            _check_guard(node, node.guard, out)
        if node.many:
            for index, item in zip(node.outputs, out, strict=False):
                if index is not None:
                    values[index] = item
        elif node.outputs and node.outputs[0] is not None:
            values[node.outputs[0]] = out
            if node.index in self._constant:
                self._fixed[node.outputs[0]] = out

    def _run_with_pullback(
        self,
        call: _Call,
        values: list[Any],
        pullbacks: dict[int, Pullback],
        seeds: dict[torch.device, Tensor],
        device: torch.device,
    ) -> None:
        """Run an op with autograd on, as a graph of its own."""
        node = call.node
        seed = seeds.get(device)
        if seed is None:
            seed = seeds[device] = torch.zeros((), device=device, requires_grad=True)
        args, kwargs = _fill(call, values)
        entries: dict[tuple[str, int | None], Tensor] = {}
        torch.set_grad_enabled(True)
        try:
            for (name, item, value), place in call.entries:
                entry = entries[name, item] = Pullback.enter(seed, values[value], self._id_dtype)
                where: Any = kwargs if place is None else args
                key: Any = name if place is None else place
                if item is None:
                    where[key] = entry
                else:
                    where[key][item] = entry
            out = call.op(*args, **kwargs)
        finally:
            torch.set_grad_enabled(False)
        outs = list(out) if node.many else [out]
        pullbacks[node.index] = Pullback(node.op, outs, entries)
        if node.guard is not None:
            _check_guard(node, node.guard, out)
        for index, item in zip(node.outputs, outs, strict=False):
            if index is not None:
                value, dtype = item.detach(), self.graph.values[index].dtype
                values[index] = value if value.dtype == dtype else value.to(dtype)


def _tensor_template(value: Any) -> Any:
    """Where an argument has tensors: a value index, or a list of value indices and constants."""
    if isinstance(value, Ref):
        return value.index
    if isinstance(value, (list, tuple)) and any(isinstance(item, Ref) for item in value):
        return list(value)
    return None


def _fill(call: _Call, values: list[Any]) -> tuple[list[Any], dict[str, Any]]:
    args = call.positional.copy()
    for place, template in call.places:
        args[place] = _tensors(template, values)
    if not call.keyed:
        return args, call.keywords.copy()
    kwargs = call.keywords.copy()
    for name, template in call.keyed:
        kwargs[name] = _tensors(template, values)
    return args, kwargs


def _tensors(template: Any, values: list[Any]) -> Any:
    if isinstance(template, int):
        return values[template]
    return [values[item.index] if isinstance(item, Ref) else item for item in template]


def _check_guard(node: Node, guard: Guard, out: Any) -> None:
    """Raise if Python would have seen something else here than when the run was recorded."""
    if guard.kind == "result":
        holds = out == guard.expected or (out != out and guard.expected != guard.expected)
    elif guard.kind == "content":
        same = (out == guard.expected) | ((out != out) & (guard.expected != guard.expected))
        holds = out.shape == guard.expected.shape and bool(same.all())
    else:
        items = out if isinstance(out, (list, tuple)) else [out]
        holds = tuple(tuple(o.shape) for o in items if isinstance(o, Tensor)) == guard.expected
    if not holds:
        raise GuardError(f"{node.name} in {node.site}: {guard.kind} differs from the recording")


def _living(graph: Graph, wanted: set[int], steps: Mapping[int, Step]) -> list[Node]:
    """Nodes whose results are wanted, or guard the way the run goes, with all that they are computed from."""
    needed = set(wanted)
    living: list[Node] = []
    for node in reversed(graph.nodes):
        if node.guard is not None or node.index in steps or any(o in needed for o in node.outputs):
            living.append(node)
            needed.update(node.inputs)
    return living[::-1]


def _needed_backward(plan: Plan | None) -> Iterable[int]:
    """Values that rules, conversions and results will read after the forward pass."""
    if plan is None:
        return
    graph = plan.graph
    yield from plan.explained.values()
    for step in plan.steps:
        for output in step.node.outputs:
            if (
                output is not None
                and plan.forms.get(output, "multiplier") != step.takes
                and graph.values[output].is_floating
            ):
                yield output
        for slot in step.slots:
            if step.gives == "multiplier" and plan.forms.get(slot.value) == "relevance":
                yield slot.value
        yield from read_values(step)


def read_values(step: Step) -> Iterable[int]:
    """The values a rule reads, by what it declares."""
    reads = step.reads
    carrying = {slot.value for slot in step.slots}
    for name, arg in step.node.args.items():
        for ref in refs_in(arg):
            carries = ref.index in carrying
            if reads is None or name in reads or ("carrying" if carries else "constants") in reads:
                yield ref.index
    if reads is None or "output" in reads:
        yield from (o for o in step.node.outputs if o is not None)


def _last_uses(nodes: Sequence[Node], kept: set[int], graph: Graph) -> dict[int, tuple[int, ...]]:
    """Node to the values that nobody needs after it."""
    last: dict[int, int] = {}
    for node in nodes:
        for index in (*node.inputs, *(o for o in node.outputs if o is not None)):
            last[index] = node.index
    frees: dict[int, list[int]] = {}
    for index, node_index in last.items():
        if index not in kept and graph.values[index].kind in ("result", "input"):
            frees.setdefault(node_index, []).append(index)
    return {node: tuple(found) for node, found in frees.items()}


def _input_free(graph: Graph) -> frozenset[int]:
    """Nodes whose one result depends on neither inputs nor weights: computed once."""
    fixed: set[int] = set()
    found: set[int] = set()
    for node in graph.nodes:
        single = not node.many and len(node.outputs) == 1 and node.outputs[0] is not None and node.guard is None
        if single and all(index in fixed for index in node.inputs):
            found.add(node.index)
            fixed.update(o for o in node.outputs if o is not None)
    return frozenset(found)


def state_getters(model: Any, names: Iterable[str]) -> dict[str, Callable[[], Tensor]]:
    """For each parameter or buffer name a function that gives the tensor as it is now."""
    getters: dict[str, Callable[[], Tensor]] = {}
    for name in names:
        path, _, leaf = name.rpartition(".")
        owner = reduce(getattr, path.split("."), model) if path else model
        getters[name] = partial(getattr, owner, leaf)
    return getters
