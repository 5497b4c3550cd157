"""Explain the same call under several composites."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dlbt_core.comparison import Comparison
from dlbt_core.composites.composite import Composite, as_composite
from dlbt_core.errors import InputError
from dlbt_core.explainer import Explainer
from dlbt_core.explanation import Explanation
from dlbt_core.graph.structure import leaves
from dlbt_core.notices import noted

__all__ = ["compare", "compare_call"]

_OPTIONS = ("explain_inputs", "layers", "audit", "fallback", "plugins")


def compare(
    model: Any,
    inputs: Any,
    composites: Iterable[Any],
    *,
    target: Any = None,
    rules: Sequence[Any] = (),
    repeats: int = 3,
    **options: Any,
) -> Comparison:
    """Explain one call of a model under several composites.

    The model is recorded once; each composite has its own plan and passes, since each keeps other values of the forward pass.

    Parameters
    ----------
    model : torch.nn.Module, callable or Explainer
        The model in eval mode, or an explainer that is kept for several calls.
    inputs : Tensor, tuple, list or mapping
        What the model takes: a tensor, positional arguments, or keyword arguments by name.
    composites : iterable of str, Path, Composite or (str, ...) pairs, or mapping
        Names, values, paths of TOML files; pairs, or a mapping, give a name of their own: ``("ours", "mine.toml")``.
    target, rules
        As for `Explainer.__call__`; the same for all composites.
    repeats : int
        How often each is explained, for the median of its time.
    **options
        As for `Explainer`: `explain_inputs`, `layers`, `audit`, `fallback`, `plugins`.

    Returns
    -------
    Comparison
        It prints, and `save` writes a picture or a page.

    Raises
    ------
    InputError
        If composites are missing or two have one name, if repeats is not 1 or more, if there is no such option.
    DlbtError
        What `Explainer.__call__` raises, of any composite; a note says of which.
    """
    if unknown := next((name for name in options if name not in _OPTIONS), None):
        raise InputError(
            f"compare takes no {unknown!r}.\n  fix  one of: explain_inputs, layers, audit, fallback, plugins."
        )
    if isinstance(model, Explainer) and options:
        name = next(iter(options))
        raise InputError(f"{name} is set where the explainer is made.\n  fix  Explainer(model, {name}=...).")
    explainer = model if isinstance(model, Explainer) else Explainer(model, **options)
    args, kwargs = _call(inputs)
    return compare_call(explainer, args, {**kwargs, "target": target, "rules": rules}, composites, repeats)


def compare_call(
    explainer: Explainer, args: Sequence[Any], kwargs: Mapping[str, Any], composites: Iterable[Any], repeats: int = 3
) -> Comparison:
    """As `compare`, with an explainer and the arguments of its call, `target` and `rules` among them."""
    named = _named(composites)
    if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1:
        raise InputError(f"repeats is a number of times, 1 or more, not {repeats!r}.")
    explanations: dict[str, Explanation] = {}
    times: dict[str, tuple[float, ...]] = {}
    notes = {name: f"  composite   {name!r}; without it the others can be compared." for name in named}
    calls = {name: {**kwargs, "composite": composite} for name, composite in named.items()}
    for name, call in calls.items():  # recorded and planned before the clock runs, and before the first one is explained
        with noted(notes[name]):
            explainer.plan(*args, **call)
    for name, call in calls.items():
        with noted(notes[name]):
            runs = [_timed(explainer, args, call) for _ in range(repeats)]
        explanations[name], times[name] = runs[0][0], tuple(seconds for _, seconds in runs)
    return Comparison(explanations, times, torch.get_num_threads())


def _timed(explainer: Explainer, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Explanation, float]:
    devices = {
        leaf.device for _, leaf in leaves([args, kwargs]) if isinstance(leaf, Tensor) and leaf.device.type != "cpu"
    }

    def wait() -> None:
        for device in devices:
            torch.accelerator.synchronize(device)

    wait()
    start = time.perf_counter()
    explanation = explainer(*args, **kwargs)
    wait()
    return explanation, time.perf_counter() - start


def _named(composites: Iterable[Any]) -> dict[str, str | Composite]:
    """Composites by name, those in files read."""
    composites = composites.items() if isinstance(composites, Mapping) else composites
    if isinstance(composites, (str, Path, Composite)) or not isinstance(composites, Iterable):
        raise InputError(f"composites is a list, not {composites!r}.\n  fix  composites=['epsilon', 'attnlrp'].")
    found: dict[str, str | Composite] = {}
    for given in composites:
        pair = isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], str)
        composite = as_composite(given[1] if pair else given)
        name = given[0] if pair else composite.name if isinstance(composite, Composite) else composite
        if name in found:
            raise InputError(
                f"two composites are called {name!r}.\n  fix  give pairs with names of their own: [('a', ...), ('b', ...)]."
            )
        found[name] = composite
    if not found:
        raise InputError(
            "composites is empty.\n  fix  composites=['epsilon', 'attnlrp']; 'dlbt composites' lists the names."
        )
    return found


def _call(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Inputs as positional and keyword arguments."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs), {}) if isinstance(inputs, (tuple, list)) else ((inputs,), {})
