"""Real images: a small CNN trained in seconds on scikit-learn's handwritten digits, its logits explained."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from dlbt_core.demo.steps import Step, Steps
from dlbt_core.errors import DlbtError
from dlbt_core.explainer import Explainer
from dlbt_core.show.page import Exhibit, Section
from dlbt_core.target import contrast

__all__ = ["Digits", "check_images", "digits_section", "load_digits", "small_cnn", "train"]

_SEED = 0
_CONTRASTS = ((4, 9), (3, 8), (7, 1))


@dataclass(frozen=True)
class Digits:
    """Images of shape (N, 1, 8, 8) from 0 to 1 and their digits, for training and held out."""

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def check_images() -> None:
    """Look whether all that the image part needs is installed.

    Raises
    ------
    DlbtError
        If not; it says what to install.
    """
    if find_spec("sklearn") is None:
        raise DlbtError(
            "the image part of the demo needs scikit-learn, which cannot be imported.\n"
            "  fix  pip install scikit-learn\n  or   dlbt demo --no-images"
        )


def load_digits(held_out: int = 450) -> Digits:
    """The digits that come with scikit-learn, the same ones held out each time.

    Raises
    ------
    DlbtError
        If scikit-learn is missing.
    """
    check_images()
    from sklearn import datasets

    data = datasets.load_digits()
    images = torch.tensor(data.images.tolist(), dtype=torch.float32, device="cpu").unsqueeze(1) / 16
    labels = torch.tensor(data.target.tolist(), device="cpu")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(_SEED), device="cpu")
    test, rest = order[:held_out], order[held_out:]
    return Digits(images[rest], labels[rest], images[test], labels[test])


def small_cnn() -> nn.Sequential:
    """Two convolutions with batch norm, one pooling, two linear layers."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(32 * 4 * 4, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def train(digits: Digits, epochs: int, step: Step | None = None) -> nn.Sequential:
    """Train on the digits; the same weights each time on one machine, and no random state is left changed.

    Parameters
    ----------
    digits : Digits
        What to train on.
    epochs : int
        How often to go through it.
    step : Step, optional
        Where progress is shown, one part per epoch.
    """
    shuffle = torch.Generator().manual_seed(_SEED)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.default_generator.manual_seed(_SEED)
        model = small_cnn().float().cpu()
        optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
        for _ in range(epochs):
            for rows in torch.randperm(len(digits.labels), generator=shuffle, device="cpu").split(64):
                loss = nn.functional.cross_entropy(model(digits.images[rows]), digits.labels[rows])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            if step is not None:
                step.advance()
    return model.eval().requires_grad_(False)


def digits_section(steps: Steps, epochs: int = 12) -> Section:
    """Train, and explain one held-out image of each digit, and some digits against others they resemble.

    Parameters
    ----------
    steps : Steps
        Where progress is shown.
    epochs : int
        How long to train.
    """
    digits = load_digits()
    with steps.step("images: train a small CNN on digits", parts=epochs) as step:
        model = train(digits, epochs, step)
        correct = int((model(digits.test_images).argmax(1) == digits.test_labels).sum())
        count = len(digits.test_labels)
        accuracy = f"{correct} of {count} held-out digits right ({correct / count:.1%})"
        step.done(accuracy)
    examples = torch.stack([digits.test_images[digits.test_labels == digit][0] for digit in range(10)])
    explainer = Explainer(model)
    with steps.step("images: explain", parts=2) as step:
        each = explainer(examples)
        step.advance()
        first, second = (torch.tensor(side, device="cpu") for side in zip(*_CONTRASTS, strict=True))
        against = explainer(examples[first], target=contrast(first, second))
        step.done(f"ledger errors {each.ledger.error:.1e}, {against.ledger.error:.1e}")
    return Section(
        heading="Handwritten digits",
        paragraphs=(
            "A small convolutional network (two convolutions with batch norm, one max pooling, two linear layers), "
            f"trained for {epochs} epochs on {len(digits.labels)} of scikit-learn's 8 by 8 digits: {accuracy}. "
            "Below is the first held-out image of each digit, explained for the class that the network gives it: the "
            "relevance of each pixel for that class's logit.",
        ),
        exhibits=(
            Exhibit(each, "Each digit for its class", images=examples, names=[f"a {digit}" for digit in range(10)],
                    note="“a 3” is what was written; the class after it is what the network chose."),
            Exhibit(against, "Why this class and not the other", images=examples[first],
                    names=[f"a {a}" for a, _ in _CONTRASTS],
                    note="The difference of two logits. Warm pixels speak for the first class rather than the second, "
                         "cool ones the other way round."),
        ),
    )  # fmt: skip
