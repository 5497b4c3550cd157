"""Configurations of transformers, shrunk by the names of their fields."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from zoo_transformer_fixes import BEFORE, CLASSES, FIXES

__all__ = ["PIXELS", "VOCABULARY", "config_class", "shrunk"]

VOCABULARY = 100
PIXELS = 64

_SIZES: tuple[tuple[str, int], ...] = (
    (r"(num_|n_)?(feat_extract|conv).*layers|num_feature_levels|num_codebooks|.*scale_embedding.*", 0),  # 0: as it is
    (r".*vocab_size(_or_config_json_file|_per_layer_input)?", VOCABULARY),
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
     r"projection_size|proj_dim|output_dim|feature_size|channels|_dim|d_latents|pooler_output_size|hidden_size_per_layer_input|embed_size|width|embedding_dim|head_hidden.*"
     r"|lru_width|.*_hidden_size.*|dim|feature_dim)", 32),
)  # fmt: skip
"""Field to size; the first that fits. Nothing is made larger."""

_PATCH = re.compile(r".*patch_size")
_KEPT = re.compile(
    r"num_channels|in_channels|num_input_channels|.*out_channels_list|type_vocab_size|in_chans|"
    r"num_labels|token_type.*|n_channels|image_channels|audio_channels|q_channels|out_features|block_out.*|"
    r"quant.*dim|codebook_dim|.*kernel.*|.*stride.*"
)
_MROPE = re.compile("vl|4v|omni|ocr|46v|glm_image|cosmos3_edge_text")
"""Model types whose positions have three parts."""
_ABOUT = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "_attn_implementation_autoset")
_UNSET = {"num_experts_per_tok": 2, "n_routed_experts": 4, "n_shared_experts": 1, "num_experts": 4}
"""What a mixture of experts needs that its configuration leaves open."""
_SPECIAL = re.compile(r".*token_id|.*token_index|.*_token_ids?|.*_id")


def config_class(model_type: str) -> Any:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return CONFIG_MAPPING[model_type]


def shrunk(made_by: Any, model_type: str, name: str = "") -> Any:
    """A configuration with all sizes small, with what the family and the class of that name need besides."""
    start = BEFORE.get(model_type, {})
    plain = made_by(**start)
    fixes = _merged(FIXES.get(model_type, {}), CLASSES.get(name, {}))
    return made_by(**_merged(start, _overrides(plain.to_dict() | _nested(plain), fixes)))


def _nested(config: Any) -> dict[str, Any]:
    return {k: v.to_dict() | _nested(v) for k, v in vars(config).items() if hasattr(v, "to_dict")}


def _merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Both, the second where they differ; mappings of both likewise, unless the second names another model type."""
    found = dict(first)
    for name, value in second.items():
        before = found.get(name)
        whole = isinstance(value, Mapping) and isinstance(before, Mapping)
        if whole and value.get("model_type") in (None, before.get("model_type")):
            value = _merged(before, value)
        found[name] = value
    return found


def _overrides(fields: Mapping[str, Any], fixes: Mapping[str, Any]) -> dict[str, Any]:
    """New values by field, nested as the fields are."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        new = _field(fields, name, value)
        if new != value:
            found[name] = new
    return _merged(_related(fields, found | layers(fields)), fixes)


def _field(fields: Mapping[str, Any], name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        if name.endswith(("config", "encoder", "decoder", "generator")) or name in ("text", "vision"):
            same = {k: v for k, v in value.items() if _carried(v) and k not in _ABOUT}
            return {**same, **_overrides(value, FIXES.get(str(value.get("model_type")), {}))}
        return value
    if name == "pad_token_id" and value is None:
        return 0
    if value is None and name in _UNSET and fields.get("moe_intermediate_size"):
        return _UNSET[name]
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        whole = name.endswith("key_value_heads") and value == fields.get(name.replace("key_value", "attention"))
        return 4 if whole else _number(name, value)  # as many as there are heads for queries
    if isinstance(value, (list, tuple)) and value and all(type(v) is int for v in value):
        return _numbers(name, list(value))
    return value


def _carried(value: Any) -> bool:
    """Whether a field of a nested configuration is to be said: it may differ from that class's own default."""
    return value is not None and not hasattr(value, "to_dict") and value not in ((), [], {})


def layers(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Two layers, or one of each type; each list with an entry per layer cut to those; stages that are layers counted."""
    name = next((n for n in ("num_hidden_layers", "num_layers", "n_layer") if type(fields.get(n)) is int), "")
    count = fields.get(name, 0)
    if count < 2 or "depths" in fields:
        return {}
    taken = fields.get("out_indices") or fields.get("backbone_out_indices") or ()
    if len(taken) > 1 or (taken and fields.get("out_features")):  # each of the features asked for from a layer of its own
        kept = max(2, len(taken))
        found: dict[str, Any] = {name: kept}
        if "stage_names" in fields or fields.get("out_features"):
            found["out_indices"] = list(range(kept + 1))[-len(taken) :]
            found["out_features"] = [f"stage{k}" for k in found["out_indices"]]
        else:
            found["out_indices" if fields.get("out_indices") else "backbone_out_indices"] = list(range(len(taken)))
        return found
    lists = {k: v for k, v in fields.items() if isinstance(v, (list, tuple)) and len(v) == count and count > 2}
    kinds = list(zip(*(lists[k] for k in ("layer_types", "layers_block_type", "mlp_layer_types") if k in lists), strict=True))
    if not kinds:
        return {}
    kept = sorted({kinds.index(kind) for kind in kinds})
    kept += [k for k in range(count) if k not in kept][: max(0, 2 - len(kept))]
    kept.sort()
    cut = {k: [_number(k, v[i]) if type(v[i]) is int else v[i] for i in kept] for k, v in lists.items()}
    if fields.get("per_layer_config"):
        own = {f"{place:02}": fields["per_layer_config"].get(f"{k:02}") for place, k in enumerate(kept)}
        plain = {k: v for k, v in fields.items() if not isinstance(v, (list, tuple, Mapping))}
        same = {k: _overrides({**plain, **v}, {}) for k, v in own.items() if v}
        cut["per_layer_config"] = {k: {n: same[k].get(n, v) for n, v in own[k].items()} for k in same}
    return {name: len(kept), **cut}


def _related(fields: Mapping[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """With what follows from other fields."""
    now = {**fields, **found}
    if "qk_nope_head_dim" in fields:
        parts = ("qk_nope_head_dim", "qk_rope_head_dim")
        for name in ("qk_head_dim", "head_dim"):
            if fields.get(name) == sum(fields[p] for p in parts):
                found[name] = sum(now[p] for p in parts)
    if "depths" in fields:
        found |= _staged(fields, now)
    if "window_size" in found and "spatial_merge_size" in fields:
        found["window_size"] = 2 * now["spatial_merge_size"] * now["patch_size"]
    rope = fields.get("rope_parameters")
    if isinstance(rope, Mapping):
        new = {k: _rope(v, found) if isinstance(v, Mapping) else v for k, v in _rope(rope, found).items()}
        if _MROPE.search(str(fields.get("model_type"))):
            new["mrope_section"] = [2, 1, 1]
        if new != rope:
            found["rope_parameters"] = new
    return found


def _staged(fields: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """As many layers as stages, and the width after all of them."""
    stages = len(fields["depths"])
    found: dict[str, Any] = {}
    if fields.get("num_layers") == stages:
        found["num_layers"] = stages
    if fields.get("hidden_size") == fields.get("embed_dim", 0) * 2 ** (stages - 1):
        found["hidden_size"] = now["embed_dim"] * 2 ** (stages - 1)
    return found


def _rope(rope: Mapping[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Positions of three parts, in half of 8 channels; heads are wider where only some of their channels rotate."""
    factor = rope.get("partial_rotary_factor")
    if "mrope_section" in rope and factor:
        found["head_dim"] = int(8 / factor)
    return {**rope, "mrope_section": [2, 1, 1]} if "mrope_section" in rope else dict(rope)


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
    if re.fullmatch(r".*(window_size|patch_size|paddings?|ratios?|dilation|indices|index.*)|.*(stride|kernel).*", name):
        return values
    if re.fullmatch(r".*(image|img)_size|input_size", name):
        return [PIXELS for _ in values]
    if _SPECIAL.fullmatch(name):
        return [85 + v % 15 for v in values]
    if re.fullmatch(r".*(dims?|sizes|channels|filters|width)", name):
        return [min(v, 32) for v in values]
    return values
