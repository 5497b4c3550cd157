"""An explained image: its heat map beside it, over it, per layer; in the notebook, in files, on a page."""

from __future__ import annotations

import importlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dlbt_core.errors import DlbtError
from dlbt_core.explanation import Explanation
from dlbt_core.show import figure, heat, words
from dlbt_core.show.colours import Theme, robust_scale
from dlbt_core.show.figure import Panel
from dlbt_core.show.heat import Pool
from dlbt_core.show.layers import layer_maps

__all__ = ["OF_PAGE", "ImageExplanation"]

OF_PAGE = ("title", "intro", "how_to_read")
"""Options of a page; the others are those of what it shows."""


@dataclass(frozen=True, eq=False)
class ImageExplanation:
    """What made a model's output what it is, on one image.

    Attributes
    ----------
    explanation : Explanation
        The whole explanation: score, ledger, plan, relevance of layers. It may be of a batch.
    index : int
        Which of its samples this image is.
    seen : Tensor, optional
        The image as the model saw it, shape (C, H, W).
    labels : sequence or mapping of int to str, optional
        Names of the classes.
    name : str
        What the image is called.
    input : str
        Which explained input it is; the first that is an image unless given.
    """

    explanation: Explanation
    index: int = 0
    seen: Tensor | None = None
    labels: words.Labels | None = None
    name: str = ""
    input: str = ""

    # -- numbers ----------------------------------------------------------------------------------------------------

    @property
    def relevance(self) -> Tensor:
        """Relevance of the image's pixels, shape (C, H, W), in the model's dtype and on its device.

        Raises
        ------
        DlbtError
            If no explained input is an image.
        """
        return self._of_sample(self.explanation.inputs[self._input()])

    @property
    def score(self) -> float:
        """What was explained."""
        return float(self.explanation.score.reshape(-1)[self.index])

    @property
    def picked(self) -> Any:
        """What the target left open and the outputs decided, e.g. the class; None if nothing."""
        return self.explanation.picked[self.index] if self.index < len(self.explanation.picked) else None

    @property
    def title(self) -> str:
        """What was explained, in words: ``class 281 (tabby)``."""
        return words.headline(self.explanation.target, self.picked, self.labels)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of what the model saw."""
        shape = self.relevance.shape
        return int(shape[-2]), int(shape[-1])

    def heat(self, pool: Pool = "sum") -> Tensor:
        """Relevance as one map, in pixels of what the model saw.

        Parameters
        ----------
        pool : str or int
            What is made of the channels: ``"sum"`` (the map sums up to the relevance), ``"abs_sum"``, ``"max_abs"``,
            ``"positive"``, ``"negative"``, or the number of a channel.

        Returns
        -------
        Tensor
            Shape (H, W), float64, on the CPU.
        """
        return heat.heat(self.relevance, pool)

    def layer_maps(self, layers: Sequence[str] | None = None, pool: Pool = "sum") -> dict[str, Tensor]:
        """Relevance of layers as maps of shape (h, w), first layer first: feature maps, and patch tokens put in place.

        Parameters
        ----------
        layers : sequence of str, optional
            Globs on their names; all that were kept and have places unless given.
        pool : str or int
            As for `heat`.
        """
        return layer_maps(self.explanation, self.index, self.size, pool=pool, layers=layers)

    # -- pictures ---------------------------------------------------------------------------------------------------

    @property
    def image(self) -> Any:
        """What the model saw, a Pillow image."""
        return _pillow(self._seen_rgb())

    def heat_image(self, pool: Pool = "sum", *, quantile: float = 0.99, theme: Theme = "light") -> Any:
        """The heat map alone, a Pillow image of the size of what the model saw.

        Parameters
        ----------
        pool : str or int
            As for `heat`.
        quantile : float
            Share of the pixels that stay inside the scale of colours, so that single large ones do not pale the rest.
        theme : {"light", "dark"}
            Whether 0 is nearly white or nearly black.
        """
        values = self.heat(pool)
        return _pillow(heat.heat_rgb(values, robust_scale(values, quantile), theme))

    def overlay(self, pool: Pool = "sum", *, quantile: float = 0.99, opacity: float = 0.85, grey: bool = True) -> Any:
        """The heat map over the image, a Pillow image: the stronger the relevance the more of its colour.

        Parameters
        ----------
        pool, quantile
            As for `heat_image`.
        opacity : float
            How much of the image the full colour hides, 0 to 1.
        grey : bool
            Whether the image below is in shades of grey, so that all colour is relevance.
        """
        values = self.heat(pool)
        scale = robust_scale(values, quantile)
        return _pillow(heat.overlay_rgb(self._seen_rgb(), values, scale, opacity, grey))

    def figure(self, pool: Pool = "sum", *, quantile: float = 0.99) -> Any:
        """Image, heat map and overlay side by side with a colour bar: a matplotlib figure."""
        values = self.heat(pool)
        scale = robust_scale(values, quantile)
        panels = [Panel(heat.heat_rgb(values, scale), "relevance")]
        if self.seen is not None:
            seen = self._seen_rgb()
            panels = [
                Panel(seen, "what the model saw"),
                *panels,
                Panel(heat.overlay_rgb(seen, values, scale), "overlay"),
            ]
        return figure.figure([panels], title=self._heading(), note=self._note(pool), scale=scale)

    def layers_figure(
        self, layers: Sequence[str] | None = None, pool: Pool = "sum", *, quantile: float = 0.99, columns: int = 5
    ) -> Any:
        """The layers' maps side by side, first layer first, each on its own scale: a matplotlib figure.

        Raises
        ------
        DlbtError
            If no layer has a map.
        """
        maps = self.layer_maps(layers, pool)
        if not maps:
            raise DlbtError(
                "no layer was kept that has places to show.\n"
                "  fix  explain_image(..., layers='modules') keeps every module's output."
            )
        panels = []
        for name, values in maps.items():
            scale = robust_scale(values, quantile)
            amount = (
                f"max ±{words.amount(scale)}\nsum {words.signed(float(values.sum()))}"
                if bool(values.any())
                else "all 0"
            )
            note = f"{values.shape[0]} × {values.shape[1]}, {amount}"
            panels.append(Panel(heat.heat_rgb(values, scale), name, note))
        rows: list[list[Panel | None]] = [[*panels[at : at + columns]] for at in range(0, len(panels), columns)]
        return figure.figure(rows, title=self._heading(), note=self._note(pool), width=1.7)

    # -- where they go ----------------------------------------------------------------------------------------------

    def show(self, pool: Pool = "sum", *, quantile: float = 0.99) -> None:
        """Open the figure: in the notebook, else in a window."""
        figure.show(self.figure(pool, quantile=quantile))

    def save(
        self, path: str | Path, pool: Pool = "sum", *, layers: bool = False, quantile: float = 0.99, dpi: int = 150
    ) -> Path:
        """Write the figure to a file; the ending says the format: ``.png``, ``.svg``, ``.pdf``, or ``.html`` for a page.

        Parameters
        ----------
        path : str or Path
            The file; its folders are made.
        pool, quantile
            As for `heat_image`.
        layers : bool
            Whether to write the maps of the layers in place of the image's.
        dpi : int
            Dots per inch.

        Raises
        ------
        InputError
            If the ending is none of these.
        """
        if Path(path).suffix.lower() in (".html", ".htm"):
            return self.to_html(path, pool=pool, quantile=quantile)
        make = self.layers_figure if layers else self.figure
        return figure.save(make(pool=pool, quantile=quantile), path, dpi)

    def to_html(self, path: str | Path, **options: Any) -> Path:
        """Write a page that is complete in itself: image, heat map, overlay, maps of layers, numbers, ledger, plan.

        Parameters
        ----------
        path : str or Path
            The file.
        **options
            As for `dlbt_core.show.page.write_page`: `pool`, `quantile`, `layer_maps`, `title`, `heading`, `note`, ...
        """
        from dlbt_core.show.page import write_page

        own = {name: options.pop(name) for name in OF_PAGE if name in options}
        return write_page([self.exhibit(**options)], path, **{"title": self.name or "Explanation", **own})

    def exhibit(self, **options: Any) -> Any:
        """This image as a part of a page; see `dlbt_core.show.page.write_page`."""
        from dlbt_core.show.page import Exhibit

        count = int(self.explanation.score.numel())
        given: dict[str, Any] = {"only": [self.index], "layer_maps": True, "labels": self.labels, "heading": self.title}
        given["kinds"] = {self._input(): "image"}
        if self.seen is not None:
            given["images"] = {self._input(): self.seen[None].expand(count, *self.seen.shape)}
        if self.name:
            given["names"] = [self.name] * count
        return Exhibit(self.explanation, **{**given, **options})

    def _repr_png_(self) -> bytes | None:
        try:
            return figure.encode(self.figure(), "png")
        except DlbtError:  # without matplotlib
            return None

    def _repr_html_(self) -> str:
        from dlbt_core.show.notebook import fragment

        return fragment([self.exhibit(layer_maps=False)])

    def __repr__(self) -> str:
        name = f" of {self.name}" if self.name else ""
        height, width = self.size
        return (
            f"<ImageExplanation{name}, {height} by {width}: {self.title}, score {self.score:.4g}; "
            f"composite {self.explanation.plan.composite_name}; ledger error {self.explanation.ledger.error:.1e}>"
        )

    # -- parts ------------------------------------------------------------------------------------------------------

    def _heading(self) -> str:
        name = f"{self.name}: " if self.name else ""
        return f"{name}{self.title}, score {words.signed(self.score)}"

    def _note(self, pool: Pool) -> str:
        pooled = "summed over the channels" if pool == "sum" else f"channels pooled by {pool}"
        return f"Relevance {pooled}; composite {self.explanation.plan.composite_name}."

    def _input(self) -> str:
        inputs = self.explanation.inputs
        if self.input:
            return self.input
        for name, relevance in inputs.items():
            if self._of_sample(relevance).dim() == 3:
                return name
        shapes = ", ".join(f"{name!r} {tuple(r.shape)}" for name, r in inputs.items())
        raise DlbtError(f"no explained input is an image of shape (B, C, H, W): {shapes}.")

    def _of_sample(self, relevance: Tensor) -> Tensor:
        """A batch has the samples first; in a list of images each has its own tensor."""
        return relevance[self.index] if relevance.dim() == 4 else relevance

    def _seen_rgb(self) -> Tensor:
        if self.seen is None:
            raise DlbtError(
                "the image itself is not known.\n  fix  ImageExplanation(..., seen=image), shape (C, H, W)."
            )
        return heat.image_rgb(self.seen)


def _pillow(rgb: Tensor) -> Any:
    """A Pillow image of a tensor of shape (H, W, 3), uint8.

    Raises
    ------
    DlbtError
        If Pillow is not installed.
    """
    try:
        pillow: Any = importlib.import_module("PIL.Image")
    except ImportError as error:
        raise DlbtError("pictures need Pillow, which cannot be imported.\n  fix  pip install pillow") from error
    made = pillow.open(io.BytesIO(heat.encode_png(rgb.to(torch.uint8))))
    made.load()
    return made
