"""What reaches stdout and stderr: JSON alone, whatever a model prints; files that fail; terminals without Unicode; pipes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import dlbt_core as dlbt
from dlbt_core.cli.output import told

LOUD = """
import warnings

import torch
from torch import nn


class Loud(nn.Module):
    def forward(self, x):
        print("in the model")
        return x.relu()


def loud():
    print("made")
    warnings.warn("loud")
    return Loud(), torch.ones(1, 3)
"""


@pytest.mark.filterwarnings("ignore:loud:UserWarning")
@pytest.mark.parametrize("command", [("plan",), ("coverage",), ("compare", "--composites", "epsilon")])
def test_what_a_model_prints_is_no_part_of_the_output(run: Any, here: Path, command: tuple[str, ...]) -> None:
    name, *options = command
    (here / "loud_here.py").write_text(LOUD)
    result = run(name, "loud_here.py:loud", *options, "--json")
    assert result.exit_code == 0, result.output
    json.loads(result.stdout)
    assert result.stderr.startswith("made\n")
    sys.modules.pop("dlbt_model_loud_here")


@pytest.mark.usefixtures("here")
def test_a_file_that_cannot_be_written(run: Any, here: Path) -> None:
    (here / "file").write_text("")
    for command in (("plan", "models_here:mlp"), ("compare", "models_here:mlp", "--composites", "epsilon")):
        result = run(*command, "--out", "file/x.html")
        assert result.exit_code == 2, result.output
        assert result.stderr.startswith("error: ")
        assert "cannot be read or written: " in result.stderr
        assert "Traceback" not in result.output


def test_an_error_of_the_system_in_words() -> None:
    assert told(OSError(28, "No space left on device")) == (
        "the output cannot be read or written: No space left on device.\n"
        "  fix  another file or folder, or what its disk allows."
    )
    assert told(OSError(13, "Permission denied", "a.json")) == (
        "'a.json' cannot be read or written: Permission denied.\n  fix  another file or folder, or what its disk allows."
    )
    assert told(FileNotFoundError("there is no file 'a'.")) == "there is no file 'a'."


@pytest.mark.usefixtures("here")
def test_a_folder_that_is_missing_is_made(run: Any, here: Path) -> None:
    assert run("plan", "models_here:mlp", "--out", "new/folder/a.json").exit_code == 0
    assert json.loads((here / "new/folder/a.json").read_text())["format"] == "dlbt-plan"


@pytest.mark.usefixtures("here")
def test_a_composite_that_fails_is_named(run: Any, here: Path) -> None:
    choices = ((dlbt.Select(op="aten.linear"), dlbt.Use("epsilon", eps=1.0)),)
    (here / "wrong.toml").write_text(dlbt.Composite("wrong", choices).to_toml())
    result = run("compare", "models_here:mlp", "--composites", "epsilon,wrong.toml")
    assert (result.exit_code, result.stderr) == (
        2,
        "error: aten.linear#epsilon has no parameter 'eps'. It has: epsilon, relative, bias.\n"
        "  asked by    composite wrong: Select(op='aten.linear')\n"
        "  composite   'wrong'; without it the others can be compared.\n",
    )


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("seed", ["-1", "4294967296", "99999999999999999999999"])
def test_a_seed_out_of_range(run: Any, seed: str) -> None:
    result = run("plan", "models_here:mlp", "--seed", seed)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output


# -- in a process of its own -------------------------------------------------------------------------------------------

DLBT = [sys.executable, "-c", "from dlbt_core.cli import main; main()"]


def test_a_terminal_without_unicode() -> None:
    """Signs that it lacks are written in others, and JSON stays JSON."""
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    asked = [*DLBT, "rules", "--op", "aten.linear", "--variant", "gamma"]
    shown = subprocess.run(asked, env=env, capture_output=True, check=True).stdout.decode("ascii")
    assert "relevance -> multiplier" in shown
    listed = subprocess.run([*asked, "--json"], env=env, capture_output=True, check=True).stdout.decode("ascii")
    assert json.loads(listed)[0]["variant"] == "gamma"
    shown = subprocess.run(
        [sys.executable, "-c", "from dlbt_core.cli.output import *; write_everywhere(); print('−1 × é ±')"],
        env=env, capture_output=True, check=True,
    ).stdout.decode("ascii")  # fmt: skip
    assert shown.strip() == r"-1 x \xe9 +-"


def test_a_reader_that_stops_reading() -> None:
    """As in ``dlbt rules | head``: no traceback, and no exit code that says something of dlbt's."""
    process = subprocess.Popen([*DLBT, "rules"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), said) == (141, b"")
