"""Every Python block of the documentation runs, page by page, in order."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("**/*.md")])
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = page.read_text()
    names: dict[str, object] = {"__name__": "docs"}
    monkeypatch.chdir(tmp_path)
    for block in BLOCK.finditer(text):
        line = text[: block.start(1)].count("\n")
        code = compile("\n" * line + block[1], str(page), "exec", dont_inherit=True)
        exec(code, names)


def test_from_scratch_stays_small() -> None:
    blocks = BLOCK.findall((ROOT / "docs" / "from_scratch.md").read_text())
    lines = [line for block in blocks for line in block.splitlines() if line.strip()]
    assert 100 <= len(lines) <= 170
