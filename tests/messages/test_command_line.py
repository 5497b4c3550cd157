"""What the command line says when there is no such model, or a package for it is missing: word by word."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from dlbt_core.cli.models import load_model
from dlbt_core.errors import DlbtError

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
