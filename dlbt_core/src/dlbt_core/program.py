"""A program: the plan of a call with its two passes, the same for each call of its kind."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property, partial
from typing import Any

from dlbt_core.composites.composite import Composite
from dlbt_core.graph.experts import Mixture, mixtures, needed
from dlbt_core.graph.facts import carriers
from dlbt_core.graph.ir import Graph, Node
from dlbt_core.graph.sample_axis import LOST, SampleAxis
from dlbt_core.graph.samples import Follower, Samples
from dlbt_core.plugins.loader import Plugins
from dlbt_core.plugins.services import analysers_of, asked_for, composite_for, graph_pass, help_missing
from dlbt_core.scheduler.capture import Capture
from dlbt_core.scheduler.forward import ForwardProgram, ForwardRun
from dlbt_core.scheduler.plan import Plan
from dlbt_core.scheduler.propagate import BackwardProgram
from dlbt_core.scheduler.resolve import Layer, Resolver
from dlbt_core.seeds import Met
from dlbt_core.target import FunctionTarget, Target

__all__ = ["Job", "Program", "audited", "path_of", "program_of"]


@dataclass(frozen=True)
class Job:
    """What is asked of one call."""

    plugins: Plugins
    composite: str | Composite
    layers: tuple[Layer, ...]
    targets: Sequence[Target | FunctionTarget]
    report: str | Sequence[str]
    audit: bool
    fallback: str | None
    progress: bool

    @cached_property
    def whole(self) -> frozenset[str]:
        """Ops that are recorded as they are because a choice asks for a rule of theirs."""
        return asked_for(self.plugins, self.composite, (choice for layer in self.layers for choice in layer.choices))


@dataclass
class Program:
    """A plan with its two passes, and which values the explanation will show under which names."""

    capture: Capture
    plan: Plan
    forward: ForwardProgram
    backward: BackwardProgram
    shown: dict[str, int]
    follower: Follower
    mixtures: tuple[Mixture, ...] = ()

    def samples(self, run: ForwardRun, met: Sequence[Met]) -> Samples:
        """Where the samples of a run lie, as far as it can be told with what all these targets look at."""
        count = met[0].score.shape[0]
        ends: dict[int, SampleAxis] = {}
        for value, axis in (item for one in met for item in one.ends.items()):
            ends[value] = axis if ends.get(value, axis).same(axis) else LOST
        return self.follower.samples(count, self.follower.forward(count, run.values), path_of(self.plan), ends)


def program_of(found: Capture, explained: Iterable[str], job: Job) -> Program:
    """The plan and its passes; kept with the capture, since they are the same for each call of this kind."""
    floating = found.floating_outputs()
    paths = tuple(dict.fromkeys(path for target in job.targets for path in target.paths(floating)))
    report = job.report if isinstance(job.report, str) else tuple(job.report)
    choices = tuple((layer.name, tuple(layer.choices)) for layer in job.layers)
    key = (
        paths, job.composite, choices, report, job.audit, job.fallback, tuple(explained), job.plugins.generation,
        found.unpassed,
    )  # fmt: skip
    programs: dict[Any, Program] = found.programs
    known = programs.get(key)
    if known is not None:
        return known
    composite = composite_for(job.plugins, job.composite, found.graph, found.facts)
    if composite.passes and found.unpassed:
        composite = replace(composite, passes=(), note="; ".join(filter(None, (composite.note, _UNPASSED))))
    if composite.passes:
        found = _passed(found, composite, job)
    resolver = Resolver(found.graph, found.facts, job.plugins.registry, composite, job.layers, job.fallback)
    outputs = tuple(found.graph.outputs[path] for path in paths)
    plan = resolver.plan(
        {name: found.graph.inputs[name] for name in explained}, outputs, partial(help_missing, job.plugins)
    )
    shown = _shown(found.graph, plan, job.report)
    layers = () if report == "none" else mixtures(found.graph, carriers(found.graph, found.graph.inputs.values()))
    follower = Follower(found.graph, plan.explained.values())
    kept = (set(shown.values()) | follower.reads).union(*(needed(found.graph, mixture) for mixture in layers))
    program = Program(
        found,
        plan,
        ForwardProgram(found.graph, plan, kept | audited(plan, job.audit)),
        BackwardProgram(plan, found.facts, {*shown.values(), *(value for layer in layers for value in layer.reported)}),
        shown,
        follower,
        layers,
    )
    programs[key] = program
    return program


_UNPASSED = "without graph passes: what the model does hangs on the last digits of its numbers"


def _passed(found: Capture, composite: Composite, job: Job) -> Capture:
    return found.with_passes(
        [graph_pass(job.plugins, name) for name in composite.passes], analysers_of(job.plugins)
    )


def audited(plan: Plan, audit: bool) -> set[int]:
    """With an audit every value on the path is needed, to weigh its messages."""
    if not audit:
        return set()
    found = {slot.value for step in plan.steps for slot in step.slots}
    return found | {o for step in plan.steps for o in step.node.outputs if o is not None}


def path_of(plan: Plan) -> list[tuple[Node, list[int]]]:
    """The nodes that hand relevance back, and what to."""
    return [(step.node, [slot.value for slot in step.slots]) for step in plan.steps]


def _shown(graph: Graph, plan: Plan, report: str | Sequence[str]) -> dict[str, int]:
    """Names under which relevance is reported, with their values."""
    if report == "none":
        return {}
    names: dict[str, int] = {}
    parents = {call.module.rpartition(".")[0] for call in graph.modules if call.module}
    for call in graph.modules:
        if report == "blocks" and "." in call.module and call.module not in parents:
            continue
        key = call.module + (f"#{call.call}" if call.call else "")
        outputs = [(path, value) for path, value in call.outputs if graph.values[value].is_floating]
        for path, value in outputs:
            names[key if len(outputs) == 1 else f"{key}:{path}"] = value
    if report not in ("blocks", "modules"):
        for node in graph.nodes:
            for place, result in enumerate(node.outputs):
                if result is not None and graph.values[result].is_floating and not node.name.startswith("derived_"):
                    names[f"{node.name}.{place}" if node.many else node.name] = result
    if not isinstance(report, str):
        names = {name: value for name, value in names.items() if any(fnmatchcase(name, glob) for glob in report)}
    return names
