"""Pooling, window by window."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.nn import functional as F

import dlbt_core as dlbt
from dlbt_core.plugins.loader import Plugins
from oracles.cases.pooling import CHECKS
from oracles.harness import Arriving, Case, Check, check_books, check_near, check_rule, relevances, source
from oracles.probe import plugins_with_probe, probe

PICKS = ("gradient", "winner", "dlb_default")
LARGEST = [c for c in CHECKS if "max_pool" in c.case.op and c.variant in PICKS and not c.parameters]


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return plugins_with_probe()


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.id)
def test_pooling(check: Check) -> None:
    check_rule(check)


@pytest.mark.parametrize("check", LARGEST[::4], ids=lambda c: c.id)
def test_a_pick_takes_relevance_as_it_is(check: Check, plugins: Plugins) -> None:
    case = check.case
    explanation, R = probe(case, check.variant, plugins)
    expected = check.oracle(case, Arriving([], R, case.outputs()))
    check_near(relevances(explanation, case)[0], expected.inputs[0], 1.0, check.id)
    check_books(explanation, check.id)


@pytest.mark.parametrize("variant", PICKS)
def test_a_largest_element_that_is_zero_gets_relevance_all_the_same(variant: str, plugins: Plugins) -> None:
    """Behind a ReLU a window may be all zeros: as a multiplier its relevance could not be told."""
    x = torch.tensor([[[[0.0, -1.0, 2.0, 1.0]]]], dtype=torch.float64)
    case = Case("aten.max_pool2d", "zero", partial(torch.max_pool2d, kernel_size=(1, 2)), (x,))
    explanation, R = probe(case, variant, plugins)
    check_near(explanation.inputs["a"].flatten()[[0, 2]], R[0].flatten(), 1.0, variant)
    check_books(explanation, variant)


@pytest.mark.parametrize("order", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("pool", [F.lp_pool1d, F.lp_pool2d, F.lp_pool3d])
def test_lp_pools_share_by_powers(pool: object, order: float) -> None:
    """(sum |x|^p)^(1/p): each element by its part of the sum."""
    n = (F.lp_pool1d, F.lp_pool2d, F.lp_pool3d).index(pool) + 1  # type: ignore[arg-type]
    x = source(30)(2, 2, *[4] * n).abs()
    found = dlbt.explain(
        lambda a: pool(a, order, 2).flatten(1), x, target=1, composite="attnlrp", layers="none", audit=True  # type: ignore[operator]
    )  # fmt: skip
    powers = x.pow(order)
    window = (slice(None), 0, *[slice(0, 2)] * (n - 1), slice(2, 4))
    part = powers[window] / powers[window].flatten(1).sum(1).view(-1, *[1] * n)
    check_near(found.inputs["a"][window], part * found.score.view(-1, *[1] * n), 1.0, "window")
    check_books(found, "lp_pool")
