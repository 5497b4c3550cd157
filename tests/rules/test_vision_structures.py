"""Parts that vision models are made of: what each absorbs is booked, per sample, and nothing is left over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dlbt_core as dlbt
from oracles.harness import check_books, check_near, source

rand = source(60)


def _scaled(model: nn.Module) -> nn.Module:
    """Weights wide enough that nothing vanishes, and batch norm statistics other than 0 and 1."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and "running_var" not in name:
            tensor.data.normal_(0.0, 0.5, generator=generator)
    return model.double().eval()


def _swin(version: int, shift: int) -> nn.Module:
    from torchvision.models import swin_transformer

    kind = swin_transformer.SwinTransformerBlock if version == 1 else swin_transformer.SwinTransformerBlockV2
    return kind(8, 2, [2, 2], [shift, shift], stochastic_depth_prob=0.3)


def _convnext() -> nn.Module:
    from torchvision.models.convnext import CNBlock

    return nn.Sequential(nn.Conv2d(8, 8, 1), CNBlock(8, 1e-1, 0.3))


def _squeezed() -> nn.Module:
    from torchvision.ops import SqueezeExcitation

    return nn.Sequential(nn.Conv2d(8, 8, 3), nn.Hardswish(), SqueezeExcitation(8, 4, scale_activation=nn.Hardsigmoid))


def _maxvit() -> nn.Module:
    from torchvision.models.maxvit import PartitionAttentionLayer

    return PartitionAttentionLayer(
        8,
        4,
        2,
        "window",
        (4, 4),
        2,
        nn.GELU,
        nn.LayerNorm,
        attention_dropout=0.1,
        mlp_dropout=0.1,
        p_stochastic_dropout=0.2,
    )


def _deformed() -> nn.Module:
    from torchvision.ops import DeformConv2d

    class Deformed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.offset, self.mask, self.main = nn.Conv2d(8, 18, 3), nn.Conv2d(8, 9, 3), DeformConv2d(8, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.main(x, self.offset(x), torch.sigmoid(self.mask(x)))
            return out

    return Deformed()


def _fpn() -> nn.Module:
    from torchvision.ops import FeaturePyramidNetwork

    class Pyramid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.fpn = nn.Conv2d(8, 6, 3, 2, 1), FeaturePyramidNetwork([8, 6], 4)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.fpn({"fine": x, "coarse": self.down(x)})["fine"]
            return out

    return Pyramid()


class _SpatialTransformer(nn.Module):
    """Looks where it has found out to look: Jaderberg et al. 2015."""

    def __init__(self) -> None:
        super().__init__()
        self.where, self.what = nn.Linear(8, 6), nn.Conv2d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        theta = torch.tensor([[1.0, 0, 0], [0, 1, 0]], dtype=x.dtype) + 0.1 * self.where(x.mean((2, 3))).view(-1, 2, 3)
        grid = F.affine_grid(theta, [len(x), 8, 4, 4], align_corners=False)
        return self.what(F.grid_sample(x, grid, align_corners=False))


class _Decoder(nn.Module):
    """Down, up, and beside each other, with norms over groups."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.norm = nn.Conv2d(8, 8, 3, 2, 1), nn.GroupNorm(2, 8)
        self.up, self.other = nn.ConvTranspose2d(8, 8, 2, 2), nn.InstanceNorm2d(8, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        low = F.silu(self.norm(self.down(x)))
        sized = F.interpolate(low, x.shape[-2:], mode="bilinear") + F.interpolate(low, x.shape[-2:], mode="nearest")
        shuffled = F.pixel_shuffle(torch.cat([low] * 4, 1), 2)
        return self.other(torch.cat([self.up(low), sized, shuffled, x], 1).view(len(x), 4, 8, *x.shape[2:]).sum(1))


PARTS: dict[str, Callable[[], nn.Module]] = {
    "swin": lambda: _swin(1, 0), "swin-shifted": lambda: _swin(1, 1), "swin-v2": lambda: _swin(2, 0),
    "swin-v2-shifted": lambda: _swin(2, 1), "convnext": _convnext, "squeeze-excitation": _squeezed, "maxvit": _maxvit,
    "deformable": _deformed, "pyramid": _fpn, "spatial-transformer": _SpatialTransformer, "decoder": _Decoder,
}  # fmt: skip


@pytest.mark.torchvision
@pytest.mark.parametrize("composite", ["auto", "attnlrp", "epsilon", "gradient_times_input"])
@pytest.mark.parametrize("part", list(PARTS))
def test_parts(part: str, composite: str) -> None:
    model, x = _scaled(PARTS[part]()), rand(2, 8, 4, 4)
    x = x.permute(0, 2, 3, 1) if part.startswith("swin") else x

    def flat(x: Tensor) -> Any:
        return model(x).flatten(1).sum(1)

    target = dlbt.target.function(lambda out: out)
    both = dlbt.explain(flat, x, target=target, composite=composite, layers="none", audit=True)
    assert not both.ledger.unassigned
    check_books(both, part)
    for row in range(2):
        alone = dlbt.explain(flat, x[row : row + 1], target=target, composite=composite, layers="none")
        check_near(both.inputs["x"][row : row + 1], alone.inputs["x"], 1.0, f"{part}, row {row}")


@pytest.mark.torchvision
def test_regions_of_several_images_are_not_taken_for_samples() -> None:
    """As many regions as images, all of them of the second image: the first one's relevance is 0."""
    import torchvision

    x, regions = rand(2, 2, 5, 5), torch.tensor([[1, 0.0, 0, 3, 3], [1, 1, 1, 4, 4]], dtype=torch.float64)
    bias = torch.nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def model(x: Tensor) -> Tensor:
        seen = torchvision.ops.roi_align(x, regions, 2) + bias
        return torch.stack([x[0].sum() * 0, seen.sum()])

    found = dlbt.explain(model, x, target=dlbt.target.function(lambda out: out), composite="attnlrp", layers="none")
    assert not found.inputs["x"][0].any()
    check_near(found.ledger.unassigned["constant"], torch.tensor(8.0), 1.0, "what the summand takes")
    assert found.ledger.error <= 1e-12
