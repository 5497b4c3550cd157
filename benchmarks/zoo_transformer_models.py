"""Every architecture of transformers, tiny and with random weights, and inputs made by what its ``forward`` takes.

Nothing is downloaded; configurations are shrunk by the names of their fields (`zoo_transformer_sizes`).

Weights as transformers draws them (a standard deviation of 0.02) leave nothing to explain, so all are drawn anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
import zoo_models
from torch import Tensor, nn
from zoo_transformer_fixes import KERNELS
from zoo_transformer_given import ALONE
from zoo_transformer_inputs import LENGTH, PIXEL_KINDS, POSITION, inputs
from zoo_transformer_sizes import config_class, shrunk

KINDS: Mapping[str, str] = {
    "causal": "CAUSAL_LM", "sequence": "SEQUENCE_CLASSIFICATION", "masked": "MASKED_LM", "seq2seq": "SEQ_TO_SEQ_CAUSAL_LM",
    "image": "IMAGE_CLASSIFICATION", "token": "TOKEN_CLASSIFICATION", "question": "QUESTION_ANSWERING",
    "choice": "MULTIPLE_CHOICE", "next": "NEXT_SENTENCE_PREDICTION", "segmentation": "SEMANTIC_SEGMENTATION",
    "universal": "UNIVERSAL_SEGMENTATION", "instance": "INSTANCE_SEGMENTATION", "detection": "OBJECT_DETECTION",
    "depth": "DEPTH_ESTIMATION", "masked_image": "MASKED_IMAGE_MODELING", "image_to_image": "IMAGE_TO_IMAGE",
    "video": "VIDEO_CLASSIFICATION", "audio": "AUDIO_CLASSIFICATION", "frame": "AUDIO_FRAME_CLASSIFICATION",
    "xvector": "AUDIO_XVECTOR", "ctc": "CTC", "speech": "SPEECH_SEQ_2_SEQ", "document": "DOCUMENT_QUESTION_ANSWERING",
    "visual": "VISUAL_QUESTION_ANSWERING", "zero_shot": "ZERO_SHOT_IMAGE_CLASSIFICATION",
    "image_text": "IMAGE_TEXT_TO_TEXT", "pretraining": "PRETRAINING", "backbone": "BACKBONE", "features": "IMAGE",
    "encoding": "TEXT_ENCODING", "series": "TIME_SERIES_PREDICTION", "base": "",
}  # fmt: skip
"""Kind to the auto mapping it comes from; the base models last, of what has no head."""


@dataclass(frozen=True)
class Entry:
    """A class of transformers: its name, its kind, and the model type whose configuration it takes."""

    name: str
    kind: str
    model_type: str

    @property
    def batch(self) -> int:
        """How many samples it is given."""
        return 1 if self.name in ALONE else 2

    def make(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[nn.Module, dict[str, Any]]:
        """The model, drawn anew, in eval mode, and a batch of two; the same for the same seed."""
        import transformers

        if self.model_type in KERNELS:
            raise NotImplementedError("attention gives zeros without its kernel for CUDA")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            kind = getattr(transformers, self.name)
            made_by = getattr(kind, "config_class", None) or config_class(self.model_type)
            config = shrunk(made_by, made_by.model_type, self.name)
            if dtype == torch.float64:
                config._experts_implementation = "eager"  # torch's grouped products know no float64
            model = kind(config)
            size = sum(p.numel() for p in model.parameters())
            if size > 30_000_000:
                raise MemoryError(f"{size:,} parameters: a size that the generic overrides miss")
            zoo_models.draw(model)
            _mild(model)
            given = inputs(model, config, self.kind, self.batch, self.name)
            zoo_models.calibrate(_Whole(model), given)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        given = {k: v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in given.items()}
        if dtype == torch.float64:
            _in_float64(model)
        return model.to(dtype).eval(), given

    def score(self, out: Any, batch: int = 2) -> Tensor:
        """One number per sample: the largest class, at one position of a text; of maps and hidden states likewise.

        Patches of all images in one sequence are taken apart by the number of samples.
        """
        if getattr(out, "start_logits", None) is not None:
            both: Tensor = out.start_logits[..., POSITION] + out.end_logits[..., POSITION]
            return both.flatten(1).sum(1) if both.dim() > 1 else both
        for name in ("logits_per_image", "logits_per_video", "logits_audio_text"):
            if getattr(out, name, None) is not None:
                return getattr(out, name).diagonal()  # each image with its own text
        found = _main_output(out)
        found = found[0] if found.shape[0] == 1 != batch and found.dim() > 2 else found
        if found.shape[0] != batch and found.shape[0] % batch == 0:
            found = found.unflatten(0, (batch, -1))
        if found.dim() == 3 and self.kind not in PIXEL_KINDS:
            return found[:, max(found.shape[1] - LENGTH + POSITION, 0)].amax(-1)
        return found.amax(1).flatten(1).mean(1) if found.dim() > 2 else found.flatten(1).amax(1)


class _Whole(nn.Module):
    """The model as a function of one argument."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, given: dict[str, Any]) -> Any:
        return self.model(**given)


def entries(globs: list[str] | None = None) -> list[Entry]:
    """All classes whose name, or kind, or kind/name, fits one of the globs; one head of each model type before the others."""
    from transformers.models.auto import modeling_auto

    first: dict[str, Entry] = {}
    more: dict[str, Entry] = {}
    seen: set[str] = set()
    for kind, part in KINDS.items():
        table = getattr(modeling_auto, f"MODEL_FOR_{part}_MAPPING_NAMES" if part else "MODEL_MAPPING_NAMES", {})
        for model_type, names in table.items():
            for name in [names] if isinstance(names, str) else names:
                if name in first or name in more or (kind in ("base", "features") and model_type in seen):
                    continue
                (more if model_type in seen else first)[name] = Entry(name, kind, model_type)
                seen.add(model_type)
    found = [*first.values(), *more.values()]
    return [e for e in found if not globs or any(fnmatchcase(t, g) for g in globs for t in _texts(e))]


def _texts(entry: Entry) -> tuple[str, ...]:
    return entry.name, entry.kind, f"{entry.kind}/{entry.name}", entry.model_type


def entry(name: str) -> Entry:
    """The class of that name."""
    return next(e for e in entries() if e.name == name)


# -- weights -----------------------------------------------------------------------------------------------------------


def _mild(model: nn.Module) -> None:
    """Embeddings as wide as what follows; sizes of steps and decays of a state space as they are meant to be."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Embedding):
                module.weight.normal_(0.0, 0.5)
        for name, parameter in model.named_parameters():
            if "logit_scale" in name or name.endswith("temperature"):
                parameter.fill_(1.0)


def _in_float64(model: nn.Module) -> None:
    """Norms, softmaxes, and states that a class computes in float32 whatever its weights are: in float64 while it runs.

    Otherwise they would hide every error below 1e-7.
    """
    own = {"float32": torch.float32, "float": torch.float}
    short = Tensor.float

    def enter(*_: Any) -> None:
        for name in own:
            setattr(torch, name, torch.float64)
        Tensor.float = Tensor.double  # type: ignore[method-assign]

    def leave(*_: Any) -> None:
        for name, kept in own.items():
            setattr(torch, name, kept)
        Tensor.float = short  # type: ignore[method-assign]

    model.register_forward_pre_hook(enter)
    model.register_forward_hook(leave, always_call=True)


# -- outputs ------------------------------------------------------------------------------------------------------------

_OUTPUTS = (
    "logits logits_per_image class_queries_logits prediction_logits seq_relationship_logits predicted_depth reconstruction "
    "last_hidden_state image_embeds pooler_output feature_maps audio_values mean_predictions"
).split()


def _main_output(out: Any) -> Tensor:
    named: Callable[[str], Any] = out.get if isinstance(out, Mapping) else lambda name: getattr(out, name, None)
    for name in _OUTPUTS:
        value = named(name)
        value = value[0] if isinstance(value, (list, tuple)) and value else value
        if isinstance(value, Tensor) and value.is_floating_point():
            return value
    values = out.values() if isinstance(out, Mapping) else out
    return next(v for v in values if isinstance(v, Tensor) and v.is_floating_point() and v.dim())


def gradient(entry: Entry, model: Any, given: Mapping[str, Any]) -> Callable[[], Any]:
    """Forward and gradient by autograd: by what is floating of the inputs, or else by the results of embeddings."""

    def run() -> Any:
        floating = {k: v for k, v in given.items() if isinstance(v, Tensor) and v.is_floating_point()}
        leaves = {k: v.clone().requires_grad_() for k, v in floating.items()}
        caught: list[Tensor] = list(leaves.values())

        def catch(_module: Any, _args: Any, out: Any) -> Any:
            if not isinstance(out, Tensor):  # a module of its own kind that is an embedding, too
                return out
            caught.append(out.detach().requires_grad_())
            return caught[-1].clone()  # which the model may write into

        tables = [] if leaves else [module for module in model.modules() if isinstance(module, nn.Embedding)]
        handles = [table.register_forward_hook(catch) for table in tables]
        try:
            score = entry.score(model(**{**given, **leaves}), entry.batch).sum()
            return torch.autograd.grad(score, caught, allow_unused=True) if score.requires_grad else score
        finally:
            for handle in handles:
                handle.remove()

    return run
