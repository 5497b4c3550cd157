"""A small model of each family of torchvision, under the composites for vision, in float64. All models: ``make zoo``."""

from __future__ import annotations

import pytest
import torch
import zoo_models
from zoo_torchvision import COMPOSITES, LIMITS, rows

pytestmark = pytest.mark.torchvision

FAMILIES = [
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3", "mnasnet0_5", "mobilenet_v2",
    "mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf", "resnet18", "resnext50_32x4d", "shufflenet_v2_x0_5",
    "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11_bn", "vit_b_32",
    "deeplabv3_mobilenet_v3_large", "fcn_resnet50", "lraspp_mobilenet_v3_large",
    "mc3_18", "r2plus1d_18", "swin3d_t",
    "fasterrcnn_mobilenet_v3_large_320_fpn", "fcos_resnet50_fpn", "keypointrcnn_resnet50_fpn",
    "retinanet_resnet50_fpn", "ssdlite320_mobilenet_v3_large",
]  # fmt: skip

SMALLER = {zoo_models.VIDEO: 32, zoo_models.DETECTION: 64}


@pytest.mark.parametrize("name", FAMILIES)
def test_family(name: str) -> None:
    """Every op has a rule, relevance is finite and not all 0, and the books close."""
    entry = zoo_models.entry(name)
    found = rows(entry.resized(SMALLER.get(entry.kind)), list(COMPOSITES), torch.float64, repeats=0)
    wrong = [row for row in found if row.verdict(LIMITS[torch.float64])]
    assert not wrong, "\n".join(f"{r.composite}: {r.missing} {r.failure} {r.error:.1e}" for r in wrong)
