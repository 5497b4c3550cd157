"""``dlbt new-plugin``: what it writes can be installed, passes its own tests and is found; nothing of the example is left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dlbt_core.cli.app import app
from dlbt_core.errors import PluginError
from dlbt_core.plugins.scaffold import new_plugin

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new plugin, by the command."""
    into = tmp_path_factory.mktemp("new")
    result = CliRunner().invoke(app, ["new-plugin", "acme-rotary", "--into", str(into)])
    folder = into / "dlbt-acme-rotary"
    assert result.exit_code == 0
    assert result.output == (
        f"{folder}: a plugin that works as it is. In the environment of dlbt:\n"
        f"  cd {folder}\n  pip install -e '.[test]'\n  pytest\n  dlbt plugins\n  dlbt rules --plugin acme_rotary\n"
    )
    return folder


@pytest.fixture(scope="module")
def installed(written: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """An environment in which it is installed, by pip, beside what is here."""
    target = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "--no-index", "--target", str(target), str(written)], check=True)
    return {**os.environ, "PYTHONPATH": str(target), "OMP_NUM_THREADS": "1"}


def run(command: list[str], where: Path, environment: Mapping[str, str]) -> str:
    done = subprocess.run(command, cwd=where, env=dict(environment), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_nothing_of_the_example_is_left(written: Path) -> None:
    files = [path for path in written.rglob("*") if path.is_file()]
    template = [p for p in (ROOT / "plugins_template").rglob("*") if p.is_file() and "cache" not in str(p)]
    assert len(files) == len(template) > 10
    for path in files:
        assert "example" not in str(path.relative_to(written)).lower()
        assert path.name == "LICENSE" or "example" not in path.read_text(encoding="utf-8").lower(), path
    assert (written / "src/dlbt_acme_rotary/py.typed").is_file()
    assert (written / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_it_passes_its_own_tests(written: Path, installed: Mapping[str, str]) -> None:
    assert "3 passed" in run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], written, installed)


def test_dlbt_finds_it(written: Path, installed: Mapping[str, str]) -> None:
    dlbt = [sys.executable, "-c", "from dlbt_core.cli import main; main()"]
    rows = json.loads(run([*dlbt, "plugins", "--json"], written, installed))
    (row,) = [row for row in rows if row["name"] == "acme_rotary"]
    assert (row["distribution"], row["version"], row["status"], row["rules"]) == ("dlbt-acme-rotary", "0.1.0", "loaded", 3)
    ours = [("acme_rotary.mix", "epsilon"), ("acme_rotary.mix", "zplus")]
    for option, glob, expected in (
        ("--op", "acme_rotary.*", ours),
        ("--plugin", "acme_rotary", [*ours, ("aten.add.Tensor", "by_magnitude")]),
    ):
        rules = json.loads(run([*dlbt, "rules", option, glob, "--json"], written, installed))
        assert [(rule["op"], rule["variant"]) for rule in rules] == expected


def test_it_is_linted(written: Path, installed: Mapping[str, str]) -> None:
    """By its own settings; that the example is typed, ``make lint`` says."""
    run([sys.executable, "-m", "ruff", "check", "--no-cache", "."], written, installed)


@pytest.mark.parametrize("name", ["Acme", "acme rotary", "3d", "-acme", "acme--x", "dlbt-", "a.b", "é", "a\nb", "x" * 65])
def test_names_that_do_not_fit(name: str, tmp_path: Path) -> None:
    with pytest.raises(PluginError) as caught:
        new_plugin(name, tmp_path)
    assert str(caught.value) == (
        f"{name!r} is no name for a plugin.\n  fix  lower-case words and digits joined by '-', 64 characters at most, "
        "e.g. acme-rotary."
    )


@pytest.mark.parametrize("name", ["class", "dlbt-def", "import"])
def test_words_of_python_are_refused(name: str, tmp_path: Path) -> None:
    """``torch.ops.class`` is no Python."""
    word = name.removeprefix("dlbt-")
    with pytest.raises(PluginError) as caught:
        new_plugin(name, tmp_path)
    assert str(caught.value) == f"the name {word!r} is a word of Python's.\n  fix  another one, e.g. acme-{word}."
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["my-example", "example-s", "json", "x" * 64])
def test_names_are_put_in_once(name: str, tmp_path: Path) -> None:
    folder, words = new_plugin(name, tmp_path / "not" / "there"), name.replace("-", "_")
    assert [path.name for path in (folder / "src").iterdir()] == [f"dlbt_{words}"]
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["name"] == f"dlbt-{name}"
    assert project["project"]["entry-points"]["dlbt.plugins"] == {words: f"dlbt_{words}.plugin"}
    assert f'owns=("{words}",)' in (folder / f"src/dlbt_{words}/plugin.py").read_text(encoding="utf-8")
    assert not any(path.stat().st_mode & 0o111 for path in folder.rglob("*") if path.is_file())


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    into = tmp_path / "file"
    with pytest.raises(PluginError) as caught:
        new_plugin("acme", into)
    assert str(caught.value) == (
        f"{into}/dlbt-acme cannot be written: Not a directory.\n  fix  another folder: --into FOLDER."
    )


def test_taken_names_and_folders(tmp_path: Path) -> None:
    for name in ("vision", "rules-vision", "plugin-example"):
        with pytest.raises(PluginError) as caught:
            new_plugin(name, tmp_path)
        words = name.replace("-", "_")
        assert str(caught.value) == (
            f"the name {words!r} is taken by dlbt or torch.\n  fix  another one, e.g. acme-{name}."
        )
    folder = new_plugin("dlbt-acme_x", tmp_path)
    assert folder == tmp_path / "dlbt-acme-x"
    with pytest.raises(PluginError) as caught:
        new_plugin("acme-x", tmp_path)
    assert str(caught.value) == f"{folder} is there already.\n  fix  another name or folder, or remove it."
