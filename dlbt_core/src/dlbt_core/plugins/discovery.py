"""Which plugins are installed. The one module that touches `importlib_metadata`."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import importlib_metadata

__all__ = ["BUNDLED", "CORE", "GROUP", "Candidate", "installed_plugins", "installed_version", "plain_name"]

GROUP = "dlbt.plugins"
BUNDLED = frozenset({"dlbt-core", "dlbt-rules-vision", "dlbt-rules-nlp"})
CORE = "core"


@dataclass(frozen=True)
class Candidate:
    """A plugin that is not loaded yet."""

    name: str
    distribution: str
    version: str
    target: str
    load: Callable[[], Any]

    @property
    def is_bundled(self) -> bool:
        """Whether it comes from one of our own distributions."""
        return plain_name(self.distribution) in BUNDLED

    @property
    def is_core(self) -> bool:
        """Whether it is the built-in plugin."""
        return self.name == CORE and plain_name(self.distribution) == "dlbt-core"


def installed_plugins() -> list[Candidate]:
    """The installed plugins, bundled ones first, then by distribution, then by name: the same order everywhere."""
    found = []
    for entry in _entries():
        distribution, version = _identity(getattr(entry, "dist", None))
        found.append(Candidate(entry.name, distribution, version, entry.value, entry.load))
    return sorted(found, key=lambda c: (not c.is_bundled, plain_name(c.distribution), c.name))


def _entries() -> list[Any]:
    """The entry points of our group, one distribution per name."""
    try:
        return list(importlib_metadata.entry_points(group=GROUP))
    except Exception:  # the damaged file of some package, which need not have to do with us, must not end the search
        found: dict[str, list[Any]] = {}
        for distribution in importlib_metadata.distributions():
            name = plain_name(_identity(distribution)[0])
            if name not in found:
                with contextlib.suppress(Exception):
                    found[name] = list(distribution.entry_points.select(group=GROUP))
        return [entry for entries in found.values() for entry in entries]


def _identity(distribution: Any) -> tuple[str, str]:
    """Name and version of a distribution, also if its metadata is damaged."""
    known = {"name": "(unknown)", "version": "0"}
    for field in known:
        with contextlib.suppress(Exception):
            known[field] = getattr(distribution, field) or known[field]
    return known["name"], known["version"]


def installed_version(distribution: str) -> str | None:
    """The version of an installed distribution; None if it is not installed."""
    try:
        found = importlib_metadata.distribution(distribution)
    except importlib_metadata.PackageNotFoundError:
        return None
    return _identity(found)[1]


def plain_name(name: str) -> str:
    """A name as package indexes compare it, so that acme_rotary and Acme-Rotary are one."""
    return re.sub(r"[-_.]+", "-", name).lower()
