"""The front door: `explain` and `Explainer`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor

from dlbt_core.composites.composite import Composite, as_choices, as_composite, choices_in_context
from dlbt_core.composites.select import Choice
from dlbt_core.errors import InputError
from dlbt_core.execute import Job, execute, plan_of
from dlbt_core.explanation import Explanation
from dlbt_core.graph.export import ExportedModel
from dlbt_core.graph.ir import Graph
from dlbt_core.graph.structure import bind_arguments, leaves, shape_of_call
from dlbt_core.model_state import check_mode, check_randomness
from dlbt_core.plugins.loader import Plugins, default_plugins
from dlbt_core.plugins.services import analysers_of, asked_for, expansion
from dlbt_core.scheduler.capture import Capture, capture, fingerprint
from dlbt_core.scheduler.plan import Plan
from dlbt_core.scheduler.resolve import Layer
from dlbt_core.target import as_target

__all__ = ["Explainer", "explain"]

_ASIDE = re.compile(r"(^|[._])(\w*mask\w*|position_ids|positions?|cache_position|past_key_values.*)$")
_CACHED = 16


class Explainer:
    """Explains one model, again and again. Recordings are kept per shape of call; the model is never touched.

    Parameters
    ----------
    model : torch.nn.Module, torch.export.ExportedProgram or callable
        The model, in eval mode.
    composite : str, Path or Composite
        Which rule where: a name (``"auto"``, ``"epsilon"``, ``"attnlrp"``, ``"gradient_times_input"``, ...), a value, or the
        path of a TOML file that holds one (``"mine.toml"``), which is read here and now.
    rules : sequence of (Select, Use)
        Choices in front of the composite's.
    explain_inputs : sequence of str, optional
        Names of the inputs to explain. Unless given: floating-point inputs, and integer ones that enter an embedding;
        masks and positions not.
    layers : {"blocks", "modules", "all", "none"} or sequence of str
        Whose relevance to keep besides the inputs': outputs of modules made of other modules and of the model's direct
        children; every module's output; every node; nothing; or globs on module paths and node names.
    audit : bool
        Whether to sum what comes in and goes out at each node, so that a leak can be pinned to its node.
    fallback : {None, "gradient"}
        What to do with ops that have no rule: an error, or their own gradient, marked in plan and ledger.
    backend : {"eager"}
        How to run.
    plugins : Plugins, optional
        Where rules come from; all installed plugins unless given.
    """

    def __init__(
        self,
        model: Any,
        composite: str | Path | Composite = "auto",
        *,
        rules: Sequence[Choice] = (),
        explain_inputs: Sequence[str] | None = None,
        layers: str | Sequence[str] = "blocks",
        audit: bool = False,
        fallback: str | None = None,
        backend: str = "eager",
        plugins: Plugins | None = None,
    ) -> None:
        if backend != "eager":
            raise InputError(f"no backend {backend!r}. There is: 'eager'.")
        if fallback not in (None, "gradient"):
            raise InputError(f"fallback is None or 'gradient', not {fallback!r}.")
        if isinstance(layers, str) and layers not in ("blocks", "modules", "all", "none"):
            raise InputError(f"layers is 'blocks', 'modules', 'all', 'none' or a list of globs, not {layers!r}.")
        if isinstance(model, torch.export.ExportedProgram):
            model = ExportedModel(model)
        if not callable(model):
            raise InputError(f"a model is a torch.nn.Module, a torch.export program or a callable, not {type(model).__name__}.")
        if explain_inputs is not None and not explain_inputs:
            raise InputError("explain_inputs is empty: name at least one, or leave it out.")
        self.model = model
        self.composite = as_composite(composite)
        self.rules = as_choices(rules)
        self.explain_inputs = tuple(explain_inputs) if explain_inputs is not None else None
        self.layers = layers
        self.audit = audit
        self.fallback = fallback
        self.plugins = plugins
        self._captures: dict[Any, Capture] = {}
        self._fingerprint: tuple[Any, ...] = ()

    @overload
    def __call__(self, *args: Any, targets: Sequence[Any], **kwargs: Any) -> list[Explanation]: ...

    @overload
    def __call__(self, *args: Any, **kwargs: Any) -> Explanation: ...

    def __call__(
        self,
        *args: Any,
        target: Any = None,
        targets: Sequence[Any] | None = None,
        rules: Sequence[Choice] = (),
        composite: str | Path | Composite | None = None,
        audit: bool | None = None,
        progress: bool = False,
        **kwargs: Any,
    ) -> Explanation | list[Explanation]:
        """Explain one call of the model.

        Parameters
        ----------
        *args, **kwargs
            What the model takes.
        target : None, int, Tensor, Target or callable
            What to explain: the largest class (None), a class, one class per sample, a ``dlbt.target``, or a function of
            the outputs.
        targets : sequence, optional
            Several targets, explained with one forward pass.
        rules : sequence of (Select, Use)
            Choices in front of all others, for this call.
        composite : str, Path or Composite, optional
            In place of the explainer's, for this call.
        audit : bool, optional
            In place of the explainer's, for this call.
        progress : bool
            Show a progress bar.

        Returns
        -------
        Explanation or list of Explanation
            One, or one per target if `targets` is given.

        Raises
        ------
        InputError, TargetError, ModelStateError, CaptureError, NoRuleError, NonFiniteError
            Each says what, where and the remedy; model and explainer are as before.
        """
        if targets is not None and target is not None:
            raise InputError("give target or targets, not both.")
        wanted = [target] if targets is None else list(targets)
        with torch.inference_mode(False):  # what is made here is saved for the backward pass
            explanations = execute(*self._prepare(args, kwargs, wanted, rules, composite, audit, progress))
        return explanations if targets is not None else explanations[0]

    def plan(
        self,
        *args: Any,
        target: Any = None,
        rules: Sequence[Choice] = (),
        composite: str | Path | Composite | None = None,
        **kwargs: Any,
    ) -> Plan:
        """The plan by which this call would be explained, without explaining it: one rule per node, and why.

        The model is recorded, and run once; nothing is handed back.

        Parameters
        ----------
        *args, **kwargs, target, rules, composite
            As for `__call__`.

        Raises
        ------
        InputError, TargetError, ModelStateError, CaptureError, NoRuleError
            As for `__call__`.
        """
        with torch.inference_mode(False):
            return plan_of(*self._prepare(args, kwargs, [target], rules, composite, None, False))

    def _prepare(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        targets: Sequence[Any],
        rules: Sequence[Choice],
        composite: str | Path | Composite | None,
        audit: bool | None,
        progress: bool,
    ) -> tuple[Capture, dict[str, Tensor], dict[str, int], Job, Callable[[], Capture]]:
        """A call, checked and recorded, as `execute` takes it."""
        check_mode(self.model)
        args, kwargs = _usable((args, kwargs))
        plugins = self.plugins or default_plugins()
        bound = self._bind(args, kwargs)
        wanted = [as_target(target) for target in targets]
        if not wanted:
            raise InputError("targets is empty: give at least one.")
        job = Job(
            plugins=plugins,
            composite=self.composite if composite is None else as_composite(composite),
            layers=(
                Layer("this call's rules", as_choices(rules)),
                Layer("the explainer's rules", self.rules),
                Layer("use_rules", tuple(choices_in_context())),
            ),
            targets=wanted,
            report=self.layers,
            audit=self.audit if audit is None else audit,
            fallback=self.fallback,
            progress=progress,
        )
        inputs = {path: leaf.detach() for path, leaf in leaves(bound) if isinstance(leaf, Tensor)}
        record = partial(self._capture, bound, args, kwargs, plugins, job.whole)
        found = record()
        return found, inputs, self._explained(found), job, lambda: record(anew=True)

    def graph(self, *args: Any, **kwargs: Any) -> Graph:
        """The recorded graph of a call, without explaining it."""
        check_mode(self.model)
        plugins = self.plugins or default_plugins()
        whole = asked_for(plugins, self.composite, (*self.rules, *choices_in_context()))
        return self._capture(self._bind(args, kwargs), args, kwargs, plugins, whole).graph

    # -- checks -----------------------------------------------------------------------------------------------------

    def _bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        model = self.model
        try:
            if isinstance(model, ExportedModel):
                bound = model.bind(args, kwargs)
            else:
                function = model.forward if isinstance(model, torch.nn.Module) else model
                bound = bind_arguments(function, args, kwargs)
        except TypeError as error:
            raise InputError(f"the call does not fit the model: {error}.") from error
        if not any(isinstance(leaf, Tensor) for _, leaf in leaves(bound)):
            raise InputError("no tensor among the inputs; pass what model(...) takes.")
        return bound

    def _explained(self, found: Capture) -> dict[str, int]:
        graph = found.graph
        for name in self.explain_inputs or ():
            if name not in graph.inputs:
                raise InputError(f"no input {name!r} to explain. The call has: {', '.join(map(repr, graph.inputs))}.")
        chosen = found.explainable(self.explain_inputs, lambda path: bool(_ASIDE.search(path)))
        if not chosen:
            given = ", ".join(f"{p!r} ({graph.values[v].dtype})" for p, v in graph.inputs.items())
            raise InputError(
                f"none of the inputs can be explained: {given}.\n  fix  pass floating-point inputs or token ids that enter "
                "an embedding, or name the inputs with explain_inputs=[...]."
            )
        return chosen

    # -- recordings -------------------------------------------------------------------------------------------------

    def _capture(
        self, bound: Mapping[str, Any], args: Any, kwargs: Any, plugins: Plugins, whole: frozenset[str],
        anew: bool = False,
    ) -> Capture:  # fmt: skip
        """The recording for this shape of call: a kept one, or a new one."""
        state = fingerprint(self.model) if isinstance(self.model, torch.nn.Module) else ()
        if state != self._fingerprint:
            self._captures.clear()
            self._fingerprint = state
        shape = shape_of_call(bound)
        key = None if shape is None else (shape, plugins.generation, whole)
        if key is not None and not anew and key in self._captures:
            return self._captures[key]
        found = self._record(bound, args, kwargs, plugins, whole)
        if key is not None:
            self._captures[key] = found
            while len(self._captures) > _CACHED:
                self._captures.pop(next(iter(self._captures)))
        return found

    def _record(
        self, bound: Mapping[str, Any], args: Any, kwargs: Any, plugins: Plugins, whole: frozenset[str]
    ) -> Capture:
        expand, analysers = partial(expansion, plugins, whole), analysers_of(plugins)
        found = capture(self.model, bound, (args, kwargs), expand=expand, analysers=analysers)
        check_randomness(found.graph, getattr(self.model, "training", False))
        return found

    def __repr__(self) -> str:
        name = self.composite.name if isinstance(self.composite, Composite) else self.composite
        return f"<Explainer of {type(self.model).__name__}, composite {name!r}, {len(self._captures)} recordings>"


@overload
def explain(model: Any, *args: Any, targets: Sequence[Any], **kwargs: Any) -> list[Explanation]: ...


@overload
def explain(model: Any, *args: Any, **kwargs: Any) -> Explanation: ...


def explain(
    model: Any,
    *args: Any,
    composite: str | Path | Composite = "auto",
    rules: Sequence[Choice] = (),
    target: Any = None,
    targets: Sequence[Any] | None = None,
    explain_inputs: Sequence[str] | None = None,
    layers: str | Sequence[str] = "blocks",
    audit: bool = False,
    fallback: str | None = None,
    backend: str = "eager",
    plugins: Plugins | None = None,
    progress: bool = False,
    **kwargs: Any,
) -> Explanation | list[Explanation]:
    """Explain one call of a model: ``explain(model, x)``. For several calls keep an `Explainer`.

    Parameters
    ----------
    model : torch.nn.Module, torch.export.ExportedProgram or callable
        The model, in eval mode.
    *args, **kwargs
        What the model takes.
    composite : str, Path or Composite
        Which rule where: a name, a value, or the path of a TOML file.
    rules : sequence of (Select, Use)
        Choices in front of the composite's.
    target : None, int, Tensor, Target or callable
        What to explain: the largest class (None), a class, one class per sample, a ``dlbt.target``, or a function of
        the outputs.
    targets : sequence, optional
        Several targets, explained with one forward pass.
    explain_inputs, layers, audit, fallback, backend, plugins
        See `Explainer`.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Explanation or list of Explanation
        One, or one per target if `targets` is given.

    Raises
    ------
    InputError, TargetError, ModelStateError, CaptureError, NoRuleError, NonFiniteError
        Each says what, where and the remedy; the model is as before.

    Examples
    --------
    >>> explanation = dlbt.explain(model, x, target=3, composite="epsilon_plus")
    >>> explanation.relevance  # shaped like x
    >>> explanation.ledger  # score = relevance of the inputs + what was absorbed, by name
    """
    explainer = Explainer(
        model,
        composite,
        explain_inputs=explain_inputs,
        layers=layers,
        audit=audit,
        fallback=fallback,
        backend=backend,
        plugins=plugins,
    )
    return explainer(*args, target=target, targets=targets, rules=rules, progress=progress, **kwargs)


def _usable(call: Any) -> Any:
    """The call with copies of tensors that autograd cannot save or that share memory with another input."""
    seen: set[int] = set()
    copied: set[int] = set()
    for _, leaf in leaves(call):
        if isinstance(leaf, Tensor):
            memory = leaf.untyped_storage().data_ptr() if leaf.layout == torch.strided else 0
            if leaf.is_inference() or (memory and memory in seen):
                copied.add(id(leaf))
            seen.add(memory)
    if not copied:
        return call
    from torch.utils._pytree import tree_map_only

    return tree_map_only(Tensor, lambda tensor: tensor.clone() if id(tensor) in copied else tensor, call)
