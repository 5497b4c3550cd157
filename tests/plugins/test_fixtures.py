"""The fixtures that plugin authors get."""

from __future__ import annotations

import sys

import importlib_metadata
import pytest

from dlbt_core.rules.builtin import plugin as builtin
from dlbt_core.testing.fixtures import fake_distributions


def test_fake_distribution_is_real_while_it_lasts_and_gone_after(tmp_path):
    path, modules = list(sys.path), set(sys.modules)
    with pytest.MonkeyPatch.context() as monkeypatch, fake_distributions(tmp_path, monkeypatch) as make:
        root = make("Acme-Rotary", "1.2", {"acme": "acme_fake.plugin:value"}, {"acme_fake/plugin.py": "value = 1"})
        assert importlib_metadata.version("acme_rotary") == "1.2"
        (entry,) = importlib_metadata.entry_points(group="dlbt.plugins", name="acme")
        assert entry.load() == 1
        assert sys.path[0] == str(root)
        make("Acme-Rotary", "1.3", {"acme": "acme_fake.plugin:value"}, {"acme_fake/plugin.py": "value = 2"})
        (entry,) = importlib_metadata.entry_points(group="dlbt.plugins", name="acme")
        assert (entry.load(), entry.dist.version) == (2, "1.3")
    assert sys.path == path
    assert not {name for name in set(sys.modules) - modules if name.startswith("acme_fake")}
    with pytest.raises(importlib_metadata.PackageNotFoundError):
        importlib_metadata.version("acme_rotary")


def test_fixtures_do_not_see_the_switches_of_the_environment(monkeypatch, request):
    monkeypatch.setenv("DLBT_PLUGINS", "another")
    monkeypatch.setenv("DLBT_DISABLE_PLUGINS", "mine")
    plugins = request.getfixturevalue("dlbt_plugins")
    plugins.add(builtin, "mine", "dlbt-core")
    assert [plugin.name for plugin in plugins.loaded] == ["mine"]
