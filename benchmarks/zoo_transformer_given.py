"""Inputs of classes of transformers that their signatures do not say: a table."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["ALONE", "GIVEN", "WITHOUT", "Below", "Images", "Normal", "Ones", "Rows"]


class Normal(NamedTuple):
    """Normal numbers, of this shape for each sample."""

    shape: tuple[int, ...]


class Rows(NamedTuple):
    """So many rows for each sample, those of all samples one after the other."""

    count: int
    shape: tuple[int, ...]


class Below(NamedTuple):
    """Whole numbers below `high`."""

    high: int
    shape: tuple[int, ...]


class Ones(NamedTuple):
    """A mask that hides nothing."""

    shape: tuple[int, ...]


class Images(NamedTuple):
    """A text of 8 ids after this many that stand for an image (or sound): the configuration's, or `token`."""

    count: int
    token: int | None = None


_PATCHES = {"pixel_values": Normal((16, 768)), "pixel_attention_mask": Ones((16,)), "spatial_shapes": [4, 4]}
_FRAMES = {"pixel_values": Normal((4, 3, 64, 64))}
_CODES = {"input_values": Normal((1, 3840)), "input_features": Normal((12, 32))}
_SQUARE = [[x, y] for y in range(6) for x in range(6)]
_MONO = {"input_values": Normal((1, 3840))}
_SEEN = {"visual_feats": Normal((5, 32)), "visual_pos": Normal((5, 4))}
_PAST = {
    "past_values": Normal((11,)), "past_time_features": Normal((11, 1)), "past_observed_mask": Ones((11,)),
    "future_values": Normal((4,)), "future_time_features": Normal((4, 1)),
}  # fmt: skip


def _each(names: str, inputs: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return dict.fromkeys(names.split(), inputs)


GIVEN: dict[str, dict[str, Any]] = {
    **_each("Siglip2VisionModel Siglip2ForImageClassification Siglip2Model", _PATCHES),
    **_each("EncodecModel DacModel MimiModel MimiEncoderModel PeAudioEncoder PeAudioModel XcodecModel "
            "PocketTTSAudioTokenizerModel PocketTTSAudioTokenizerEncoderModel VibeVoiceAcousticTokenizerModel", _MONO),
    **_each("LxmertForQuestionAnswering LxmertForPreTraining", _SEEN),
    **_each("AutoformerModel InformerModel TimeSeriesTransformerModel", _PAST),
    **_each("PatchTSTModel PatchTSMixerModel", {"past_values": Normal((32, 1))}),
    "TimesFmModelForPrediction": {"past_values": Normal((64,)), "freq": Below(3, ())},
    "TimesFm2_5ModelForPrediction": {"past_values": Normal((64,))},
    **_each("Aimv2Model BridgeTowerModel GroupViTModel Owlv2Model OwlViTModel VisionTextDualEncoderModel AlignModel",
            {"pixel_values": ...}),
    **_each("Sam3Model Sam3LiteTextModel BlipForConditionalGeneration", {"input_ids": ..., "pixel_values": ...}),
    "BlipForQuestionAnswering": {"decoder_input_ids": ..., "pixel_values": ...},
    "ImageGPTForImageClassification": {"input_ids": ...}, "Sam3LiteTextTextModel": {"input_ids": ...},
    "KyutaiSpeechToTextForConditionalGeneration": {"input_ids": Below(90, (8, 33))},
    "DiaForConditionalGeneration": {"decoder_input_ids": Below(90, (8, 9))},
    **_each("LongformerForQuestionAnswering LongformerForMultipleChoice", {"global_attention_mask": ...}),
    "SegGptModel": dict.fromkeys(("pixel_values", "prompt_pixel_values", "prompt_masks"), Normal((3, 32, 32))),
    **_each("Xcodec2Model NeuCodecModel", _CODES), **_each("VideoMAEForPreTraining XCLIPModel TvpModel", _FRAMES),
    "IdeficsForVisionText2Text": {"pixel_values": Normal((1, 3, 64, 64)), "image_attention_mask": Ones((8, 1))},
    "ClapModel": {"input_features": Normal((1, 64, 32))},
    "ClvpModelForConditionalGeneration": {"input_features": Normal((32, 60))},
    "MuseSparkAudioModel": {"input_values": Normal((3840,))},
    "Gemma4VisionModel": {"pixel_values": Normal((36, 768)), "pixel_position_ids": _SQUARE},
    "Kimi_K25VisionModel": {"pixel_values": Rows(16, (3, 16, 16))},
    "Inkling2VisionModel": {"pixel_values": Rows(16, (32, 32, 3))},
    **_each("GraniteSpeech5Encoder GraniteSpeech5ForCTC", {"input_features": Normal((32, 64))}),
    "FunAsrNanoEncoder": {"input_features": Normal((24, 112)), "input_features_mask": Ones((24,))},
    "Qwen3ASREncoder": {"input_features": Normal((16, 100)), "input_features_mask": Ones((100,))},
    "UdopForConditionalGeneration": {"bbox": [[0.1 * k, 0.2, 0.1 * k + 0.1, 0.3] for k in range(8)], "pixel_values": ...},
    **_each("PPOCRV5MobileRecModel PPOCRV5ServerRecModel PPOCRV6SmallRecModel PPOCRV6TinyRecModel",
            {"pixel_values": Normal((3, 96, 96))}),
    **_each("Blip2ForConditionalGeneration Blip2ForImageTextRetrieval",
            {"input_ids": Images(10, 98), "attention_mask": Ones((18,))}),
    "InstructBlipForConditionalGeneration": {"input_ids": Images(10, 98), "attention_mask": Ones((18,)),
                                             "qformer_input_ids": Below(90, (8,))},
    "InstructBlipVideoForConditionalGeneration": {"pixel_values": Normal((4, 3, 64, 64)), "input_ids": Images(40, 98),
                                                  "attention_mask": Ones((48,)), "qformer_input_ids": Below(90, (8,))},
    **_each("DeformableDetrForObjectDetection GroundingDinoModel MMGroundingDinoModel",
            {"pixel_values": Normal((3, 128, 128))}),
    "UnivNetModel": {"noise_sequence": Normal((64, 32))},
    "DiffusionGemmaForBlockDiffusion": {"decoder_input_ids": ...},
    "ShieldGemma2ForImageClassification": {"input_ids": ..., "attention_mask": ...},
    **_each("MiniCPMOcrVisionModel MiniCPMV4_7VisionModel", {"pixel_values": Normal((3, 16, 256)), "target_sizes": [4, 4]}),
    "Pix2StructForConditionalGeneration": {"flattened_patches": ..., "decoder_input_ids": ...},
    "DecisionTransformerModel": {"states": Normal((4, 17)), "actions": Normal((4, 4)), "rewards": Normal((4, 1)),
                                 "returns_to_go": Normal((4, 1)), "timesteps": Below(60, (4,)), "attention_mask": Ones((4,))},
    "VoxtralRealtimeEncoder": {"input_features": Normal((16, 64))}, "GlmAsrEncoder": {"input_features": Normal((16, 60))},
    "AudioFlamingo3Encoder": {"input_features_mask": Ones((100,))},
    "VoxtralRealtimeForConditionalGeneration": {"input_features": Normal((16, 64))},
    **_each("EfficientLoFTRModel LightGlueForKeypointMatching", {"pixel_values": Normal((2, 3, 64, 64))}),
    "OneFormerForUniversalSegmentation": {"task_inputs": Below(90, (77,))},
    "Gemma3nAudioEncoder": {"audio_mel": Normal((48, 128)), "audio_mel_mask": ...},
    "Blip2QFormerModel": {"query_embeds": Normal((6, 32)), "encoder_hidden_states": Normal((7, 32))},
    "MimiDecoderModel": {"latents": Normal((32, 8))}, "PocketTTSAudioTokenizerDecoderModel": {"latents": Normal((32, 8))},
    "Kosmos2ForConditionalGeneration": {"input_ids": Images(4, 98), "attention_mask": Ones((12,)),
                                        "image_embeds_position_mask": [1] * 4 + [0] * 8},
    "PI0ForConditionalGeneration": {
        "state": Normal((32,)), "noise": Normal((4, 32)), "timestep": Normal(()), "pixel_values": Normal((1, 3, 64, 64)),
        "pixel_attention_mask": Ones((1,)), "input_ids": Images(16), "attention_mask": Ones((24,)),
    },
    "SplinterForPreTraining": {"question_positions": [2]},
    "VibeVoiceAcousticTokenizerEncoderModel": {"hidden_states": Normal((1, 3200))},
    "VibeVoiceAcousticTokenizerDecoderModel": {"hidden_states": Normal((32, 4))},
    "MuseGlimmerAssistantModel": {"noise_embeds": Normal((4, 32)), "context_hidden_states": Normal((8, 64)),
                                 "attention_mask": Ones((12,))},
    "VideoLlama3VisionModel": {"merge_sizes": 2},
}  # fmt: skip
"""Inputs by class: what to draw, a literal for each sample, or ``...`` for what that name means elsewhere."""
WITHOUT: dict[str, tuple[str, ...]] = {
    "SpeechEncoderDecoderModel": ("input_features",), "ShieldGemma2ForImageClassification": ("pixel_values",),
}  # fmt: skip
"""Inputs that a class takes but not together with the others."""
ALONE = ("MiniCPMOcrVisionModel", "MiniCPMV4_7VisionModel", "TvpModel")
"""Classes that take one sample only: no dimension of the input counts them, or a reshape forgets them."""
