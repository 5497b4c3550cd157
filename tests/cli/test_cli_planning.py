"""Commands that take a model: plan, coverage, diff, compare; and doctor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import dlbt_core as dlbt
from dlbt_core.cli import doctor, tables
from dlbt_core.cli.models import load_model
from dlbt_core.coverage import coverage
from dlbt_core.errors import FileFormatError, PluginError
from dlbt_core.plugins.loader import Plugins
from dlbt_core.storage import read_plan

# -- plan --------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("here")
def test_plan(run: Any) -> None:
    rule = "op=aten.linear first=true variant=gamma gamma=0.1"
    result = run(
        "plan", "models_here:mlp", "--composite", "epsilon", "--rule", rule, "--rule", "op=aten.conv2d variant=flat"
    )
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("composite epsilon; explained: input\n")
    rows = [line.split() for line in result.stdout.splitlines() if "aten." in line]
    assert [row[:2] for row in rows[:3]] == [
        ["linear", "core:aten.linear#gamma"], ["relu", "core:aten.relu#identity"], ["linear_1", "core:aten.linear#epsilon"],
    ]  # fmt: skip
    assert "gamma=0.1" in rows[0][2]
    assert "this call's rules: Select(op='aten.linear', first=True)" in result.stdout
    assert result.stdout.endswith(
        "3 nodes.\nfits no node: this call's rules: Select(op='aten.conv2d') -> Use('flat')\n"
    )


def test_plan_as_json(run: Any, here: Path) -> None:
    result = run("plan", "models_here:mlp", "--json", "--out", "plan.json")
    found = json.loads(result.stdout)
    assert list(found) == ["format", "version", "composite", "note", "explained", "steps", "unused"]
    assert list(found["steps"][0]) == [
        "node", "op", "module", "module_type", "line", "rule", "parameters", "source", "reason",
    ]  # fmt: skip
    assert found["explained"] == ["input"]
    assert json.loads((here / "plan.json").read_text()) == found
    assert run("plan", "models_here:mlp", "--out", "again.json").stdout == "again.json\n"
    assert (here / "again.json").read_text() == (here / "plan.json").read_text()


def test_the_plan_is_that_of_the_explanation() -> None:
    """Also of a function of the outputs, whose own plan comes last; and nothing but the forward pass has run."""

    def model(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.relu() * 2.0, x.exp()

    x = torch.randn(2, 3)
    explainer = dlbt.Explainer(model, "epsilon")
    for target in (0, dlbt.target.output("1"), lambda out: out[0].sum(1).square()):
        plan = explainer.plan(x, target=target)
        assert plan.table() == explainer(x, target=target).plan.table()
        assert plan.to_json() == explainer(x, target=target).plan.to_json()
    assert [row["node"] for row in plan.table()] == ["relu", "mul", "target sum", "target square"]


# -- coverage ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("here")
def test_coverage(run: Any) -> None:
    result = run("coverage", "models_here:mlp")
    assert result.exit_code == 0
    assert "core:aten.linear#epsilon" in result.stdout
    assert "core (dlbt-core 0.1.0)" in result.stdout
    assert result.stdout.endswith(
        "3 of 3 nodes are on the way of the relevance; composite auto -> epsilon (the model has no attention; epsilon = 0, "
        "i.e. LRP-0).\nEvery op on it has a rule.\n"
    )


@pytest.mark.usefixtures("here")
def test_coverage_of_what_has_no_rule(run: Any) -> None:
    result = run("coverage", "models_here:odd")
    assert result.exit_code == 1
    rows = [line.split() for line in result.stdout.splitlines() if line.strip().startswith("aten.")]
    assert rows[0] == ["aten.special_zeta.default", "1", "MISSING"]
    loaded = load_model("models_here:odd")
    with pytest.raises(dlbt.errors.NoRuleError) as caught:
        dlbt.explain(loaded.model, *loaded.args)
    assert str(caught.value) in result.stdout  # the same help, before anything is computed
    found = run("coverage", "models_here:odd", "--json")
    assert found.exit_code == 1
    about = json.loads(found.stdout)
    assert list(about) == ["composite", "nodes", "on_path", "missing", "ops", "help"]
    assert about["missing"] == ["aten.special_zeta.default"]
    assert list(about["ops"][0]) == [
        "op", "status", "nodes", "rule", "plugin", "distribution", "version", "variants", "module", "line",
    ]  # fmt: skip
    held = run("coverage", "models_here:odd", "--json", "--rule", "op=aten.special_zeta variant=constant")
    assert held.exit_code == 2  # then nothing of the output depends on the input any more
    assert "nothing to explain" in held.stderr


def test_coverage_names_who_wrote_an_op_as_simpler_ones() -> None:
    class Lowering:
        @dlbt.hookimpl
        def dlbt_plugin_info(self) -> dlbt.PluginInfo:
            return dlbt.PluginInfo()

        @dlbt.hookimpl
        def dlbt_register_lowerings(self, add: Any) -> None:
            @add.lowering("aten.special_zeta")
            def zeta(x: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
                return x * q

    plugins = Plugins()
    plugins.add(Lowering(), "acme", "dlbt-acme", "2.1")

    def model(x: torch.Tensor) -> torch.Tensor:
        y = torch.special.zeta(x.abs() + 1.5, x.abs() + 1.0)
        return torch.cosine_similarity(y, y.flip(1)) + y.detach().sum(1)

    found = coverage(model, (torch.rand(2, 4),), plugins=plugins, target=dlbt.target.logits())
    rows = {(entry.op, entry.status): entry for entry in found.ops}
    zeta = rows["aten.special_zeta.default", "lowered"]
    assert (zeta.nodes, zeta.plugin, zeta.distribution, zeta.version) == (1, "acme", "dlbt-acme", "2.1")
    assert found.missing == []
    assert found.help == ""
    assert not any(entry.op == "aten.special_zeta.default" and entry.status == "rule" for entry in found.ops)


def test_coverage_names_what_torch_writes_as_simpler_ops() -> None:
    def model(x: torch.Tensor) -> torch.Tensor:
        return torch.trapezoid(x, dim=1).unsqueeze(1)

    found = coverage(model, (torch.rand(2, 4),))
    (decomposed,) = [entry for entry in found.ops if entry.status == "decomposed"]
    assert (decomposed.op, decomposed.nodes, decomposed.plugin) == ("aten.trapezoid.dx", 1, "torch")
    held = coverage(
        model, (torch.rand(2, 4),), rules=[(dlbt.Select(op="aten.select", last=True), dlbt.Use("constant"))]
    )
    assert [(entry.op, entry.nodes) for entry in held.ops if entry.status == "constant"] == [("aten.select.int", 1)]


# -- diff --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def plans(run: Any, here: Path) -> Path:
    for name, rule in (("a", "op=aten.linear variant=epsilon epsilon=0.1"), ("b", "op=aten.relu variant=gradient")):
        run("plan", "models_here:mlp", "--composite", "epsilon", "--rule", rule, "--out", f"{name}.json")
    return here


def test_diff_of_plans(run: Any, plans: Path) -> None:
    result = run("diff", "a.json", "b.json")
    assert result.exit_code == 1
    rows = [line.split() for line in result.stdout.splitlines() if "aten." in line]
    assert rows == [
        [
            "linear",
            "aten.linear.default",
            "0",
            "parameters",
            "core:epsilon(epsilon=0.1)",
            "core:epsilon(epsilon=1e-06)",
        ],
        ["relu", "aten.relu.default", "1", "rule", "core:identity()", "core:gradient()"],
        [
            "linear_1",
            "aten.linear.default",
            "2",
            "parameters",
            "core:epsilon(epsilon=0.1)",
            "core:epsilon(epsilon=1e-06)",
        ],
    ]
    assert result.stdout.endswith("3 of 3 nodes differ.\n")
    same = run("diff", "a.json", "a.json")
    assert (same.exit_code, same.stdout) == (
        0,
        "the same rule with the same parameters at all 3 nodes: epsilon; epsilon\n",
    )
    found = json.loads(run("diff", "a.json", "b.json", "--json").stdout)
    assert list(found) == ["a", "b", "equal", "differences"]
    assert found["a"] == {"given": "a.json", "composite": "epsilon", "nodes": 3}
    assert found["differences"][0]["a"]["parameters"]["epsilon"] == 0.1
    assert plans.is_dir()


def test_diff_with_a_model_and_with_an_explanation(run: Any, plans: Path) -> None:
    (plans / "mine.toml").write_text(dlbt.composite("epsilon", epsilon=0.1).to_toml())
    assert run("diff", "mine.toml", "a.json", "--model", "models_here:mlp").exit_code == 0
    assert run("diff", "attnlrp", "mine.toml", "--model", "models_here:mlp").exit_code == 1
    loaded = load_model("models_here:mlp")
    explanation = dlbt.explain(loaded.model, *loaded.args, composite=dlbt.composite("epsilon", epsilon=0.1))
    explanation.save(plans / "saved.safetensors")
    assert run("diff", "saved.safetensors", "a.json").exit_code == 0
    assert run("diff", "saved.safetensors", "b.json").exit_code == 1


def test_diff_of_other_models_and_of_nodes_that_one_has(run: Any, here: Path) -> None:
    hold = "op=aten.relu variant=constant"
    for name, args in (("mlp", []), ("function", []), ("odd", ["--rule", hold])):
        run("plan", f"models_here:{name}", "--out", f"{name}.json", *args)
    found = json.loads(run("diff", "mlp.json", "function.json", "--json").stdout)["differences"]
    assert [(row["node"], row["kind"]) for row in found] == [
        ("linear", "only in a"), ("relu", "only in a"), ("linear_1", "only in a"), ("exp", "only in b"),
    ]  # fmt: skip
    table = run("diff", "mlp.json", "function.json").stdout
    assert "not on the path" in table
    changed = json.loads((here / "mlp.json").read_text())
    changed["steps"][0]["op"] = "aten.addmm.default"
    (here / "other.json").write_text(json.dumps(changed))
    assert json.loads(run("diff", "mlp.json", "other.json", "--json").stdout)["differences"][0]["kind"] == "op"


def test_tuples_of_parameters_are_those_that_json_has(run: Any, here: Path) -> None:
    x = torch.rand(1, 3, 8, 8)
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(72, 2)).eval()
    box = dlbt.composite("epsilon_gamma_box", low=(-2.0, -1.0, 0.0), high=(1.0, 2.0, 3.0))
    explanation = dlbt.explain(model, x, composite=box)
    explanation.save(here / "box.safetensors")
    (here / "box.json").write_text(explanation.plan.to_json())
    assert run("diff", "box.json", "box.safetensors").exit_code == 0
    assert dlbt.compare(model, x, [box, ("again", box)]).same_plan_as("again") == "epsilon_gamma_box"


@pytest.mark.usefixtures("plans")
@pytest.mark.parametrize(
    ("sides", "message"),
    [
        (["a.json", "none.json"], "there is no file 'none.json'.\n  fix  a file that 'dlbt plan ... --out' or "
         "explanation.save() has written."),
        (["epsilon", "a.json"], "'epsilon' is neither a plan (.json) nor a saved explanation (.safetensors).\n"
         "  fix  'dlbt plan MODEL --out a.json' writes one; names of composites need --model MODEL."),
    ],
)  # fmt: skip
def test_diff_of_nothing(run: Any, sides: list[str], message: str) -> None:
    result = run("diff", *sides)
    assert (result.exit_code, result.stderr) == (2, f"error: {message}\n")


def test_files_that_hold_no_plan(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    steps = [{"node": "a", "op": "b", "rule": "c", "reason": "d", "module": "", "parameters": {}}]
    whole = {"format": "dlbt-plan", "version": 1, "composite": "c", "note": "", "steps": steps}
    path.write_text(json.dumps(whole))
    assert read_plan(path).table() == steps
    for text, message in {
        "[]": f"{path} is not a saved plan.\n  fix  a file that 'dlbt plan ... --out' has written.",
        '{"format": "other"}': f"{path} is not a saved plan.\n  fix  a file that 'dlbt plan ... --out' has written.",
        json.dumps({**whole, "version": 2}): f"{path} has format version 2, this dlbt-core reads up to 1.\n"
        "  fix  update dlbt-core.",
        json.dumps(
            {**whole, "steps": [{"parameters": {}}]}
        ): f"{path} is damaged or not a saved plan: KeyError: 'steps'\n"
        "  fix  write it again with 'dlbt plan ... --out'.",
    }.items():
        path.write_text(text)
        with pytest.raises(FileFormatError) as caught:
            read_plan(path)
        assert str(caught.value) == message
    path.write_text("{")
    with pytest.raises(json.JSONDecodeError) as of_python:
        json.loads("{")
    with pytest.raises(FileFormatError) as caught:
        read_plan(path)
    assert str(caught.value) == (
        f"{path} is damaged or not a saved plan: JSONDecodeError: {of_python.value}\n"
        "  fix  write it again with 'dlbt plan ... --out'."
    )
    with pytest.raises(FileNotFoundError):
        read_plan(tmp_path / "none.json")


# -- compare -----------------------------------------------------------------------------------------------------------


def test_compare(run: Any, here: Path) -> None:
    (here / "mine.toml").write_text(
        dlbt.composite("epsilon", epsilon=0.5).but().to_toml().replace('"epsilon"', '"mine"', 1)
    )
    command = (
        "compare",
        "models_here:mlp",
        "--composites",
        "epsilon, mine.toml,gradient_times_input",
        "--repeats",
        "1",
    )
    result = run(*command)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("comparison of 3 composites: largest class\n")
    assert "  epsilon, mine " in result.stdout
    found = json.loads(run(*command, "--json").stdout)
    assert list(found) == ["target", "threads", "repeats", "composites", "pairs", "plans", "notes"]
    assert [row["name"] for row in found["composites"]] == ["epsilon", "mine", "gradient_times_input"]
    assert list(found["composites"][0]) == [
        "name", "composite", "score", "ledger_error", "absorbed", "seconds", "nodes", "same_plan_as",
    ]  # fmt: skip
    assert list(found["pairs"][0]) == [
        "a", "b", "spearman", "spearman_mean", "cosine", "cosine_mean", "nodes_that_differ",
    ]  # fmt: skip
    assert run(*command, "--out", "page.html").stdout == "page.html\n"
    assert "Side by side" in (here / "page.html").read_text()
    assert run(*command, "--target", "1", "--json").stdout.count('"class 1"') == 1


@pytest.mark.usefixtures("here")
def test_errors_end_with_2(run: Any) -> None:
    for command in (
        ("plan", "models_here:mlp", "--composite", "nope"),
        ("plan", "models_here:mlp", "--rule", "op=aten.linear"),
        ("plan", "models_here:mlp", "--explain", "y"),
        ("coverage", "models_here:mlp", "--target", "dog"),
        ("compare", "models_here:mlp", "--composites", ","),
        ("compare", "models_here:mlp"),
    ):
        result = run(*command)
        assert result.exit_code == 2, result.output
        assert "Traceback" not in result.output


# -- doctor ------------------------------------------------------------------------------------------------------------


def test_doctor(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLBT_SOMETHING", str(Path.home() / "x"))
    result = run("doctor")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert list(found) == [
        "dlbt", "python", "packages", "platform", "threads", "cuda", "mps", "default_dtype", "plugins", "plugin_error",
        "environment", "healthy",
    ]  # fmt: skip
    assert found["packages"]["torch"] == torch.__version__.partition("+")[0] or torch.__version__
    assert found["dlbt"]["dlbt-core"] == dlbt.__version__
    assert found["threads"]["torch"] == torch.get_num_threads()
    assert found["environment"]["DLBT_SOMETHING"] == str(Path("~") / "x")
    assert {row["name"]: row["status"] for row in found["plugins"]}["core"] == "loaded"
    assert str(Path.home()) not in result.stdout
    assert json.loads(run("doctor", "--json").stdout) == found


def test_doctor_finds_a_plugin_that_failed(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Hooks:
        @dlbt.hookimpl
        def dlbt_plugin_info(self) -> None:
            raise RuntimeError("no such thing")

    plugins = Plugins(discover=False)
    with pytest.warns(match="no such thing"):
        plugins.add(Hooks(), "broken", "dlbt-broken", "1.0")
    monkeypatch.setattr(tables, "default_plugins", lambda: plugins)
    result = run("doctor")
    assert result.exit_code == 1
    (row,) = json.loads(result.stdout)["plugins"]
    assert (row["status"], row["cause"]) == ("failed", "RuntimeError: no such thing")

    def strict() -> Plugins:
        raise PluginError("dlbt-broken 1.0 [broken]: failed")

    monkeypatch.setattr(tables, "default_plugins", strict)
    result = run("doctor")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["plugin_error"] == "dlbt-broken 1.0 [broken]: failed"
    assert not doctor.report()["healthy"]
