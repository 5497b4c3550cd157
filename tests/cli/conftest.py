"""A file of models, and a way to run the commands on it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dlbt_core.cli.app import app

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
