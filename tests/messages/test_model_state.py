"""A model in a state in which it cannot be explained, or only with a warning; and numbers that are none: word by word."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dlbt_core as dlbt
from dlbt_core.errors import ModelStateError, NonFiniteError, RandomModelWarning

X = torch.ones(2, 8)


class Lambda(nn.Module):
    """A linear layer behind a function of the input and of the mode."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function, self.linear = function, nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.function(x, self.training))  # type: ignore[no-any-return]


def line_of(function: Any) -> str:
    """Where a function's only line stands."""
    return f"{__file__}:{inspect.getsourcelines(function)[1] + 1}"


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4)).eval()


# -- train mode, batch statistics, chance ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "name"),
    [(nn.Dropout(0.5), "Dropout"), (nn.BatchNorm1d(8), "BatchNorm1d"), (nn.RReLU(), "RReLU")],
    ids=lambda value: str(value),
)
def test_train_mode_is_refused(layer: nn.Module, name: str) -> None:
    model = nn.Sequential(layer, nn.Linear(8, 4)).train()
    state = torch.get_rng_state()
    with pytest.raises(ModelStateError) as caught:
        dlbt.explain(model, X)
    assert str(caught.value) == (
        f"module '0' ({name}) is in train mode: its output depends on chance or on the other samples of the batch.\n"
        "  fix  call model.eval() first."
    )
    assert model.training
    assert layer.training
    assert torch.equal(state, torch.get_rng_state())
    model.eval()
    dlbt.explain(model, X)


def test_train_mode_of_layers_that_do_not_care_is_fine() -> None:
    model = net().train()
    assert torch.equal(dlbt.explain(model, X).relevance, dlbt.explain(model.eval(), X).relevance)


def drop(x: Tensor, training: bool) -> Tensor:
    return nn.functional.dropout(x, 0.5, training)


def test_functional_dropout_in_train_mode_is_refused() -> None:
    with pytest.raises(ModelStateError) as caught:
        dlbt.explain(Lambda(drop).train(), X)
    assert str(caught.value) == (
        "the model is in train mode and draws random numbers: aten.dropout.default in (model) (Lambda) at "
        f"{line_of(drop)}.\n  fix  call model.eval() first."
    )
    assert dlbt.explain(Lambda(drop).eval(), X).ledger.error < 1e-5


def test_batch_norm_without_running_statistics_takes_one_sample() -> None:
    model = nn.Sequential(nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, 4)).eval()
    with pytest.raises(ModelStateError) as caught:
        dlbt.explain(model, X)
    assert str(caught.value) == (
        "batch norm uses the batch's own statistics in 0 (BatchNorm1d): a sample's output depends on the others.\n"
        "  fix  call model.eval() first; if it has no running statistics, explain one sample at a time."
    )


def noisy(x: Tensor, training: bool) -> Tensor:
    return x * torch.rand(8)


def test_a_model_that_draws_in_eval_mode_is_warned_about() -> None:
    with pytest.warns(RandomModelWarning) as caught:
        dlbt.explain(Lambda(noisy).eval(), X)
    assert [str(one.message) for one in caught] == [
        f"the model draws random numbers (aten.rand.default in (model) (Lambda) at {line_of(noisy)}); the explanation keeps "
        "those of the first run."
    ]
    assert caught[0].filename == __file__


# -- numbers that are none ---------------------------------------------------------------------------------------------


def test_nan_in_a_weight_names_the_node() -> None:
    model = net()
    with torch.no_grad():
        model[2].weight[0, 0] = float("nan")  # type: ignore[index,operator,union-attr]
    with pytest.raises(NonFiniteError) as caught:
        dlbt.explain(model, X, target=0)
    assert str(caught.value) == (
        "the score of class 0 is not finite for sample 0, 1.\n"
        "  cause  the first NaN is in node linear_1 (aten.linear.default) in 2 (Linear).\n"
        "  fix    mend the input or the weights; a score that is not a number cannot be handed back."
    )


def test_an_infinite_score() -> None:
    with pytest.raises(NonFiniteError) as caught:
        dlbt.explain(lambda x: x / torch.zeros(8), X, target=0)
    assert str(caught.value) == (
        "the score of class 0 is not finite for sample 0, 1.\n"
        "  cause  an infinite value in the outputs.\n"
        "  fix    mend the input or the weights; a score that is not a number cannot be handed back."
    )


def test_a_slope_that_is_infinite_where_the_score_is_not() -> None:
    with pytest.raises(NonFiniteError) as caught:
        dlbt.explain(lambda x: x.sqrt(), 0 * X, target=0, composite="gradient_times_input")
    assert str(caught.value) == (
        "the relevance of input 'x' is not finite.\n"
        "  fix    find the node with audit=True on float64 weights (model.double()), or give its op another variant."
    )
