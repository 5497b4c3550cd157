"""What the rest of dlbt asks the plugins for: simpler ops for one without a rule, analysers, passes, help where one lacks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from functools import wraps
from typing import Any

import torch

from dlbt_core.composites.composite import Composite
from dlbt_core.composites.select import Choice
from dlbt_core.errors import DlbtError, PluginError, PluginWarning, UnknownCompositeError
from dlbt_core.graph.facts import OWN, Analyser, Facts
from dlbt_core.graph.ir import Graph
from dlbt_core.graph.ops import packet
from dlbt_core.notices import noted, told, warn_user
from dlbt_core.plugins.hints import bundled_home
from dlbt_core.plugins.intake import RESERVED
from dlbt_core.plugins.loader import Plugins

__all__ = ["analysers_of", "asked_for", "composite_for", "expansion", "graph_pass", "help_missing"]


def asked_for(plugins: Plugins, composite: str | Composite, choices: Iterable[Choice]) -> frozenset[str]:
    """Ops for which only other than bundled plugins have rules, and that a choice names together with one of these rules."""
    foreign = plugins.foreign_rules
    if not foreign:
        return frozenset()
    if isinstance(composite, str):
        with suppress(UnknownCompositeError):  # told when it is resolved; one that is chosen by the graph has none yet
            composite = plugins.composites.build(composite)
    own = composite.choices if isinstance(composite, Composite) else ()
    return frozenset(
        op
        for select, use in (*choices, *own)
        for op in foreign
        if select.names(op) and plugins.registry.offers(op, use.variant)
    )


def expansion(plugins: Plugins, whole: Collection[str], op: Any) -> Callable[..., Any] | None:
    """A function of simpler ops to record in place of an op that no rule fits: a plugin's lowering, else torch's own.

    Where torch itself runs an op of the bundled plugins' namespaces as other ops, it was explained before any other plugin
    came: then what others bring for it counts only for the ops of `whole`, which somebody asked for (`asked_for`).
    """
    name = str(op)
    if name.count(".") != 2:
        return None
    if op._schema.is_mutable:
        return _in_place(plugins, *name.split("."))
    settled = name.partition(".")[0] in RESERVED and _is_composite(op)
    names = {name, packet(name)}
    foreign = names & plugins.foreign_rules
    if plugins.registry.knows(name) and not (settled and foreign and names.isdisjoint(whole)):
        return None
    lowering = plugins.lowerings.find(name)
    if lowering is not None and not (settled and not plugins.source_of_lowering(name).is_bundled):
        return _answered_for(plugins, name, lowering)
    if bundled_home(name) is not None or not _is_composite(op):
        return None
    decomposed: Callable[..., Any] = op.decompose
    return decomposed


def _answered_for(plugins: Plugins, op: str, lowering: Callable[..., Any]) -> Callable[..., Any]:
    """The lowering; where it fails, that is told of its plugin and not of the model."""

    @wraps(lowering)
    def lowered(*args: Any, **kwargs: Any) -> Any:
        try:
            return lowering(*args, **kwargs)
        except DlbtError:
            raise
        except Exception as error:
            plugin = plugins.source_of_lowering(op)
            raise PluginError(
                f"the lowering of {op} by plugin {plugin} failed: {told(error)}\n"
                f"  fix  tell its authors; DLBT_DISABLE_PLUGINS={plugin.name} leaves the plugin out."
            ) from error

    return lowered


def _in_place(plugins: Plugins, namespace: str, op: str, overload: str) -> Callable[..., Any] | None:
    """For ``op_``: the lowering of ``op``, written into the first argument."""
    functional = f"{namespace}.{op.removesuffix('_')}.{overload}"
    lowering = plugins.lowerings.find(functional) if op.endswith("_") and not op.endswith("__") else None
    if lowering is None or plugins.registry.knows(functional):
        return None

    lowered = _answered_for(plugins, functional, lowering)

    def write(first: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return first.copy_(lowered(first, *args, **kwargs))

    return write


def _is_composite(op: Any) -> bool:
    """Whether torch itself runs the op as a function of other ops."""
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    views = any(a.alias_info is not None for a in op._schema.arguments)
    return (not views and key in op.py_kernels) or (not views and op.has_kernel_for_dispatch_key(key))


def analysers_of(plugins: Plugins) -> list[Analyser]:
    """The plugins' analysers. One that fails is told of, once for each recording, and finds nothing; if strict, it raises."""
    return [_guarded(plugins, name, function) for name, function in plugins.analysers.items()]


def _guarded(plugins: Plugins, name: str, analyser: Analyser) -> Analyser:
    def guarded(graph: Graph) -> Mapping[str, Iterable[int]]:
        try:
            return _checked(analyser(graph), graph)
        except Exception as error:
            plugin = plugins.source_of_analyser(name)
            cause = str(error) if isinstance(error, PluginError) else told(error)
            text = f"{plugin}: its analyser {name!r} failed: {cause}"
            if plugins.strict:
                raise PluginError(f"{text}\n  fix  DLBT_DISABLE_PLUGINS={plugin.name} leaves the plugin out.") from error
            warn_user(
                f"{text}\n  Its facts are left out. DLBT_STRICT_PLUGINS=1 shows the error; "
                f"DLBT_DISABLE_PLUGINS={plugin.name} leaves the plugin out.",
                PluginWarning,
            )
            return {}

    return guarded


def _checked(found: Any, graph: Graph) -> Mapping[str, frozenset[int]]:
    """What an analyser found, if it is what one may find."""
    if not isinstance(found, Mapping):
        raise PluginError(f"an analyser returns a mapping from fact to values, not {type(found).__name__}")
    facts = {name: frozenset(values) for name, values in found.items()}
    for name, values in facts.items():
        if name in OWN:
            raise PluginError(f"the fact {name!r} is dlbt's own. Give it another name")
        if not isinstance(name, str) or not values <= set(range(len(graph.values))):
            raise PluginError(f"a fact has a name and indices of values of the graph, not {name!r}: {sorted(values, key=repr)}")
    return facts


def composite_for(plugins: Plugins, given: str | Composite, graph: Graph, facts: Facts) -> Composite:
    """The composite of that name for a graph; where a plugin's own function fails, that is told."""
    if not isinstance(given, str) or given not in set(plugins.composites):
        return plugins.composites.resolve(given, graph, facts)
    with noted(f"in composite {given!r} of plugin {plugins.source_of(given)}"):
        return plugins.composites.resolve(given, graph, facts)


def graph_pass(plugins: Plugins, name: str) -> Callable[..., Any]:
    """The graph pass of that name.

    Raises
    ------
    UnknownCompositeError
        If no plugin brought it.
    """
    for found in plugins.passes:
        if found.name == name:
            return noted(f"in graph pass {name!r}")(found.function)
    known = ", ".join(p.name for p in plugins.passes) or "none"
    raise UnknownCompositeError(f"no graph pass {name!r}. There are: {known}.")


def help_missing(plugins: Plugins, op: str) -> str:
    """Lines for the error about a missing rule: who is in use, who is not, and which package would have it."""
    lines = [f"  plugins     {', '.join(map(str, plugins.loaded))}"]
    lines += [f"  not in use  {failure}" for failure in plugins.failures]
    home = bundled_home(op)
    if home is not None and all(p.distribution != home for p in plugins.loaded):
        lines.append(f"  package     {home} has a rule for it: pip install {home}")
    return "\n".join(lines)
