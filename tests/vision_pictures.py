"""Pictures, transforms and a small classifier that the tests of the image front end share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

pillow = pytest.importorskip("PIL.Image")
LABELS = ["cat", "dog", "cow", "hen"]
PIXELS = torch.randint(0, 256, (12, 10, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
PICTURE = pillow.fromarray(PIXELS.numpy())
OTHER = pillow.fromarray(PIXELS.flip(0).numpy())


class Normalise:
    """As torchvision's: its mean and std can be found."""

    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)

    def __call__(self, image: Tensor) -> Tensor:
        return (image - torch.tensor(self.mean).reshape(3, 1, 1)) / torch.tensor(self.std).reshape(3, 1, 1)


class Compose:
    """As torchvision's."""

    def __init__(self, *transforms: Any) -> None:
        self.transforms = list(transforms)

    def __call__(self, image: Any) -> Any:
        for transform in self.transforms:
            image = transform(image)
        return image


def to_tensor(picture: Any) -> Tensor:
    pixels = torch.tensor(list(picture.tobytes()), dtype=torch.float32) / 255
    return pixels.reshape(picture.height, picture.width, -1).movedim(-1, 0)


TRANSFORM = Compose(to_tensor, Compose(Normalise()))


def cnn() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        return nn.Sequential(body, nn.Conv2d(6, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
