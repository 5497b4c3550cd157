"""Relevance rules for vision models: convolution, pooling, norms, resampling, detection. A plugin of dlbt-core.

And the image front end: ``explain_image(model, image, transform=...)``. It is imported when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlbt_rules_vision.front import embed_image, explain_image, explain_images
    from dlbt_rules_vision.images import ImageExplanation
    from dlbt_rules_vision.images_grid import ImageGrid

__version__ = "0.1.0"

__all__ = ["ImageExplanation", "ImageGrid", "embed_image", "explain_image", "explain_images"]

_HOMES = {
    "ImageExplanation": "images",
    "ImageGrid": "images_grid",
    "embed_image": "front",
    "explain_image": "front",
    "explain_images": "front",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
