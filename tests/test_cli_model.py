"""Commands that take a model: plan, coverage, diff, compare; how models and inputs are named; doctor."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import dlbt_core as dlbt
from dlbt_core.cli import doctor, tables
from dlbt_core.cli.app import app
from dlbt_core.cli.inputs import given_inputs, parse_rule, parse_target, random_tensor
from dlbt_core.cli.models import FORMS, load_model
from dlbt_core.coverage import coverage
from dlbt_core.errors import FileFormatError, InputError, PluginError, TargetError, UnknownVariantError
from dlbt_core.plugins.loader import Plugins
from dlbt_core.storage import read_plan

MODELS = """
import helper_of_models
import torch
from torch import nn


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(2, 3)

    def forward(self, x, y):
        return self.a(x) + self.b(y)


class Odd(nn.Module):
    def forward(self, x):
        return torch.special.zeta(x.abs() + 1.5, x.abs() + 1.0) @ torch.ones(4, 3)


def bare():
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


def mlp():
    return bare(), torch.ones(2, 4)


def positional():
    return Two(), (torch.ones(1, 4), torch.ones(1, 2))


def named():
    return Two(), {"y": torch.ones(1, 2), "x": torch.ones(1, 4)}


def both():
    return Two(), (torch.ones(1, 4),), {"y": torch.ones(1, 2)}


def odd():
    return Odd(), torch.rand(2, 4)


def function():
    return (lambda x: x.exp()), torch.ones(1, 3)


def broken():
    raise ValueError("no weights here")


def needs(size):
    return nn.Linear(size, 2)


def text():
    return "a model"


def four():
    return bare(), (), {}, 3


module = bare()
number = 3
helper = helper_of_models
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with models in a file, which is the current one."""
    (tmp_path / "models_here.py").write_text(MODELS)
    (tmp_path / "helper_of_models.py").write_text("")
    (tmp_path / "broken_here.py").write_text("import no_such_module_anywhere\n")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("models_here", "helper_of_models", "broken_here", "dlbt_model_models_here", "dlbt_model_broken_here"):
        sys.modules.pop(name, None)


@pytest.fixture
def run() -> Callable[..., Any]:
    return lambda *args: CliRunner().invoke(app, [str(arg) for arg in args], env={"COLUMNS": "200"})


# -- MODEL -------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("name", "args", "kwargs"),
    [
        ("mlp", [(2, 4)], {}),
        ("positional", [(1, 4), (1, 2)], {}),
        ("named", [], {"x": (1, 4), "y": (1, 2)}),
        ("both", [(1, 4)], {"y": (1, 2)}),
        ("function", [(1, 3)], {}),
    ],
)
@pytest.mark.parametrize("place", ["models_here", "models_here.py"])
def test_a_function_gives_model_and_inputs(place: str, name: str, args: Any, kwargs: Any) -> None:
    before, state = list(sys.path), torch.random.get_rng_state()
    loaded = load_model(f"{place}:{name}")
    assert [tuple(tensor.shape) for tensor in loaded.args] == args
    assert {key: tuple(tensor.shape) for key, tensor in loaded.kwargs.items()} == kwargs
    assert not getattr(loaded.model, "training", False)
    assert isinstance(loaded.model(*loaded.args, **loaded.kwargs), torch.Tensor)
    assert sys.path == before
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.usefixtures("here")
def test_weights_and_inputs_hang_on_the_seed_alone() -> None:
    first, again, other = (load_model("models_here.py:bare", ["2x4"], seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.args[0], again.args[0])
    assert torch.equal(first.model[0].weight, again.model[0].weight)
    assert not torch.equal(first.args[0], other.args[0])
    module = load_model("models_here.py:module", ["2x4"])
    assert isinstance(module.model, nn.Sequential)
    assert load_model("models_here.py:Two", ["x=1x4", "y=1x2"]).kwargs.keys() == {"x", "y"}


def test_a_file_elsewhere(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "inner").mkdir()
    monkeypatch.chdir(here / "inner")
    assert load_model("../models_here.py:mlp").args[0].shape == (2, 4)
    assert load_model(f"{here / 'models_here.py'}:mlp").args[0].shape == (2, 4)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nothing", f"'nothing' names no model, and there is no such folder.\n  fix  give one of:\n{FORMS}"),
        ("none_here.py:f", "there is no file 'none_here.py'.\n  fix  path/to/file.py:name"),
        ("no_such_module_anywhere:f", f"there is no module 'no_such_module_anywhere'.\n  fix  give one of:\n{FORMS}"),
        ("models_here:number", "models_here:number is of type int.\n  fix  a function that returns a model."),
        ("models_here:bare", "'models_here:bare' gives a model and no inputs.\n  fix  --input 1x3x224x224, --input "
         "input_ids=1x12:int64; or return (model, inputs)."),
        ("models_here:text", "models_here:text gives str.\n  fix  return the model, (model, inputs) or (model, args, kwargs): "
         "inputs are a tensor, a tuple or a dict, args a tuple and kwargs a dict."),
        ("models_here:four", "models_here:four gives (Sequential, tuple, dict, int).\n  fix  return the model, (model, inputs) "
         "or (model, args, kwargs): inputs are a tensor, a tuple or a dict, args a tuple and kwargs a dict."),
    ],
)  # fmt: skip
def test_no_model(spec: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        load_model(spec)
    assert str(caught.value) == message


def test_no_such_function(here: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_model("models_here.py:nope")
    names = "Two, Odd, bare, mlp, positional, named, both, odd, function, broken, needs, text, four, module"
    assert str(caught.value) == f"models_here.py has no 'nope'.\n  fix  one of: {names}."
    with pytest.raises(InputError) as caught:
        load_model("helper_of_models:nope")
    assert str(caught.value) == "helper_of_models has no 'nope'.\n  fix  one of: it has no functions."
    assert here.is_dir()


@pytest.mark.parametrize(
    ("spec", "begin", "line"),
    [
        (
            "models_here.py:broken",
            "calling models_here.py:broken failed: ValueError: no weights here",
            "no weights here",
        ),
        ("models_here:needs", "calling models_here:needs failed: TypeError: needs() missing 1 required", None),
        ("broken_here.py:f", "importing broken_here.py failed: ModuleNotFoundError: No module named", "import no_such"),
        ("broken_here:f", "importing broken_here failed: ModuleNotFoundError: No module named", "import no_such"),
    ],
)
def test_code_that_fails_is_told_with_its_line(here: Path, spec: str, begin: str, line: str | None) -> None:
    with pytest.raises(InputError) as caught:
        load_model(spec)
    first, where, fix = str(caught.value).split("\n")
    assert first.startswith(begin)
    if line is not None:
        path, _, number = where.removeprefix("  where  ").rpartition(":")
        assert Path(path).parent == here
        assert line in Path(path).read_text().splitlines()[int(number) - 1]
    call = "a function that takes no arguments and returns a model."
    assert fix == f"  fix    {call if first.startswith('calling') else 'see where it failed.'}"


@pytest.mark.torchvision
def test_names_of_torchvision() -> None:
    loaded = load_model("torchvision:resnet18", ["1x3x48x48"])
    assert loaded.model(*loaded.args).shape == (1, 1000)
    assert load_model("torchvision:squeezenet1_1").args[0].shape == (1, 3, 224, 224)
    assert load_model("torchvision:lraspp_mobilenet_v3_large").args[0].shape == (1, 3, 224, 224)
    ((picture,),) = load_model("torchvision:ssdlite320_mobilenet_v3_large").args
    assert picture.shape == (3, 224, 224)
    assert load_model("torchvision:r3d_18").args[0].shape == (1, 3, 16, 112, 112)
    assert [tuple(t.shape) for t in load_model("torchvision:raft_small").args] == [(1, 3, 128, 128)] * 2
    with pytest.raises(InputError) as caught:
        load_model("torchvision:resnet19")
    assert str(caught.value) == (
        "torchvision has no model 'resnet19'. Close: 'resnet18', 'resnet152', 'resnet101'.\n"
        "  fix  torchvision.models.list_models() lists them."
    )


def test_folders_of_transformers(tmp_path: Path) -> None:
    from text_models import bert, byte_pairs, llama, transformers, word_pieces

    saved: dict[str, list[Any]] = {
        "bert": [bert("ForSequenceClassification", labels=["no", "yes"]), word_pieces()],
        "encoder": [bert("Model"), word_pieces()],
        "llama": [llama(), byte_pairs()],
        "vit": [transformers.ViTForImageClassification(transformers.ViTConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=16,
        ))],
    }  # fmt: skip
    for name, parts in saved.items():
        for part in parts:
            part.save_pretrained(tmp_path / name)
    text = load_model(str(tmp_path / "bert"), text="hello there")
    assert text.explain_inputs == ("input_ids",)
    assert set(text.kwargs) == {"input_ids", "attention_mask", "token_type_ids"}
    assert text.shown["tokens"]["input_ids"][0][0] == "[CLS]"
    assert len(text.shown["tokens"]["input_ids"][0]) == text.kwargs["input_ids"].shape[1]
    assert text.target is None
    assert str(load_model(str(tmp_path / "llama")).target) == "most likely token at position -1"
    assert isinstance(load_model(str(tmp_path / "encoder")).target, dlbt.target.Target)
    picture = load_model(str(tmp_path / "vit"))
    assert picture.kwargs["pixel_values"].shape == (1, 3, 32, 32)
    assert picture.model(**picture.kwargs).logits.shape == (1, 2)
    with pytest.raises(InputError) as caught:
        load_model(str(tmp_path))
    assert str(caught.value) == (
        f"the folder {str(tmp_path)!r} is not that of a model: it has no config.json.\n"
        "  fix  a folder that model.save_pretrained(...) has written; its tokenizer or processor may lie there, too."
    )


# -- inputs, targets, rules --------------------------------------------------------------------------------------------


def test_inputs() -> None:
    args, kwargs = given_inputs(["2x3", "5:float64", "ids=1x12:int64", "mask=4:bool", "half=2:bfloat16"])
    assert [(tuple(t.shape), t.dtype) for t in args] == [((2, 3), torch.float32), ((5,), torch.float64)]
    assert {name: (tuple(t.shape), t.dtype) for name, t in kwargs.items()} == {
        "ids": ((1, 12), torch.int64), "mask": ((4,), torch.bool), "half": ((2,), torch.bfloat16),
    }  # fmt: skip
    assert set(random_tensor([1000], torch.int64).tolist()) == set(range(10))
    assert set(random_tensor([100], torch.bool).tolist()) == {True, False}


@pytest.mark.parametrize("spec", ["", "2x", "axb", "2x3:float128", "2,3", "1a=3", "-1x2"])
def test_inputs_that_are_none(spec: str) -> None:
    with pytest.raises(InputError) as caught:
        given_inputs([spec])
    assert str(caught.value) == (
        f"--input {spec!r} is no shape.\n  fix  SHAPE, NAME=SHAPE or NAME=SHAPE:DTYPE, such as 1x3x224x224 or "
        "input_ids=1x12:int64; dtypes: float16, bfloat16, float32, float64, int32, int64, uint8, bool."
    )


def test_an_input_given_twice() -> None:
    with pytest.raises(InputError) as caught:
        given_inputs(["x=2", "x=3"])
    assert str(caught.value) == "--input gives 'x' twice.\n  fix  leave one out."


def test_targets() -> None:
    assert parse_target(None) is None
    assert parse_target("281") == 281
    shown = {
        "token:-1": "most likely token at position -1",
        "output:a": "largest class of a",
        "output:a:3": "class 3 of a",
    }
    assert {text: str(parse_target(text)) for text in shown} == shown
    assert "50" in str(parse_target("token:-1:50"))
    assert type(parse_target("sum")) is type(dlbt.target.logits())
    for text in ("dog", "token", "token:a", "token:1:2:3", "output:", "output:a:b", "-3"):
        with pytest.raises(TargetError) as caught:
            parse_target(text)
        assert str(caught.value) == (
            f"--target {text!r} is no target.\n"
            "  fix  a class (281), token:-1, token:-1:50, output:PATH, output:PATH:3, or sum."
        )


def test_rules() -> None:
    assert parse_rule("op=aten.linear module=encoder.* variant=gamma gamma=0.1 form=original") == (
        dlbt.Select(op="aten.linear", module="encoder.*"), dlbt.Use("gamma", gamma=0.1, form="original"),
    )  # fmt: skip
    assert parse_rule("op=aten.conv*,aten.linear first=true variant=zbox low=(-1.0,0.5) high=2") == (
        dlbt.Select(op=("aten.conv*", "aten.linear"), first=True), dlbt.Use("zbox", low=(-1.0, 0.5), high=2),
    )  # fmt: skip
    assert parse_rule("last=false has=epsilon variant=core:epsilon relative=True") == (
        dlbt.Select(has="epsilon"), dlbt.Use("core:epsilon", relative=True),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("op=aten.linear", " has no variant=."),
        ("variant=gamma gamma", ": 'gamma' is not name=value."),
        ("variant=gamma variant=flat", ": 'variant=flat' is given twice."),
        ("variant=gamma first=1", ": first is true or false, not '1'."),
        ("variant='gamma", ": No closing quotation."),
    ],
)
def test_rules_that_are_none(text: str, problem: str) -> None:
    with pytest.raises(UnknownVariantError) as caught:
        parse_rule(text)
    assert (
        str(caught.value)
        == f"--rule {text!r}{problem}\n  fix  'op=aten.linear module=encoder.* variant=gamma gamma=0.1'."
    )


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
    with pytest.raises(FileFormatError, match="is damaged or not a saved plan: JSONDecodeError"):
        read_plan(path)
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
