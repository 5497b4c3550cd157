"""Targets that do not fit, those of vision above all: each error says what, where and the remedy, word by word."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import dlbt_core as dlbt
from dlbt_core.errors import TargetError
from vision_cases import EMBEDDING, IMAGES, MASK, Lists, Queries, Shift, Twice, X, dense, flat, seeded

target = dlbt.target


def case(
    model: Callable[[], nn.Module], x: Any, wanted: Callable[[], Any], message: str
) -> tuple[Callable[[], nn.Module], Any, Callable[[], Any], str]:
    return model, x, wanted, message


def out_of(model: Callable[[], nn.Module], x: Any) -> Any:
    with torch.no_grad():
        return seeded(model)(x)


class Signs(nn.Module):
    """Has an integer output only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.flatten(1) > 0).long()


NO_OUTPUT = (
    "the model returns no floating-point tensor; there is nothing to explain.\n"
    "  fix  a model that returns its logits or scores, not the classes it picked from them."
)
ERRORS: dict[str, tuple[Callable[[], nn.Module], Any, Callable[[], Any], str]] = {
    "no class": case(flat, X, lambda: target.classes([]), "classes() got no class.\n  fix  classes([281, 282])."),
    "a class twice": case(
        flat, X, lambda: target.classes([1, -5]), "classes [1, -5] name a class twice.\n  fix  name each once."
    ),
    "classes of pixels": case(
        dense, X, lambda: target.classes([1]),
        "classes() needs an output of shape (samples, classes), not (2, 4, 6, 5).\n"
        "  fix  dlbt.target.region(class_) for an output with pixels, dlbt.target.function(fn) for any other.",
    ),
    "a class of pixels": case(
        dense, X, lambda: 1,
        "an output of shape (2, 4, 6, 5) has more than one pixel per sample, so a class alone does not name a number.\n"
        "  fix  target=dlbt.target.region(class_) for its mean over a region, dlbt.target.output(path, (position, class)), "
        "or dlbt.target.function(fn).",
    ),
    "reduce": case(flat, X, lambda: target.region(1, reduce="max"), "reduce is 'sum' or 'mean', not 'max'."),
    "two regions": case(
        dense, X, lambda: target.region(1, MASK, pixel=(0, 0)),
        "region() got mask and pixel.\n  fix  give one of mask, box and pixel.",
    ),
    "region and threshold": case(
        dense, X, lambda: target.region(1, box=(0, 0, 1, 1), threshold=0.5),
        "region() got box and threshold; a threshold finds the model's own region.\n  fix  give one of them.",
    ),
    "region of classes": case(
        flat, X, lambda: target.region(1),
        "region() needs an output of shape (samples, classes, height, width) or (samples, height, width), not (2, 6).\n"
        "  fix  for classes pass the class: target=3; region(path=...) names another output.",
    ),
    "a class that is not there": case(
        dense, X, lambda: target.region(4, MASK), "class 4 is out of range: the output has 4, so 0 to 3."
    ),
    "a class that is predicted nowhere": case(
        lambda: nn.Sequential(nn.Conv2d(3, 3, 1), Shift()), X, lambda: target.region(2),
        "class 2 is predicted for no pixel of sample 0.\n  found  what is predicted: class 0, 1\n"
        "  fix    one of these, or a region: mask=, box= or pixel=",
    ),
    "a threshold that nothing reaches": case(
        dense, torch.zeros_like(X), lambda: target.region(1, threshold=100),
        "class 1 is predicted for no pixel of sample 0.\n  found  its largest value is {largest}, the threshold is 100\n"
        "  fix    a lower threshold=, or a region: mask=, box= or pixel=",
    ),
    "an empty mask": case(
        dense, X, lambda: target.region(1, torch.stack([MASK, MASK & False])),
        "the mask holds no pixel of the output for sample 1.\n"
        "  fix  a mask that is true where the output has a pixel: it is read at the centres of the output's pixels.",
    ),
    "a soft mask": case(
        dense, X, lambda: target.region(1, MASK.float()),
        "the mask has dtype torch.float32; the mask of a region says yes or no.\n"
        "  fix  mask > 0.5, or dlbt.target.logits(mask) for a weighted sum.",
    ),
    "a mask of one dimension": case(
        dense, X, lambda: target.region(1, MASK[0]),
        "the mask has shape (5,); it must be (height, width), or (samples, height, width).",
    ),
    "a mask per sample for other samples": case(
        dense, X, lambda: target.region(1, MASK.expand(3, -1, -1)),
        "3 masks for 2 samples.\n  fix  give one, or one per sample.",
    ),
    "a mask of another size": case(
        dense, X, lambda: target.region(1, torch.ones(12, 10, dtype=torch.bool)),
        "the mask has 12 by 10 pixels (height by width), the output 6 by 5.\n"
        "  fix  size=(12, 10) lets the mask be read at the centres of the output's pixels.",
    ),
    "a box outside": case(
        dense, X, lambda: target.region(1, box=(0, 0, 6, 2)),
        "the box (0, 0, 6, 2) does not lie in 5 by 6 pixels (width by height).\n"
        "  fix  pixel=(x, y) and box=(x1, y1, x2, y2) count from the upper left corner, in pixels of the output, or of an "
        "image whose size=(height, width) you give.",
    ),
    "a pixel outside": case(
        dense, X, lambda: target.region(1, pixel=(10, 3), size=(12, 10)),
        "the pixel (10, 3) does not lie in 10 by 12 pixels (width by height).\n"
        "  fix  pixel=(x, y) and box=(x1, y1, x2, y2) count from the upper left corner, in pixels of the output, or of an "
        "image whose size=(height, width) you give.",
    ),
    "what": case(
        Lists, IMAGES, lambda: target.detection(what="area"),
        "a detection has no 'area'.\n  fix  what= one of: 'score', 'x1', 'y1', 'x2', 'y2', 'cx', 'cy', 'width', 'height'.",
    ),
    "no detector": case(
        flat, X, lambda: target.detection(),
        "these are not the outputs of a detector: detection() reads a list of {boxes, scores, labels} as torchvision returns "
        "it, or logits and pred_boxes as transformers does.\n  found  ''\n"
        "  fix    dlbt.target.function(fn) for outputs of another form.",
    ),
    "too few detections": case(
        Lists, IMAGES, lambda: target.detection(50, label=1),
        "sample 0 has no detection of class 1 with index 50: there are {ones}.\n"
        "  found  {all} detections in all, of class {labels}\n"
        "  fix    another index or label, or a lower score threshold of the detector (torchvision: box_score_thresh, "
        "score_thresh).",
    ),
    "a label without labels": case(
        lambda: Lists(labels=False), IMAGES, lambda: target.detection(label=1),
        "the detector returns no labels, so label= cannot choose.\n  fix  detection(index=...).",
    ),
    "an index per image": case(
        Lists, IMAGES, lambda: target.detection([0, 1, 2]),
        "3 detection indices for 2 samples.\n  fix  give one, or one per sample.",
    ),
    "classes that do not fit": case(
        Queries, X, lambda: target.detection(classes=7),
        "classes=7, but logits has shape (2, 12, 4): 4 per query.\n"
        "  fix  classes=4, or classes=3 if the last one stands for “no object”.",
    ),
    "a query that is not there": case(
        Queries, X, lambda: target.detection(12), "detection 12 is out of range: the output has 12, so 0 to 11."
    ),
    "no embedding of that size": case(
        flat, X, lambda: target.cosine(torch.ones(4)),
        "no output fits for an embedding of shape (4,).\n  found  '' (2, 6)\n"
        "  fix    an embedding of the same model and output: shape (D,) or (samples, D); path= names the output.",
    ),
    "an output that is not there": case(
        flat, X, lambda: target.cosine(EMBEDDING, "pooled"), "the model has no output 'pooled'. It returns: '' (2, 6)."
    ),
    "too many embeddings": case(
        flat, X, lambda: target.cosine(torch.ones(3, 6)), "3 embeddings for 2 samples.\n  fix  give one, or one per sample."
    ),
    "an image as embedding": case(
        flat, X, lambda: target.cosine([1.0, 2.0]),
        "cosine() needs an embedding, a floating-point tensor of shape (D,) or (samples, D), not list.\n"
        "  fix  cosine(dlbt_rules_vision.embed_image(model, image, ...)); explain_image takes the image itself.",
    ),
    "no floating-point output": case(Signs, X, lambda: 1, NO_OUTPUT),
    "no floating-point output for a function": case(Signs, X, lambda: lambda out: out.double().sum(1), NO_OUTPUT),
    "no floating-point output of a detector": case(
        Signs, X, lambda: target.detection(),
        "these are not the outputs of a detector: detection() reads a list of {boxes, scores, labels} as torchvision returns "
        "it, or logits and pred_boxes as transformers does.\n  found  no floating-point output\n"
        "  fix    dlbt.target.function(fn) for outputs of another form.",
    ),
    "classes in two dimensions": case(
        flat, X, lambda: torch.tensor([[1, 2]]),
        "a class is an int, or a tensor of ints with one per sample; not tensor([[1, 2]]).",
    ),
    "classes that are no ints": case(
        flat, X, lambda: torch.tensor([1.0, 2.0]),
        "a class is an int, or a tensor of ints with one per sample; not tensor([1., 2.]).",
    ),
    "a place too deep": case(
        flat, X, lambda: target.output("", (1, 2)),
        "the index (1, 2) has 2 numbers; an output of shape (2, 6) needs 1 after the sample.",
    ),
    "a place that is not there": case(
        flat, X, lambda: target.output("", (6,)), "index 6 is out of range: the output has 6, so 0 to 5."
    ),
    "a mask that does not fit": case(
        flat, X, lambda: target.logits(torch.ones(5)), "the mask of shape (5,) does not fit the output of shape (2, 6).\n"
        "  fix  give it the output's shape, or one that broadcasts to it."
    ),
    "against a function": case(
        flat, X, lambda: target.contrast(1, lambda out: out[:, 0]),
        "contrast() takes classes or targets of one output; write a function(fn) for anything else.",
    ),
    "several embeddings": case(
        Twice, X, lambda: target.cosine(EMBEDDING),
        "several outputs could be the embedding: 'a', 'b'.\n  fix  name one with path=.",
    ),
}  # fmt: skip


def facts() -> dict[str, Any]:
    """What the messages take from the models' outputs."""
    one = out_of(Lists, IMAGES)[0]
    labels = one["labels"].tolist()
    return {
        "largest": f"{float(out_of(dense, torch.zeros_like(X))[0, 1].max()):.4g}",
        "ones": labels.count(1), "all": len(labels), "labels": ", ".join(map(str, sorted(set(labels)))),
    }  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_errors_say_what_where_and_the_remedy(name: str) -> None:
    model, x, wanted, message = ERRORS[name]
    filled = message
    for key, value in facts().items():
        filled = filled.replace(f"{{{key}}}", str(value))
    with pytest.raises(TargetError) as caught:
        dlbt.explain(seeded(model), x, target=wanted(), fallback="gradient")
    assert str(caught.value) == filled
