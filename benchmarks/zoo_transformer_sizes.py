"""Configurations of transformers, shrunk by the names of their fields."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["PIXELS", "VOCABULARY", "config_class", "shrunk"]

VOCABULARY = 100
PIXELS = 64

_SIZES: tuple[tuple[str, int], ...] = (
    (r"(num_|n_)?(feat_extract|conv).*layers|num_feature_levels|num_codebooks|.*scale_embedding.*", 0),  # 0: as it is
    (r".*vocab_size(_or_config_json_file)?", VOCABULARY),
    (r"(num_|n_)?(key_value|kv)_heads|num_key_value_.*|num_query_groups|.*_num_key_value_heads|.*_num_kv_heads", 2),
    (r"(mamba|ssm|linear).*(head_dim|d_head|n_heads|num_heads|key_heads|value_heads)", 0),
    (r".*(n|num)_(.*_)?heads?|n_head|heads|.*attention_heads", 4),
    (r"(moe_)?(num_experts_per_tok|k|top_?k|num_experts_per_token|router_top_k|num_selected_experts|moe_topk)", 2),
    (r"n_group|topk_group|num_expert_group", 1),
    (r".*(num|n)_(local_|routed_)?(experts|experts_.*)|.*num_.*experts", 4),
    (r"first_k_dense_replace|num_dense_layers|moe_layer_start_index", 1),
    (r".*(period|full_attention_interval|sliding_window_pattern|every_n_layers|interleave_.*step|cross_attn.*interval)", 2),
    (r".*(attn|attention|expert|mamba)_layer_offset", 1),
    (r".*(layers|n_layer|num_layers|depth|num_hidden_layers|num_blocks|_layers_.*)", 2),
    (r"rotary_dim", 8),
    (r".*lora_rank|.*_rank|low_rank_.*", 8),
    (r"qk_rope_head_dim|.*rope_head_dim", 8),
    (r".*head_dim|d_kv|attention_head_size|.*_head_size|kv_channels|v_head_dim|.*nope_head_dim|d_head|attention_key_size", 8),
    (r".*(intermediate_size|ffn_dim|d_ff|ffn_hidden_size|mlp_dim|d_inner|n_inner|mlp_hidden_size|ffn_embed_dim)(_.*)?", 48),
    (r".*(state_size|d_state|ssm_state.*)", 8),
    (r"chunk_size|.*_chunk_size|chunk_length|local_attn_chunk_length|lsh_attn_chunk_length|block_size", 4),
    (r"sliding_window|attention_window|window|local_attention|local_radius|max_window_layers", 4),
    (r".*window_size", 2),
    (r"num_conv_pos_embeddings|position_embeddings_.*kernel", 16),
    (r"num_conv_pos_embedding_groups", 4),
    (r"num_mel_bins|num_mel_features|n_mels|input_feat_per_channel|num_freq.*", 16),
    (r"max_source_positions|encoder_max_.*positions", 50),
    (r"max_.*position.*|n_positions|max_seq.*len.*|n_ctx|max_len.*|seq_length|context_length|max_target_positions", 64),
    (r"(num_|n_)queries|num_object_queries|.*num_query_tokens|num_latents|num_proposals", 10),
    (r"num_frames|num_frames_.*|fpc", 4),
    (r"(img|image|input|pretrain_img)_size|input_resolution", PIXELS),
    (r".*(hidden_size|d_model|n_embd|emb_dim|embed_dim|embedding_size|hidden_dim|d_embed|model_dim|projection_dim|"
     r"projection_size|proj_dim|output_dim|feature_size|channels|_dim|d_latents|embed_size|width|embedding_dim|head_hidden.*"
     r"|lru_width|.*_hidden_size.*|dim|feature_dim)", 32),
)  # fmt: skip
"""Field to size; the first that fits. Nothing is made larger."""

_PATCH = re.compile(r".*patch_size")
_KEPT = re.compile(
    r"num_channels|in_channels|num_input_channels|.*out_channels_list|type_vocab_size|in_chans|"
    r"num_labels|token_type.*|n_channels|image_channels|audio_channels|q_channels|out_features|block_out.*|"
    r"quant.*dim|codebook_dim|.*kernel.*|.*stride.*"
)
_MROPE = re.compile("vl|4v|omni|ocr|46v")
"""Model types whose positions have three parts."""
_ABOUT = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "_attn_implementation_autoset")
_SPECIAL = re.compile(r".*token_id|.*token_index|.*_token_ids?|.*_id")


def config_class(model_type: str) -> Any:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return CONFIG_MAPPING[model_type]


def shrunk(made_by: Any, model_type: str) -> Any:
    """A configuration with all sizes small."""
    given = _overrides(made_by().to_dict() | _nested(made_by()), FIXES.get(model_type, {}))
    return made_by(**given)


def _nested(config: Any) -> dict[str, Any]:
    return {k: v.to_dict() | _nested(v) for k, v in vars(config).items() if hasattr(v, "to_dict")}


def _overrides(fields: Mapping[str, Any], fixes: Mapping[str, Any]) -> dict[str, Any]:
    """New values by field, nested as the fields are."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        new = value
        if isinstance(value, Mapping):
            if name.endswith(("config", "encoder", "decoder", "generator")) or name in ("text", "vision"):
                plain = {k: v for k, v in value.items() if isinstance(v, (bool, str)) and k not in _ABOUT}
                new = {**plain, **_overrides(value, {})}
            elif name == "rope_parameters" and _MROPE.search(str(fields.get("model_type"))):
                new = {**value, "mrope_section": [2, 1, 1]}
            else:
                continue
        elif isinstance(value, (bool, str)) or value is None:
            new = 0 if name == "pad_token_id" else value
        elif isinstance(value, int):
            new = _number(name, value)
            if name.endswith("key_value_heads") and value == fields.get(name.replace("key_value", "attention")):
                new = 4  # as many as there are heads for queries
        elif isinstance(value, (list, tuple)) and value and all(type(v) is int for v in value):
            new = _numbers(name, list(value))
        if new != value:
            found[name] = new
    for name, value in fixes.items():
        whole = isinstance(value, Mapping) and isinstance(found.get(name), Mapping)
        found[name] = {**found[name], **value} if whole else value
    return found


def _number(name: str, value: int) -> int:
    if _KEPT.fullmatch(name):
        return value
    if _SPECIAL.fullmatch(name) and value >= 10:
        return 85 + sum(map(ord, name)) % 15
    if name == "pad_token_id":
        return 0
    if _PATCH.fullmatch(name):
        return 16 if value >= 14 else value
    for pattern, size in _SIZES:
        if re.fullmatch(pattern, name):
            return min(value, size) if size else value
    return value


def _numbers(name: str, values: list[int]) -> list[int]:
    if re.fullmatch(r".*(depths|layers|num_blocks|layer_num)", name):
        return [1 for _ in values]
    if re.fullmatch(r".*heads", name):
        return [min(v, 2) for v in values]
    if re.fullmatch(
        r".*(window_size|patch_size|strides?|kernel.*|paddings?|ratios?|dilation|indices|index.*|indexes)", name
    ):
        return values
    if re.fullmatch(r".*(image|img)_size|input_size", name):
        return [PIXELS for _ in values]
    if _SPECIAL.fullmatch(name):
        return [85 + v % 15 for v in values]
    if re.fullmatch(r".*(dims?|sizes|channels|filters|width)", name) and min(values) > 3:
        return [32 if len(set(values)) == 1 else 16 * 2 ** min(k, 2) for k in range(len(values))]
    return values


_MAMBA2 = {"num_heads": 4, "head_dim": 16, "n_groups": 2, "chunk_size": 4}
_HYBRID = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_ssm": 64}
_STAGES = {
    "num_hidden_layers": 4,
    "out_indices": [1, 2, 3, 4],
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
FIXES: dict[str, dict[str, Any]] = {
    "mamba2": _MAMBA2, "bamba": _HYBRID, "falcon_h1": _HYBRID,
    "granitemoehybrid": {**_HYBRID, "layer_types": ["mamba", "attention"]},
    "zamba2": {"n_mamba_heads": 4, "mamba_headdim": 16, "mamba_ngroups": 1},
    "xmod": {"default_language": "en_XX"}, "lilt": {"hidden_size": 48},
    "mobilebert": {"embedding_size": 16, "intra_bottleneck_size": 32, "true_hidden_size": 32},
    "reformer": {"axial_pos_embds_dim": [16, 16], "axial_pos_shape": [8, 8]}, "ministral": {"head_dim": 8},
    "nemotron": {"head_dim": 8, "num_key_value_heads": 2}, "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "esm": {"vocab_size": 100, "mask_token_id": 84, "pad_token_id": 0},
    "layoutlmv3": {"coordinate_size": 6, "shape_size": 4},
    "mamba": {"time_step_rank": 4}, "falcon_mamba": {"time_step_rank": 4},
    "funnel": {"block_sizes": [1, 1, 1]}, "dots1": {"n_routed_experts": 4, "n_shared_experts": 1},
    **{name: {"backbone_config": _STAGES} for name in ("depth_anything", "prompt_depth_anything", "zoedepth")},
}  # fmt: skip
"""What some families need besides."""
