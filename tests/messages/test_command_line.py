"""What the command line says of a model that there is not, that is damaged, or whose package is missing: word by word."""

from __future__ import annotations

import importlib.util
import traceback
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from dlbt_core.cli.models import load_model
from dlbt_core.errors import DlbtError, InputError

FORMS = (
    "  package.module:name   a function that returns the model, or (model, inputs), or (model, args, kwargs); or the model\n"
    "  path/to/file.py:name  the same in a file\n"
    "  torchvision:resnet18  a model of torchvision with random weights\n"
    "  path/to/folder        a folder that save_pretrained of transformers has written"
)


def said(spec: str) -> str:
    with pytest.raises(DlbtError) as caught:
        load_model(spec)
    return str(caught.value)


def test_no_such_model() -> None:
    assert said("nothing_here") == (
        f"'nothing_here' names no model, and there is no such folder.\n  fix  give one of:\n{FORMS}"
    )
    assert said("nothing_here:model") == f"there is no module 'nothing_here'.\n  fix  give one of:\n{FORMS}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Looks like that of a model of text."""
    for name in ("config.json", "vocab.txt"):
        (tmp_path / name).write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    ("package", "spec", "message"),
    [
        ("torchvision", "torchvision:resnet18", "torchvision cannot be imported.\n  fix  pip install torchvision"),
        (
            "transformers",
            "",
            "a folder's model needs transformers, which cannot be imported.\n  fix  pip install transformers",
        ),
        (
            "dlbt_rules_nlp",
            "",
            "a text model needs dlbt-rules-nlp, which cannot be imported.\n  fix  pip install dlbt-rules-nlp",
        ),
    ],
)
def test_a_missing_package_is_named(
    package: str, spec: str, message: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec

    def find_spec(name: str, *more: Any) -> Any:
        return None if name == package else real(name, *more)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    assert said(spec or str(folder)) == message


@pytest.mark.torchvision
def test_a_model_of_torchvision_that_cannot_be_built(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(**options: Any) -> nn.Module:
        raise ValueError("no such size")

    build.__module__ = "torchvision.models.resnet"
    monkeypatch.setattr("torchvision.models.get_model_builder", lambda name: build)
    assert said("torchvision:resnet18") == (
        "building torchvision:resnet18 failed: ValueError: no such size\n"
        f"  where  {__file__}:{build.__code__.co_firstlineno + 1}\n  fix    mend what failed there."
    )


def test_a_folder_that_is_damaged(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text('{"model_type": "nope"}')
    with pytest.raises(InputError) as caught:
        load_model(str(tmp_path))
    of_transformers = caught.value.__cause__  # whose words and lines are no business of ours
    assert isinstance(of_transformers, ValueError)
    frame = traceback.extract_tb(of_transformers.__traceback__)[-1]
    assert str(caught.value) == (
        f"loading {tmp_path} failed: ValueError: {of_transformers}\n  where  {frame.filename}:{frame.lineno}\n"
        "  fix    a folder that model.save_pretrained(...) has written."
    )
