"""What a type checker says of a user's calls."""

from __future__ import annotations

import re
from pathlib import Path

from mypy import api

CALLS = """
import torch
import dlbt_core as dlbt

model, x = torch.nn.Linear(2, 2), torch.ones(1, 2)
batch: dict[str, torch.Tensor] = {}
explainer = dlbt.Explainer(model)
reveal_type(dlbt.explain(model, x, target=1, composite="epsilon"))
reveal_type(dlbt.explain(model, **batch))
reveal_type(dlbt.explain(model, x, targets=[0, 1]))
reveal_type(explainer(x))
reveal_type(explainer(**batch, target=1))
reveal_type(explainer(x, targets=[0, 1]))
"""
ONE = "dlbt_core.explanation.Explanation"


def test_calls_give_explanations_and_lists_of_them(tmp_path: Path) -> None:
    file = tmp_path / "calls.py"
    file.write_text(CALLS)
    said, errors, _ = api.run([str(file), "--strict", "--follow-imports=silent", f"--cache-dir={tmp_path / 'cache'}"])
    revealed = re.findall(r'Revealed type is "(.*)"', said)
    assert "error:" not in said, said + errors
    one, several = ONE, f"list[{ONE}]"
    assert revealed == [one, one, several, one, one, several]
