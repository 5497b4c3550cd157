"""The command line."""

import json
import subprocess
import sys

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import dlbt_core as dlbt
from dlbt_core.cli import tables
from dlbt_core.cli.app import app
from dlbt_core.plugins.loader import Plugins


@pytest.fixture
def run():
    def command(*args):
        return CliRunner().invoke(app, list(args), env={"COLUMNS": "200"})

    return command


@pytest.fixture
def saved(tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    return dlbt.explain(model, torch.ones(2, 4)).save(tmp_path / "saved.safetensors")


@pytest.fixture
def broken(monkeypatch):
    """Plugins of which one could not be taken in."""

    class Hooks:
        @dlbt.hookimpl
        def dlbt_plugin_info(self):
            raise RuntimeError("no such thing")

    plugins = Plugins(discover=False)
    with pytest.warns(match="no such thing"):
        plugins.add(Hooks(), "broken", "dlbt-broken", "1.0")
    monkeypatch.setattr(tables, "default_plugins", lambda: plugins)


def test_version(run):
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"dlbt {dlbt.__version__}\n")


def test_help_lists_the_commands(run):
    result = run("--help")
    assert result.exit_code == 0
    for command in ("demo", "plugins", "rules", "composites", "plan", "coverage", "diff", "compare", "doctor", "show"):
        assert command in result.stdout


def test_entry_point():
    done = subprocess.run(
        [sys.executable, "-c", "from dlbt_core.cli import main; main()", "--version"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout == f"dlbt {dlbt.__version__}\n"


def test_plugins(run):
    result = run("plugins")
    assert result.exit_code == 0
    assert "dlbt-core" in result.stdout
    rows = json.loads(run("plugins", "--json").stdout)
    assert next(row for row in rows if row["name"] == "core")["status"] == "loaded"


@pytest.mark.usefixtures("broken")
def test_a_plugin_that_failed(run):
    result = run("plugins")
    assert result.exit_code == 1
    assert "no such thing" in result.stdout
    assert "Traceback" not in result.stdout
    assert "Traceback" in run("plugins", "--traceback").stdout
    as_json = run("plugins", "--json", "--traceback")
    assert as_json.exit_code == 1
    (row,) = json.loads(as_json.stdout)
    assert (row["name"], row["status"], row["stage"]) == ("broken", "failed", "info")
    assert "no such thing" in row["cause"]
    assert "Traceback" in row["traceback"]


def test_rules(run):
    rows = json.loads(run("rules", "--op", "aten.linear", "--json").stdout)
    assert {row["op"] for row in rows} == {"aten.linear"}
    assert "epsilon" in {row["variant"] for row in rows}
    only = json.loads(run("rules", "--variant", "eps*", "--json").stdout)
    assert {row["variant"] for row in only} == {"epsilon"}
    result = run("rules", "--op", "aten.linear")
    assert result.exit_code == 0
    assert "epsilon *" in result.stdout
    assert f"{len(rows)} rules" in result.stdout


def test_rules_name_who_brought_them(run):
    (row,) = json.loads(run("rules", "--op", "aten.linear", "--variant", "gamma", "--json").stdout)
    assert list(row) == [
        "op", "variant", "default", "plugin", "distribution", "version", "parameters", "takes", "gives", "absorbs", "location",
        "summary",
    ]  # fmt: skip
    assert (row["plugin"], row["distribution"], row["version"]) == ("core", "dlbt-core", "0.1.0")
    path, _, line = row["location"].rpartition(":")
    with open(path, encoding="utf-8") as file:
        assert any("def " in text for text in file.readlines()[int(line) - 1 :][:12])
    table = run("rules", "--op", "aten.linear", "--variant", "gamma").stdout
    assert "core (dlbt-core 0.1.0)" in table
    assert f"rules/builtin/signed.py:{line}" in table


def test_no_rules_that_fit(run):
    assert json.loads(run("rules", "--op", "nope", "--json").stdout) == []
    assert "0 rules" in run("rules", "--op", "nope").stdout


def test_composites(run):
    result = run("composites")
    assert result.exit_code == 0
    for name in ("auto", "epsilon", "attnlrp"):
        assert name in result.stdout
    assert "Select(" in run("composites", "epsilon").stdout
    assert "its plan names" in run("composites", "auto").stdout


def test_composites_as_json(run, tmp_path):
    rows = {row["name"]: row for row in json.loads(run("composites", "--json").stdout)}
    assert rows["epsilon"] == {
        "name": "epsilon", "summary": rows["epsilon"]["summary"], "plugin": "core", "distribution": "dlbt-core",
        "version": "0.1.0", "parameters": {"epsilon": 1e-6}, "chosen_by_graph": False,
    }  # fmt: skip
    assert rows["auto"]["chosen_by_graph"]
    assert rows["cp_lrp"]["plugin"] == "nlp"
    one = json.loads(run("composites", "epsilon", "--json").stdout)
    assert one["choices"][-1] == {"select": {"has": "epsilon"}, "use": "epsilon", "parameters": {"epsilon": 1e-6}}
    assert dlbt.Composite.from_toml(one["toml"]) == dlbt.composite("epsilon")
    assert json.loads(run("composites", "auto", "--json").stdout)["choices"] is None
    (tmp_path / "mine.toml").write_text(one["toml"].replace('"epsilon"', '"mine"', 1))
    assert run("composites", str(tmp_path / "mine.toml")).stdout.startswith("composite mine\n")
    assert json.loads(run("composites", str(tmp_path / "mine.toml"), "--json").stdout)["choices"] == one["choices"]


def test_errors_are_shown_without_a_traceback(run):
    result = run("composites", "nope")
    known = ", ".join(dlbt.default_plugins().composites)
    assert (result.exit_code, result.stderr) == (2, f"error: no composite 'nope'. There are: {known}.\n")
    assert "Traceback" not in result.output
    assert run("composites", "epsilonn").stderr.startswith("error: no composite 'epsilonn'. Did you mean 'epsilon'? There ")


def test_show(run, saved):
    result = run("show", str(saved))
    assert result.exit_code == 0
    assert "ledger" in result.stdout
    assert "aten.linear" in result.stdout


def test_show_as_json(run, saved):
    found = json.loads(run("show", str(saved), "--json").stdout)
    assert list(found) == ["target", "picked", "score", "composite", "inputs", "ledger", "plan"]
    explanation = dlbt.load(saved)
    assert found["score"] == explanation.score.tolist()
    assert found["inputs"] == [{"name": "input", "shape": [2, 4], "sum": explanation.ledger.inputs["input"].tolist()}]
    assert found["ledger"]["error"] == explanation.ledger.error
    assert [row["node"] for row in found["plan"]] == ["linear", "relu", "linear_1"]


def test_show_writes_a_page(run, saved, tmp_path):
    result = run("show", str(saved), "--out", str(tmp_path / "page.html"))
    assert result.exit_code == 0
    assert "absorbed: bias" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_show_of_a_file_that_is_no_explanation(run, tmp_path):
    (tmp_path / "other.txt").write_text("hello")
    result = run("show", str(tmp_path / "other.txt"))
    assert result.exit_code == 2
    assert "not a saved explanation" in result.stderr
    assert run("show", str(tmp_path / "nope")).exit_code == 2


def test_demo_passes_its_options_on(run, monkeypatch, tmp_path):
    called = {}

    def write_demo(path, **options):
        called.update(options, path=path)
        return path

    monkeypatch.setattr("dlbt_core.demo.write_demo", write_demo)
    result = run("demo", "--out", str(tmp_path / "r.html"), "--no-text")
    assert result.exit_code == 0
    assert called == {"path": tmp_path / "r.html", "text": False, "images": True}


def test_demo_with_nothing_to_do(run):
    result = run("demo", "--no-text", "--no-images")
    assert (result.exit_code, result.stderr) == (
        2,
        "error: nothing to do: text and images are both left out.\n  fix  leave out one of them at most.\n",
    )
