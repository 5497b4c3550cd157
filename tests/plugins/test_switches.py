"""Which plugins are taken: the switches, those added by hand, and the ones of the process."""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace

import pytest

from dlbt_core.errors import PluginError, PluginWarning
from dlbt_core.plugins import loader
from dlbt_core.plugins.discovery import installed_version
from dlbt_core.plugins.hookspecs import PluginInfo, hookimpl
from dlbt_core.plugins.loader import Plugins, default_plugins, reload_plugins

FINE = """
from dlbt_core.plugins.hookspecs import hookimpl
@hookimpl
def dlbt_register_rules(add): add.rule("fine.op", variant="epsilon", default=True)(lambda ctx, message: {})
"""


@pytest.mark.parametrize("name", ["off", "dlbt-off", "DLBT_off", " off , other "])
def test_disabled_plugin_is_not_imported(name, install, monkeypatch, content):
    install("off", FINE)
    install("fine", FINE)
    monkeypatch.setenv("DLBT_DISABLE_PLUGINS", name)
    plugins = Plugins(only=("off", "fine"), strict=True)
    assert content(plugins)["loaded"] == ["core", "fine"]
    assert "fine_0_1_0" in sys.modules
    assert "off_0_1_0" not in sys.modules


@pytest.mark.parametrize("name", ["fine", "dlbt-fine"])
@pytest.mark.parametrize("how", ["environment", "argument"])
def test_allow_list(name, how, install, monkeypatch, content):
    install("off", FINE)
    install("fine", FINE)
    if how == "environment":
        monkeypatch.setenv("DLBT_PLUGINS", name)
    plugins = Plugins(only=(name,) if how == "argument" else (), strict=True)
    assert content(plugins)["loaded"] == ["core", "fine"]
    assert "off_0_1_0" not in sys.modules


def test_environment_limits_the_arguments(install, monkeypatch, content):
    install("one", FINE)
    install("two", FINE)
    monkeypatch.setenv("DLBT_PLUGINS", "two")
    assert content(Plugins(only=("one", "two")))["loaded"] == ["core", "two"]
    assert content(Plugins(only=("one",)))["loaded"] == ["core"]
    assert content(Plugins(only=("two",), block=("two",)))["loaded"] == ["core"]


def test_core_cannot_be_switched_off(monkeypatch, content):
    monkeypatch.setenv("DLBT_DISABLE_PLUGINS", "core,dlbt-core")
    assert content(Plugins(block=("core",), only=("nothing",)))["loaded"] == ["core"]


@pytest.mark.parametrize("how", ["environment", "argument"])
def test_strict_raises(how, install, monkeypatch):
    install("broken", "import not_a_module", "0.3.0")
    if how == "environment":
        monkeypatch.setenv("DLBT_STRICT_PLUGINS", "1")
    with pytest.raises(PluginError) as raised:
        Plugins(only=("broken",), strict=how == "argument")
    assert str(raised.value) == (
        "dlbt-broken 0.3.0 [broken]: failed at import: ModuleNotFoundError: No module named 'not_a_module'"
    )
    assert isinstance(raised.value.__cause__, ModuleNotFoundError)


@pytest.mark.parametrize("value", ["0", "", " ", "false", "No", "off"])
def test_strict_can_be_switched_off(value, install, monkeypatch):
    install("broken", "import not_a_module")
    monkeypatch.setenv("DLBT_STRICT_PLUGINS", value)
    with pytest.warns(PluginWarning):
        assert len(Plugins(only=("broken",)).failures) == 1


def test_broken_core_raises_always(monkeypatch):
    monkeypatch.setitem(sys.modules, "dlbt_core.rules.builtin.plugin", None)
    with pytest.raises(PluginError) as caught:
        Plugins(only=("nothing",))
    module = "dlbt_core.rules.builtin.plugin"
    assert str(caught.value) == (
        f"dlbt-core {installed_version('dlbt-core')} [core]: failed at import: ModuleNotFoundError: import of {module} halted; "
        "None in sys.modules"
    )


# -- by hand -----------------------------------------------------------------------------------------------------------


def by_hand(op, **info):
    """A plugin as a plain object."""

    @hookimpl
    def dlbt_plugin_info():
        return PluginInfo(**info)

    @hookimpl
    def dlbt_register_rules(add):
        add.rule(op, variant="epsilon", default=True)(lambda ctx, message: {})

    return SimpleNamespace(dlbt_plugin_info=dlbt_plugin_info, dlbt_register_rules=dlbt_register_rules)


def test_add_by_hand(dlbt_plugins, content):
    assert not any(content(dlbt_plugins).values())
    dlbt_plugins.add(by_hand("acme.op"), "mine")
    assert [rule.id for rule in dlbt_plugins.registry] == ["mine:acme.op#epsilon"]
    row = dlbt_plugins.describe()[0]
    assert (row.name, row.distribution, row.version, row.target) == ("mine", "(local)", "0", "types.SimpleNamespace")
    with pytest.raises(PluginError) as raised:
        dlbt_plugins.add(by_hand("acme.other"), "mine")
    assert str(raised.value) == (
        "(local) 0 [mine]: failed at import: the plugin name 'mine' is taken by (local) 0"
    )
    with pytest.raises(PluginError) as raised:
        dlbt_plugins.add(by_hand("aten.linear", owns=("aten",)), "second")
    assert str(raised.value) == (
        "(local) 0 [second]: failed at register: it owns 'aten', which belong to the bundled plugins alone. Leave them out "
        "of owns: its rules for their ops can be named as 'plugin:variant'"
    )
    assert [rule.id for rule in dlbt_plugins.registry] == ["mine:acme.op#epsilon"]


def test_generation_is_another_when_the_content_is(dlbt_plugins):
    other = Plugins(discover=False)
    assert other.generation != dlbt_plugins.generation
    before = dlbt_plugins.generation
    dlbt_plugins.add(by_hand("acme.op"), "mine")
    after = dlbt_plugins.generation
    assert after > max(before, other.generation)
    with pytest.raises(PluginError):
        dlbt_plugins.add(by_hand("acme.op"), "mine")
    assert dlbt_plugins.generation == after


# -- the process-wide ones ---------------------------------------------------------------------------------------------


@pytest.fixture
def no_default(monkeypatch):
    """As if `default_plugins` had not been called yet."""
    monkeypatch.setattr(loader, "_default", None)


def test_default_plugins_are_made_once(no_default, install, monkeypatch, content):
    install("fine", FINE)
    monkeypatch.setenv("DLBT_PLUGINS", "fine")
    found = []
    threads = [threading.Thread(target=lambda: found.append(default_plugins())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(map(id, found))) == 1
    assert content(found[0])["loaded"] == ["core", "fine"]


def test_reload_finds_what_was_installed_since(no_default, install, monkeypatch, content):
    monkeypatch.setenv("DLBT_PLUGINS", "fine")
    before = default_plugins()
    install("fine", FINE)
    assert default_plugins() is before
    after = reload_plugins()
    assert default_plugins() is after
    assert content(after)["loaded"] == ["core", "fine"]
    assert after.generation > before.generation


def test_a_plugin_may_not_ask_for_the_default_plugins(no_default, install, monkeypatch, content):
    asks = "from dlbt_core.plugins.loader import default_plugins\ndefault_plugins()"
    install("asks", asks)
    monkeypatch.setenv("DLBT_PLUGINS", "asks")
    with pytest.warns(PluginWarning) as caught:
        plugins = default_plugins()
    assert [str(one.message) for one in caught] == [
        "dlbt-asks 0.1.0 [asks]: failed at import: default_plugins() was called by a plugin while plugins are being loaded. "
        "Call it inside a function that runs later\n"
        "  Its rules are not available. 'dlbt plugins --traceback' shows the error; DLBT_DISABLE_PLUGINS=asks silences this."
    ]
    assert content(plugins)["loaded"] == ["core"]
