"""Execute: one forward pass, one backward pass for all targets, explanations with closed books."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dlbt_core.errors import GuardError, InputError, NonFiniteError, TargetError
from dlbt_core.experts import Experts, Routed
from dlbt_core.explanation import Explanation
from dlbt_core.graph.ir import Graph
from dlbt_core.graph.record import record
from dlbt_core.graph.sample_axis import LOST, SampleAxis
from dlbt_core.graph.samples import Follower, Samples, per_sample
from dlbt_core.plugins.services import analysers_of, expansion, help_missing
from dlbt_core.program import Job, Program, audited, path_of, program_of
from dlbt_core.scheduler.capture import Capture
from dlbt_core.scheduler.forward import ForwardProgram, ForwardRun
from dlbt_core.scheduler.ledger import Account, Ledger
from dlbt_core.scheduler.plan import Plan
from dlbt_core.scheduler.propagate import BackwardProgram, Propagation
from dlbt_core.scheduler.resolve import Resolver
from dlbt_core.seeds import Met, meet, refuse_function
from dlbt_core.target import FunctionTarget, Target

__all__ = ["Job", "execute", "plan_of"]


def execute(
    found: Capture, inputs: Mapping[str, Tensor], explained: Iterable[str], job: Job, again: Callable[[], Capture]
) -> list[Explanation]:
    """Explain all targets of a job with one forward pass.

    Raises
    ------
    NonFiniteError
        If a score or a relevance is not finite.
    """
    program, run = _ready(found, inputs, explained, job, again)
    found = program.capture
    outputs = {path: run.values[value] for path, value in found.graph.outputs.items()}
    met = [_meet(target, program, run, outputs, job) for target in job.targets]
    for target, one in zip(job.targets, met, strict=True):
        _check_score(one.score, target, found, inputs)
    routed = [Routed.of(found.graph, mixture, run.values) for mixture in program.mixtures]  # some are freed on the way back
    samples = program.samples(run, met)
    results = _backward(program, run, met, samples, job)
    return [
        _with_streams(
            [_explanation(program, found, inputs, outputs, target, one, stream, samples, routed, job) for stream in streams],
            program.plan.composite.streams,
        )
        for target, one, streams in zip(job.targets, met, results, strict=True)
    ]


def plan_of(
    found: Capture, inputs: Mapping[str, Tensor], explained: Iterable[str], job: Job, again: Callable[[], Capture]
) -> Plan:
    """The plan by which `execute` explains the first target of the same job: one forward pass, nothing handed back."""
    program, run = _ready(found, inputs, explained, job, again)
    target = job.targets[0]
    if isinstance(target, Target):
        return program.plan
    outputs = {path: run.values[value] for path, value in program.capture.graph.outputs.items()}
    return _plan_from(program, _meet(target, program, run, outputs, job))


def _ready(
    found: Capture, inputs: Mapping[str, Tensor], explained: Iterable[str], job: Job, again: Callable[[], Capture]
) -> tuple[Program, ForwardRun]:
    """Plan and forward pass, by a new recording where the known one does not hold for these inputs.

    Raises
    ------
    InputError
        If what is explained has no entries.
    """
    empty = [f"{name!r} of shape {tuple(inputs[name].shape)}" for name in explained if not inputs[name].numel()]
    if empty and len(empty) == len(tuple(explained)):
        raise InputError(f"there is nothing in input {', '.join(empty)}.\n  fix  pass at least one sample.")
    try:
        return _run(found, inputs, explained, job)
    except GuardError:
        return _run(again(), inputs, explained, job)  # which has checked that the recording can be replayed


def _run(
    found: Capture, inputs: Mapping[str, Tensor], explained: Iterable[str], job: Job
) -> tuple[Program, ForwardRun]:
    """The plan's forward pass. Without its graph passes, where a run hangs on the last digits that they change.

    Raises
    ------
    GuardError
        If the run would have gone another way than the recorded one.
    """
    program = program_of(found, explained, job)
    try:
        return program, program.forward.run(inputs, program.capture.state)
    except GuardError:
        if found.unpassed or not program.plan.composite.passes:
            raise
    found.unpassed = True
    try:
        program = program_of(found, explained, job)
        return program, program.forward.run(inputs, program.capture.state)
    except GuardError:
        found.unpassed = False
        raise


def _with_streams(explanations: Sequence[Explanation], names: Sequence[str]) -> Explanation:
    """The explanation of the first stream; it knows those of the others by name."""
    first, *others = explanations
    if not others:
        return first
    named = {name: replace(e, target=f"{e.target}, {name}") for name, e in zip(names[1:], others, strict=True)}
    return replace(first, streams=named)


# -- targets --------------------------------------------------------------------------------------------------------


def _meet(
    target: Target | FunctionTarget, program: Program, run: ForwardRun, outputs: Mapping[str, Tensor], job: Job
) -> Met:
    composite = program.plan.composite
    if isinstance(target, Target):
        return meet(target, outputs, program.capture.graph.outputs, max(1, len(composite.streams)))
    if composite.streams:
        refuse_function(composite.name)
    return _meet_function(target, program, run, outputs, job)


def _meet_function(
    target: FunctionTarget, program: Program, run: ForwardRun, outputs: Mapping[str, Tensor], job: Job
) -> Met:
    """Record the function on the outputs, and hand its score back to them by the same rules."""
    found, plan = program.capture, program.plan
    given = {path: tensor.detach().clone() for path, tensor in outputs.items()}  # outputs may share memory
    recording = record(
        target.fn, given, lambda _tape: target.fn(found.rebuild(given)), expand=partial(expansion, job.plugins, job.whole)
    )
    score = recording.result
    if not isinstance(score, Tensor) or not score.is_floating_point() or score.dim() > 1:
        shape = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
        raise TargetError(
            f"the target function returned {shape}; it must give one number per sample, shape (samples,)."
        )
    tail = Capture(target.fn, recording.graph, lambda tensors: None, analysers_of(job.plugins))
    carrying = {p: v for p, v in tail.graph.inputs.items() if found.graph.values[found.graph.outputs[p]].is_floating}
    resolver = Resolver(tail.graph, tail.facts, job.plugins.registry, plan.composite, job.layers, job.fallback)
    ends = tuple(tail.graph.outputs.values())
    try:
        tail_plan = resolver.plan(carrying, ends, partial(help_missing, job.plugins))
    except InputError as error:
        raise TargetError(
            "the target function does not depend on the model's outputs through floating-point ops.\n"
            "  fix  return a number made of them, e.g. lambda out: out[:, 3]."
        ) from error
    follower = Follower(tail.graph, carrying.values())
    keep = audited(tail_plan, job.audit) | follower.reads
    tail_run = ForwardProgram(tail.graph, tail_plan, keep).run(given, tail.state)
    score = tail_run.values[ends[0]].reshape(-1)
    count = score.shape[0]
    of_outputs = program.follower.forward(count, run.values)
    known = {v: of_outputs[o] for p, v in carrying.items() if (o := found.graph.outputs[p]) in of_outputs}
    of_score = SampleAxis.batch(count)
    axes = follower.forward(count, tail_run.values, known)
    samples = follower.samples(count, axes, path_of(tail_plan), dict.fromkeys(ends, of_score))
    backward = BackwardProgram(tail_plan, tail.facts)
    (result,) = backward.run(
        tail_run,
        [{ends[0]: torch.ones_like(tail_run.values[ends[0]])}],
        samples,
        audit=job.audit,
        multipliers=True,
    )
    seeds = {
        found.graph.outputs[path]: result.multipliers[v] for path, v in carrying.items() if v in result.multipliers
    }
    entered = {o: samples.axes.get(v, LOST) for p, v in carrying.items() if (o := found.graph.outputs[p]) in seeds}
    return Met(score, (seeds,), [], entered, _accounts(result, tail.graph, "target "), _unassigned(result), tail_plan)


def _check_score(score: Tensor, target: Any, found: Capture, inputs: Mapping[str, Tensor]) -> None:
    if bool(torch.isfinite(score).all()):
        return
    bad = [i for i, s in enumerate(score.tolist()) if s != s or s in (float("inf"), float("-inf"))]
    guilty = [path for path, t in inputs.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]
    where = f"  cause  input {guilty[0]!r} holds NaN or infinity." if guilty else _first_non_finite(found, inputs)
    raise NonFiniteError(
        f"the score of {target} is not finite for sample {', '.join(map(str, bad))}.\n{where}\n"
        "  fix    mend the input or the weights; a score that is not a number cannot be handed back."
    )


def _first_non_finite(found: Capture, inputs: Mapping[str, Tensor]) -> str:
    graph = found.graph
    run = ForwardProgram(graph, keep=range(len(graph.values))).run(inputs, found.state)
    for node in graph.nodes:
        for output in node.outputs:
            value = run.values[output] if output is not None else None
            if isinstance(value, Tensor) and value.is_floating_point() and bool(torch.isnan(value).any()):
                return f"  cause  the first NaN is in node {node.name} ({node.op}) in {node.site}."
    return "  cause  an infinite value in the outputs."


# -- backward -------------------------------------------------------------------------------------------------------


def _backward(
    program: Program, run: ForwardRun, met: Sequence[Met], samples: Samples, job: Job
) -> list[list[Propagation]]:
    """The messages of all targets, of each in all its streams; of several targets at once by mapping the pass over them."""
    with _progress(job, len(program.plan.steps)) as tick, torch.no_grad():
        if len(met) == 1:
            return [program.backward.run(run, met[0].streams, samples, audit=job.audit, on_step=tick)]
        values = tuple(dict.fromkeys(v for one in met for v in one.entered))
        stacked = [
            {v: torch.stack([_seed(one.streams[s], v, run) for one in met]) for v in values}
            for s in range(len(met[0].streams))
        ]

        def one_target(streams: list[dict[int, Tensor]]) -> list[dict[str, Any]]:
            passed = program.backward.run(run, streams, samples, audit=job.audit, on_step=tick)
            return [vars(stream) for stream in passed]

        with warnings.catch_warnings():
            # Some fused backward kernels have no batching rule; torch then runs just them target by target.
            warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
            mapped = torch.vmap(one_target)(stacked)
    return [
        [
            Propagation(**{name: {k: t[i] for k, t in table.items()} for name, table in stream.items()})
            for stream in mapped
        ]
        for i in range(len(met))
    ]


def _seed(seeds: Mapping[int, Tensor], value: int, run: ForwardRun) -> Tensor:
    return seeds[value] if value in seeds else torch.zeros_like(run.values[value])


class _progress:
    """A progress bar over the steps of the backward pass, if asked for."""

    def __init__(self, job: Job, steps: int) -> None:
        self._bar: Any = None
        if job.progress:
            from tqdm.auto import tqdm

            self._bar = tqdm(total=steps, desc="handing back relevance", unit="op", leave=False)

    def __enter__(self) -> Callable[[Any], None] | None:
        return None if self._bar is None else lambda _step: self._bar.update()

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


# -- after ----------------------------------------------------------------------------------------------------------


def _explanation(
    program: Program,
    found: Capture,
    given: Mapping[str, Tensor],
    outputs: Mapping[str, Tensor],
    target: Any,
    met: Met,
    result: Propagation,
    samples: Samples,
    routed: Sequence[Routed],
    job: Job,
) -> Explanation:
    plan = _plan_from(program, met)
    graph = plan.graph
    device = met.score.device

    def relevance(value: int) -> Tensor:
        known = result.relevance.get(value)
        if known is None:
            kind = graph.values[value].dtype if graph.values[value].is_floating else met.score.dtype
            return torch.zeros((), dtype=kind, device=device).expand(graph.values[value].shape)
        return known

    inputs = {name: relevance(value) for name, value in plan.explained.items()}
    for name, tensor in inputs.items():
        if not bool(torch.isfinite(tensor).all()):
            raise NonFiniteError(
                f"the relevance of input {name!r} is not finite.\n  fix    find the node with audit=True on float64 weights "
                "(model.double()), or give its op another variant."
            )
    axes, count = samples.axes, samples.count
    totals = {name: per_sample(tensor, axes.get(plan.explained[name]), count) for name, tensor in inputs.items()}
    sums = {name: total.double() for name, (total, _) in totals.items() if total is not None}
    loose = {f"input {name}": rest.double() for name, (_, rest) in totals.items() if rest is not None}
    ledger = Ledger(
        score=met.score,
        inputs=sums,
        accounts=(*met.accounts, *_accounts(result, graph, "")),
        unassigned=_merge(_merge(met.unassigned or {}, loose), _unassigned(result)),
        audited=job.audit,
        resolution=torch.finfo(met.score.dtype).eps / 2,
        mixed=samples.lost,
    )
    return Explanation(
        inputs=inputs,
        score=met.score,
        ledger=ledger,
        plan=plan,
        target=str(target),
        picked=met.picked,
        outputs=dict(outputs),
        layers={name: relevance(value) for name, value in program.shown.items()},
        experts=Experts([one.relevance(relevance, axes.get(one.mixture.ratings), count) for one in routed]),
        values={name: given[name] for name in plan.explained},
        multipliers={n: result.multipliers[v] for n, v in plan.explained.items() if v in result.multipliers},
    )


def _plan_from(program: Program, met: Met) -> Plan:
    """The plan of what a target function has entered, with that of the function itself."""
    return program.plan if met.plan is None else replace(program.plan.reached_from(met.entered), tail=met.plan)


def _accounts(result: Propagation, graph: Graph, prefix: str) -> tuple[Account, ...]:
    tables: dict[int, tuple[dict[str, Tensor], dict[str, Tensor]]] = {index: ({}, {}) for index in result.received}
    for place, booked in enumerate((result.amounts, _not_nothing(result.unassigned))):
        for (index, name), amount in booked.items():
            tables.setdefault(index, ({}, {}))[place][name] = amount
    return tuple(
        Account(
            prefix + graph.nodes[index].name, graph.nodes[index].op, graph.nodes[index].site.module,
            result.received.get(index), result.handed_on.get(index), *tables[index],
        )
        for index in sorted(tables)
    )  # fmt: skip


def _not_nothing(booked: Mapping[tuple[int, str], Tensor]) -> dict[tuple[int, str], Tensor]:
    """Without amounts of nothing: rows that belong to no sample seldom get any relevance."""
    return {key: amount for key, amount in booked.items() if bool(amount != 0)}


def _unassigned(result: Propagation) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for (_, name), amount in _not_nothing(result.unassigned).items():
        found = _merge(found, {name: amount})
    return found


def _merge(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, Tensor]:
    merged = dict(first)
    for name, amount in second.items():
        merged[name] = merged[name] + amount if name in merged else amount
    return merged
