"""Colours for signed relevance: warm speaks for, cool speaks against, the page's own background is zero."""

from __future__ import annotations

import math
from functools import cache
from typing import Literal

import torch
from torch import Tensor

__all__ = [
    "RGB",
    "Theme",
    "contrast",
    "diverging",
    "hexadecimal",
    "ink",
    "luminance",
    "palette",
    "robust_scale",
]

RGB = tuple[int, int, int]
Theme = Literal["light", "dark"]
Lab = tuple[float, float, float]

_FOR, _AGAINST = 32.0, 255.0  # hues in degrees: vermilion and blue, told apart with every common colour blindness
_CENTRE = {"light": 0.985, "dark": 0.245}  # lightness of zero: that of the page's cards
_END = {"light": (0.56, 0.165), "dark": (0.66, 0.155)}  # lightness and chroma of both ends


def diverging(value: float, theme: Theme = "light") -> RGB:
    """The colour of a value between -1 and 1.

    Both ends have the same lightness and chroma, so that equal amounts for and against look equally strong.

    Parameters
    ----------
    value : float
        0 is neutral; values beyond -1 and 1 are cut off; NaN is grey.
    theme : {"light", "dark"}
        Whether zero is nearly white or nearly black.

    Returns
    -------
    tuple of int
        Red, green and blue, 0 to 255.
    """
    if math.isnan(value):
        return (128, 128, 128)
    strength = min(abs(value), 1.0)
    (lightness, chroma), centre = _END[theme], _CENTRE[theme]
    hue = math.radians(_FOR if value > 0 else _AGAINST)
    mixed = chroma * strength
    return _to_rgb((centre + (lightness - centre) * strength, mixed * math.cos(hue), mixed * math.sin(hue)))


@cache
def palette(theme: Theme = "light", steps: int = 255) -> tuple[RGB, ...]:
    """Colours from -1 to 1 at equal distances; the middle one is zero, so `steps` is odd."""
    half = steps // 2
    return tuple(diverging(step / half, theme) for step in range(-half, half + 1))


def robust_scale(values: Tensor, quantile: float = 0.99) -> float:
    """The amount that gets the full colour: a quantile of the absolute values, so that no outlier pales the rest.

    Parameters
    ----------
    values : Tensor
        Relevance; what is not finite is left out.
    quantile : float
        Share of the values that stay inside the scale. With less than 100 values that is all of them.

    Returns
    -------
    float
        More than 0: where the quantile is 0 the largest amount, and 1 where all values are 0.
    """
    amounts = values.detach().reshape(-1).cpu().double().abs()
    amounts = amounts[torch.isfinite(amounts)]
    if not amounts.numel():
        return 1.0
    rank = math.ceil(quantile * amounts.numel())
    return float(amounts.kthvalue(max(rank, 1)).values) or float(amounts.max()) or 1.0


def ink(background: RGB) -> RGB:
    """Black or white, whichever reads better on a background: the contrast is then at least 4.5, as WCAG AA asks."""
    return max((0, 0, 0), (255, 255, 255), key=lambda text: contrast(text, background))


def contrast(a: RGB, b: RGB) -> float:
    """The contrast ratio of two colours after WCAG 2, from 1 to 21."""
    brighter, darker = sorted((luminance(a), luminance(b)), reverse=True)
    return (brighter + 0.05) / (darker + 0.05)


def luminance(colour: RGB) -> float:
    """Relative luminance after WCAG 2, from 0 to 1."""
    red, green, blue = (_linear(channel / 255) for channel in colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def hexadecimal(colour: RGB) -> str:
    """A colour as CSS has it, e.g. ``#b3201f``."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


# -- OKLab to sRGB, Ottosson 2020 --------------------------------------------------------------------------------------


def _to_rgb(lab: Lab) -> RGB:
    lightness, a, b = lab
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        _channel(4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short),
        _channel(-1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short),
        _channel(-0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short),
    )


def _channel(linear: float) -> int:
    linear = min(max(linear, 0.0), 1.0)
    return round(255 * (12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055))


def _linear(channel: float) -> float:
    return channel / 12.92 if channel <= 0.04045 else float(((channel + 0.055) / 1.055) ** 2.4)
