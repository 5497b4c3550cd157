from __future__ import annotations

import pytest

from dlbt_core.plugins.loader import Plugins
from dlbt_core.testing.pytest_plugin import dlbt_plugins, fake_distribution

__all__ = ["content", "dlbt_plugins", "fake_distribution", "install"]


@pytest.fixture
def install(fake_distribution):
    """Makes a distribution ``dlbt-NAME`` whose plugin NAME is in a package named after it and its version."""

    def make(name, text, version="0.1.0", distribution=""):
        package = f"{name}_{version.replace('.', '_')}"
        files = {f"{package}/__init__.py": "", f"{package}/plugin.py": text}
        return fake_distribution(distribution or f"dlbt-{name}", version, {name: f"{package}.plugin"}, files)

    return make


@pytest.fixture
def content():
    """Gives all that plugins brought, by name."""

    def names(plugins: Plugins) -> dict[str, list[str]]:
        return {
            "rules": [rule.id for rule in plugins.registry],
            "composites": list(plugins.composites),
            "lowerings": list(plugins.lowerings),
            "analysers": list(plugins.analysers),
            "passes": [graph_pass.name for graph_pass in plugins.passes],
            "loaded": [plugin.name for plugin in plugins.loaded],
        }

    return names
