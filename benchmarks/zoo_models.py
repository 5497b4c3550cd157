"""Every model of torchvision, with random weights that keep the scale of what passes, and inputs as small as make sense.

Nothing is downloaded. Weights as torchvision draws them do not do: heads of zeros (ViT), layer scales of 1e-6 (ConvNeXt)
and standard deviations of 0.02 leave nothing to explain. So all are drawn anew (`draw`), and batch norm gets the statistics
of a random batch (`calibrate`), as it would have after training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

import dlbt_core as dlbt

CLASSIFICATION, SEGMENTATION, VIDEO, DETECTION = "classification", "segmentation", "video", "detection"

_SIZES = {  # pixels a side, where it is not the kind's
    "inception_v3": 96, "maxvit_t": 224, "vit_h_14": 56, "s3d": 224, "mvit_v1_b": 224, "mvit_v2_s": 224,
    "ssd300_vgg16": 300, "ssdlite320_mobilenet_v3_large": 320,
}  # fmt: skip
_KIND_SIZES = {CLASSIFICATION: 64, SEGMENTATION: 64, VIDEO: 64, DETECTION: 128}
_FRAMES = {"s3d": 16, "mvit_v1_b": 16, "mvit_v2_s": 16}
_CALIBRATION = 8  # samples that batch norm statistics come from
_FIXED = ("maxvit_t", "s3d", "mvit_*", "ssd*")  # models that take no other size


@dataclass(frozen=True)
class Entry:
    """A model of torchvision.

    Attributes
    ----------
    name, kind
        As torchvision lists it, and where.
    size
        Pixels a side.
    """

    name: str
    kind: str
    size: int

    def resized(self, size: int | None) -> Entry:
        """The same with another input size, where it takes one."""
        if size is None or any(fnmatchcase(self.name, glob) for glob in _FIXED):
            return self
        return Entry(self.name, self.kind, size)

    def make(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[nn.Module, tuple[Any, ...]]:
        """The model, drawn and calibrated, in eval mode, and one input; the same for the same seed."""
        from torchvision import models

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = models.get_model(self.name, weights=None, **self._options())
            draw(model)
            (batch,) = self.inputs(_CALIBRATION)
            calibrate(model, batch)
            if self.kind == DETECTION:
                soften(model, batch)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        one = [batch[0].to(dtype)] if isinstance(batch, list) else batch[:1].to(dtype)
        return model.to(dtype).eval(), (one,)

    def _options(self) -> dict[str, Any]:
        name = self.name
        options: dict[str, Any] = {}
        if self.kind in (SEGMENTATION, DETECTION):
            options["weights_backbone"] = None
        if name in ("googlenet", "inception_v3"):
            options["init_weights"] = False  # slow, and drawn anew
        if name.startswith("vit_"):
            options["image_size"] = self.size
        if name == "maxvit_t":
            options["input_size"] = (self.size, self.size)
        if self.kind == DETECTION:
            if not name.startswith("ssd"):
                options |= {"min_size": self.size, "max_size": 2 * self.size}
            if "rcnn" in name:
                options |= {"box_score_thresh": 0.0, "rpn_post_nms_top_n_test": 20, "box_detections_per_img": 5}
            else:
                options |= {"score_thresh": 0.0, "topk_candidates": 20, "detections_per_img": 5}
        return options

    def inputs(self, batch: int) -> tuple[Any, ...]:
        """Random images, as the model takes them."""
        shape = (3, _FRAMES.get(self.name, 8)) if self.kind == VIDEO else (3,)
        images = torch.randn(batch, *shape, self.size, self.size)
        if self.kind == DETECTION:
            return ([image.sigmoid() for image in images],)
        return (images,)

    def score(self, out: Any) -> Tensor:
        """One number per sample: the largest class; the mean over pixels of each pixel's largest class; the best box."""
        if self.kind == SEGMENTATION:
            pixels: Tensor = out["out"].amax(1)
            return pixels.mean((1, 2))
        if self.kind == DETECTION:
            return torch.stack([image["scores"][0] for image in out])
        largest: Tensor = out.amax(1)
        return largest

    @property
    def target(self) -> Any:
        """The same for dlbt."""
        return dlbt.target.function(self.score) if self.kind in (SEGMENTATION, DETECTION) else None


def entries(globs: list[str] | None = None) -> list[Entry]:
    """All models whose name, or kind/name, fits one of the globs."""
    from torchvision import models

    kinds = {
        CLASSIFICATION: models, SEGMENTATION: models.segmentation, VIDEO: models.video, DETECTION: models.detection,
    }  # fmt: skip
    found = [
        Entry(name, kind, _SIZES.get(name, _KIND_SIZES[kind]))
        for kind, module in kinds.items()
        for name in models.list_models(module=module)
    ]
    return [e for e in found if not globs or any(fnmatchcase(text, g) for g in globs for text in _texts(e))]


def _texts(entry: Entry) -> tuple[str, ...]:
    return entry.name, f"{entry.kind}/{entry.name}", entry.kind


def entry(name: str) -> Entry:
    """The model of that name."""
    (found,) = entries([name])
    return found


# -- weights ------------------------------------------------------------------------------------------------------------


def draw(model: nn.Module) -> None:
    """Draw all weights: Kaiming for convolutions, the same without ReLU's gain for linear maps, 0.7 to 1.3 for norms."""
    drawn: set[nn.Parameter] = set()
    with torch.no_grad():
        for module in model.modules():
            weights = [p for n, p in module.named_parameters(recurse=False) if n.endswith("weight") and p.dim() > 1]
            if isinstance(module, nn.modules.conv._ConvNd):
                _normal(weights, 2.0)
                drawn.update(weights)
            elif isinstance(module, (nn.Linear, nn.MultiheadAttention)):
                _normal(weights, 1.0)
                drawn.update(weights)
        for name, parameter in model.named_parameters():
            if parameter in drawn or "logit_scale" in name:
                continue
            if "layer_scale" in name:
                parameter.uniform_(0.3, 1.0)
            elif name.endswith("weight") and parameter.dim() == 1:
                parameter.uniform_(0.7, 1.3)
            else:
                parameter.normal_(0.0, 0.1)


def _normal(weights: list[nn.Parameter], gain: float) -> None:
    for weight in weights:
        weight.normal_(0.0, (gain / weight[0].numel()) ** 0.5)


def calibrate(model: nn.Module, batch: Any) -> None:
    """Give each batch norm the statistics of this batch.

    The explained input is in it. Otherwise a deep net amplifies, from norm to norm, by how much that input differs from
    so few others: EfficientNet-B6 reached scores of 1e4 and gradients of 1e11.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over all calls
        norm.train()
    if norms:
        with torch.no_grad():
            model(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def soften(model: nn.Module, batch: Any) -> None:
    """Scale what gives a detector's class logits to a spread of 1: a score of 1.0 has no gradient to compare with."""
    spread: dict[Any, float] = {}

    def note(module: nn.Module, _args: Any, out: Tensor) -> None:
        spread[module] = max(spread.get(module, 0.0), float(out.std()))

    makers = [m for n, m in model.named_modules() if _gives_classes(n) and isinstance(m, (nn.Conv2d, nn.Linear))]
    handles = [maker.register_forward_hook(note) for maker in makers]
    with torch.no_grad():
        model(batch)
        for maker, std in spread.items():
            maker.weight /= std
            if maker.bias is not None:
                maker.bias /= std
    for handle in handles:
        handle.remove()


def _gives_classes(name: str) -> bool:
    last = name.rpartition(".")[2]
    return last in ("cls_logits", "cls_score") or "classification_head.module_list" in name


# -- the plain gradient -------------------------------------------------------------------------------------------------


def gradient(entry: Entry, model: nn.Module, inputs: tuple[Any, ...]) -> Callable[[], Any]:
    """Forward and gradient by the pixels, by autograd."""

    def run() -> Any:
        (given,) = inputs
        pixels = [x.clone().requires_grad_() for x in (given if isinstance(given, list) else [given])]
        score = entry.score(model(pixels if isinstance(given, list) else pixels[0]))
        return torch.autograd.grad(score.sum(), pixels)

    return run
