"""The picture of README and home page: a digit for its class, for another, and for one rather than the other."""

from __future__ import annotations

from pathlib import Path

import torch

import dlbt_core as dlbt
from dlbt_core.demo.digits import load_digits, train
from dlbt_rules_vision import explain_images

OUT = Path(__file__).resolve().parent.parent / "docs" / "pictures" / "digits.png"
SHOWN = (4, 9)


def main() -> None:
    """Train the demo's network, explain two digits, write the picture."""
    digits = load_digits()
    model = train(digits, epochs=12)
    images = torch.stack([digits.test_images[digits.test_labels == digit][0] for digit in SHOWN])
    a, b = SHOWN
    targets = [a, b, dlbt.target.contrast(a, b)]
    names = [f"a {digit}" for digit in SHOWN]
    grid = explain_images(model, list(images), names=names, targets=targets, composite="epsilon_plus")
    OUT.parent.mkdir(exist_ok=True)
    grid.save(OUT, dpi=80)


if __name__ == "__main__":
    main()
