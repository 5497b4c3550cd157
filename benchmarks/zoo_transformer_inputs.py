"""Random inputs for a class of transformers, by what its ``forward`` takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from zoo_transformer_given import GIVEN, WITHOUT, Below, Images, Normal, Ones, Rows
from zoo_transformer_sizes import PIXELS, VOCABULARY

__all__ = ["ASIDE", "LENGTH", "PIXEL_KINDS", "POSITION", "inputs", "pad_of"]

LENGTH = 8
"""Tokens of a text. The last two are those of the future for what is explained, and padding in every second row."""
POSITION = LENGTH - 3
ASIDE = (81, 82)
"""Ids that only those last two positions of an unpadded row have."""
SAMPLES = 6000
FRAMES = 64
GRID = 4
"""Patches a side, where an image is given as its patches."""

_BOTH_KINDS = "segmentation universal instance detection depth masked_image image_to_image video image".split()
"""Kinds that see pixels only, even if the model could read."""
PIXEL_KINDS = (*_BOTH_KINDS, "zero_shot", "backbone", "features", "visual")


class Given(NamedTuple):
    """What the maker of an input looks at."""

    model: Any
    config: Any
    kind: str
    batch: int
    found: dict[str, Any]


def inputs(model: Any, config: Any, kind: str, batch: int = 2, name: str = "") -> dict[str, Any]:
    """Random inputs for what ``forward`` takes; every second row of a text is padded.

    Raises
    ------
    NotImplementedError
        If one of them is not known here.
    """
    taken = inspect.signature(model.forward).parameters
    main = getattr(model, "main_input_name", "input_ids")
    found: dict[str, Any] = {"use_cache": False} if "use_cache" in taken else {}
    given = Given(model, config, kind, batch, found)
    needed = [k for k, v in taken.items() if v.default is v.empty and v.kind not in (v.VAR_KEYWORD, v.VAR_POSITIONAL)]
    special = GIVEN.get(name, {})
    wanted = [*needed, *special]
    if "input_ids" in wanted or _reads(taken, main, kind):
        found |= _text(taken, config, kind, batch)
    if "bbox" in taken and "input_ids" in found:
        corners = torch.randint(0, 30, (*found["input_ids"].shape, 2))
        found["bbox"] = torch.cat([corners, corners + 5], -1)
    if "grid_thw" in needed or "image_grid_thw" in needed:
        found |= _packed(given, needed)
    seen = kind in PIXEL_KINDS or main == "pixel_values" or "input_ids" not in found
    if "pixel_values" in taken and (seen or "pixel_values" in wanted) and not any("grid" in k for k in found):
        found["pixel_values"] = _pixels(given)
    if "pixel_values_videos" in taken and "pixel_values" not in taken and "input_ids" not in found:
        found["pixel_values_videos"] = _video(given)
    heard = [n for n in ("input_values", "input_features") if n in taken and "input_ids" not in found]
    for one in [n for n in heard if n in needed] or heard[:1]:
        found[one] = MAKERS[one](given)
    if "decoder_input_ids" in taken and getattr(config, "is_encoder_decoder", False):
        found["decoder_input_ids"] = _decoder_ids(given)
    if "inputs" in taken and not found.keys() - {"use_cache"}:
        found["inputs"] = _ids(config, batch)
    found |= {k: _drawn(v, config, batch) for k, v in special.items() if v is not ...}
    for one in wanted:
        if one not in found:
            if one not in MAKERS:
                raise NotImplementedError(f"no inputs known for {one}")
            found[one] = MAKERS[one](given)
    for one in WITHOUT.get(name, ()):
        found.pop(one, None)
    if not any(isinstance(v, Tensor) for v in found.values()):
        raise NotImplementedError(f"no inputs known for {', '.join(list(taken)[:4])}")
    return found


def _drawn(what: Any, config: Any, batch: int) -> Any:
    """What the table says."""
    if isinstance(what, Normal):
        return torch.randn(batch, *what.shape)
    if isinstance(what, Rows):
        return torch.randn(batch * what.count, *what.shape)
    if isinstance(what, Below):
        return torch.randint(0, what.high, (batch, *what.shape))
    if isinstance(what, Ones):
        return torch.ones(batch, *what.shape, dtype=torch.long)
    if isinstance(what, Images):
        token = _within(config, "image_token_id", "image_token_index") if what.token is None else what.token
        return torch.cat([torch.full((batch, what.count), token), _ids(config, batch)], 1)
    return torch.tensor([what] * batch) if isinstance(what, (int, list)) and not isinstance(what, bool) else what


# -- text -----------------------------------------------------------------------------------------------------------------


def _reads(taken: Mapping[str, Any], main: Any, kind: str) -> bool:
    return "input_ids" in taken and (main == "input_ids" or kind == "zero_shot") and kind not in _BOTH_KINDS


def _ids(config: Any, batch: int) -> Tensor:
    ids = torch.randint(10, 80, (batch, LENGTH))
    ids[0::2, -2:] = torch.tensor(ASIDE)
    ids[1::2, -2:] = pad_of(config)
    return ids


def pad_of(config: Any) -> int:
    """The id of padding."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    found = getattr(text, "pad_token_id", None)
    return found if isinstance(found, int) and 0 <= found < VOCABULARY else 0


def _text(taken: Mapping[str, Any], config: Any, kind: str, batch: int) -> dict[str, Any]:
    ids = _ids(config, batch)
    if kind in ("sequence", "question") and getattr(config, "is_encoder_decoder", False):
        ids[:, POSITION] = config.eos_token_id  # where such a model looks for the whole text
    found = {"input_ids": ids}
    if "attention_mask" in taken:
        mask = torch.ones_like(ids)
        mask[1::2, -2:] = 0
        found["attention_mask"] = mask
    if kind == "choice":  # the two differ in a token
        found = {k: v[:, None].expand(-1, 2, -1).clone() for k, v in found.items()}
        found["input_ids"][:, 1, 1] = torch.randint(10, 80, (batch,))
    return found


def _decoder_ids(given: Given) -> Tensor:
    return torch.randint(10, 80, (given.batch, LENGTH))


# -- images ---------------------------------------------------------------------------------------------------------------


def _within(config: Any, *names: str) -> Any:
    """A field of the configuration, or of the one for vision or audio in it."""
    places = (
        "vision_config audio_config encoder backbone_config encoder_config vlm_config semantic_model_config".split()
    )
    parts = [getattr(config, n, None) for n in places]
    inner = [getattr(part, n, None) for part in parts for n in ("vision_config", "backbone_config")]
    for part in (config, *parts, *inner):
        for name in names:
            found = getattr(part, name, None) if part is not None else None
            if found is not None:
                return found
    return None


def _side(given: Given) -> tuple[int, int]:
    size = _within(given.config, "image_size", "img_size", "input_size") or PIXELS
    high, wide = (size[-2:] if len(size) > 1 else size * 2) if isinstance(size, (list, tuple)) else (size, size)
    return int(high), int(wide)


def _channels(given: Given) -> int:
    found = _within(given.config, "num_channels", "in_channels", "in_chans", "num_input_channels")
    return found if isinstance(found, int) else 3


def _pixels(given: Given) -> Tensor:
    if given.kind == "video":
        return _video(given)
    return torch.randn(given.batch, _channels(given), *_side(given))


def _video(given: Given) -> Tensor:
    frames = _within(given.config, "num_frames", "frames_per_clip") or 4
    return torch.randn(given.batch, frames, _channels(given), *_side(given))


def _patch(given: Given) -> int:
    """Numbers of one patch: what the first weight that embeds patches takes."""
    first = next(p for n, p in given.model.named_parameters() if "patch" in n and p.dim() > 1)
    return int(first[0].numel())


def _packed(given: Given, needed: list[str]) -> dict[str, Any]:
    """Images as rows of patches, those of all images one after the other, and how many there are a side."""
    rows = torch.randn(given.batch * GRID * GRID, _patch(given))
    grid = torch.tensor([[1, GRID, GRID]] * given.batch)
    return {
        "hidden_states" if "hidden_states" in needed else "pixel_values": rows,
        "grid_thw" if "grid_thw" in needed else "image_grid_thw": grid,
    }


def _placed(given: Given) -> Tensor:
    """Patches after their row and column, which count from 1."""
    places = torch.cartesian_prod(torch.arange(GRID), torch.arange(GRID)) + 1.0
    numbers = given.config.vision_config.patch_embed_hidden_size
    return torch.cat([places.expand(given.batch, -1, -1), torch.randn(given.batch, GRID * GRID, numbers)], -1)


def _masked(given: Given) -> Tensor:
    """Every second patch hidden, of all frames."""
    patches = given.model.base_model.embeddings.patch_embeddings.num_patches
    return (torch.arange(patches) % 2 == 0).expand(given.batch, -1)


# -- sound ----------------------------------------------------------------------------------------------------------------


def _waves(given: Given) -> Tensor:
    bins, length = _within(given.config, "num_mel_bins"), _within(given.config, "max_length")
    if bins and length:  # a spectrogram
        return torch.randn(given.batch, length, bins)
    return torch.randn(given.batch, SAMPLES)


def _bins(config: Any) -> int:
    names = "num_mel_bins input_feat_per_channel feature_projection_input_dim input_channels num_mel_channels"
    return _within(config, *names.split()) or 16


def _features(given: Given) -> Tensor:
    positions = _within(given.config, "max_source_positions")
    if positions and _within(given.config, "input_feat_per_channel", "feature_projection_input_dim") is None:
        return torch.randn(given.batch, _bins(given.config), 2 * positions)
    return _frames(given)


def _frames(given: Given) -> Tensor:
    """Frames before bins."""
    return torch.randn(given.batch, FRAMES, _bins(given.config))


def _heard(given: Given) -> Tensor:
    """A mask over the frames of what was made before."""
    features = given.found["input_features"]
    frames = features.shape[1] if features.shape[2] == _bins(given.config) else features.shape[2]
    return torch.ones(given.batch, frames, dtype=torch.long)


# -- other ----------------------------------------------------------------------------------------------------------------


def _states(given: Given) -> Tensor:
    """Hidden states instead of ids."""
    return torch.randn(given.batch, LENGTH, _within(given.config, "hidden_size", "d_model"))


def _first(given: Given) -> Tensor:
    """A mask that marks the first token."""
    marked = torch.zeros_like(given.found["input_ids"])
    marked[..., 0] = 1
    return marked


def _shown(given: Given) -> Tensor:
    """Nothing of a spectrogram is masked."""
    return torch.zeros(given.found["audio_mel"].shape[:2], dtype=torch.bool)


MAKERS: Mapping[str, Callable[[Given], Any]] = {
    "pixel_values": _pixels,
    "pixel_values_videos": _video,
    "input_values": _waves,
    "input_features": _features,
    "input_features_mask": _heard,
    "decoder_input_ids": _decoder_ids,
    "inputs": _pixels,
    "bool_masked_pos": _masked,
    "inputs_embeds": _states,
    "prompt_pixel_values": _pixels,
    "prompt_masks": _pixels,
    "global_attention_mask": _first,
    "flattened_patches": _placed,
    "audio_mel_mask": _shown,
}
"""Makers of inputs by name."""
