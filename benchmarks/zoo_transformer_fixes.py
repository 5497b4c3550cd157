"""What some families and classes of transformers need besides the generic shrinking: a table."""

from __future__ import annotations

from typing import Any

__all__ = ["BEFORE", "CLASSES", "FIXES", "KERNELS"]

_MAMBA2 = {"num_heads": 4, "head_dim": 16, "n_groups": 2, "chunk_size": 4}
_HYBRID = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_ssm": 64}
_ZAMBA = {
    "attention_hidden_size": 64, "attention_head_dim": 16, "num_hidden_layers": 4,
    "layers_block_type": ["linear_attention", "hybrid"] * 2,
}  # fmt: skip
_FOUR = {"out_indices": [1, 2, 3, 4], "out_features": ["stage1", "stage2", "stage3", "stage4"]}
_STAGES = {"num_hidden_layers": 4, **_FOUR}
_GLOBAL = {"hidden_size_global": 32}
_CODEC = {"num_filters": 4, "codebook_size": 64}
_MIMI = {**_CODEC, "upsample_groups": 32}
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_SAM = {"prompt_encoder_config": {"image_embedding_size": 4}}
_HIERA = {
    "hidden_size": 8, "blocks_per_stage": [1, 2, 2, 1], "embed_dim_per_stage": [8, 16, 32, 64],
    "num_attention_heads_per_stage": [1, 2, 2, 2], "window_size_per_stage": [4, 4, 4, 4], "global_attention_blocks": [2],
}  # fmt: skip
_SIZES_AT_64 = [[16, 16], [8, 8], [4, 4]]
_SAM2 = {"backbone_channel_list": [64, 32, 16, 8], "backbone_feature_sizes": _SIZES_AT_64}
_SERIES = {"prediction_length": 4, "context_length": 8, "lags_sequence": [1, 2, 3], "num_time_features": 1}
_INDEXER = {
    "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 4, "indexer_compress_ratio": 2
}  # fmt: skip
_INTRACLASS = {
    "reduce_channel": [1, 1, 0], "return_channel": [1, 1, 0],
    "vertical_long_to_small_conv_longratio": [[7, 1], [1, 1], [3, 0]],
    "vertical_long_to_small_conv_midratio": [[5, 1], [1, 1], [2, 0]],
    "vertical_long_to_small_conv_shortratio": [[3, 1], [1, 1], [1, 0]],
    "horizontal_small_to_long_conv_longratio": [[1, 7], [1, 1], [0, 3]],
    "horizontal_small_to_long_conv_midratio": [[1, 5], [1, 1], [0, 2]],
    "horizontal_small_to_long_conv_shortratio": [[1, 3], [1, 1], [0, 1]],
    "symmetric_conv_long_longratio": [[7, 7], [1, 1], [3, 3]],
    "symmetric_conv_long_midratio": [[5, 5], [1, 1], [2, 2]],
    "symmetric_conv_long_shortratio": [[3, 3], [1, 1], [1, 1]],
}  # fmt: skip
_OCR = {"intraclass_block_config": _INTRACLASS, "scale_factor_list": [1, 2, 4, 8], "kernel_list": [3, 2, 2]}
_LCNET = {
    "stem_channels": [3, 16, 16], "stage_out_channels": [16, 32, 32, 32], **_FOUR,
    "block_configs": [[[3, 16, 16, 1, True]], [[3, 16, 32, 2, False]], [[3, 32, 32, 2, False]], [[3, 32, 32, 2, False]]],
}  # fmt: skip
_VOXELS = {"vocabulary_map": {"<image>": 98, "<|extra_200|>": 97}}

FIXES: dict[str, dict[str, Any]] = {
    "mamba2": _MAMBA2, "bamba": _HYBRID, "falcon_h1": _HYBRID,
    "granitemoehybrid": {**_HYBRID, "layer_types": ["mamba", "attention"]},
    "zamba": _ZAMBA,
    "zamba2": {**_ZAMBA, "n_mamba_heads": 4, "mamba_headdim": 16, "mamba_ngroups": 1, "hybrid_layer_ids": [1, 3]},
    "glm5_next_text": {"linear_head_dim": 8, "linear_num_heads": 4},
    "xmod": {"default_language": "en_XX"}, "lilt": {"hidden_size": 48},
    "mobilebert": {"embedding_size": 16, "intra_bottleneck_size": 32, "true_hidden_size": 32},
    "reformer": {"axial_pos_embds_dim": [16, 16], "axial_pos_shape": [8, 8]}, "ministral": {"head_dim": 8},
    "nemotron": {"head_dim": 8, "num_key_value_heads": 2}, "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "esm": {"vocab_size": 100, "mask_token_id": 84, "pad_token_id": 0},
    "layoutlmv3": {"coordinate_size": 6, "shape_size": 4},
    "mamba": {"time_step_rank": 4}, "falcon_mamba": {"time_step_rank": 4},
    "funnel": {"block_sizes": [1, 1, 1]}, "dots1": {"n_routed_experts": 4, "n_shared_experts": 1},
    "esmc": {"vocab_size": 100},
    "vits": {"vocab_size": 100, "flow_size": 32, "upsample_initial_channel": 64, "spectrogram_bins": 33,
             "noise_scale": 0.0, "noise_scale_duration": 0.0},
    "hunyuan_v1_dense": {"head_dim": 8}, "hunyuan_v1_moe": {"head_dim": 8}, "hunyuan_vl_text": {"head_dim": 8},
    "lfm2_moe": {"num_dense_layers": 1}, "neomme": {"head_dim": 16}, "glm4v_moe_text": {"head_dim": 16},
    "ernie4_5_vl_moe_text": {"rope_parameters": {"mrope_section": [1, 1, 2]}},
    "blt": {"encoder_hash_byte_group_vocab": 50, "encoder_config": _GLOBAL, "decoder_config": _GLOBAL},
    "bridgetower": {"hidden_size": 64, "text_config": {"hidden_size": 64}, "vision_config": {"hidden_size": 64}},
    "granite_speech5_encoder": {"context_size": 8}, "muse_spark_audio": {"num_hidden_layers": 4},
    "nemotron3_diarization": {"chunk_length": 16, "chunk_right_context": 4},
    "molmo2": {"adapter_config": {"vision_feature_layer": [1, 0]}},
    "fun_asr_nano": {"adaptor_config": {"intermediate_size": 8}},
    "mimi": _MIMI, "mimi_encoder": _MIMI, "mimi_decoder": _MIMI, "encodec": _CODEC,
    "pocket_tts_audio_tokenizer": _MIMI, "pocket_tts_audio_tokenizer_encoder": _MIMI,
    "pocket_tts_audio_tokenizer_decoder": _MIMI,
    "vibevoice_acoustic_tokenizer": _CODEC, "vibevoice_acoustic_tokenizer_encoder": _CODEC,
    "vibevoice_acoustic_tokenizer_decoder": _CODEC, "vibevoice_asr": {"acoustic_tokenizer_chunk_size": 3200},
    "sam_vision_model": {"num_pos_feats": 16}, "sam_hq_vision_model": {"num_pos_feats": 16}, "sam": _SAM, "sam_hq": _SAM,
    "sam2_hiera_det_model": _HIERA, "sam2_vision_model": _SAM2,
    "sam3_vision_model": {"backbone_feature_sizes": _SIZES_AT_64},
    "step3p5": {"sliding_window": 4}, "qwen4_exp_text": _INDEXER,
    "levit": {"key_dim": [8, 8, 8]}, "bit": {"num_groups": 4},
    "efficientnet": {"width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280},
    "bros": {"hidden_size": 64}, "zoedepth": {"bottleneck_features": 32},
    "timesfm": {"horizon_length": 32}, "timesfm2_5": {"horizon_length": 32, "output_quantile_len": 32},
    "tvp": {"max_img_size": 64, "visual_prompt_size": 8}, "fastspeech2_conformer": {"vocab_size": 100},
    "fastspeech2_conformer_with_hifigan": {"model_config": {"vocab_size": 100}, "vocoder_config": {"model_in_dim": 16}},
    "dots3_note_text": {"head_dim": 16}, "gemma4_audio": {"subsampling_conv_channels": [16, 32]},
    "efficientloftr": {
        "num_attention_heads": 8, "num_key_value_heads": 8, "stage_num_blocks": [1, 1, 1, 1], "out_features": [16, 16, 32, 32],
    },
    "depth_pro": {"intermediate_hook_ids": [1, 0]}, "seggpt": {"image_size": [64, 32]},
    "uvdoc": {"backbone_config": {"out_features": [f"stage{k}" for k in range(1, 7)], "out_indices": [1, 2, 3, 4, 5, 6]}},
    "neucodec": {"quantization_dim": 64}, "xcodec2": {"quantization_dim": 64},
    "autoformer": {"label_length": 4}, "align": {"projection_dim": 64}, "kosmos-2": {"latent_query_num": 4},
    "granite4_vision": {
        "vision_config": {"hidden_size": 64},
        "qformer_config": {"hidden_size": 64, "encoder_hidden_size": 64, "num_attention_heads": 1},
    },
    "clvp_encoder": {"num_attention_heads": 1},
    "pp_doclayout_v2": {"reading_order_config": {"max_2d_position_embeddings": 1024}},
    "dots3_note": {"audio_config": {"adapter_input_size": 32}},
    "kimi_k25_vision": {"pos_emb_height": 8, "pos_emb_width": 8},
    "clap_audio_model": {"spec_size": 128, "num_mel_bins": 32, "hidden_size": 256},
    "univnet": {"kernel_predictor_hidden_channels": 32},
    "gemma3n_text": {
        "num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2, "num_kv_shared_layers": 2,
        "intermediate_size": [48] * 4, "activation_sparsity_pattern": [0.95, 0.0, 0.0, 0.0],
    },
    "t5gemma2_encoder": {"text_config": {"dropout_rate": 0.0}}, "moonshine_streaming": {"num_key_value_heads": 4},
    "qwen2_5_omni_thinker": {"vision_start_token_id": 91, "audio_start_token_id": 92},
    "qwen3_omni_moe_thinker": {"vision_start_token_id": 91, "audio_start_token_id": 92},
    "shieldgemma2": {"yes_token_index": 50, "no_token_index": 51}, "superpoint": {"keypoint_decoder_dim": 65},
    "blip-2": {"image_token_index": 98}, "instructblip": {"image_token_index": 98},
    "instructblipvideo": {"video_token_index": 98},
    "pp_lcnet_v4": _LCNET, "pp_ocrv6_small_det": {"layer_list_out_channels": [16, 32, 32, 32]},
    "pp_ocrv5_server_det": _OCR, "pp_ocrv6_medium_det": _OCR,
}  # fmt: skip
"""Fields by model type; also of configurations within others."""

_UPPER = ["stage2", "stage3", "stage4"]
_NO_TIMM = {"use_timm_backbone": False, "backbone": None}
_RESNET = {**_NO_TIMM, "backbone_config": {"model_type": "resnet", "out_features": ["stage4"]}}
_RESNETS = {**_NO_TIMM, "backbone_config": {"model_type": "resnet", "out_features": _UPPER}}
_COMPASS = {"rope_parameters": {"full_attention": {**_ROPE, "mrope_section": [2, 1, 1]}}}
_EXPERTS = {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 48}
BEFORE: dict[str, dict[str, Any]] = {
    "cohere_compass_text": _COMPASS, "cohere_compass": {"text_config": _COMPASS},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 16},
    "time_series_transformer": _SERIES, "autoformer": _SERIES, "informer": _SERIES,
    "detr": _RESNET, "conditional_detr": _RESNET, "dab-detr": _RESNET, "table-transformer": _RESNET,
    "deformable_detr": _RESNETS,
    "diffusion_gemma": {"text_config": _EXPERTS}, "diffusion_gemma_text": _EXPERTS,
    "chameleon": _VOXELS, "emu3": _VOXELS,
    "gemma4_assistant": {"text_config": {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0}},
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "clip_qkv": 8.0}}, "lw_detr": {"projector_scale_factors": [1.0]},
    "deepseek_ocr2": {"text_config": {"mlp_layer_types": ["dense"] + ["sparse"] * 31}},
    "pp_doclayout_v2": {"class_thresholds": [0.5] * 30, "class_order": [k % 20 for k in range(30)]},
    "granite4_vision": {"downsample_rate": "1/2", "deepstack_layer_map": [[0, 0], [1, 1]]},
}  # fmt: skip
"""Fields, by model type, of the configuration that is then shrunk: parts that are off by default."""

_ONE_HEAD = {"num_cross_attention_heads": 1}
CLASSES: dict[str, dict[str, Any]] = {
    "ReformerModelWithLMHead": {"is_decoder": True}, "BeitForSemanticSegmentation": _STAGES,
    "Wav2Vec2BertForCTC": {"vocab_size": 100}, "Wav2Vec2ConformerForCTC": {"vocab_size": 100},
    "MusicgenForCausalLM": {"num_codebooks": 1}, "MusicgenMelodyForCausalLM": {"num_codebooks": 1},
    "PerceiverForImageClassificationFourier": _ONE_HEAD, "PerceiverForImageClassificationConvProcessing": _ONE_HEAD,
    "HieraForPreTraining": {"decoder_hidden_size": 32, "decoder_depth": 1, "decoder_num_heads": 4},
    "T5GemmaEncoderModel": {"is_encoder_decoder": False},
    "Blip2ForImageTextRetrieval": {"qformer_config": {"use_qformer_text_input": True}},
    "DetrForSegmentation": {"encoder_attention_heads": 8, "decoder_attention_heads": 8, "backbone_config": _FOUR},
    "Sapiens2ForSemanticSegmentation": {"head_config": {
        "upsample_out_channels": [16, 16], "upsample_kernel_sizes": [4, 4],
        "conv_out_channels": [16], "conv_kernel_sizes": [1],
    }},
}  # fmt: skip
"""Fields by the class of the model."""
KERNELS = ("mra",)
"""Model types whose attention gives zeros where a kernel for CUDA is missing: nothing of them would be explained."""
