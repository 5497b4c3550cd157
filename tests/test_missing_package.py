"""Without a bundled package: what it does not concern works, and the error for the rest names it."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch
from torch import nn

import dlbt_core as dlbt
from dlbt_core.errors import NoRuleError, PluginWarning
from zoo import make

REMEDY = (
    "  fix         in a plugin ('dlbt new-plugin' writes one) write it as ops that have rules: @add.lowering('OP'),\n"
    "              or register a rule: @add.rule('OP', variant='epsilon', default=True) def ...(ctx, m); or hold the node "
    "constant:\n"
    "              rules=[(Select(op='OP'), Use('constant'))]; or run the op's gradient: fallback='gradient'"
)


def in_use(*names: str) -> str:
    return ", ".join(str(plugin) for plugin in dlbt.default_plugins().loaded if plugin.name in names)


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
    assert re.sub(r" at \S+:\d+", " at LINE", str(caught.value)) == (
        "no relevance rule for aten.embedding.default, aten.layer_norm.default, aten.scaled_dot_product_attention.default\n"
        "  op          aten.embedding.default\n"
        "  node        embedding in bert.embeddings.word_embeddings (Embedding) at LINE\n"
        "  op          aten.layer_norm.default\n"
        "  node        layer_norm in bert.embeddings.LayerNorm (LayerNorm) at LINE and 4 more\n"
        "  op          aten.scaled_dot_product_attention.default\n"
        "  node        scaled_dot_product_attention in bert.encoder.layer.0.attention.self (BertSelfAttention) at LINE "
        "and 1 more\n"
        f"  plugins     {in_use('core', 'vision')}\n"
        "  package     dlbt-rules-nlp has a rule for it: pip install dlbt-rules-nlp\n"
        f"{REMEDY.replace('OP', 'aten.embedding')}"
    )


def test_vision_missing_names_the_package() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2)).eval()
    with pytest.raises(NoRuleError) as caught:
        dlbt.explain(
            model,
            torch.randn(1, 1, 8, 8),
            target=lambda out: out.sum((1, 2, 3)),
            plugins=dlbt.Plugins(block=["vision"]),
        )
    assert str(caught.value) == (
        "no relevance rule for aten.conv2d.default, aten.max_pool2d.default\n"
        "  op          aten.conv2d.default\n  node        conv2d in 0 (Conv2d)\n"
        "  op          aten.max_pool2d.default\n  node        max_pool2d in 1 (MaxPool2d)\n"
        f"  plugins     {in_use('core', 'nlp')}\n"
        "  package     dlbt-rules-vision has a rule for it: pip install dlbt-rules-vision\n"
        f"{REMEDY.replace('OP', 'aten.conv2d')}"
    )


def test_a_plugin_that_failed_is_named() -> None:
    class Late:
        @dlbt.hookimpl
        def dlbt_register_rules(self, add: dlbt.RuleSet) -> None:
            raise OSError("no disk")

    plugins = dlbt.Plugins(strict=False, discover=False)
    plugins.add_builtin()
    with pytest.warns(PluginWarning):
        plugins.add(Late(), "late")
    with pytest.raises(NoRuleError) as caught:
        dlbt.explain(lambda x: torch.lgamma(x), torch.ones(1, 2), plugins=plugins)
    lines = str(caught.value).splitlines()
    assert lines[3:5] == [
        f"  plugins     {in_use('core')}",
        "  not in use  (local) 0 [late]: failed at register: OSError: no disk",
    ]


def test_the_switch_works_from_the_shell() -> None:
    code = "import dlbt_core as d; print([p.name for p in d.default_plugins().loaded])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**__import__("os").environ, "DLBT_DISABLE_PLUGINS": "dlbt-rules-nlp"},
    )  # fmt: skip
    assert done.stdout.strip() == "['core', 'vision']"
