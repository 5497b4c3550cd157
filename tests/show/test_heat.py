"""Heat maps, PNG files and their numbers."""

import base64
import math
import struct
import zlib

import pytest
import torch

from dlbt_core.errors import InputError
from dlbt_core.show.colours import diverging
from dlbt_core.show.heat import data_uri, encode_png, extremes, heat, heat_rgb, image_rgb, overlay_rgb, patches


def decode_png(data):
    """A plain PNG decoder for what the writer makes: 8 bit RGB, filter 0; it checks every checksum."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, {}
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, content = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        (checksum,) = struct.unpack(">I", data[at + 8 + length : at + 12 + length])
        assert checksum == zlib.crc32(kind + content)
        chunks[kind] = content
        at += 12 + length
    width, height, depth, colour, *_ = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert (depth, colour) == (8, 2)
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    lines = torch.tensor(list(zlib.decompress(chunks[b"IDAT"])), dtype=torch.uint8).reshape(height, 1 + 3 * width)
    assert not lines[:, 0].any()
    return lines[:, 1:].reshape(height, width, 3)


def test_png_comes_back_as_it_was():
    rgb = torch.randint(0, 256, (5, 7, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    assert torch.equal(decode_png(encode_png(rgb)), rgb)


def test_other_readers_read_the_png(tmp_path):
    image = pytest.importorskip("PIL.Image")
    rgb = torch.randint(0, 256, (5, 7, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    file = tmp_path / "a.png"
    file.write_bytes(encode_png(rgb))
    with image.open(file) as read:
        assert read.size == (7, 5)
        assert list(read.convert("RGB").tobytes()) == rgb.flatten().tolist()


def test_data_uri():
    kind, _, text = data_uri(torch.zeros(2, 3, 3, dtype=torch.uint8)).partition(",")
    assert kind == "data:image/png;base64"
    assert decode_png(base64.b64decode(text)).shape == (2, 3, 3)


def test_heat_sums_the_channels():
    relevance = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(heat(relevance), relevance.double().sum(0))
    assert torch.equal(heat(relevance[0]), relevance[0].double())


R = torch.tensor([[[1.0, -2.0]], [[-3.0, -1.0]], [[0.5, 2.0]]])  # three channels, one row, two columns


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        ("sum", [-1.5, -1.0]),
        ("abs_sum", [4.5, 5.0]),
        ("max_abs", [-3.0, -2.0]),
        ("positive", [1.5, 2.0]),
        ("negative", [-3.0, -3.0]),
        (0, [1.0, -2.0]),
        (-1, [0.5, 2.0]),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_channels_are_pooled(pool, expected, dtype):
    values = heat(R.to(dtype).requires_grad_(), pool)
    assert values.dtype == torch.float64
    assert not values.requires_grad
    assert values.tolist() == [expected]


def test_positive_and_negative_part_add_up_to_the_sum():
    relevance = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(heat(relevance, "positive") + heat(relevance, "negative"), heat(relevance))


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        (
            "mean",
            "no way to pool channels is called 'mean'.\n  fix  pool= one of 'sum', 'abs_sum', 'max_abs', 'positive', "
            "'negative', or the number of a channel.",
        ),
        (3, "pool=3: there is no such channel; there are 3, 0 to 2."),
    ],
)
def test_ways_to_pool_that_are_none(pool, message):
    with pytest.raises(InputError) as caught:
        heat(R, pool)
    assert str(caught.value) == message


def test_an_overlay_is_its_image_where_nothing_is_relevant_and_all_colour_where_all_is():
    image = torch.full((1, 3, 3), 100, dtype=torch.uint8)
    rgb = overlay_rgb(image, torch.tensor([[0.0, 5.0, -9.0]]), scale=5.0, opacity=1.0)
    assert [tuple(pixel) for pixel in rgb[0].tolist()] == [(100, 100, 100), diverging(1.0), diverging(-1.0)]
    half = overlay_rgb(image, torch.tensor([[2.5, -2.5, math.nan]]), scale=5.0, opacity=0.5)[0].double()
    for pixel, end in zip(half[:2], (1.0, -1.0), strict=True):
        assert torch.allclose(pixel, 75 + torch.tensor(diverging(end)).double() / 4, atol=0.51)
    assert half[2].tolist() == [100, 100, 100]


def test_an_overlay_is_grey_below_unless_asked():
    image = torch.tensor([[[200, 100, 0]]], dtype=torch.uint8)
    nothing = torch.zeros(1, 1)
    assert overlay_rgb(image, nothing, 1.0).flatten().tolist() == [118, 118, 118]
    assert overlay_rgb(image, nothing, 1.0, grey=False).tolist() == image.tolist()


def test_heat_rgb_is_the_colour_map():
    rgb = heat_rgb(torch.tensor([[0.0, 2.0, -2.0, 9.0, math.nan]]), scale=2.0)
    expected = [diverging(v) for v in (0.0, 1.0, -1.0, 1.0, 0.0)]
    assert [tuple(pixel) for pixel in rgb[0].tolist()] == expected


@pytest.mark.parametrize("shape", [(6, 5), (1, 6, 5), (3, 6, 5), (7, 6, 5)])
def test_image_rgb_takes_any_channels(shape):
    rgb = image_rgb(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    assert rgb.shape == (6, 5, 3)
    assert rgb.dtype == torch.uint8


def test_image_rgb_ranges():
    assert image_rgb(torch.tensor([[0.0, 0.5]]))[0, :, 0].tolist() == [0, 128]
    assert image_rgb(torch.tensor([[0, 51]], dtype=torch.uint8))[0, :, 0].tolist() == [0, 51]
    assert image_rgb(torch.tensor([[-2.0, 2.0]]))[0, :, 0].tolist() == [0, 255]
    assert image_rgb(torch.full((2, 2), 5.0)).sum() == 0


def test_patches_sum_up():
    values = torch.randn(20, 13, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    grid = patches(values)
    assert [len(grid), len(grid[0])] == [8, 8]
    assert math.isclose(sum(map(sum, grid)), float(values.sum()), abs_tol=1e-9)
    assert patches(values[:3, :2]) == values[:3, :2].tolist()


def test_extremes():
    assert extremes(torch.tensor([[0.0, 3.0], [-5.0, 1.0]])) == [("for", 3.0, 0, 1), ("against", -5.0, 1, 0)]
    assert extremes(torch.zeros(2, 2)) == []
