"""The image front end: from pictures and a model to explained images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dlbt_core.composites.composite import Composite
from dlbt_core.errors import InputError
from dlbt_core.explainer import Explainer
from dlbt_core.explanation import Explanation
from dlbt_core.graph.structure import leaves
from dlbt_core.show.labels import class_called, labels_of
from dlbt_core.show.words import Labels
from dlbt_core.target.base import FunctionTarget
from dlbt_core.target.detection import DetectionTarget
from dlbt_core.target.region import RegionTarget
from dlbt_core.target.scores import ContrastTarget
from dlbt_core.target.similarity import Cosine, embedding_in
from dlbt_rules_vision.images import ImageExplanation
from dlbt_rules_vision.images_grid import ImageGrid
from dlbt_rules_vision.images_input import Prepared, batch, call_of, prepare, takes_list

__all__ = ["embed_image", "explain_image", "explain_images"]

_LABELS = "labels=weights.meta['categories'], or the number of the class."


def explain_image(
    model: Any,
    image: Any,
    *,
    transform: Callable[[Any], Any] | None = None,
    processor: Any = None,
    target: Any = None,
    targets: Sequence[Any] | None = None,
    composite: str | Composite | None = None,
    composites: Sequence[str | Composite] | None = None,
    labels: Labels | None = None,
    **options: Any,
) -> Any:
    """Explain a model's output on one image.

    Parameters
    ----------
    model : torch.nn.Module, callable or Explainer
        The model in eval mode; or an explainer that is kept for several calls.
    image : PIL.Image.Image, path, array or Tensor
        A picture, for `transform` or `processor` to make the model's input of; or that input itself, shape (C, H, W).
    transform : callable, optional
        Makes a tensor of shape (C, H, W) of a picture: ``weights.transforms()`` of torchvision, or any other.
    processor : transformers image processor, optional
        In its place for models of transformers.
    target : None, int, str, Tensor, Target or callable, optional
        What to explain: the largest class (None), a class, the label of a class, a ``dlbt.target``. A ``region``'s box and
        pixel count in pixels of what the model sees. A ``cosine`` may be given the other image instead of its embedding.
    targets : sequence, optional
        Several targets, explained with one forward pass.
    composite : str or Composite, optional
        Which rule where; ``"auto"`` unless given.
    composites : sequence of str or Composite, optional
        Several composites, to be compared.
    labels : sequence or mapping of int to str, optional
        Names of the classes: ``weights.meta["categories"]``; those of a transformers model's config unless given.
    **options
        `rules`, `layers`, `audit`, `fallback`, `plugins` as for `dlbt_core.Explainer` (unless `model` is one); anything else
        goes to the model, e.g. the text of a model that takes text, too.

    Returns
    -------
    ImageExplanation or ImageGrid
        A grid of one row with `targets` or `composites`; with both, of targets by composites.

    Raises
    ------
    InputError, TargetError
        If image, transform, processor or target do not fit; and what `dlbt_core.explain` raises.
    """
    work = _Work.of(model, transform, processor, labels, composite, options)
    prepared = [prepare(image, transform, processor)]
    wanted, chosen = work.targets(target, targets, prepared[0]), _composites(composite, composites)
    parts = [work.explain(prepared, wanted, one, 1)[0] for one in chosen]
    if targets is None and composites is None:
        return parts[0][0]
    table = [list(column) for column in zip(*parts, strict=True)] if composites is not None else parts
    if targets is not None and composites is not None:
        return ImageGrid(table, [row[0].title for row in table], _names(chosen), "each")
    columns = _names(chosen) if composites is not None else [cell.title for cell in table[0]]
    return ImageGrid(table, [prepared[0].name], columns, "each" if composites is not None else "row")


def explain_images(
    model: Any,
    images: Iterable[Any],
    *,
    transform: Callable[[Any], Any] | None = None,
    processor: Any = None,
    target: Any = None,
    targets: Sequence[Any] | None = None,
    composite: str | Composite | None = None,
    composites: Sequence[str | Composite] | None = None,
    labels: Labels | None = None,
    names: Sequence[str] | None = None,
    batch_size: int = 8,
    **options: Any,
) -> ImageGrid:
    """Explain a model's output on several images: a grid of images by targets, or of images by composites.

    Parameters
    ----------
    model, transform, processor, targets, composite, composites, labels, **options
        As for `explain_image`; targets or composites, not both.
    images : iterable
        Images, each as for `explain_image`.
    target
        As for `explain_image`, or a list or tensor with one class per image.
    names : sequence of str, optional
        What the images are called; their file names, or numbers, unless given.
    batch_size : int
        How many images of one size run together. It changes nothing but time and memory.

    Returns
    -------
    ImageGrid
        One row per image.

    Raises
    ------
    InputError, TargetError
        As `explain_image`; if there is no image, or targets and composites are both given.
    """
    if targets is not None and composites is not None:
        raise InputError(
            "got targets and composites; a grid has the images as rows and one of them as columns.\n"
            "  fix  give one of them; explain_image(...) takes both for one image."
        )
    prepared = [prepare(image, transform, processor) for image in images]
    if not prepared:
        raise InputError("no images.\n  fix  give at least one.")
    if names is not None and len(names) != len(prepared):
        raise InputError(f"{len(names)} names for {len(prepared)} images.\n  fix  give one name per image.")
    called = names or [image.name or f"image {number}" for number, image in enumerate(prepared, 1)]
    prepared = [replace(image, name=name) for image, name in zip(prepared, called, strict=True)]
    work = _Work.of(model, transform, processor, labels, composite, options)
    wanted, chosen = work.targets(target, targets, prepared[0]), _composites(composite, composites)
    parts = [work.explain(prepared, wanted, one, batch_size) for one in chosen]
    cells = [[cell for part in parts for cell in part[row]] for row in range(len(prepared))]
    if composites is not None:
        return ImageGrid(cells, called, _names(chosen), "each")
    columns = [str(one) if one is not None else "" for one in wanted] if targets is not None else [""]
    return ImageGrid(cells, called, [_column(cells, i, name) for i, name in enumerate(columns)], "row")


def embed_image(
    model: Any,
    image: Any,
    *,
    transform: Callable[[Any], Any] | None = None,
    processor: Any = None,
    path: str | None = None,
    **inputs: Any,
) -> Tensor:
    """The model's embedding of an image, for ``dlbt.target.cosine``: one run of the model without an explanation.

    Parameters
    ----------
    model : torch.nn.Module or callable
        The model in eval mode.
    image, transform, processor
        As for `explain_image`.
    path : str, optional
        Which output; unless given the one named like an embedding (``image_embeds``, ``pooler_output``), or the only one.
    **inputs
        What else the model takes.

    Returns
    -------
    Tensor
        Flattened, shape (D,).

    Raises
    ------
    TargetError
        If it cannot be told which output is the embedding.
    """
    args, kwargs = call_of(model, [prepare(image, transform, processor)])
    with torch.no_grad():
        outputs = model(*args, **kwargs, **inputs)
    floating = {p: leaf for p, leaf in leaves(outputs) if isinstance(leaf, Tensor) and leaf.is_floating_point()}
    return embedding_in(floating, path)[0].reshape(-1)


# -- the work ----------------------------------------------------------------------------------------------------------

_OF_EXPLAINER = ("explain_inputs", "layers", "audit", "fallback", "backend", "plugins")
_OF_CALL = ("rules", "audit", "progress")


@dataclass(frozen=True)
class _Work:
    """What is the same for all images of a call."""

    explainer: Explainer
    make: Mapping[str, Any]
    labels: Labels | None
    call: Mapping[str, Any]
    inputs: Mapping[str, Any]

    @classmethod
    def of(
        cls, model: Any, transform: Any, processor: Any, labels: Any, composite: Any, options: Mapping[str, Any]
    ) -> _Work:
        if isinstance(model, Explainer):
            set_before = [name for name in _OF_EXPLAINER if name in options and name not in _OF_CALL]
            if set_before:
                raise InputError(
                    f"{set_before[0]} is set where the explainer is made.\n  fix  Explainer(model, {set_before[0]}=...)."
                )
            explainer = model
        else:
            of_explainer = {k: v for k, v in options.items() if k in _OF_EXPLAINER and k not in _OF_CALL}
            if processor is not None:
                of_explainer.setdefault("explain_inputs", ["pixel_values"])
            explainer = Explainer(model, "auto" if composite is None else composite, **of_explainer)
        return cls(
            explainer,
            {"transform": transform, "processor": processor},
            labels_of(explainer.model) if labels is None else labels,
            {k: v for k, v in options.items() if k in _OF_CALL},
            {k: v for k, v in options.items() if k not in (*_OF_EXPLAINER, *_OF_CALL)},
        )

    def targets(self, target: Any, targets: Sequence[Any] | None, image: Prepared) -> list[Any]:
        """The targets with labels, other images and sizes filled in."""
        if targets is not None and target is not None:
            raise InputError("give target or targets, not both.")
        if targets is not None and not len(targets):
            raise InputError("targets is empty: give at least one.")
        return [self._target(one, image) for one in ([target] if targets is None else targets)]

    def _target(self, target: Any, image: Prepared) -> Any:
        if isinstance(target, str):
            return class_called(target, self.labels, _LABELS)
        if isinstance(target, ContrastTarget):
            return replace(target, a=self._target(target.a, image), b=self._target(target.b, image))
        if isinstance(target, RegionTarget) and target.size is None:
            return replace(target, size=image.size)
        if isinstance(target, DetectionTarget) and target.classes is None:
            known = getattr(getattr(self.explainer.model, "config", None), "num_labels", None)
            return replace(target, classes=known) if isinstance(known, int) else target
        cosine = target.fn if isinstance(target, FunctionTarget) else None
        if isinstance(cosine, Cosine) and not isinstance(cosine.embedding, Tensor):
            given: Any = {**self.make, "path": cosine.path, **self.inputs}
            return FunctionTarget(
                replace(cosine, embedding=embed_image(self.explainer.model, cosine.embedding, **given))
            )
        return target

    def explain(
        self, images: Sequence[Prepared], targets: Sequence[Any], composite: Any, batch_size: int
    ) -> list[list[ImageExplanation]]:
        """Per image one explained image per target."""
        rows: list[list[ImageExplanation]] = []
        for numbers in batch(images, batch_size, takes_list(self.explainer.model)):
            together = [images[number] for number in numbers]
            args, kwargs = call_of(self.explainer.model, together)
            wanted = [_of_batch(one, numbers, len(images)) for one in targets]
            explanations: list[Explanation] = self.explainer(
                *args, **kwargs, **self.inputs, **self.call, targets=wanted, composite=composite
            )
            rows.extend(
                [
                    ImageExplanation(
                        explanation, place, image.seen.detach().cpu(), self.labels, image.name, image.keyword
                    )
                    for explanation in explanations
                ]
                for place, image in enumerate(together)
            )
        return rows


def _composites(composite: Any, composites: Sequence[Any] | None) -> list[Any]:
    if composites is None:
        return [composite]
    if composite is not None:
        raise InputError("give composite or composites, not both.")
    if not composites:
        raise InputError("composites is empty: give at least one.")
    return list(composites)


def _names(composites: Sequence[Any]) -> list[str]:
    return [one.name if isinstance(one, Composite) else str(one) for one in composites]


def _column(cells: Sequence[Sequence[ImageExplanation]], place: int, name: str) -> str:
    """What a column is called: what was explained in it, if that is the same for all its images."""
    titles = {row[place].title for row in cells}
    return titles.pop() if len(titles) == 1 else name if name else "relevance"


def _of_batch(target: Any, numbers: Sequence[int], count: int) -> Any:
    """Of one class per image those of this batch."""
    if isinstance(target, Tensor) and target.dim() == 1 and len(target) == count:
        return target[list(numbers)]
    if isinstance(target, (list, tuple)) and len(target) == count:
        return [target[number] for number in numbers]
    return target
