"""Targets for vision: several classes, regions of dense outputs, detections, similarity. Each against a slow formula."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dlbt_core as dlbt
from vision_cases import EMBEDDING, IMAGES, MASK, Lists, Queried, Queries, X, dense, flat, seeded

target = dlbt.target


def check(model: nn.Module, x: Any, wanted: Any, formula: Callable[[Any], Tensor], **options: Any) -> dlbt.Explanation:
    """Score, and relevance by gradient_times_input, against the formula and autograd."""
    found: dlbt.Explanation = dlbt.explain(model, x, target=wanted, composite="gradient_times_input", **options)
    grown = [t.clone().requires_grad_() for t in (x if isinstance(x, list) else [x])]
    score = formula(model(grown if isinstance(x, list) else grown[0]))
    assert found.score.shape == score.shape
    assert torch.allclose(found.score, score.detach(), atol=1e-12)
    gradients = torch.autograd.grad(score.sum(), grown)
    for relevance, tensor, gradient in zip(found.inputs.values(), grown, gradients, strict=True):
        assert torch.allclose(relevance, tensor.detach() * gradient, atol=1e-12)
    return found


# -- several classes ---------------------------------------------------------------------------------------------------


def test_sum_and_mean_of_classes() -> None:
    found = check(flat(), X, target.classes([1, -1]), lambda out: out[:, 1] + out[:, 5])
    assert found.picked == [(1, 5), (1, 5)]
    assert found.target == "sum of classes 1, -1"
    check(flat(), X, target.classes(torch.tensor([0, 2, 3]), reduce="mean"), lambda out: out[:, [0, 2, 3]].mean(1))


def test_several_classes_against_one() -> None:
    wanted = target.contrast(target.classes([1, 2], reduce="mean"), 4)
    found = check(flat(), X, wanted, lambda out: out[:, 1:3].mean(1) - out[:, 4])
    assert found.picked == [((1, 2), 4), ((1, 2), 4)]


def test_a_contrast_of_two_outputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(90, 3), nn.Linear(90, 4)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"a": self.a(x.flatten(1)), "b": self.b(x.flatten(1))}

    wanted = target.contrast(target.output("a", 1), target.output("b", 3))
    check(seeded(Two), X, wanted, lambda out: out["a"][:, 1] - out["b"][:, 3])


# -- regions -----------------------------------------------------------------------------------------------------------

BOTH = torch.stack([MASK, ~MASK])


def predicted(out: Tensor, index: int, reduce: str) -> Tensor:
    """The class over the pixels for which it is the largest, pixel by pixel."""
    scores = []
    for sample in out:
        inside = [
            sample[index, row, column]
            for row in range(out.shape[2])
            for column in range(out.shape[3])
            if int(sample[:, row, column].argmax()) == index
        ]
        total = torch.stack(inside).sum()
        scores.append(total if reduce == "sum" else total / len(inside))
    return torch.stack(scores)


def voted(out: Tensor) -> Tensor:
    largest = [int(sample.argmax(0).flatten().mode().values) for sample in out]
    return torch.stack([predicted(out[i : i + 1], c, "mean")[0] for i, c in enumerate(largest)])


REGIONS: dict[str, tuple[Any, Callable[[Tensor], Tensor]]] = {
    "mask": (target.region(2, MASK), lambda out: out[:, 2][:, MASK].mean(1)),
    "mask, sum": (target.region(2, MASK, reduce="sum"), lambda out: out[:, 2][:, MASK].sum(1)),
    "mask per sample": (
        target.region(torch.tensor([1, 3]), BOTH),
        lambda out: torch.stack([out[0, 1][BOTH[0]].mean(), out[1, 3][BOTH[1]].mean()]),
    ),
    "mask of ints": (target.region(2, MASK.to(torch.uint8).tolist()), lambda out: out[:, 2][:, MASK].mean(1)),
    "box": (target.region(-1, box=(1, 0, 4, 2)), lambda out: out[:, 3, 0:2, 1:4].mean((1, 2))),
    "pixel": (target.region(0, pixel=(4, 1)), lambda out: out[:, 0, 1, 4]),
    "own": (target.region(1), lambda out: predicted(out, 1, "mean")),
    "own, sum": (target.region(1, reduce="sum"), lambda out: predicted(out, 1, "sum")),
    "own of the most frequent": (target.region(), voted),
    "above a threshold": (
        target.region(1, threshold=0.1),
        lambda out: torch.stack([s[1][s[1] > 0.1].mean() for s in out]),
    ),
    "box of a larger image": (
        target.region(1, box=(2, 1, 6, 3.5), size=(12, 10)),
        lambda out: out[:, 1, 0:2, 1:3].mean((1, 2)),
    ),
    "pixel of a larger image": (target.region(1, pixel=(9, 11), size=(12, 10)), lambda out: out[:, 1, 5, 4]),
    "mask of a larger image": (
        target.region(1, MASK.repeat_interleave(2, 0).repeat_interleave(2, 1), size=(12, 10)),
        lambda out: out[:, 1][:, MASK].mean(1),
    ),
}


@pytest.mark.parametrize("name", REGIONS)
def test_regions(name: str) -> None:
    wanted, formula = REGIONS[name]
    found = check(dense(), X, wanted, formula)
    assert all(isinstance(picked, int) for picked in found.picked)
    assert len(found.picked) == 2


def test_one_class_has_the_threshold_0() -> None:
    model = dense(1)
    check(model, X, target.region(), lambda out: torch.stack([s[s > 0].mean() for s in out]))
    squeezed = nn.Sequential(model, nn.Flatten(1, 2))
    check(squeezed, X, target.region(reduce="sum"), lambda out: torch.stack([s[s > 0].sum() for s in out]))


def test_one_region_for_two_classes_as_a_contrast() -> None:
    wanted = target.contrast(target.region(1, MASK), target.region(0, MASK))
    check(dense(), X, wanted, lambda out: (out[:, 1] - out[:, 0])[:, MASK].mean(1))


def test_regions_are_said_in_words() -> None:
    assert [str(wanted) for wanted in (
        target.region(2, MASK), target.region(box=(1, 2, 3, 4)), target.region(3, pixel=(1, 2)), target.region(),
        target.region(1, threshold=0.5, reduce="sum"),
    )] == [
        "mean of class 2 over a mask", "mean of the most frequent class over the box (1, 2, 3, 4)",
        "class 3 at pixel (1, 2)", "mean of the most frequent class over the pixels predicted as it",
        "sum of class 1 over the pixels predicted as it (above 0.5)",
    ]  # fmt: skip


# -- detections --------------------------------------------------------------------------------------------------------


def nth(outputs: list[dict[str, Tensor]], index: int, label: int | None = None) -> list[int]:
    """The place of the n-th best detection of a label in each image, by going through them."""
    return [
        sorted(
            (place for place in range(len(one["scores"])) if label is None or int(one["labels"][place]) == label),
            key=lambda place: -float(one["scores"].detach()[place]),
        )[index]
        for one in outputs
    ]


def of_boxes(index: int, what: Callable[[Tensor], Tensor]) -> Callable[[Any], Tensor]:
    return lambda out: torch.stack([what(o["boxes"][p]) for o, p in zip(out, nth(out, index), strict=True)])


DETECTIONS: dict[str, tuple[Any, Callable[[Any], Tensor]]] = {
    "score": (
        target.detection(), lambda out: torch.stack([o["scores"][p] for o, p in zip(out, nth(out, 0), strict=True)])
    ),
    "last": (target.detection(-1, what="x1"), of_boxes(-1, lambda box: box[0])),
    "score of a label": (
        target.detection(label=2),
        lambda out: torch.stack([o["scores"][p] for o, p in zip(out, nth(out, 0, 2), strict=True)]),
    ),
    "y1": (target.detection(1, what="y1"), of_boxes(1, lambda box: box[1])),
    "x2": (target.detection(1, what="x2"), of_boxes(1, lambda box: box[2])),
    "y2": (target.detection(1, what="y2"), of_boxes(1, lambda box: box[3])),
    "cx": (target.detection(what="cx"), of_boxes(0, lambda box: (box[0] + box[2]) / 2)),
    "cy": (target.detection(what="cy"), of_boxes(0, lambda box: (box[1] + box[3]) / 2)),
    "width": (target.detection(what="width"), of_boxes(0, lambda box: box[2] - box[0])),
    "height": (target.detection(what="height"), of_boxes(0, lambda box: box[3] - box[1])),
}  # fmt: skip


@pytest.mark.parametrize("name", DETECTIONS)
def test_detections_in_lists(name: str) -> None:
    model = seeded(Lists)
    wanted, formula = DETECTIONS[name]
    found = check(model, IMAGES, wanted, formula, fallback="gradient")
    outputs = model(IMAGES)
    assert [(place, int(one["labels"][place])) for (place, _), one in zip(found.picked, outputs, strict=True)] == (
        found.picked
    )


def test_several_detections_at_once() -> None:
    wanted = [target.detection(0), target.detection(1, what="x1"), target.detection(0, what="cx")]
    explainer = dlbt.Explainer(seeded(Lists), "gradient_times_input", fallback="gradient")
    together = explainer(IMAGES, targets=wanted)
    for one, alone in zip(together, (explainer(IMAGES, target=w) for w in wanted), strict=True):
        assert torch.allclose(one.score, alone.score)
        assert torch.allclose(one.inputs["images.1"], alone.inputs["images.1"])


def test_one_image_s_detections_as_a_mapping() -> None:
    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lists = Lists(labels=False)

        def forward(self, image: Tensor) -> Any:
            return self.lists([image])[0]

    found = check(seeded(One), X[0], target.detection(1), lambda out: out["scores"][1:2], fallback="gradient")
    assert found.picked == [(1, None)]


def best_query(out: Queried, index: int, label: int | None, classes: int) -> list[tuple[int, int]]:
    """(query, class) of each sample, by going through all queries; one more channel than classes is “no object”."""
    found = []
    for logits in out.logits:
        values = logits.softmax(-1)[:, :classes] if logits.shape[1] > classes else logits.sigmoid()
        pairs = [
            max((float(row.detach()[c]), q, c) for c in (range(classes) if label is None else [label]))
            for q, row in enumerate(values)
        ]
        found.append(sorted(pairs, key=lambda pair: -pair[0])[index][1:])
    return found


@pytest.mark.parametrize("classes", [3, 4], ids=["with no object", "without"])
@pytest.mark.parametrize(("index", "label"), [(0, None), (2, None), (1, 1), (-1, 2)])
def test_detections_of_queries(index: int, label: int | None, classes: int) -> None:
    model = seeded(Queries)
    given = None if classes == 3 else 4
    expected = best_query(model(X), index, label, classes)
    wanted = target.detection(index, label, classes=given)
    found = check(model, X, wanted, lambda out: torch.stack([out.logits[i, q, c] for i, (q, c) in enumerate(expected)]))
    assert found.picked == expected


@pytest.mark.parametrize(
    ("what", "formula"),
    [
        ("x1", lambda b: b[0] - b[2] / 2), ("y1", lambda b: b[1] - b[3] / 2), ("x2", lambda b: b[0] + b[2] / 2),
        ("y2", lambda b: b[1] + b[3] / 2), ("cx", lambda b: b[0]), ("cy", lambda b: b[1]), ("width", lambda b: b[2]),
        ("height", lambda b: b[3]),
    ],
)  # fmt: skip
def test_boxes_of_queries(what: str, formula: Callable[[Tensor], Tensor]) -> None:
    model = seeded(Queries)
    places = [query for query, _ in best_query(model(X), 1, None, 3)]
    check(
        model, X, target.detection(1, what=what),
        lambda out: torch.stack([formula(out.pred_boxes[i, q]) for i, q in enumerate(places)]),
        fallback="gradient",
    )  # fmt: skip


# -- similarity --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6,), (1, 6), (2, 6)])
def test_cosine(shape: tuple[int, ...]) -> None:
    given = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = check(
        flat(),
        X,
        target.cosine(given),
        lambda out: torch.cosine_similarity(out, given.expand(2, 6)),
        fallback="gradient",
    )
    assert found.target == "cosine with the given embedding"


def test_the_embedding_is_found_by_its_name_or_its_size() -> None:
    class Many(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = flat()

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            out = self.body(x)
            return {"text_embeds": 2 * out.flip(1), "image_embeds": out, "pooled": out[:, :4], "map": out[:, :, None]}

    model = Many().eval()

    def cosine(path: str | None, given: Tensor, what: Callable[[Any], Tensor]) -> None:
        check(
            model, X, target.cosine(given, path),
            lambda out: torch.cosine_similarity(what(out), given.reshape(1, -1).expand(2, -1)), fallback="gradient",
        )  # fmt: skip

    cosine(None, EMBEDDING, lambda out: out["image_embeds"])
    cosine("text_embeds", EMBEDDING, lambda out: out["text_embeds"])
    cosine("map", EMBEDDING[:, None], lambda out: out["map"].flatten(1))
    cosine(None, EMBEDDING[:4], lambda out: out["pooled"])
