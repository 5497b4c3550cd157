"""How plugins are found and taken in, and what happens to those that are broken."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from dlbt_core.errors import PluginWarning
from dlbt_core.plugins.discovery import installed_version
from dlbt_core.plugins.loader import Plugins

CORE = f"dlbt-core {installed_version('dlbt-core') or '0'}"
HOOKS = (
    "dlbt_graph_passes, dlbt_plugin_info, dlbt_register_analysers, dlbt_register_composites, "
    "dlbt_register_lowerings, dlbt_register_rules"
)

HEAD = """\
from dlbt_core.composites.composite import Composite
from dlbt_core.plugins.hookspecs import GraphPass, PluginInfo, hookimpl
def rule(ctx, message): return {}
"""

FINE = (
    HEAD
    + """
@hookimpl
def dlbt_plugin_info(): return PluginInfo(summary="fine", owns=("fine",))
@hookimpl
def dlbt_register_rules(add): add.rule("fine.op", variant="epsilon", default=True)(rule)
"""
)

EVERYTHING = (
    HEAD
    + """
@hookimpl
def dlbt_register_rules(add): add.rule("acme.op", variant="epsilon", default=True)(rule)
@hookimpl
def dlbt_register_composites(add): add.add(Composite("acme_composite"))
@hookimpl
def dlbt_register_lowerings(add): add.lowering("acme.low")(rule)
@hookimpl
def dlbt_register_analysers(add): add.analyser("acme_analyser")(rule)
@hookimpl
def dlbt_graph_passes(): return [GraphPass("acme_pass", rule)]
"""
)

# what is wrong -> (the plugin's module, stage, cause); {file} stands for the module's path
BROKEN = {
    "import error": (
        "import not_a_module",
        "import",
        "ModuleNotFoundError: No module named 'not_a_module'",
    ),
    "exit at import": ("import sys\nsys.exit('no licence')", "import", "SystemExit: no licence"),
    "exit without a word": ("raise SystemExit", "import", "SystemExit"),
    "no Python": ("def f(:", "import", "SyntaxError: invalid syntax (plugin.py, line 1)"),
    "error without text": (
        "class Wordless(Exception):\n    def __str__(self): raise KeyError\nraise Wordless",
        "import",
        "Wordless: (its text cannot be shown)",
    ),
    "exit in a hook": (
        HEAD + "@hookimpl\ndef dlbt_register_rules(add):\n    add.rule('aten.linear', variant='half')(rule)\n    exit(3)\n",
        "register",
        "SystemExit: 3",
    ),
    "api of another major version": (
        HEAD + "@hookimpl\ndef dlbt_plugin_info(): return PluginInfo(rule_api='2.0')\n"
        "@hookimpl\ndef dlbt_hook_of_version_2(): pass\n",
        "api",
        "written for rule API 2.0, this dlbt-core has 1.0. Install a newer dlbt-core",
    ),
    "api of a later minor version": (
        HEAD + "@hookimpl\ndef dlbt_plugin_info(): return PluginInfo(rule_api='1.1')\n",
        "api",
        "written for rule API 1.1, this dlbt-core has 1.0. Install a newer dlbt-core",
    ),
    "api of an earlier major version": (
        HEAD + "@hookimpl\ndef dlbt_plugin_info(): return PluginInfo(rule_api='0.9')\n",
        "api",
        "written for rule API 0.9, this dlbt-core has 1.0. Install a newer release of the plugin",
    ),
    "api that is no version": (
        HEAD + "@hookimpl\ndef dlbt_plugin_info(): return PluginInfo(rule_api=1)\n",
        "api",
        "rule_api is a version such as '1.0', not 1",
    ),
    "info of another type": (
        HEAD + "@hookimpl\ndef dlbt_plugin_info(): return {'rule_api': '1.0'}\n",
        "info",
        "dlbt_plugin_info returns a PluginInfo, not dict",
    ),
    "info raises": (
        HEAD + "@hookimpl\ndef dlbt_plugin_info(): raise OSError('no disk')\n",
        "info",
        "OSError: no disk",
    ),
    "owns is a string": (
        HEAD + "@hookimpl\ndef dlbt_plugin_info(): return PluginInfo(owns='acme')\n",
        "info",
        "owns lists namespaces, e.g. owns=('acme',), not 'acme'",
    ),
    "owns aten": (
        HEAD + "@hookimpl\ndef dlbt_plugin_info(): return PluginInfo(owns=('acme', 'prim', 'aten'))\n"
        "@hookimpl\ndef dlbt_register_rules(add): add.rule('aten.linear', variant='epsilon', default=True)(rule)\n",
        "register",
        "it owns 'aten', 'prim', which belong to the bundled plugins alone. "
        "Leave them out of owns: its rules for their ops can be named as 'plugin:variant'",
    ),
    "misspelled hook": (
        EVERYTHING + "@hookimpl\ndef dlbt_regsiter_rules(add): pass\n",
        "register",
        f"there is no hook 'dlbt_regsiter_rules'. There are: {HOOKS}",
    ),
    "hook without mark": (
        EVERYTHING.replace("@hookimpl\ndef dlbt_register_rules", "def dlbt_register_rules"),
        "register",
        "dlbt_register_rules is not marked as a hook. Put @hookimpl in front of it",
    ),
    "no hooks": (
        HEAD,
        "register",
        f"it has no hooks. Mark its functions with @hookimpl; there are: {HOOKS}",
    ),
    "wrong signature": (
        EVERYTHING.replace("dlbt_register_lowerings(add)", "dlbt_register_lowerings(lowerings)"),
        "register",
        "the hook is dlbt_register_lowerings(add), not dlbt_register_lowerings(lowerings)",
    ),
    "rule declared twice": (
        HEAD + "@hookimpl\ndef dlbt_register_rules(add):\n"
        "    add.rule('acme.op', variant='epsilon')(rule)\n"
        "    @add.rule('acme.op', variant='epsilon')\n"
        "    def again(ctx, message): return {}\n",
        "register",
        "DuplicateRuleError: plugin 'broken' declares acme.op#epsilon twice:\n  first   {file}:3\n  second  {file}:7",
    ),
    "rule of a wrong form": (
        HEAD + "@hookimpl\ndef dlbt_register_rules(add): add.rule('linear', variant='epsilon')(rule)\n",
        "register",
        "OpKeyError: 'linear' is not an op key. Write 'aten.linear' (all overloads), 'aten.linear.default' (one), "
        "'mylib::op', or pass the torch.ops object itself.",
    ),
    "raises in its last hook": (
        EVERYTHING.replace("return [GraphPass", "raise RuntimeError('half way'); return [GraphPass"),
        "register",
        "RuntimeError: half way",
    ),
    "pass of another type": (
        EVERYTHING.replace('[GraphPass("acme_pass", rule)]', "[rule]"),
        "register",
        "dlbt_graph_passes returns a list of GraphPass, not of function",
    ),
    "passes wait for each other": (
        EVERYTHING.replace(
            '[GraphPass("acme_pass", rule)]', '[GraphPass("a", rule, after=("b",)), GraphPass("b", rule, after=("a",))]'
        ),
        "register",
        "graph passes wait for each other: a -> b -> a.\n  fix  take one of them out of the other's after= or before=.",
    ),
    "composite name taken": (
        EVERYTHING.replace(
            'add.add(Composite("acme_composite"))',
            'add.add(Composite("acme_composite")); add.add(Composite("epsilon"))',
        ),
        "register",
        f"the composite name 'epsilon' is taken by plugin core ({CORE})",
    ),
}


def test_a_plugin_brings_all_kinds(install, content):
    install("acme", EVERYTHING)
    before, plugins = Plugins(only=("core",)), Plugins(only=("acme",))
    brought = {kind: set(names) - set(content(before)[kind]) for kind, names in content(plugins).items()}
    assert brought == {
        "rules": {"acme:acme.op#epsilon"},
        "composites": {"acme_composite"},
        "lowerings": {"acme.low"},
        "analysers": {"acme_analyser"},
        "passes": {"acme_pass"},
        "loaded": {"acme"},
    }
    assert plugins.registry.find("acme.op.default", "epsilon").source.version == "0.1.0"
    assert plugins.lowerings.find("acme.low.default") is plugins.analysers["acme_analyser"]
    assert str(plugins) == f"Plugins(core ({CORE}), acme (dlbt-acme 0.1.0))"


def test_core_is_there_without_any_other_and_owns_aten():
    plugins = Plugins(only=("nothing of that name",))
    assert [plugin.name for plugin in plugins.loaded] == ["core"]
    assert plugins.loaded[0].info.owns == ("aten", "prim")
    assert plugins.loaded[0].rules == len(plugins.registry) > 0
    assert plugins.registry.find("aten.linear.default", "epsilon").id.startswith("core:aten.linear")


@pytest.mark.parametrize("what", BROKEN)
def test_broken_plugin_is_reported_and_leaves_nothing_behind(what, install, content):
    text, stage, cause = BROKEN[what]
    root = install("broken", text, "0.3.0")
    install("fine", FINE)  # sorted after the broken one
    cause = cause.replace("{file}", str(root / "broken_0_3_0" / "plugin.py"))
    alone = content(Plugins(only=("fine",)))

    line = sys._getframe().f_lineno + 2
    with pytest.warns(PluginWarning) as caught:
        plugins = Plugins(only=("broken", "fine"))

    assert [str(warning.message) for warning in caught] == [
        f"dlbt-broken 0.3.0 [broken]: failed at {stage}: {cause}\n"
        "  Its rules are not available. 'dlbt plugins --traceback' shows the error; "
        "DLBT_DISABLE_PLUGINS=broken silences this."
    ]
    assert (caught[0].filename, caught[0].lineno) == (__file__, line)
    assert content(plugins) == alone
    assert alone["loaded"] == ["core", "fine"]
    (failure,) = plugins.failures
    assert (failure.name, failure.distribution, failure.version) == ("broken", "dlbt-broken", "0.3.0")
    assert (failure.stage, failure.cause) == (stage, cause)
    assert failure.traceback.startswith("Traceback (most recent call last):")
    if what not in ("error without text", "no Python"):
        assert cause.partition(": ")[2] in failure.traceback


def test_an_interrupt_is_the_users(install):
    install("broken", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        Plugins(only=("broken",))


def test_a_plugin_that_names_what_its_module_lacks(fake_distribution):
    fake_distribution("dlbt-acme", "1", {"acme": "acme_module:plugin"}, {"acme_module.py": FINE})
    with pytest.warns(PluginWarning, match=r"^dlbt-acme 1 \[acme\]: failed at import: AttributeError: "):
        assert [plugin.name for plugin in Plugins(only=("acme",)).loaded] == ["core"]


def test_the_remedy_in_the_warning_helps(install, monkeypatch):
    install("broken", "import not_a_module")
    monkeypatch.setenv("DLBT_DISABLE_PLUGINS", "broken")
    assert Plugins(only=("broken",)).failures == ()


def test_duplicate_plugin_name(install, monkeypatch):
    install("vision", FINE, "0.1.0", "dlbt-rules-vision")
    install("vision", "raise AssertionError('imported')", "7.0", "a-stranger")
    with pytest.warns(PluginWarning) as caught:
        plugins = Plugins(only=("vision",))
    assert [str(warning.message) for warning in caught] == [
        "a-stranger 7.0 [vision]: failed at import: the plugin name 'vision' is taken by dlbt-rules-vision 0.1.0\n"
        "  Its rules are not available. 'dlbt plugins --traceback' shows the error; "
        "DLBT_DISABLE_PLUGINS=a-stranger silences this."
    ]
    assert [str(plugin) for plugin in plugins.loaded[1:]] == ["vision (dlbt-rules-vision 0.1.0)"]
    monkeypatch.setenv("DLBT_DISABLE_PLUGINS", "a-stranger")
    assert Plugins(only=("vision",)).failures == ()


def test_a_stranger_cannot_take_the_place_of_core(install):
    install("core", FINE, "1.0", "a-stranger")
    with pytest.warns(PluginWarning) as caught:
        plugins = Plugins(only=("core",))
    assert [str(one.message) for one in caught] == [
        f"a-stranger 1.0 [core]: failed at import: the plugin name 'core' is taken by {CORE}\n"
        "  Its rules are not available. 'dlbt plugins --traceback' shows the error; "
        "DLBT_DISABLE_PLUGINS=a-stranger silences this."
    ]
    assert [plugin.distribution for plugin in plugins.loaded] == ["dlbt-core"]


def test_order_is_bundled_then_distribution_then_name(fake_distribution):
    for distribution, names in {"Zeta": ["b", "a"], "alpha": ["z"], "dlbt-rules-vision": ["y"]}.items():
        files = {f"module_{name}.py": FINE.replace("fine", name) for name in names}
        fake_distribution(distribution, "1", {name: f"module_{name}" for name in names}, files)
    plugins = Plugins(only=("a", "b", "y", "z"), strict=True)
    assert [plugin.name for plugin in plugins.loaded] == ["core", "y", "z", "a", "b"]


def test_damaged_metadata_of_others_does_not_end_the_search(install, content):
    (install("other", FINE) / "dlbt_other-0.1.0.dist-info" / "entry_points.txt").write_text("[x]\nno value\n")
    install("fine", FINE)
    assert content(Plugins(only=("fine",), strict=True))["loaded"] == ["core", "fine"]


def test_plugin_without_metadata(install):
    (install("fine", FINE) / "dlbt_fine-0.1.0.dist-info" / "METADATA").unlink()
    assert str(Plugins(only=("fine",), strict=True).loaded[1]) == "fine ((unknown) 0)"


def test_describe(install, monkeypatch):
    install("broken", "import not_a_module", "0.3.0")
    install("fine", FINE)
    install("off", "raise AssertionError('imported')")
    monkeypatch.setenv("DLBT_DISABLE_PLUGINS", "off")
    with pytest.warns(PluginWarning):
        rows = Plugins(only=("broken", "fine", "off")).describe()
    mine = [tuple(vars(row).values()) for row in rows if row.name in ("broken", "fine", "off")]
    assert mine == [
        ("fine", "dlbt-fine", "0.1.0", "loaded", "register", 1, "fine_0_1_0.plugin"),
        ("broken", "dlbt-broken", "0.3.0", "failed", "import", 0, "broken_0_3_0.plugin"),
        ("off", "dlbt-off", "0.1.0", "disabled", "", 0, "off_0_1_0.plugin"),
    ]
    assert rows[0].name == "core"
    assert rows[0].rules > 0


def test_startup_imports_nothing_heavy_and_scans_nothing():
    code = """
import sys
import importlib_metadata
scans, scan = [], importlib_metadata.entry_points
importlib_metadata.entry_points = lambda **group: scans.append(group) or scan(**group)
from dlbt_core.plugins.loader import Plugins
assert scans == [], scans
plugins = Plugins(strict=True)
assert scans == [{"group": "dlbt.plugins"}], scans
heavy = sorted({"transformers", "torchvision", "timm"} & {name.split(".")[0] for name in sys.modules})
assert heavy == [], heavy
print(*(plugin.name for plugin in plugins.loaded))
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DLBT_")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "core"
