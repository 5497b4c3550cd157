"""Small models and inputs that the tests of vision targets and of the image front end share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

X = torch.randn(2, 3, 6, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().double().eval()


def dense(classes: int = 4) -> nn.Module:
    return seeded(lambda: nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, classes, 1)))


def flat(classes: int = 6) -> nn.Module:
    return seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(90, 8), nn.ReLU(), nn.Linear(8, classes)))


MASK = torch.zeros(6, 5, dtype=torch.bool)
MASK[1:4, 2:] = True
IMAGES = [
    3 * torch.randn(3, *s, generator=torch.Generator().manual_seed(2), dtype=torch.float64) for s in ((9, 8), (11, 9))
]
EMBEDDING = torch.randn(6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


class Lists(nn.Module):
    """Returns what torchvision's detectors do: per image as many detections as there are, best first."""

    def __init__(self, labels: bool = True) -> None:
        super().__init__()
        self.features, self.head, self.labels = nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(4, 7, 1, bias=False), labels

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        found = []
        for image in images:
            cells = self.head(torch.tanh(self.features(image[None]))).flatten(2)[0].T
            scores, labels = cells[:, 4:].sigmoid().max(-1)
            order = scores.argsort(descending=True)
            order = order[scores[order] > 0.5]
            one = {"boxes": cells[order, :4], "scores": scores[order], "labels": labels[order]}
            found.append(one if self.labels else {k: v for k, v in one.items() if k != "labels"})
        return found


@dataclass
class Queried:
    """The outputs of transformers' detectors."""

    logits: Tensor
    pred_boxes: Tensor


class Queries(nn.Module):
    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.features, self.classes, self.boxes = nn.Conv2d(3, 4, 3), nn.Linear(4, channels), nn.Linear(4, 4)

    def forward(self, pixel_values: Tensor) -> Queried:
        tokens = torch.relu(self.features(pixel_values)).flatten(2).transpose(1, 2)
        return Queried(self.classes(tokens), self.boxes(tokens).sigmoid())


class Shift(nn.Module):
    """Makes class 2 the smallest everywhere."""

    def forward(self, out: Tensor) -> Tensor:
        return out - torch.tensor([0.0, 0.0, 100.0], dtype=out.dtype)[:, None, None]


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = flat()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"a": self.body(x), "b": self.body(x) + 1}
