"""Decays, masks and exponents: what nearly cancels in them must not blow up, nor what is infinite become not a number."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dlbt_core as dlbt
from oracles.harness import check_books, check_near, source

T, D = 6, 4


class Decaying(nn.Module):
    """Linear attention whose weights decay by sums of logarithms: exp(g_i - g_j), as in gated delta rules."""

    def __init__(self) -> None:
        super().__init__()
        rand = source(61)
        self.w, self.a = nn.Parameter(rand(3, D, D)), nn.Parameter(rand(D))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (x @ w for w in self.w)
        g = -F.softplus(x @ self.a).cumsum(-1)
        decay = (g.unsqueeze(-1) - g.unsqueeze(-2)).tril().exp().tril()
        return ((q @ k.mT) * decay) @ v


def _explained(model: nn.Module, x: Tensor, mask: Tensor, composite: str = "attnlrp") -> dlbt.Explanation:
    return dlbt.explain(model, x, target=dlbt.target.logits(mask), composite=composite, audit=True, layers="none")


def test_exponents_that_are_0_or_nearly() -> None:
    """On the diagonal g_i - g_i is 0: with exp(x) / x as the slope a million times the score would go to and fro."""
    rand = source(62)
    x, mask = rand(2, T, D), rand(2, T, D)
    exact = _explained(Decaying().eval(), x, mask)
    single = _explained(Decaying().float().eval(), x.float(), mask.float())
    check_books(exact, "float64")
    assert single.ledger.error <= 1e-4
    check_near(single.inputs["x"], exact.inputs["x"], 1.0, "float32", 1e-4)
    for account in exact.ledger.accounts:
        received = account.received
        assert received is not None
        assert float(received.abs().max()) <= 1e3 * float(exact.score.abs().max()), account.op


def test_decay_of_one_step() -> None:
    """y = x exp(a): half to x, and half of a to its exponent, of whose Taylor expansion the constant absorbs the rest."""
    rand = source(63)
    x, a, mask = rand(2, 3), rand(2, 3), rand(2, 3)
    found = dlbt.explain(
        lambda x, a: x * torch.exp(a), x, a, target=dlbt.target.logits(mask), composite="attnlrp", audit=True
    )  # fmt: skip
    R = mask * x * a.exp()
    check_near(found.inputs["x"], R / 2, 1.0, "x")
    check_near(found.inputs["a"], R * a / 2, 1.0, "a")
    check_near(found.ledger.absorbed["constant"], (R * (1 - a) / 2).sum(1), 1.0, "constant")


def test_a_mask_that_takes_only_its_dtype_from_a_value_is_constant() -> None:
    """What comes back to a large penalty on masked positions would be lost in rounding, as in Funnel."""
    rand = source(64)
    x, mask, kept = rand(2, T, D), rand(2, T, D), torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])

    def model(x: Tensor, kept: Tensor) -> Tensor:
        penalty = 1e6 * (1 - kept.type_as(x))
        return torch.softmax(x @ x.mT - penalty.unsqueeze(1), -1) @ x

    found = dlbt.explain(model, x.float(), kept, target=dlbt.target.logits(mask.float()), composite="attnlrp")
    ops = {step.node.op for step in found.plan.steps}
    assert "aten.type_as.default" not in ops
    assert found.ledger.error <= 1e-4


def test_rows_of_which_all_is_masked() -> None:
    """Their softmax is not a number, and the model puts 0 in its place: they have no part in the score."""
    rand = source(65)
    x, mask, kept = rand(2, T, D), rand(2, T, D), torch.ones(2, T, dtype=torch.bool)
    kept[1, 4:] = False

    def model(x: Tensor) -> Tensor:
        both = kept.unsqueeze(1) & kept.unsqueeze(2)
        weights = torch.softmax((x @ x.mT).masked_fill(~both, -torch.inf), -1)
        return weights.masked_fill(~both, 0.0) @ x

    found = dlbt.explain(model, x, target=dlbt.target.logits(mask), composite="attnlrp", audit=True)
    check_books(found, "masked rows")
    assert not found.inputs["x"][1, 4:].any()
    short = dlbt.explain(
        lambda x: torch.softmax(x @ x.mT, -1) @ x, x[1:, :4], target=dlbt.target.logits(mask[1:, :4]), composite="attnlrp"
    )  # fmt: skip
    check_near(found.inputs["x"][1:, :4], short.inputs["x"], 1.0, "the others")
