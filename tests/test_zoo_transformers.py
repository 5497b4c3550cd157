"""Much used classes of transformers, tiny, explained by `auto` and `attnlrp`. All classes: ``make zoo``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from zoo_transformer_models import entries, entry
from zoo_transformer_sizes import config_class, shrunk
from zoo_transformers import COMPOSITES, Row, explained

pytest.importorskip("transformers")

EXACT = [
    "BertForMaskedLM", "RobertaForTokenClassification", "DistilBertForSequenceClassification", "AlbertForMaskedLM",
    "ElectraForMultipleChoice", "DebertaForMaskedLM", "DebertaV2ForQuestionAnswering", "XLMRobertaForSequenceClassification",
    "MPNetForMaskedLM", "ModernBertForMaskedLM", "XLMWithLMHeadModel", "LayoutLMForTokenClassification",
    "GPT2LMHeadModel", "GPTNeoXForCausalLM", "OPTForCausalLM", "BloomForCausalLM", "FalconForCausalLM",
    "LlamaForSequenceClassification", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "GemmaForCausalLM",
    "Gemma2ForCausalLM", "Gemma3ForCausalLM", "PhiForCausalLM", "Phi3ForCausalLM", "StableLmForCausalLM", "Olmo2ForCausalLM",
    "MixtralForCausalLM", "Qwen2MoeForCausalLM", "DeepseekV3ForCausalLM", "GptOssForCausalLM",
    "MambaForCausalLM", "BambaForCausalLM",
    "T5ForConditionalGeneration", "BartForConditionalGeneration", "PegasusForConditionalGeneration",
    "MBartForConditionalGeneration", "WhisperForConditionalGeneration", "Wav2Vec2ForCTC",
    "ViTForImageClassification", "DeiTForImageClassification", "SwinForImageClassification", "BeitForImageClassification",
    "SegformerForSemanticSegmentation", "DetrForObjectDetection", "VideoMAEForVideoClassification", "CLIPModel",
    "Qwen3VLVisionModel", "Blip2ForConditionalGeneration", "PatchTSTModel",
]  # fmt: skip
SINGLE = ["BertForMaskedLM", "MixtralForCausalLM", "Gemma2ForCausalLM", "SwinForImageClassification"]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """On models this small a second thread only waits for the first, several times as long as they take."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _told(rows: list[Row], dtype: torch.dtype) -> str:
    return "\n".join(
        f"{r.composite}: {r.stage} {r.missing} {r.failure} ledger {r.error:.1e} zeros {r.zeros} rows {r.rows:.1e}"
        for r in rows
        if r.verdict(dtype) or r.stage != "done"
    )


@pytest.mark.parametrize("name", EXACT)
def test_class_in_float64(name: str) -> None:
    """Books close to 1e-8, rows are those alone to 1e-8, and what cannot matter gets exactly 0."""
    found = explained(entry(name), list(COMPOSITES), torch.float64)
    assert not _told(found, torch.float64), _told(found, torch.float64)
    assert all(row.error <= 1e-8 and not row.rows > 1e-8 for row in found), [(row.error, row.rows) for row in found]


@pytest.mark.parametrize("name", SINGLE)
def test_class_in_float32(name: str) -> None:
    """As users have them: float32, experts in grouped products."""
    found = explained(entry(name), list(COMPOSITES), torch.float32)
    assert not _told(found, torch.float32), _told(found, torch.float32)
    assert not any(row.precise for row in found)


def test_classes_of_the_auto_mappings() -> None:
    """Each class once; globs choose by class, kind, both, and model type."""
    everything = entries()
    names = [one.name for one in everything]
    assert len(set(names)) == len(names) > 500
    assert {one.name for one in entries(["masked/Bert*"])} == {
        name for name in names if name.startswith("Bert") and name.endswith("ForMaskedLM")
    }


def test_shrunk_configurations_stay_consistent() -> None:
    """One layer of each type, stages and widths that fit, parts that agree with the whole."""
    mixed = shrunk(config_class("qwen3_5_text"), "qwen3_5_text")
    assert mixed.layer_types == ["linear_attention", "full_attention"]
    assert mixed.num_hidden_layers == 2
    latent = shrunk(config_class("deepseek_v3"), "deepseek_v3")
    assert latent.qk_head_dim == latent.qk_nope_head_dim + latent.qk_rope_head_dim == 16
    windows = shrunk(config_class("swin"), "swin")
    assert (windows.num_layers, windows.hidden_size) == (4, 8 * windows.embed_dim)
    depths = shrunk(config_class("dpt"), "dpt")
    assert list(depths.backbone_out_indices) == [0, 1, 2, 3]
    assert depths.num_hidden_layers == 4


def test_float64_leaves_float32_as_it_was() -> None:
    """While a class runs in float64, `torch.float32` means float64; never afterwards, nor after an error."""
    model, given = entry("LlamaForSequenceClassification").make(torch.float64)
    model(**given)
    assert torch.zeros(1, dtype=torch.float32).dtype == torch.zeros(1).float().dtype != torch.zeros(1).double().dtype
    with pytest.raises(ValueError, match="input_ids"):
        model(no_such_input=1)
    assert torch.zeros(1, dtype=torch.float32).dtype == torch.zeros(1).float().dtype != torch.zeros(1).double().dtype
