"""Norms over groups of channels with their statistic held constant."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import dlbt_core as dlbt
from oracles.cases.group_norms import CHECKS
from oracles.harness import Check, check_books, check_near, check_rule, source


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.id)
def test_group_norms(check: Check) -> None:
    check_rule(check)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_local_response_norm_holds_what_it_divides_by(n: int) -> None:
    """y = x / (k + alpha mean x^2)^beta over neighbouring channels: R_i = R_i, whatever the models spell it with."""
    x = source(31)(2, 5, *[3] * n) if n else source(31)(2, 5, 1)
    weight = source(32)(*x.shape)
    found = dlbt.explain(
        lambda a: (F.local_response_norm(a, 3, alpha=2.0, k=0.7) * weight).flatten(1), x,
        target=dlbt.target.function(lambda out: out.sum(1)), composite="attnlrp", layers="none", audit=True,
    )  # fmt: skip
    check_near(found.inputs["a"], F.local_response_norm(x, 3, alpha=2.0, k=0.7) * weight, 1.0, "elementwise")
    assert not found.ledger.absorbed
    check_books(found, "local response norm")


@pytest.mark.parametrize("form", ["group_norm", "native_group_norm"])
def test_weights_that_carry(form: str) -> None:
    """A norm's weight computed from the input is a factor of a product; a bias is a summand."""
    rand = source(33)
    x, w, b, mask = rand(2, 4, 3), rand(4), rand(4), rand(2, 4, 3)

    def fused(a: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        if form == "group_norm":
            return F.group_norm(a, 2, w, b)
        return torch.native_group_norm(a, w, b, 2, 4, 3, 2, 1e-5)[0]

    def written(a: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return F.group_norm(a, 2) * w[:, None] + b[:, None]

    target = dlbt.target.function(lambda out: (out * mask).sum()[None])
    one, two = (
        dlbt.explain(
            model, x, w, b, target=target, composite="attnlrp", layers="none", audit=True, explain_inputs=list("awb")
        )
        for model in (fused, written)
    )
    for name in "awb":
        check_near(one.inputs[name], two.inputs[name], 1.0, name)
    check_books(one, form)


def test_mean_and_deviation_as_results() -> None:
    """The mean is linear in the input, the deviation is held."""
    x = source(34)(2, 4, 3)

    def model(a: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.native_group_norm(a, None, None, 2, 4, 3, 2, 1e-5)

    mean = dlbt.target.function(lambda out: out[1][:, 1])
    found = dlbt.explain(model, x, target=mean, composite="attnlrp", layers="none", audit=True)
    want = torch.zeros_like(x)
    want[:, 2:] = x[:, 2:] / 6
    check_near(found.inputs["a"], want, 1.0, "mean")
    both = dlbt.target.function(lambda out: out[0][:, 1, 1] + out[2][:, 0])
    found = dlbt.explain(model, x, target=both, composite="attnlrp", layers="none", audit=True)
    check_near(found.ledger.absorbed["statistic"], model(x)[2][:, 0], 1.0, "deviation")
    check_books(found, "native_group_norm")


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_pass_shares_with_a_weight_that_carries(norm: str) -> None:
    """Half to each of the two factors; a statistic's own relevance stays with it."""
    rand = source(35)
    x, w = rand(2, 4, 3), rand(4)

    def model(a: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        if norm == "group":
            return F.group_norm(a, 2, w)
        return F.layer_norm(a.transpose(1, 2), [4], w).transpose(1, 2)

    rules = [(dlbt.Select(op=f"aten.{norm}_norm"), dlbt.Use("pass"))]
    target = dlbt.target.function(lambda out: out.sum()[None])
    found = dlbt.explain(model, x, w, target=target, composite="attnlrp", rules=rules, layers="none", audit=True)
    check_near(found.inputs["a"], model(x, w) / 2, 1.0, "input")
    check_near(found.inputs["w"], model(x, w).sum((0, 2)) / 2, 1.0, "weight")
    check_books(found, norm)
    if norm == "group":
        both = dlbt.target.function(lambda out: out[0][:, 1, 1] + out[2][:, 0])
        native = [(dlbt.Select(op="aten.native_group_norm"), dlbt.Use("pass"))]
        found = dlbt.explain(
            lambda a: torch.native_group_norm(a, None, None, 2, 4, 3, 2, 1e-5), x, target=both, composite="attnlrp",
            rules=native, layers="none", audit=True,
        )  # fmt: skip
        check_books(found, "native_group_norm")
        assert float(found.ledger.absorbed["statistic"].min()) > 0
