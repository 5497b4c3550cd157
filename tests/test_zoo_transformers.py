"""A small class of each kind of transformers, explained by `auto` and `attnlrp`. All classes: ``make zoo``."""

from __future__ import annotations

import pytest
import torch
from zoo_transformer_models import entries, entry
from zoo_transformers import COMPOSITES, explained

pytest.importorskip("transformers")

SAMPLE = [
    "BertForMaskedLM", "RobertaForTokenClassification", "DebertaV2ForQuestionAnswering", "ElectraForMultipleChoice",
    "LlamaForSequenceClassification", "GPT2LMHeadModel", "Gemma2ForCausalLM", "MixtralForCausalLM", "BambaForCausalLM",
    "T5ForConditionalGeneration", "WhisperForConditionalGeneration", "Wav2Vec2ForCTC", "SwinForImageClassification",
    "SegformerForSemanticSegmentation", "VideoMAEForVideoClassification", "CLIPModel", "XLMWithLMHeadModel",
]  # fmt: skip


@pytest.mark.parametrize("name", SAMPLE)
def test_class(name: str) -> None:
    """Every op has a rule, books close, rows are those alone, and what cannot matter gets exactly 0."""
    found = explained(entry(name), list(COMPOSITES), torch.float32)
    wrong = [row for row in found if row.verdict(torch.float32)]
    assert not wrong, "\n".join(
        f"{r.composite}: {r.stage} {r.missing} {r.failure} {r.error:.1e} {r.zeros}" for r in wrong
    )


def test_classes_of_the_auto_mappings() -> None:
    """Each class once; globs choose by class, kind, both, and model type."""
    everything = entries()
    names = [one.name for one in everything]
    assert len(set(names)) == len(names) > 500
    assert {one.name for one in entries(["masked/Bert*"])} == {
        name for name in names if name.startswith("Bert") and name.endswith("ForMaskedLM")
    }
