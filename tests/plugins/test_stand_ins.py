"""The distributions that stand in for those a plugin may meet; and that nothing of them changes what works."""

from __future__ import annotations

import itertools
import warnings

import pytest
import torch
from torch import nn

import dlbt_core as dlbt
from dlbt_core.errors import PluginError, PluginWarning
from dlbt_core.plugins.loader import Plugins
from dlbt_core.testing.pytest_plugin import stand_in
from dlbt_core.testing.stand_ins import KINDS

__all__ = ["stand_in"]

CAUSES = {
    "broken": ("import", "ModuleNotFoundError: No module named 'a_module_that_is_not_there'"),
    "too_new": ("api", "written for rule API 999.0, this dlbt-core has 1.0. Install a newer dlbt-core"),
    "misspelled": (
        "register",
        "there is no hook 'dlbt_register_rulse'. There are: dlbt_graph_passes, dlbt_plugin_info, dlbt_register_analysers, "
        "dlbt_register_composites, dlbt_register_lowerings, dlbt_register_rules",
    ),
    "failing": ("register", "RuntimeError: not today"),
}
X = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).double().eval()


def outcome(plugins: Plugins) -> tuple[list[str], torch.Tensor]:
    """Which rules run for a model, and what they give."""
    found = dlbt.explain(net(), X, plugins=plugins)
    return [step.rule.id for step in found.plan.steps], found.relevance


@pytest.mark.parametrize("kind", CAUSES)
def test_a_plugin_that_fails_leaves_one_warning_and_all_else_works(kind, stand_in):
    rules, relevance = outcome(Plugins())
    stand_in("installed", "fine")
    stand_in(kind)
    stage, cause = CAUSES[kind]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        plugins = Plugins()
    (warning,) = [w for w in caught if w.category is PluginWarning]
    assert str(warning.message) == (
        f"dlbt-acme 0.1.0 [acme]: failed at {stage}: {cause}\n  Its rules are not available. 'dlbt plugins --traceback' "
        "shows the error; DLBT_DISABLE_PLUGINS=acme silences this."
    )
    assert [p.name for p in plugins.loaded][-1] == "fine"
    found, values = outcome(plugins)
    assert found == rules
    assert torch.equal(values, relevance)


@pytest.mark.parametrize("kind", CAUSES)
def test_strict_raises_and_disabled_is_not_imported(kind, stand_in, monkeypatch):
    stand_in(kind)
    stage, cause = CAUSES[kind]
    with pytest.raises(PluginError) as caught:
        Plugins(strict=True)
    assert str(caught.value) == f"dlbt-acme 0.1.0 [acme]: failed at {stage}: {cause}"
    monkeypatch.setenv("DLBT_STRICT_PLUGINS", "1")
    monkeypatch.setenv("DLBT_DISABLE_PLUGINS", "acme")
    assert Plugins().failures == ()


def test_a_duplicate_is_refused_and_the_first_stays(stand_in):
    stand_in("installed")
    stand_in("duplicate")
    with pytest.warns(PluginWarning) as caught:
        plugins = Plugins()
    assert str(caught[0].message) == (
        "dlbt-acme-again 0.1.0 [acme]: failed at import: the plugin name 'acme' is taken by dlbt-acme 0.1.0\n"
        "  Its rules are not available. 'dlbt plugins --traceback' shows the error; "
        "DLBT_DISABLE_PLUGINS=dlbt-acme-again silences this."
    )
    assert [p.distribution for p in plugins.loaded if p.name == "acme"] == ["dlbt-acme"]


def test_three_that_claim_linear_change_nothing_in_any_order(stand_in):
    rules, relevance = outcome(Plugins())
    for order in itertools.permutations(("one", "two", "three")):
        for name in order:
            stand_in("installed", name)
        found, values = outcome(Plugins(strict=True))
        assert found == rules
        assert torch.equal(values, relevance)


def test_an_unknown_kind(stand_in):
    with pytest.raises(ValueError, match=rf"^no kind 'odd' of distribution\. There are: {', '.join(KINDS)}\.$"):
        stand_in("odd")
    assert set(KINDS) == {*CAUSES, "installed", "duplicate"}
