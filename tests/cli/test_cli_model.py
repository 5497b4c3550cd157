"""How models, inputs, targets and rules are named on the command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import dlbt_core as dlbt
from dlbt_core.cli.inputs import given_inputs, parse_rule, parse_target, random_tensor
from dlbt_core.cli.models import FORMS, load_model
from dlbt_core.errors import InputError, TargetError, UnknownVariantError

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
    ("spec", "file", "line", "message"),
    [
        (
            "models_here.py:broken", "models_here.py", "no weights here",
            "calling models_here.py:broken failed: ValueError: no weights here\n  where  {where}\n"
            "  fix    a function that takes no arguments and returns a model.",
        ),
        (
            "models_here:needs", "models_here.py", "def needs",  # a call that fails has no line of its own
            "calling models_here:needs failed: TypeError: needs() missing 1 required positional argument: 'size'\n"
            "  fix    a function that takes no arguments and returns a model.",
        ),
        (
            "broken_here.py:f", "broken_here.py", "import no_such",
            "importing broken_here.py failed: ModuleNotFoundError: No module named 'no_such_module_anywhere'\n"
            "  where  {where}\n  fix    mend what failed there.",
        ),
        (
            "broken_here:f", "broken_here.py", "import no_such",
            "importing broken_here failed: ModuleNotFoundError: No module named 'no_such_module_anywhere'\n"
            "  where  {where}\n  fix    mend what failed there.",
        ),
    ],
)  # fmt: skip
def test_code_that_fails_is_told_with_its_line(here: Path, spec: str, file: str, line: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        load_model(spec)
    number = [line in text for text in (here / file).read_text().splitlines()].index(True) + 1
    assert str(caught.value) == message.format(where=f"{here / file}:{number}")


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


@pytest.mark.parametrize("spec", ["99999999999999x4", "99999999999999999999999x4:int64"])
def test_inputs_that_are_too_large(spec: str) -> None:
    with pytest.raises(InputError) as caught:
        given_inputs([spec])
    assert str(caught.value) == f"--input {spec!r} cannot be made: it is too large.\n  fix  a smaller shape."


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


A_RULE = "\n  fix  'op=aten.linear module=encoder.* variant=gamma gamma=0.1'."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("op=aten.linear", f"--rule 'op=aten.linear' has no variant=.{A_RULE}"),
        ("variant=gamma gamma", f"--rule 'variant=gamma gamma': 'gamma' is not name=value.{A_RULE}"),
        (
            "variant=gamma variant=flat",
            f"--rule 'variant=gamma variant=flat': 'variant=flat' is given twice.{A_RULE}",
        ),
        ("variant=gamma first=1", f"--rule 'variant=gamma first=1': first is true or false, not '1'.{A_RULE}"),
        ("variant='gamma", f"--rule \"variant='gamma\": No closing quotation.{A_RULE}"),
    ],
)
def test_rules_that_are_none(text: str, message: str) -> None:
    with pytest.raises(UnknownVariantError) as caught:
        parse_rule(text)
    assert str(caught.value) == message
