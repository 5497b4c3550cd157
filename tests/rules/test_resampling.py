"""Resampling, pixel by pixel; and regions of an image."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import dlbt_core as dlbt
from dlbt_core.plugins.loader import Plugins
from oracles.cases import detection, resampling
from oracles.harness import Arriving, Check, amounts, check_books, check_near, check_rule, relevances, source
from oracles.probe import plugins_with_probe, probe


@pytest.mark.parametrize("check", resampling.CHECKS, ids=lambda c: c.id)
def test_resampling(check: Check) -> None:
    check_rule(check)


@pytest.mark.torchvision
@pytest.mark.parametrize("check", detection.CHECKS, ids=lambda c: c.id)
def test_regions(check: Check) -> None:
    check_rule(check)


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return plugins_with_probe()


@pytest.mark.parametrize("check", resampling.COPIED, ids=lambda c: c.id)
def test_copied_pixels_take_relevance_as_it_is(check: Check, plugins: Plugins) -> None:
    case = replace(check.case, batched=False)
    explanation, R = probe(case, check.variant, plugins)
    expected = check.oracle(case, Arriving([], R, []))
    check_near(relevances(explanation, case)[0], expected.inputs[0], 1.0, check.id)
    found = amounts(explanation, batched=False).get("constant", torch.zeros(()))
    check_near(found, expected.absorbed["constant"], 1.0, f"{check.id}: padding")
    check_books(explanation, check.id)


@pytest.mark.torchvision
def test_what_the_kernels_do_not_agree_on_is_booked() -> None:
    """torchvision's ps_roi_pool leaves the last row and column out, its derivative does not."""
    import torchvision

    x, regions = source(15)(1, 8, 5, 6), torch.tensor([[0.0, 2.0, 2.0, 5.0, 5.0]], dtype=torch.float64)
    found = dlbt.explain(
        lambda a: torchvision.ops.ps_roi_pool(a, regions, 2), x, composite="attnlrp", layers="none", audit=True,
        target=dlbt.target.function(lambda out: out.sum()[None]),
    )  # fmt: skip
    assert float(found.ledger.absorbed["kernel"].abs()) > 0.1
    check_books(found, "ps_roi_pool")
