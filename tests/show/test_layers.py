"""Relevance of layers as maps: places are told from channels and tokens by the image's proportions."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import dlbt_core as dlbt
from dlbt_core.errors import InputError
from dlbt_core.show.layers import as_feature_map, layer_maps


@pytest.mark.parametrize(
    ("shape", "size", "places"),
    [
        ((5, 8, 6), (32, 24), (8, 6)),
        ((7, 7, 512), (224, 224), (7, 7)),  # channels last
        ((512, 7, 7), (224, 224), (7, 7)),
        ((8, 11, 9), (170, 137), (11, 9)),  # strides that do not divide the image
        ((512, 1, 1), (224, 224), None),  # pooled
        ((64, 50, 7), (224, 224), None),
        ((196, 8), (224, 224), (14, 14)),
        ((197, 8), (224, 224), (14, 14)),  # class token
        ((261, 8), (224, 224), (16, 16)),  # class token and registers
        ((1 + 8 * 6, 8), (64, 48), (8, 6)),
        ((10, 8), (64, 64), None),
        ((3, 8), (64, 64), None),
        ((8,), (64, 64), None),
    ],
)
def test_shapes(shape, size, places):
    features = as_feature_map(torch.ones(shape), size)
    assert (None if features is None else tuple(features.shape[1:])) == places


def test_tokens_go_to_their_places():
    tokens = torch.arange(1 + 8 * 6).double()[:, None].expand(-1, 2)
    features = as_feature_map(tokens, (64, 48))
    assert features.shape == (2, 8, 6)
    assert features[0].tolist() == [[1 + 6 * row + column for column in range(6)] for row in range(8)]


@pytest.fixture(scope="module")
def explained():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        part = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())
        model = nn.Sequential(
            nn.Conv2d(3, 4, 2, stride=2), part, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
        )
        return dlbt.explain(model.eval(), torch.randn(2, 3, 8, 6), layers="modules")


def test_maps_are_the_layers_relevance_summed_over_channels(explained):
    maps = layer_maps(explained, 1, (8, 6))
    assert list(maps) == ["0", "1.0", "1.1"]  # "1" has the map of its last part, and pooled values have no places
    for name, values in maps.items():
        assert torch.allclose(values, explained.at(name)[1].double().sum(0))
    assert list(layer_maps(explained, 1, (8, 6), layers=["1", "1.?"])) == ["1.0", "1.1", "1"]
    assert torch.equal(layer_maps(explained, 0, (8, 6), pool="positive")["0"],
                       explained.at("0")[0].double().clamp(min=0).sum(0))  # fmt: skip


def test_no_layer_fits(explained):
    with pytest.raises(InputError) as caught:
        layer_maps(explained, 0, (8, 6), layers=["3", "head"])
    names = ", ".join(map(repr, explained.layers))
    assert str(caught.value) == (
        f"no layer that fits '3', 'head' has relevance that can be shown as a map.\n  found  {names}\n"
        "  fix    explain(..., layers='modules') keeps every module's output, layers=[...] those that match."
    )
    with pytest.raises(InputError) as caught:
        layer_maps(replace(explained, layers={}), 0, (8, 6), layers=["3"])
    assert str(caught.value) == (
        "no layer that fits '3' has relevance that can be shown as a map.\n  found  no layers were kept\n"
        "  fix    explain(..., layers='modules') keeps every module's output, layers=[...] those that match."
    )
