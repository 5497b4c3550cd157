"""A capture: one recording of a model for one shape of call, with all that is derived from the graph alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dlbt_core.errors import CaptureError, DlbtError, GuardError, InputError
from dlbt_core.graph.export import ExportedModel, record_exported
from dlbt_core.graph.facts import Analyser, Facts, analyse, explainable
from dlbt_core.graph.ir import Graph
from dlbt_core.graph.record import record
from dlbt_core.graph.structure import leaves, rebuilder
from dlbt_core.graph.tape import Expand
from dlbt_core.scheduler.forward import ForwardProgram, state_getters

__all__ = ["Capture", "capture", "fingerprint"]

GraphPassFunction = Callable[[Graph, Any], Graph]


class Capture:
    """A graph, its facts, and how to run it again on the model's present weights.

    Attributes
    ----------
    graph, facts
        What was recorded, and what is known about it.
    rebuild
        Makes what the model returns out of {output path: tensor}.
    unpassed
        Whether graph passes are left out, since with them the run would go another way.
    """

    def __init__(
        self, model: Any, graph: Graph, rebuild: Callable[[Mapping[str, Tensor]], Any], analysers: list[Analyser]
    ) -> None:
        self.model = model
        self.graph = graph
        self.rebuild = rebuild
        self.facts: Facts = analyse(graph, analysers)
        self._getters = state_getters(model, graph.states) if graph.states else {}
        self.programs: dict[Any, Any] = {}
        self.unpassed = False
        self._explainable: dict[Any, dict[str, int]] = {}

    def state(self, name: str) -> Tensor:
        """The parameter or buffer of that name, as it is now."""
        return self._getters[name]()

    def explainable(self, names: tuple[str, ...] | None, is_aside: Callable[[str], bool]) -> dict[str, int]:
        """The inputs to explain; see `dlbt_core.graph.facts.explainable`."""
        if names not in self._explainable:
            self._explainable[names] = explainable(self.graph, names, is_aside)
        return self._explainable[names]

    def floating_outputs(self) -> dict[str, tuple[int, ...]]:
        """Path to shape of the floating-point outputs."""
        graph = self.graph
        return {p: graph.values[v].shape for p, v in graph.outputs.items() if graph.values[v].is_floating}

    def with_passes(self, passes: list[GraphPassFunction], analysers: list[Analyser]) -> Capture:
        """The same recording after graph passes."""
        graph = self.graph
        for function in passes:
            graph = function(graph, self.state)
        return Capture(self.model, graph, self.rebuild, analysers)


def capture(
    model: Any,
    bound: Mapping[str, Any],
    call: tuple[Any, Mapping[str, Any]],
    *,
    expand: Expand | None = None,
    analysers: list[Analyser] | None = None,
) -> Capture:
    """Record one run and check that replaying the recording gives the same outputs.

    Parameters
    ----------
    model
        What runs: a module, a callable, or an exported program.
    bound
        The call's arguments by name.
    call
        The same as (positional, keyword) arguments.
    expand, analysers
        From plugins.

    Raises
    ------
    InputError
        If the model fails on these inputs.
    CaptureError
        If the run cannot be recorded, or the replay differs from it.
    """
    inputs = {path: leaf for path, leaf in leaves(bound) if isinstance(leaf, Tensor)}
    expanded: Counter[str] = Counter()

    def expand_and_count(op: Any) -> Any:
        function = None if expand is None else expand(op)
        if function is None:
            return None

        def counted(*args: Any, **kwargs: Any) -> Any:
            expanded[str(op)] += 1
            return function(*args, **kwargs)

        return counted

    try:
        args, kwargs = call
        if isinstance(model, ExportedModel):
            recording = record_exported(model, inputs, args, kwargs, expand_and_count)
        else:
            recording = record(model, inputs, lambda _tape: model(*args, **kwargs), expand=expand_and_count)
    except DlbtError:
        raise
    except Exception as error:
        where = getattr(error, "dlbt_site", None)
        given = "\n".join(f"  input  {path}: {_describe(t)}" for path, t in inputs.items())
        raise InputError(
            f"the model cannot run on these inputs: {type(error).__name__}: {error}\n"
            + (f"  where  {where}\n" if where else "")
            + given
            + "\n  fix    pass what model(...) itself accepts: check shapes, dtypes and devices above."
        ) from error
    graph = replace(recording.graph, expanded=dict(expanded))
    found = Capture(model, graph, rebuilder(recording.result), analysers or [])
    _check_replay(found, inputs, recording.result)
    return found


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)} on {tensor.device}"


def _check_replay(found: Capture, inputs: Mapping[str, Tensor], result: Any) -> None:
    """A recording that cannot be replayed would explain another model than the one that ran."""
    try:
        replayed = ForwardProgram(found.graph).run(inputs, found.state)
    except GuardError as error:
        raise CaptureError(
            f"the same inputs do not lead to the same run again: {error}.\n"
            "  cause  the model depends on something besides its inputs and weights, or writes to memory unseen.\n"
            "  fix    call it the same way twice and compare; a counter or a clock may decide what it does."
        ) from error
    for path, tensor in leaves(result):
        if not isinstance(tensor, Tensor) or not tensor.numel():
            continue
        again = replayed.values[found.graph.outputs[path]]
        if not _same(again, tensor):
            raise CaptureError(
                f"replaying the recording gives another output {path!r} than the model.\n"
                "  cause  the model changed a tensor in a way that was not seen, or reads memory it did not write.\n"
                "  fix    please report it with the model's code; meanwhile hand over a torch.export program."
            )


def _same(again: Tensor, tensor: Tensor) -> bool:
    if again.shape != tensor.shape or again.dtype != tensor.dtype:
        return False
    if not tensor.is_floating_point():
        return bool(torch.equal(again, tensor))
    parts = list(zip(again.reshape(-1).split(_AT_ONCE), tensor.reshape(-1).split(_AT_ONCE), strict=True))
    largest = max((float(part.abs().masked_fill(~torch.isfinite(part), 0.0).max()) for _, part in parts), default=0.0)
    scale = largest if any(bool(torch.isfinite(part).any()) for _, part in parts) else 1.0
    tolerance = scale * 64 * torch.finfo(tensor.dtype).eps ** 0.75
    return all(torch.allclose(a, b, rtol=0.0, atol=tolerance, equal_nan=True) for a, b in parts)


_AT_ONCE = 2**20
"""Elements compared at once: the logits of a long text are the largest tensor there is."""


def fingerprint(model: Any) -> tuple[Any, ...]:
    """What of a model a recording depends on besides its weights: modules, flags, plain attributes, hooks."""
    if not isinstance(model, torch.nn.Module):
        return (model,)
    found: list[Any] = []
    for module in model.modules():
        plain = tuple((k, v) for k, v in module.__dict__.items() if v is None or type(v) in (bool, int, float, str))
        hooks = (len(module._forward_hooks), len(module._forward_pre_hooks))
        found.append((module, plain, hooks, len(module._parameters), len(module._buffers)))
    return tuple(found)
