"""Every Python block of the documentation runs, page by page, in order."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

from dlbt_core.testing.fixtures import FakeDistribution, fake_distributions

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("**/*.md")])
BLOCK = re.compile(r"^(?:<!-- needs (\w+) -->\n)?```(python|toml)\n(.*?)^```", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"# file: (\S+)\n")
"""A block that begins so is a file of a distribution, which the blocks after it find installed."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = page.read_text(encoding="utf-8")
    names: dict[str, object] = {"__name__": "docs"}
    monkeypatch.chdir(tmp_path)
    with fake_distributions(tmp_path, monkeypatch) as make:
        install(text, make)
        for block in BLOCK.finditer(text):
            needs, language, source = block.groups()
            if language == "python" and not FILE.match(source) and (needs is None or find_spec(needs) is not None):
                line = text[: block.start(3)].count("\n")
                code = compile("\n" * line + source, str(page), "exec", dont_inherit=True)
                exec(code, names)


def install(text: str, make: FakeDistribution) -> None:
    """Make the distribution whose files a page shows, if it shows a pyproject.toml among them."""
    files = files_of(text)
    if files:
        project = tomllib.loads(files.pop("pyproject.toml"))["project"]
        make(project["name"], project["version"], project["entry-points"]["dlbt.plugins"], files)


def files_of(text: str) -> dict[str, str]:
    """The files that a page shows, by path."""
    shown = [block[3] for block in BLOCK.finditer(text)]
    return {found[1]: source[found.end() :] for source in shown if (found := FILE.match(source))}


def test_the_plugin_of_write_a_rule_is_installed_tested_and_listed(tmp_path: Path) -> None:
    """By pip, from the files that the page shows and nothing else."""
    folder, site = tmp_path / "dlbt-acme", tmp_path / "site"
    for path, source in files_of((ROOT / "docs" / "write_a_rule.md").read_text(encoding="utf-8")).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(source, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}

    def run(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    offline = ("--no-build-isolation", "--no-index", "--no-deps", "--quiet", "--disable-pip-version-check")
    run("-m", "pip", "install", *offline, "--target", str(site), ".")
    assert "1 passed" in run("-m", "pytest", "-q", "-p", "no:cacheprovider")
    rules = json.loads(run("-c", "from dlbt_core.cli import main; main()", "rules", "--plugin", "acme", "--json"))
    assert [(rule["op"], rule["variant"]) for rule in rules] == [
        ("acme.affine", "epsilon"),
        ("acme.affine", "zplus"),
        ("aten.linear", "squares"),
    ]


def test_what_other_packages_do_is_run_where_they_are() -> None:
    """Captum and LXT are always there; Zennit comes with torchvision."""
    needed = {block[1] for page in PAGES for block in BLOCK.finditer(page.read_text(encoding="utf-8")) if block[1]}
    assert needed == {"captum", "lxt", "zennit"}
    assert find_spec("captum") is not None
    assert find_spec("lxt") is not None
    assert (find_spec("zennit") is None) == (find_spec("torchvision") is None)


def test_from_scratch_stays_small() -> None:
    blocks = [block[3] for block in BLOCK.finditer((ROOT / "docs" / "from_scratch.md").read_text(encoding="utf-8"))]
    lines = [line for block in blocks for line in block.splitlines() if line.strip()]
    assert 100 <= len(lines) <= 170
