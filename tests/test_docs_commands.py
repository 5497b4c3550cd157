"""The commands' page: its examples run and print what it says, and it has every command with every option."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import torch
import typer
from typer.testing import CliRunner

from dlbt_core.cli.app import app

PAGE = (Path(__file__).parent.parent / "docs" / "commands.md").read_text(encoding="utf-8")
STATUS = "; echo $?"
COMMANDS: dict[str, click.Command] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def plain(text: str) -> str:
    """Text without the spaces and lines that only lay it out."""
    return " ".join(re.sub("─+", "─", text).split())


def fits(said: str, printed: str) -> bool:
    """Whether the output is as the page says; ``...`` stands for anything."""
    parts = [re.escape(plain(part)) for part in said.split("...")]
    return re.fullmatch(r"\s*.*?\s*".join(parts), plain(printed), re.DOTALL) is not None


def examples() -> list[tuple[str, str]]:
    """(command, what the page says it prints), in order."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE):
        for example in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, said = example.partition("\n")
            found.append((command, said))
    return found


def test_the_comparison_is_strict() -> None:
    assert fits("a ... d\n", "a b\n c d")
    assert not fits("a ... d", "a b c")
    assert not fits("a b", "a b c")
    assert fits("─── x", "─────── x")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As the examples were run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_examples_print_what_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = re.findall(r"^```py\n# (\S+)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert [name for name, _ in files] == ["models.py"]
    for name, text in files:
        (tmp_path / name).write_text(f"\n{text}")
    monkeypatch.chdir(tmp_path)
    seen = set()
    for command, said in examples():
        program, *args = shlex.split(command.removesuffix(STATUS))
        assert program == "dlbt"
        seen.add(args[0])
        result = CliRunner().invoke(app, args)
        printed = result.stdout + (f"{result.exit_code}\n" if command.endswith(STATUS) else "")
        assert fits(said, printed), f"{command}\n\nthe page says\n{said}\nit prints\n{printed}{result.stderr}"
        assert result.exit_code == 0 or command.endswith(STATUS)
    assert seen >= {"plan", "coverage", "diff", "compare", "rules", "composites", "plugins", "doctor"}


def sections() -> dict[str, str]:
    """Text of the page by heading."""
    parts = re.split(r"^## (.*)\n", PAGE, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there_with_every_option(name: str) -> None:
    shared = sections()["MODEL"]
    (own,) = [text for heading, text in sections().items() if heading.split()[:2] == ["dlbt", name]]
    options: list[Any] = [option for option in COMMANDS[name].params if option.param_type_name == "option"]
    for option in options:
        for spelling in (*option.opts, *option.secondary_opts):
            if spelling != "--help":
                takes_model = name in ("plan", "coverage", "diff", "compare")
                assert f"`{spelling}" in own or (takes_model and f"`{spelling} " in shared), f"{name} {spelling}"
    headings = [heading.split()[1] for heading in sections() if heading.startswith("dlbt ")]
    assert set(headings) == {*COMMANDS, "--version"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_can_print_json(name: str) -> None:
    assert any("--json" in option.opts for option in COMMANDS[name].params)


def test_json_of_a_new_plugin(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["new-plugin", "acme-rotary", "--into", str(tmp_path), "--json"])
    found = json.loads(result.stdout)
    folder = Path(found["folder"])
    assert folder == tmp_path / "dlbt-acme-rotary"
    assert all((folder / file).is_file() for file in found["files"])
    assert found["plugin"] == "acme_rotary"
    assert found["next"][0] == f"cd {shlex.quote(str(folder))}"
    assert found["next"][1:] == ["pip install -e '.[test]'", "pytest", "dlbt plugins", "dlbt rules --plugin acme_rotary"]


def test_json_of_the_demo(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = CliRunner().invoke(app, ["demo", "--out", str(page), "--no-text", "--json"])
    assert json.loads(result.stdout) == {"page": str(page)}
    assert page.stat().st_size > 0
