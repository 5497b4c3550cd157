"""From a picture to what a model takes, and back to a picture of what the model saw."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dlbt_core.errors import DlbtError, InputError

__all__ = ["Prepared", "batch", "call_of", "normalisation", "prepare", "takes_list"]


@dataclass(frozen=True)
class Prepared:
    """One image, ready for a model.

    Attributes
    ----------
    pixels : Tensor
        What the model gets, shape (C, H, W).
    seen : Tensor
        The same without normalisation, as a picture: shape (C, H, W), from 0 to 1 where the normalisation is known.
    name : str
        What the image is called: the name of its file, if it came from one.
    keyword : str
        The keyword under which the model takes it; empty: its first argument.
    extra : mapping of str to Tensor
        What else the image processor made, shape (1, ...): a mask of padded pixels.
    """

    pixels: Tensor
    seen: Tensor
    name: str = ""
    keyword: str = ""
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return int(self.pixels.shape[-2]), int(self.pixels.shape[-1])


def prepare(image: Any, transform: Callable[[Any], Any] | None = None, processor: Any = None) -> Prepared:
    """Make what a model takes of an image.

    Parameters
    ----------
    image : PIL.Image.Image, path, array or Tensor
        A picture or its file; an array of shape (H, W), (H, W, 3) or (H, W, 4) as scikit-image has it; or, without transform
        and processor, a tensor of shape (C, H, W) or (1, C, H, W) that the model takes as it is.
    transform : callable, optional
        Makes a tensor of shape (C, H, W) of the picture, e.g. ``weights.transforms()`` of torchvision.
    processor : transformers image processor, optional
        Or a processor that has one.

    Raises
    ------
    InputError
        If the image is none of these, both transform and processor are given, or neither for a picture.
    """
    if transform is not None and processor is not None:
        raise InputError("got transform and processor; both make the model's input.\n  fix  give one of them.")
    if transform is None and processor is None:
        if not isinstance(image, Tensor):
            raise InputError(
                f"an image of type {type(image).__name__} needs a transform or a processor to become the model's input.\n"
                "  fix  transform=weights.transforms() (torchvision), processor=AutoImageProcessor.from_pretrained(...) "
                "(transformers), or pass a tensor of shape (C, H, W)."
            )
        pixels = _one(image, "the image")
        return Prepared(pixels, pixels)
    name = Path(image).name if isinstance(image, (str, Path)) else ""
    picture = image if isinstance(image, Tensor) else _picture(image)
    if processor is not None:
        return _processed(picture, getattr(processor, "image_processor", processor), name)
    assert transform is not None
    pixels = _one(_try(transform, picture, "transform"), "the transform's result")
    return Prepared(pixels, _seen(pixels, normalisation(transform)), name)


def _processed(picture: Any, processor: Any, name: str) -> Prepared:
    made = _try(lambda p: processor(images=p, return_tensors="pt"), picture, "processor")
    tensors = {key: value for key, value in made.items() if isinstance(value, Tensor)}
    if "pixel_values" not in tensors:
        raise InputError(
            f"the processor returned {', '.join(map(repr, made)) or 'nothing'}, but no 'pixel_values'.\n"
            "  fix  pass the image processor of the model: AutoImageProcessor.from_pretrained(...)."
        )
    pixels = _one(tensors.pop("pixel_values"), "the processor's pixel_values")
    return Prepared(pixels, _seen(pixels, normalisation(processor)), name, "pixel_values", tensors)


def _try(make: Callable[[Any], Any], picture: Any, what: str) -> Any:
    try:
        return make(picture)
    except Exception as error:
        shown = type(picture).__name__
        if hasattr(picture, "mode"):
            shown = f"mode {picture.mode!r}, {picture.width} by {picture.height} pixels"
        raise InputError(
            f"the {what} cannot take this image ({shown}): {type(error).__name__}: {error}\n"
            "  fix  give it what it expects; a picture in shades of grey becomes a coloured one by image.convert('RGB')."
        ) from error


def _picture(image: Any) -> Any:
    """A Pillow image of a file, an array or a Pillow image, in colour or in shades of grey."""
    try:
        pillow: Any = importlib.import_module("PIL.Image")
    except ImportError as error:
        raise DlbtError("pictures need Pillow, which cannot be imported.\n  fix  pip install pillow") from error
    if isinstance(image, (str, Path)):
        if not Path(image).is_file():
            raise FileNotFoundError(f"there is no file {str(image)!r}.\n  fix  the path of a picture.")
        try:
            with pillow.open(image) as file:
                return _picture(file.copy())
        except pillow.UnidentifiedImageError as error:
            raise InputError(
                f"{str(image)!r} is not a picture that Pillow can read.\n  fix  a PNG, JPEG or other file of pixels."
            ) from error
    if isinstance(image, pillow.Image):
        # A palette, transparency or printing colours say nothing to a model that was trained on RGB.
        return image if image.mode in ("RGB", "L") else image.convert("RGB")
    if hasattr(image, "__array_interface__"):
        try:
            return _picture(pillow.fromarray(image))
        except (TypeError, ValueError) as error:
            raise InputError(
                f"an array of shape {tuple(image.shape)} and dtype {image.dtype} is no picture.\n"
                "  fix  shape (H, W) or (H, W, 3) and dtype uint8, e.g. skimage.util.img_as_ubyte(image)."
            ) from error
    raise InputError(
        f"{type(image).__name__} is not an image.\n  fix  pass a Pillow image, the path of a file, an array of shape "
        "(H, W, 3), or a tensor of shape (C, H, W)."
    )


def _one(pixels: Any, what: str) -> Tensor:
    """The tensor of one image, shape (C, H, W)."""
    if isinstance(pixels, Tensor) and pixels.dim() == 4 and pixels.shape[0] == 1:
        pixels = pixels[0]
    if isinstance(pixels, Tensor) and pixels.dim() == 3:
        return pixels
    found = f"shape {tuple(pixels.shape)}" if isinstance(pixels, Tensor) else type(pixels).__name__
    raise InputError(
        f"{what} is not one image: {found}.\n  fix  a tensor of shape (C, H, W); explain_images(...) takes several images."
    )


# -- what the model saw ------------------------------------------------------------------------------------------------

Normalisation = tuple[Sequence[float], Sequence[float]]


def normalisation(maker: Any) -> Normalisation | None:
    """Mean and standard deviation by which a transform or an image processor normalises, if that can be found."""
    if hasattr(maker, "image_mean") and hasattr(maker, "image_std"):
        is_on = getattr(maker, "do_normalize", True) and maker.image_mean is not None and maker.image_std is not None
        return (maker.image_mean, maker.image_std) if is_on else None
    for part in _parts(maker, set()):
        mean, std = getattr(part, "mean", None), getattr(part, "std", None)
        if isinstance(mean, (Sequence, Tensor)) and isinstance(std, (Sequence, Tensor)):
            return ([float(m) for m in mean], [float(s) for s in std])
    return None


def _parts(maker: Any, seen: set[int]) -> Iterator[Any]:
    """A transform and those it is made of."""
    if maker is None or id(maker) in seen:
        return
    seen.add(id(maker))
    yield maker
    inner = getattr(maker, "transforms", None)
    inner = list(inner) if isinstance(inner, (Sequence, nn.ModuleList)) else []
    for part in (*inner, *(maker.children() if isinstance(maker, nn.Module) else ())):
        yield from _parts(part, seen)


def _seen(pixels: Tensor, normalised: Normalisation | None) -> Tensor:
    if normalised is None:
        return pixels
    mean, std = (torch.as_tensor(n, dtype=torch.float64).reshape(-1, 1, 1) for n in normalised)
    if mean.shape[0] not in (1, pixels.shape[0]):
        return pixels
    return (pixels.detach().cpu().double() * std + mean).clamp(0, 1)


# -- the call ----------------------------------------------------------------------------------------------------------


def takes_list(model: Any) -> bool:
    """Whether a model takes a list of images, as torchvision's detectors do; its signature says so."""
    try:
        first = next(iter(inspect.signature(getattr(model, "forward", model)).parameters.values()))
    except (StopIteration, TypeError, ValueError):
        return False
    return str(first.annotation).replace("typing.", "").lower().startswith(("list[", "<class 'list"))


def batch(images: Sequence[Prepared], size: int, one_by_one: bool) -> Iterator[list[int]]:
    """Numbers of images that can run together: neighbours of one shape, at most `size`."""
    now: list[int] = []
    for number, image in enumerate(images):
        fits = now and not one_by_one and len(now) < size and _shapes(images[now[0]]) == _shapes(image)
        if now and not fits:
            yield now
            now = []
        now.append(number)
    if now:
        yield now


def _shapes(image: Prepared) -> tuple[Any, ...]:
    return (image.pixels.shape, image.pixels.dtype, *((k, t.shape) for k, t in image.extra.items()))


def call_of(model: Any, images: Sequence[Prepared]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of one call with these images, on the model's device and in its dtype."""
    first = next(iter(model.parameters()), None) if isinstance(model, nn.Module) else None

    def placed(tensor: Tensor) -> Tensor:
        return tensor if first is None else tensor.to(first.device)

    def pixels(image: Prepared) -> Tensor:
        # Whole numbers cannot be explained; the model would make fractions of them in its first layer anyway.
        kind = image.pixels.dtype if first is None else first.dtype
        return placed(image.pixels).to(kind if kind.is_floating_point else torch.float32)

    if takes_list(model):
        return ([pixels(image) for image in images],), {}
    stacked = torch.stack([pixels(image) for image in images])
    extra = {key: placed(torch.cat([image.extra[key] for image in images])) for key in images[0].extra}
    keyword = images[0].keyword
    return ((), {keyword: stacked, **extra}) if keyword else ((stacked,), extra)
