"""What one plugin brings, and whether it may: its hooks are called here, and nothing takes effect yet."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import Any

import pluggy

from dlbt_core.composites.composite import CompositeSet
from dlbt_core.errors import PluginError
from dlbt_core.plugins import hookspecs
from dlbt_core.plugins.discovery import Candidate
from dlbt_core.plugins.hookspecs import RULE_API, AnalyserSet, GraphPass, LoweringSet, PluginInfo
from dlbt_core.rules.rule import Provenance, RuleSet

__all__ = ["Staged", "check_api", "check_owned", "hooks_of", "info_of"]

RESERVED = frozenset({"aten", "prim"})
"""Namespaces that bundled plugins alone may own."""

_HOOKS = tuple(name for name in hookspecs.__all__ if name.startswith("dlbt_"))


@dataclass(frozen=True)
class Staged:
    """All that one plugin declares, in sets of its own."""

    rules: RuleSet
    composites: CompositeSet
    lowerings: LoweringSet
    analysers: AnalyserSet
    passes: tuple[GraphPass, ...]

    @classmethod
    def by(cls, hooks: Any, candidate: Candidate) -> Staged:
        """Call the hooks of one plugin."""
        rules = RuleSet(Provenance(candidate.name, candidate.distribution, candidate.version))
        composites, lowerings, analysers = CompositeSet(), LoweringSet(candidate.name), AnalyserSet(candidate.name)
        hooks.dlbt_register_rules(add=rules)
        hooks.dlbt_register_composites(add=composites)
        hooks.dlbt_register_lowerings(add=lowerings)
        hooks.dlbt_register_analysers(add=analysers)
        passes = tuple(graph_pass for brought in hooks.dlbt_graph_passes() for graph_pass in brought)
        for graph_pass in passes:
            if not isinstance(graph_pass, GraphPass):
                raise PluginError(f"dlbt_graph_passes returns a list of GraphPass, not of {type(graph_pass).__name__}")
        return cls(rules, composites, lowerings, analysers, passes)


def info_of(plugin: Any) -> PluginInfo:
    """What a plugin says about itself.

    Asked before anything else is looked at: one written for a later API may have hooks that are not known here, and
    the reason to give is then the API.
    """
    hook = getattr(plugin, "dlbt_plugin_info", None)
    info = hook() if hook is not None else None
    if info is None:
        return PluginInfo()
    if not isinstance(info, PluginInfo):
        raise PluginError(f"dlbt_plugin_info returns a PluginInfo, not {type(info).__name__}")
    if isinstance(info.owns, str) or not all(isinstance(namespace, str) for namespace in info.owns):
        raise PluginError(f"owns lists namespaces, e.g. owns=('acme',), not {info.owns!r}")
    return info


def check_api(info: PluginInfo) -> None:
    """Refuse a plugin written for another rule API."""
    match = re.fullmatch(r"(\d+)\.(\d+)", str(info.rule_api))
    if match is None:
        raise PluginError(f"rule_api is a version such as '1.0', not {info.rule_api!r}")
    major, minor = int(match[1]), int(match[2])
    if major != RULE_API[0] or minor > RULE_API[1]:
        ours = f"{RULE_API[0]}.{RULE_API[1]}"
        other = "dlbt-core" if (major, minor) > RULE_API else "release of the plugin"
        raise PluginError(f"written for rule API {major}.{minor}, this dlbt-core has {ours}. Install a newer {other}")


def check_owned(info: PluginInfo, candidate: Candidate) -> None:
    """Refuse a stranger that owns what belongs to the bundled plugins."""
    reserved = sorted(RESERVED & set(info.owns))
    if reserved and not candidate.is_bundled:
        raise PluginError(
            f"it owns {', '.join(map(repr, reserved))}, which belong to the bundled plugins alone. "
            "Leave them out of owns: its rules for their ops can be named as 'plugin:variant'"
        )


def hooks_of(plugin: Any, name: str) -> Any:
    """The hooks of one plugin, ready to be called.

    Each plugin has a manager of its own: a call then reaches this plugin alone, and one that pluggy refuses half way
    leaves nothing behind.
    """
    manager = pluggy.PluginManager("dlbt")
    manager.add_hookspecs(hookspecs)
    for hook in _HOOKS:
        if inspect.getattr_static(plugin, hook, None) and manager.parse_hookimpl_opts(plugin, hook) is None:
            raise PluginError(f"{hook} is not marked as a hook. Put @hookimpl in front of it")
    try:
        manager.register(plugin, name)
    except pluggy.PluginValidationError as error:
        raise PluginError(_misfit(plugin) or " ".join(str(error).split())) from error
    implemented = manager.get_hookcallers(plugin) or []
    if not implemented:
        raise PluginError(f"it has no hooks. Mark its functions with @hookimpl; there are: {', '.join(_HOOKS)}")
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        unknown = min(caller.name for caller in implemented if _is_pending(caller))
        raise PluginError(f"there is no hook {unknown!r}. There are: {', '.join(_HOOKS)}") from error
    return manager.hook


def _is_pending(caller: pluggy.HookCaller) -> bool:
    return not caller.has_spec() and not all(found.optionalhook for found in caller.get_hookimpls())


def _misfit(plugin: Any) -> str:
    """Which hook has arguments that it cannot be given."""
    for hook in _HOOKS:
        if hasattr(plugin, hook):
            wanted, given = list(inspect.signature(getattr(plugin, hook)).parameters), _arguments(hook)
            if not set(wanted) <= set(given):
                return f"the hook is {hook}({', '.join(given)}), not {hook}({', '.join(wanted)})"
    return ""


def _arguments(hook: str) -> list[str]:
    return list(inspect.signature(getattr(hookspecs, hook)).parameters)
