"""Targets of detectors: the score of a detection or a coordinate of its box, a linear function of several outputs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dlbt_core.errors import TargetError
from dlbt_core.target.base import Outputs, Seed, Target, ints, per_sample, plain

__all__ = ["COORDINATES", "DetectionTarget"]

COORDINATES: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "x1": ((1, 0, 0, 0), (1, 0, -0.5, 0)),
    "y1": ((0, 1, 0, 0), (0, 1, 0, -0.5)),
    "x2": ((0, 0, 1, 0), (1, 0, 0.5, 0)),
    "y2": ((0, 0, 0, 1), (0, 1, 0, 0.5)),
    "cx": ((0.5, 0, 0.5, 0), (1, 0, 0, 0)),
    "cy": ((0, 0.5, 0, 0.5), (0, 1, 0, 0)),
    "width": ((-1, 0, 1, 0), (0, 0, 1, 0)),
    "height": ((0, -1, 0, 1), (0, 0, 0, 1)),
}
"""What can be asked of a box: its weights on (x1, y1, x2, y2) as torchvision gives it, and on (cx, cy, width, height)."""

_TORCHVISION = re.compile(r"(?:(\d+)\.)?(boxes|scores|labels)")


@dataclass(frozen=True, eq=False)
class DetectionTarget(Target):
    """One detection of each sample. See `dlbt_core.target.detection` for the parameters."""

    index: Any = 0
    label: Any = None
    what: str = "score"
    classes: int | None = None

    def paths(self, floating: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
        """The outputs it is about; see `Target.paths`."""
        if {"logits", "pred_boxes"} <= set(floating):
            return ("logits",) if self.what == "score" else ("pred_boxes",)
        found = _per_image(floating)
        if not found or any(not {"boxes", "scores"} <= set(parts) for parts in found.values()):
            raise TargetError(
                "these are not the outputs of a detector: detection() reads a list of {boxes, scores, labels} as torchvision "
                "returns it, or logits and pred_boxes as transformers does.\n"
                f"  found  {', '.join(map(repr, floating)) or 'no floating-point output'}\n"
                "  fix    dlbt.target.function(fn) for outputs of another form."
            )
        part = "scores" if self.what == "score" else "boxes"
        return tuple(parts[part] for parts in found.values())

    def seed(self, outputs: Outputs) -> Seed:
        """Score and multipliers for these outputs; see `Target.seed`."""
        self.paths({p: tuple(o.shape) for p, o in outputs.items() if o.is_floating_point()})
        with torch.no_grad():
            if {"logits", "pred_boxes"} <= set(outputs):
                return self._of_queries(outputs["logits"], outputs["pred_boxes"])
            return self._of_lists(outputs)

    # -- torchvision: a list of detections per image ----------------------------------------------------------------

    def _of_lists(self, outputs: Outputs) -> Seed:
        images = _per_image(outputs)
        part = "scores" if self.what == "score" else "boxes"
        scores, multipliers, picked = [], {}, []
        for sample, paths in images.items():
            found = {name: outputs[path] for name, path in paths.items()}
            place, values = self._place(sample, len(images), found), found[part]
            weights = torch.zeros_like(values)
            weights[place] = 1 if part == "scores" else weights.new_tensor(COORDINATES[self.what][0])
            multipliers[paths[part]] = weights
            scores.append((weights[place] * values[place]).sum())
            picked.append((place, int(found["labels"][place]) if "labels" in found else None))
        return Seed(torch.stack(scores), multipliers, picked)

    def _place(self, sample: int, samples: int, found: Mapping[str, Tensor]) -> int:
        """Where the wanted detection stands in the list of its image."""
        scores, labels = found["scores"], found.get("labels")
        order = scores.argsort(descending=True, stable=True)
        of = ""
        if self.label is not None:
            if labels is None:
                raise TargetError(
                    "the detector returns no labels, so label= cannot choose.\n  fix  detection(index=...)."
                )
            label = int(ints(self.label, samples, "label", scores.device)[sample])
            order, of = order[labels[order] == label], f" of class {label}"
        index = int(ints(self.index, samples, "detection", scores.device)[sample])
        if -len(order) <= index < len(order):
            return int(order[index])
        seen = (
            "" if labels is None or not len(labels) else f", of class {', '.join(map(str, labels.unique().tolist()))}"
        )
        raise TargetError(
            f"sample {sample} has no detection{of} with index {index}: there are {len(order)}.\n"
            f"  found  {len(scores)} detections in all{seen}\n"
            "  fix    another index or label, or a lower score threshold of the detector (torchvision: box_score_thresh, "
            "score_thresh)."
        )

    # -- transformers: a fixed number of queries --------------------------------------------------------------------

    def _of_queries(self, logits: Tensor, boxes: Tensor) -> Seed:
        samples, queries, channels = logits.shape
        classes = channels - 1 if self.classes is None else self.classes
        if classes not in (channels - 1, channels):
            raise TargetError(
                f"classes={self.classes}, but logits has shape {tuple(logits.shape)}: {channels} per query.\n"
                f"  fix  classes={channels}, or classes={channels - 1} if the last one stands for “no object”."
            )
        # With a “no object” class the scores of a query compete (softmax); without one each stands alone (sigmoid).
        values = logits.softmax(-1)[..., :classes] if classes < channels else logits.sigmoid()
        if self.label is None:
            best, which = values.max(-1)
        else:
            which = per_sample(self.label, classes, samples, "label", logits.device)[:, None].expand(-1, queries)
            best = values.gather(-1, which[..., None])[..., 0]
        order = best.argsort(dim=-1, descending=True, stable=True)
        index = per_sample(self.index, queries, samples, "detection", logits.device)
        place = order.gather(1, index[:, None])[:, 0]
        sample = torch.arange(samples, device=logits.device)
        label = which[sample, place]
        picked = list(zip(place.tolist(), label.tolist(), strict=True))
        if self.what == "score":
            weights = torch.zeros_like(logits)
            weights[sample, place, label] = 1
            return Seed(logits[sample, place, label], {"logits": weights}, picked)
        weights = torch.zeros_like(boxes)
        weights[sample, place] = weights.new_tensor(COORDINATES[self.what][1])
        score = (weights[sample, place] * boxes[sample, place]).sum(-1)
        return Seed(score, {"pred_boxes": weights}, picked)

    def __str__(self) -> str:
        of = "" if self.label is None else f" of class {plain(self.label)}"
        return f"{self.what} of detection {plain(self.index)}{of}"


def _per_image(outputs: Mapping[str, Any]) -> dict[int, dict[str, str]]:
    """Image number to {"boxes", "scores", "labels"} to output path."""
    found: dict[int, dict[str, str]] = {}
    for path in outputs:
        match = _TORCHVISION.fullmatch(path)
        if match:
            found.setdefault(int(match[1] or 0), {})[match[2]] = path
    return dict(sorted(found.items()))
