"""Distributions of every kind that a plugin may meet beside it: installed, broken, too new, misspelled, duplicate."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from dlbt_core.testing.fixtures import FakeDistribution

__all__ = ["KINDS", "StandIn", "stand_ins"]

_HEAD = "from dlbt_core.plugins.hookspecs import PluginInfo, hookimpl\n"
_RULES = """
@hookimpl
def dlbt_register_rules(add):
    @add.rule("{name}.op", "aten.linear", variant="stand_in", default=True)
    def stand_in(ctx, m):
        return {{}}
"""

KINDS: Mapping[str, str] = MappingProxyType(
    {
        "installed": _HEAD + _RULES,
        "broken": "import a_module_that_is_not_there\n",
        "too_new": _HEAD + "@hookimpl\ndef dlbt_plugin_info():\n    return PluginInfo(rule_api='999.0')\n" + _RULES,
        "misspelled": _HEAD + _RULES.replace("dlbt_register_rules", "dlbt_register_rulse"),
        "failing": _HEAD + "@hookimpl\ndef dlbt_register_rules(add):\n    raise RuntimeError('not today')\n",
        "duplicate": _HEAD + _RULES,
    }
)
"""Kind to the text of its plugin module. ``installed`` claims ``aten.linear`` as well as an op of its own."""


class StandIn(Protocol):
    """Makes a distribution of a kind and puts it on ``sys.path``; see `stand_ins`."""

    def __call__(self, kind: str, name: str = "acme") -> Path:
        """Make one.

        Parameters
        ----------
        kind
            One of `KINDS`. ``"duplicate"`` has another distribution's name, ``dlbt-NAME-again``, for the plugin of the same
            name: make it besides an ``"installed"`` one.
        name
            The plugin's name; the distribution is ``dlbt-NAME``.

        Raises
        ------
        ValueError
            If there is no such kind.
        """


def stand_ins(make: FakeDistribution) -> StandIn:
    """A function that makes distributions of the kinds in `KINDS`.

    Parameters
    ----------
    make
        Makes distributions from files; see `fake_distributions`.
    """

    def stand_in(kind: str, name: str = "acme") -> Path:
        if kind not in KINDS:
            raise ValueError(f"no kind {kind!r} of distribution. There are: {', '.join(KINDS)}.")
        again = "_again" if kind == "duplicate" else ""
        package = f"dlbt_{name}{again}"
        files = {f"{package}/__init__.py": "", f"{package}/plugin.py": KINDS[kind].format(name=name)}
        return make(package.replace("_", "-"), "0.1.0", {name: f"{package}.plugin"}, files)

    return stand_in
