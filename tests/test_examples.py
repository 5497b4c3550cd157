"""The notebooks in examples/ run from top to bottom, and are kept without outputs."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
WANTED = {
    "image_classifier", "text_classifier", "language_model", "tabular_binary", "tabular_multiclass", "custom_op",
    "comparing_composites",
}  # fmt: skip

notebooks = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)


def cells(notebook: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return found


def test_all_are_there() -> None:
    assert {notebook.stem for notebook in NOTEBOOKS} == WANTED


@notebooks
def test_runs(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cell by cell in one namespace, and what a cell's last line gives is shown, as a notebook does it."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "notebook"}
    for number, cell in enumerate(cells(notebook)):
        if cell["cell_type"] == "code":
            tree = ast.parse("".join(cell["source"]))
            where = f"{notebook.name}, cell {number}"
            shown = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, where, "exec", dont_inherit=True), names)
            if isinstance(shown, ast.Expr):
                show(eval(compile(ast.Expression(shown.value), where, "eval", dont_inherit=True), names))


def show(value: Any) -> None:
    page = getattr(value, "_repr_html_", None)
    if page is not None:
        assert "<" in page()


@notebooks
def test_is_a_notebook_without_outputs(notebook: Path) -> None:
    written = json.loads(notebook.read_text(encoding="utf-8"))
    assert (written["nbformat"], written["nbformat_minor"]) == (4, 5)
    assert set(written) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    assert cells(notebook)[0]["cell_type"] == "markdown"
    assert len({cell["id"] for cell in cells(notebook)}) == len(cells(notebook))
    for cell in cells(notebook):
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
    assert notebook.stat().st_size < 20_000
