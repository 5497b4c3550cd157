"""Every Python block of the documentation runs, page by page, in order."""

from __future__ import annotations

import re
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
    shown = [block[3] for block in BLOCK.finditer(text)]
    files = {found[1]: source[found.end() :] for source in shown if (found := FILE.match(source))}
    if files:
        project = tomllib.loads(files.pop("pyproject.toml"))["project"]
        make(project["name"], project["version"], project["entry-points"]["dlbt.plugins"], files)


def test_what_other_packages_do_is_run_where_they_are() -> None:
    """Captum is always there; Zennit comes with torchvision."""
    needed = {block[1] for page in PAGES for block in BLOCK.finditer(page.read_text(encoding="utf-8")) if block[1]}
    assert needed == {"captum", "zennit"}
    assert find_spec("captum") is not None
    assert (find_spec("zennit") is None) == (find_spec("torchvision") is None)


def test_from_scratch_stays_small() -> None:
    blocks = [block[3] for block in BLOCK.finditer((ROOT / "docs" / "from_scratch.md").read_text(encoding="utf-8"))]
    lines = [line for block in blocks for line in block.splitlines() if line.strip()]
    assert 100 <= len(lines) <= 170
