"""The colour map: neutral at zero, equally strong on both sides, readable."""

import math

import pytest
import torch

from dlbt_core.show.colours import contrast, diverging, hexadecimal, ink, luminance, palette, robust_scale

THEMES = pytest.mark.parametrize("theme", ["light", "dark"])


@THEMES
def test_zero_is_neutral(theme):
    red, green, blue = diverging(0.0, theme)
    assert max(red, green, blue) - min(red, green, blue) <= 1
    assert (min(red, green, blue) > 240) == (theme == "light")


@THEMES
@pytest.mark.parametrize("value", [0.1, 0.3, 0.6, 1.0])
def test_warm_is_for_cool_is_against_and_both_look_equally_strong(theme, value):
    warm, cool = diverging(value, theme), diverging(-value, theme)
    assert warm[0] > warm[2]
    assert cool[2] > cool[0]
    assert abs(luminance(warm) - luminance(cool)) < 0.06


@THEMES
def test_strength_grows_away_from_zero(theme):
    zero = luminance(diverging(0.0, theme))
    for sign in (1, -1):
        distance = [abs(luminance(diverging(sign * step / 10, theme)) - zero) for step in range(11)]
        assert distance == sorted(distance)
        assert distance[0] == 0 < distance[1]


def test_values_beyond_the_ends_are_cut_off_and_nan_is_grey():
    assert diverging(7.0) == diverging(1.0)
    assert diverging(-math.inf) == diverging(-1.0)
    assert diverging(math.nan) == (128, 128, 128)


@THEMES
def test_palette_is_centred(theme):
    colours = palette(theme, 255)
    assert len(colours) == 255
    assert colours[127] == diverging(0.0, theme)
    assert (colours[0], colours[254]) == (diverging(-1.0, theme), diverging(1.0, theme))


@THEMES
def test_text_is_readable_on_every_colour(theme):
    assert min(contrast(ink(colour), colour) for colour in palette(theme)) >= 4.5


def test_hexadecimal():
    assert hexadecimal((0, 15, 255)) == "#000fff"


def test_robust_scale_leaves_out_outliers_of_large_tensors_only():
    values = torch.linspace(-1, 1, 1000)
    values[3] = 1e6
    assert 0.9 < robust_scale(values) <= 1.0
    assert robust_scale(torch.tensor([1.0, -4.0, 2.0])) == 4.0


def test_robust_scale_is_never_zero():
    sparse = torch.zeros(1000)
    sparse[0] = -3.0
    assert robust_scale(sparse) == 3.0
    assert robust_scale(torch.zeros(4)) == robust_scale(torch.zeros(0)) == 1.0
    assert robust_scale(torch.tensor([math.nan, math.inf, 2.0])) == 2.0
