"""Plugins found, loaded in stages, and taken in whole or not at all."""

from __future__ import annotations

import importlib
import itertools
import os
import threading
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from dlbt_core.composites.composite import CompositeSet
from dlbt_core.errors import PluginError, PluginWarning
from dlbt_core.graph.ops import packet
from dlbt_core.notices import told, warn_user
from dlbt_core.plugins.discovery import BUNDLED, CORE, Candidate, installed_plugins, installed_version, plain_name
from dlbt_core.plugins.hookspecs import AnalyserSet, GraphPass, LoweringSet, PluginInfo, in_order
from dlbt_core.plugins.intake import RESERVED, Staged, check_api, check_owned, hooks_of, info_of
from dlbt_core.rules.registry import Registry

if TYPE_CHECKING:
    from dlbt_core.graph.facts import Analyser

__all__ = [
    "LoadedPlugin",
    "PluginFailure",
    "PluginRow",
    "Plugins",
    "default_plugins",
    "reload_plugins",
]

_OFF = ("", "0", "false", "no", "off")
_generations = itertools.count(1)
_Set = TypeVar("_Set", CompositeSet, LoweringSet, AnalyserSet)


@dataclass(frozen=True)
class LoadedPlugin:
    """A plugin in use."""

    name: str
    distribution: str
    version: str
    info: PluginInfo
    rules: int
    target: str

    @property
    def is_bundled(self) -> bool:
        """Whether it comes from one of our own distributions."""
        return plain_name(self.distribution) in BUNDLED

    def __str__(self) -> str:
        return f"{self.name} ({self.distribution} {self.version})"


@dataclass(frozen=True)
class PluginFailure:
    """A plugin that is not in use, and why.

    Attributes
    ----------
    stage
        How far it came: ``"import"``, ``"info"``, ``"api"`` or ``"register"``.
    cause
        The error in words.
    traceback
        The error as Python shows it.
    target
        What was to be loaded.
    switch
        The name under which ``DLBT_DISABLE_PLUGINS`` leaves out this plugin and no other.
    """

    name: str
    distribution: str
    version: str
    stage: str
    cause: str
    traceback: str
    target: str
    switch: str

    @property
    def message(self) -> str:
        """What the warning says."""
        return (
            f"{self}\n  Its rules are not available. 'dlbt plugins --traceback' shows the error; "
            f"DLBT_DISABLE_PLUGINS={self.switch} silences this."
        )

    def __str__(self) -> str:
        return f"{self.distribution} {self.version} [{self.name}]: failed at {self.stage}: {self.cause}"


@dataclass(frozen=True)
class PluginRow:
    """One line of a listing: `status` is ``"loaded"``, ``"failed"`` or ``"disabled"``, `stage` the last one reached."""

    name: str
    distribution: str
    version: str
    status: str
    stage: str
    rules: int
    target: str


class Plugins:
    """The plugins in use and all that they brought.

    Parameters
    ----------
    block
        Plugins to leave out, by plugin or distribution name, besides those in ``DLBT_DISABLE_PLUGINS``. They are not
        even imported. The built-in plugin ``core`` cannot be left out.
    only
        The plugins to use, by plugin or distribution name; empty for all. ``DLBT_PLUGINS`` limits them further.
    strict
        Raise where a plugin fails instead of warning and going on; so does ``DLBT_STRICT_PLUGINS=1``.
    discover
        Whether to take in ``core`` and the installed plugins. If not, only what is added by hand is there.

    Attributes
    ----------
    registry, composites, lowerings, analysers, passes
        What the plugins brought.
    loaded, failures
        Who is in use, and who is not.
    strict
        Whether a plugin that fails raises.
    generation
        Another number whenever the content is another, also between instances: a key for caches.

    Raises
    ------
    PluginError
        If `strict` and a plugin fails, or if ``core`` fails.
    """

    def __init__(
        self, block: Iterable[str] = (), only: Iterable[str] = (), strict: bool = False, discover: bool = True
    ) -> None:
        self._blocked = _names(block) | _names(os.environ.get("DLBT_DISABLE_PLUGINS", ""))
        self._allowed = [names for names in (_names(only), _names(os.environ.get("DLBT_PLUGINS", ""))) if names]
        self.strict = strict or os.environ.get("DLBT_STRICT_PLUGINS", "").strip().lower() not in _OFF
        self._lock = threading.RLock()
        self._disabled: tuple[Candidate, ...] = ()
        self._analysers = AnalyserSet()
        self._foreign: tuple[int, frozenset[str]] = (-1, frozenset())
        self._brought_by: dict[str, LoadedPlugin] = {}
        self.registry = Registry()
        self.composites = CompositeSet()
        self.lowerings = LoweringSet()
        self.passes: tuple[GraphPass, ...] = ()
        self.loaded: tuple[LoadedPlugin, ...] = ()
        self.failures: tuple[PluginFailure, ...] = ()
        self.generation = next(_generations)
        if discover:
            self.add_builtin()
            for candidate in installed_plugins():
                self._take(candidate)

    @property
    def analysers(self) -> Mapping[str, Analyser]:
        """Analysers by name."""
        return MappingProxyType(dict(self._analysers.items()))

    @property
    def foreign_rules(self) -> frozenset[str]:
        """Ops of the bundled plugins' namespaces for which only other plugins have rules."""
        generation, ops = self._foreign
        if generation != self.generation:
            bundled = {plugin.name for plugin in self.loaded if plugin.is_bundled}
            ours = {str(rule.op) for rule in self.registry if rule.source.plugin in bundled}
            others = {str(rule.op) for rule in self.registry} - ours
            ops = frozenset(op for op in others if op.partition(".")[0] in RESERVED and packet(op) not in ours)
            self._foreign = (self.generation, ops)
        return ops

    def source_of_analyser(self, name: str) -> LoadedPlugin:
        """The plugin that brought the analyser of that name."""
        return self._named(self._analysers.plugin_of(name))

    def source_of_lowering(self, op: str) -> LoadedPlugin:
        """The plugin that brought the lowering of an op's full name."""
        return self._named(self.lowerings.plugin_of(op))

    def _named(self, name: str) -> LoadedPlugin:
        return next(plugin for plugin in self.loaded if plugin.name == name)

    def source_of(self, composite: str) -> LoadedPlugin:
        """The plugin that brought the composite of that name.

        Raises
        ------
        KeyError
            If none did.
        """
        return self._brought_by[composite]

    def add(self, obj: Any, name: str, distribution: str = "(local)", version: str = "0") -> None:
        """Take in a plugin by hand: any object or module with hooks. The switches hold for it too.

        Parameters
        ----------
        obj
            What has the hooks.
        name
            The plugin's name.
        distribution, version
            Where it comes from, for messages.

        Raises
        ------
        PluginError
            If strict and the plugin fails.
        """
        target = getattr(obj, "__name__", None) or f"{type(obj).__module__}.{type(obj).__qualname__}"
        self._take(Candidate(name, distribution, version, str(target), lambda: obj))

    def add_builtin(self) -> None:
        """Take in the built-in plugin ``core``; only of use after ``discover=False``."""
        module = "dlbt_core.rules.builtin.plugin"
        version = installed_version("dlbt-core") or "0"
        self._take(Candidate(CORE, "dlbt-core", version, module, lambda: importlib.import_module(module)))

    def describe(self) -> list[PluginRow]:
        """All plugins that were found: those in use, those that failed, and those switched off."""
        rows: list[tuple[LoadedPlugin | PluginFailure | Candidate, str, str, int]] = [
            *((plugin, "loaded", "register", plugin.rules) for plugin in self.loaded),
            *((failure, "failed", failure.stage, 0) for failure in self.failures),
            *((candidate, "disabled", "", 0) for candidate in self._disabled),
        ]
        return [
            PluginRow(p.name, p.distribution, p.version, status, stage, n, p.target) for p, status, stage, n in rows
        ]

    def __repr__(self) -> str:
        return f"Plugins({', '.join(map(str, self.loaded))})"

    # -- one plugin, from its name to its place ------------------------------------------------------------------------

    def _take(self, candidate: Candidate) -> None:
        with self._lock:
            if self._is_switched_off(candidate):
                self._disabled += (candidate,)
                return
            stage, switch = "import", candidate.distribution
            try:
                self._refuse_taken_name(candidate)
                switch = candidate.name
                plugin = candidate.load()
                stage = "info"
                info = info_of(plugin)
                stage = "api"
                check_api(info)
                stage = "register"
                check_owned(info, candidate)
                self._commit(candidate, info, Staged.by(hooks_of(plugin, candidate.name), candidate))
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # sys.exit() in a plugin must not end what runs here
                self._fail(candidate, stage, switch, error)

    def _is_switched_off(self, candidate: Candidate) -> bool:
        if candidate.is_core:
            return False
        known_as = {plain_name(candidate.name), plain_name(candidate.distribution)}
        return bool(known_as & self._blocked) or any(not known_as & allowed for allowed in self._allowed)

    def _refuse_taken_name(self, candidate: Candidate) -> None:
        for plugin in self.loaded:
            if plugin.name == candidate.name:
                raise PluginError(f"the plugin name {plugin.name!r} is taken by {plugin.distribution} {plugin.version}")

    def _commit(self, candidate: Candidate, info: PluginInfo, staged: Staged) -> None:
        """Take in all that a plugin brings; what may be refused comes first, what cannot fail after it."""
        for name in staged.composites:
            if name in self._brought_by:
                raise PluginError(f"the composite name {name!r} is taken by plugin {self._brought_by[name]}")
        composites = _joined(CompositeSet(), self.composites, staged.composites)
        lowerings = _joined(LoweringSet(), self.lowerings, staged.lowerings)
        analysers = _joined(AnalyserSet(), self._analysers, staged.analysers)
        passes = in_order((*self.passes, *staged.passes))
        loaded = LoadedPlugin(
            candidate.name, candidate.distribution, candidate.version, info, len(staged.rules), candidate.target
        )
        self.registry.add(staged.rules, candidate.name, info.owns)
        self.composites, self.lowerings, self._analysers, self.passes = composites, lowerings, analysers, passes
        self._brought_by.update(dict.fromkeys(staged.composites, loaded))
        self.loaded += (loaded,)
        self.generation = next(_generations)

    def _fail(self, candidate: Candidate, stage: str, switch: str, error: BaseException) -> None:
        cause = str(error) if isinstance(error, PluginError) else told(error)
        shown = "".join(traceback.format_exception(error))
        failure = PluginFailure(
            candidate.name, candidate.distribution, candidate.version, stage, cause, shown, candidate.target, switch
        )
        self.failures += (failure,)
        if self.strict or candidate.is_core:  # without core nothing works: that is no plugin's fault to warn about
            raise PluginError(str(failure)) from error
        warn_user(failure.message, PluginWarning)


def _names(given: str | Iterable[str]) -> frozenset[str]:
    parts = given.split(",") if isinstance(given, str) else given
    return frozenset(plain_name(part.strip()) for part in parts if part.strip())


def _joined(merged: _Set, ours: _Set, new: _Set) -> _Set:
    merged.update(ours)
    merged.update(new)
    return merged


# -- the user's side ---------------------------------------------------------------------------------------------------


_default: Plugins | None = None
_default_lock = threading.RLock()
_is_making = False


def default_plugins() -> Plugins:
    """The plugins of this process, loaded at first use.

    Raises
    ------
    PluginError
        If called by a plugin that is being loaded, or if ``DLBT_STRICT_PLUGINS`` is set and a plugin fails.
    """
    with _default_lock:
        return _default if _default is not None else _make_default()


def reload_plugins() -> Plugins:
    """Look for plugins again, e.g. after installing one in a running notebook; gives the new `default_plugins`.

    Modules that were imported before are not imported again.
    """
    with _default_lock:
        importlib.invalidate_caches()
        return _make_default()


def _make_default() -> Plugins:
    global _default, _is_making
    if _is_making:
        raise PluginError(
            "default_plugins() was called by a plugin while plugins are being loaded. Call it inside a function that runs later"
        )
    _is_making = True
    try:
        _default = Plugins()
    finally:
        _is_making = False
    return _default
