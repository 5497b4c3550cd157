"""Fixtures for plugin authors: ``pytest -p dlbt_core.testing.pytest_plugin``.

There is no ``pytest11`` entry point, so that no other project's test run imports torch because of us.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dlbt_core.plugins.loader import Plugins
from dlbt_core.testing.fixtures import FakeDistribution, fake_distributions
from dlbt_core.testing.stand_ins import StandIn, stand_ins

__all__ = ["dlbt_plugins", "fake_distribution", "stand_in"]

_SWITCHES = ("DLBT_DISABLE_PLUGINS", "DLBT_PLUGINS", "DLBT_STRICT_PLUGINS")


@pytest.fixture
def fake_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDistribution]:
    """Makes real distributions in a temporary folder: ``fake_distribution(name, version, entry_points, files)``."""
    for switch in _SWITCHES:
        monkeypatch.delenv(switch, raising=False)
    with fake_distributions(tmp_path, monkeypatch) as make:
        yield make


@pytest.fixture
def stand_in(fake_distribution: FakeDistribution) -> StandIn:
    """Makes an installed, broken, too new, misspelled, failing or duplicate plugin: ``stand_in("broken", "acme")``."""
    return stand_ins(fake_distribution)


@pytest.fixture
def dlbt_plugins(monkeypatch: pytest.MonkeyPatch) -> Plugins:
    """No plugins at all; `Plugins.add` takes in those under test, and raises where one fails."""
    for switch in _SWITCHES:
        monkeypatch.delenv(switch, raising=False)
    return Plugins(strict=True, discover=False)
