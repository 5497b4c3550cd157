"""The hooks a plugin may implement, and what it fills in them.

A plugin is a small module, named in the entry-point group ``dlbt.plugins``, whose functions are marked with `hookimpl`.
Its imports belong into the hooks' bodies, so that finding a plugin costs next to nothing::

    from dlbt_core.plugins.hookspecs import PluginInfo, hookimpl

    @hookimpl
    def dlbt_plugin_info():
        return PluginInfo(rule_api="1.0", summary="rotary embeddings", owns=("acme",))

    @hookimpl
    def dlbt_register_rules(add):
        from dlbt_acme import rotary

        rotary.declare(add)
"""

from __future__ import annotations

import graphlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import pluggy

from dlbt_core.errors import DuplicateRuleError, PluginError
from dlbt_core.rules.opkey import OpKey

if TYPE_CHECKING:
    from dlbt_core.composites.composite import CompositeSet
    from dlbt_core.graph.facts import Analyser
    from dlbt_core.rules.rule import RuleSet

__all__ = [
    "RULE_API",
    "AnalyserSet",
    "GraphPass",
    "LoweringSet",
    "PluginInfo",
    "dlbt_graph_passes",
    "dlbt_plugin_info",
    "dlbt_register_analysers",
    "dlbt_register_composites",
    "dlbt_register_lowerings",
    "dlbt_register_rules",
    "hookimpl",
    "hookspec",
    "in_order",
]

RULE_API = (1, 0)
"""Version of what rules and plugins may rely on; a plugin of the same major and no later minor fits."""

hookspec = pluggy.HookspecMarker("dlbt")
hookimpl = pluggy.HookimplMarker("dlbt")

_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class PluginInfo:
    """What a plugin says about itself.

    Parameters
    ----------
    rule_api
        The rule API it was written for, ``"major.minor"``.
    summary
        One line for listings.
    owns
        Namespaces of ops that are its own: where several plugins offer a rule, the owner's is taken.
    """

    rule_api: str = "1.0"
    summary: str = ""
    owns: tuple[str, ...] = ()


@dataclass(frozen=True)
class GraphPass:
    """A graph turned into another that computes the same.

    Parameters
    ----------
    name
        What composites call it.
    function
        Takes a graph and its facts, gives a graph.
    after, before
        Names of passes that come earlier and later. Names that no plugin brought are ignored.
    """

    name: str
    function: Callable[..., Any]
    after: tuple[str, ...] = ()
    before: tuple[str, ...] = ()


def in_order(passes: Iterable[GraphPass]) -> tuple[GraphPass, ...]:
    """Passes in the order that their `after` and `before` ask for, by name where they ask for none.

    Raises
    ------
    PluginError
        If two have one name, or some wait for each other.
    """
    named: dict[str, GraphPass] = {}
    for graph_pass in passes:
        if graph_pass.name in named:
            raise PluginError(
                f"two graph passes are called {graph_pass.name!r}.\n"
                "  fix  give one of them another name, or leave out its plugin."
            )
        named[graph_pass.name] = graph_pass
    earlier: dict[str, set[str]] = {name: {a for a in p.after if a in named} for name, p in named.items()}
    for name, graph_pass in named.items():
        for later in graph_pass.before:
            if later in named:
                earlier[later].add(name)
    # Sorted, so that neither the order of arrival nor that of a set shows, not even in which circle is reported.
    sorter = graphlib.TopologicalSorter({name: sorted(earlier[name]) for name in sorted(earlier)})
    try:
        sorter.prepare()
    except graphlib.CycleError as error:
        raise PluginError(
            f"graph passes wait for each other: {' -> '.join(error.args[1])}.\n"
            "  fix  take one of them out of the other's after= or before=."
        ) from error
    ordered: list[GraphPass] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        ordered.extend(named[name] for name in ready)
        sorter.done(*ready)
    return tuple(ordered)


class _Lowering(NamedTuple):
    function: Callable[..., Any]
    plugin: str
    location: str


class LoweringSet:
    """Where plugins declare lowerings: ops written as functions of ops that have rules.

    Parameters
    ----------
    plugin
        Who declares here; appears in messages.
    """

    def __init__(self, plugin: str = "") -> None:
        self.plugin = plugin
        self._lowerings: dict[str, _Lowering] = {}

    def lowering(self, *ops: Any) -> Callable[[_Function], _Function]:
        """Decorator that declares a function as the meaning of one or several ops.

        Parameters
        ----------
        *ops
            Op keys: ``"myns::op"``, ``"aten.add.Tensor"`` or torch op objects.

        Raises
        ------
        OpKeyError
            If a key names no op or an in-place one.
        DuplicateRuleError
            If the op has a lowering already.
        """
        keys = [str(OpKey.of(op)) for op in ops]

        def declare(function: _Function) -> _Function:
            for key in keys:
                self._enter(key, _Lowering(function, self.plugin, _place_of(function)))
            return function

        return declare

    def find(self, op: str) -> Callable[..., Any] | None:
        """The lowering of an op's full name: that of the overload, else that of all overloads, else None."""
        key = OpKey.of(op)
        found = self._lowerings.get(str(key)) or self._lowerings.get(str(key.packet))
        return found.function if found else None

    def plugin_of(self, op: str) -> str:
        """The plugin that declared the lowering of an op's full name; empty if there is none."""
        key = OpKey.of(op)
        found = self._lowerings.get(str(key)) or self._lowerings.get(str(key.packet))
        return found.plugin if found else ""

    def update(self, other: LoweringSet) -> None:
        """Take in another set.

        Raises
        ------
        DuplicateRuleError
            If both have a lowering of one op.
        """
        for op, entry in other._lowerings.items():
            self._enter(op, entry)

    def _enter(self, op: str, entry: _Lowering) -> None:
        known = self._lowerings.get(op)
        if known is not None:
            raise DuplicateRuleError(
                f"{op} has two lowerings:\n"
                f"  first   {known.plugin}    {known.location}\n  second  {entry.plugin}    {entry.location}\n"
                "  fix     leave one of them out."
            )
        self._lowerings[op] = entry

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._lowerings))

    def __len__(self) -> int:
        return len(self._lowerings)


class AnalyserSet:
    """Where plugins declare analysers: functions that find facts in a graph.

    Parameters
    ----------
    plugin
        Who declares here; appears in messages.
    """

    def __init__(self, plugin: str = "") -> None:
        self.plugin = plugin
        self._analysers: dict[str, tuple[Analyser, str]] = {}

    def analyser(self, name: str) -> Callable[[Analyser], Analyser]:
        """Decorator that declares a function from a graph to facts: fact name to the values that have it.

        Parameters
        ----------
        name
            What it is called in listings.

        Raises
        ------
        PluginError
            If the name is taken.
        """

        def declare(function: Analyser) -> Analyser:
            self._enter(name, function, self.plugin)
            return function

        return declare

    def update(self, other: AnalyserSet) -> None:
        """Take in another set.

        Raises
        ------
        PluginError
            If a name is taken.
        """
        for name, (function, plugin) in other._analysers.items():
            self._enter(name, function, plugin)

    def items(self) -> list[tuple[str, Analyser]]:
        """Names and functions, by name."""
        return [(name, self._analysers[name][0]) for name in sorted(self._analysers)]

    def plugin_of(self, name: str) -> str:
        """The plugin that declared the analyser of that name."""
        return self._analysers[name][1]

    def _enter(self, name: str, function: Analyser, plugin: str) -> None:
        if name in self._analysers:
            raise PluginError(f"the analyser name {name!r} is taken by plugin {self._analysers[name][1]!r}.")
        self._analysers[name] = (function, plugin)

    def __len__(self) -> int:
        return len(self._analysers)


def _place_of(function: Callable[..., Any]) -> str:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else repr(function)


# -- the hooks ---------------------------------------------------------------------------------------------------------


@hookspec(firstresult=True)
def dlbt_plugin_info() -> PluginInfo | None:
    """Say what the plugin is.

    Returns
    -------
    PluginInfo
        Rule API, summary and owned namespaces. A plugin without this hook has the defaults.
    """


@hookspec
def dlbt_register_rules(add: RuleSet) -> None:
    """Declare relevance rules.

    Parameters
    ----------
    add
        Where to declare them: ``@add.rule("myns::op", variant="epsilon")``.
    """


@hookspec
def dlbt_register_composites(add: CompositeSet) -> None:
    """Declare named composites.

    Parameters
    ----------
    add
        Where to declare them: ``add.add(Composite("mine", ...), "one line about it")``.
    """


@hookspec
def dlbt_register_lowerings(add: LoweringSet) -> None:
    """Declare ops as functions of ops that have rules.

    Parameters
    ----------
    add
        Where to declare them: ``@add.lowering("myns::op")``.
    """


@hookspec
def dlbt_register_analysers(add: AnalyserSet) -> None:
    """Declare functions that find facts in a graph.

    Parameters
    ----------
    add
        Where to declare them: ``@add.analyser("rotary")``.
    """


@hookspec
def dlbt_graph_passes() -> Sequence[GraphPass]:
    """Bring graph passes; they run if a composite names them.

    Returns
    -------
    Sequence of GraphPass
        Ordered by their `after` and `before`, not by who was loaded first.
    """
    return ()
