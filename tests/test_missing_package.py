"""Without a bundled package: what it does not concern works, and the error for the rest names it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

import dlbt_core as dlbt
from dlbt_core.errors import NoRuleError
from zoo import make


@pytest.mark.parametrize("model_name", ["hf_resnet", "resnet18", "mlp"])
def test_vision_models_without_nlp(model_name: str) -> None:
    model, inputs, _ = make(model_name, 2)
    expected = dlbt.explain(model, **inputs)
    found = dlbt.explain(model, **inputs, plugins=dlbt.Plugins(block=["dlbt-rules-nlp"]))
    for name, relevance in expected.inputs.items():
        assert torch.equal(found.inputs[name], relevance)
    assert [s.rule.id for s in found.plan.steps] == [s.rule.id for s in expected.plan.steps]


def test_text_models_without_nlp_name_the_package() -> None:
    model, inputs, _ = make("bert", 1)
    with pytest.raises(NoRuleError) as caught:
        dlbt.explain(model, **inputs, plugins=dlbt.Plugins(block=["nlp"]))
    text = str(caught.value)
    assert "no relevance rule for aten.embedding.default, aten.layer_norm.default, " in text
    assert "aten.scaled_dot_product_attention.default" in text
    assert "package     dlbt-rules-nlp has a rule for it: pip install dlbt-rules-nlp" in text
    assert "Embedding) at " in text


def test_vision_missing_names_the_package() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2)).eval()
    with pytest.raises(NoRuleError, match="dlbt-rules-vision has a rule for it: pip install dlbt-rules-vision"):
        dlbt.explain(
            model,
            torch.randn(1, 1, 8, 8),
            target=lambda out: out.sum((1, 2, 3)),
            plugins=dlbt.Plugins(block=["vision"]),
        )


def test_the_switch_works_from_the_shell() -> None:
    code = "import dlbt_core as d; print([p.name for p in d.default_plugins().loaded])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**__import__("os").environ, "DLBT_DISABLE_PLUGINS": "dlbt-rules-nlp"},
    )  # fmt: skip
    assert done.stdout.strip() == "['core', 'vision']"
