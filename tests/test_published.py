"""The published composites: which rule they put where, and their parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dlbt_core as dlbt
from dlbt_core.errors import UnknownCompositeError, UnknownParameterError

NAMES = sorted(dlbt.default_plugins().composites)


class Net(nn.Module):
    """Registered in another order than it runs; two convolutions, of which one is batch normed; a sum; two linear maps."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 4)
        self.second = nn.Conv2d(6, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.first = nn.Conv2d(3, 6, 3)
        self.middle = nn.Linear(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        x = torch.relu(x + self.norm(self.second(x)))
        x = nn.functional.adaptive_avg_pool2d(x, 1).flatten(1)
        out: Tensor = self.head(torch.relu(self.middle(x)))
        return out


def net() -> nn.Module:
    torch.manual_seed(0)
    return Net().double().eval()


X = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

PLACES = ("conv2d", "conv2d_1", "linear", "linear_1", "adaptive_avg_pool2d", "add", "relu")
EXPECTED = {
    "epsilon": ("epsilon", "epsilon", "epsilon", "epsilon", "epsilon", "epsilon", "identity"),
    "epsilon_plus": ("zplus", "zplus", "epsilon", "epsilon", "norm", "epsilon", "identity"),
    "epsilon_plus_flat": ("flat", "zplus", "epsilon", "epsilon", "norm", "epsilon", "identity"),
    "epsilon_alpha2_beta1": ("alpha_beta", "alpha_beta", "epsilon", "epsilon", "norm", "epsilon", "identity"),
    "epsilon_alpha2_beta1_flat": ("flat", "alpha_beta", "epsilon", "epsilon", "norm", "epsilon", "identity"),
    "epsilon_gamma_box": ("zbox", "gamma", "epsilon", "epsilon", "norm", "epsilon", "identity"),
    "excitation_backprop": ("zplus", "zplus", "zplus", "zplus", "norm", "epsilon", "identity"),
    "guided_backprop": ("gradient",) * 6 + ("guided_backprop",),
    "deconvnet": ("gradient",) * 6 + ("deconvnet",),
    "beta_smooth": ("gradient",) * 6 + ("beta_smooth",),
    "gradient_times_input": ("gradient",) * 7,
    "vit_gamma": ("gamma", "gamma", "gamma", "gamma", "epsilon", "epsilon", "identity"),
    "dlb_default": ("dlb_default",) * 6 + ("identity",),
    "dlb_contrastive": ("dlb_contrastive",) * 6 + ("identity",),
    "attnlrp": ("epsilon", "epsilon", "epsilon", "epsilon", "epsilon", "epsilon", "identity"),
    "cp_lrp": ("epsilon", "epsilon", "epsilon", "epsilon", "epsilon", "epsilon", "identity"),
    "mamba_lrp": ("epsilon", "epsilon", "epsilon", "epsilon", "epsilon", "epsilon", "identity"),
    "auto": ("epsilon", "epsilon", "epsilon", "epsilon", "epsilon", "epsilon", "identity"),
}


@pytest.mark.parametrize("name", NAMES)
def test_which_rule_where(name: str) -> None:
    """The first convolution is the first that runs, whatever the order of registration."""
    found = dlbt.explain(net(), X, composite=name, audit=True)
    variants = {step.node.name: step.rule.variant for step in found.plan.steps}
    assert tuple(variants[place] for place in PLACES) == EXPECTED[name]
    assert found.ledger.error <= 1e-12
    for account in found.ledger.accounts:
        assert account.leak is not None
        assert float(account.leak.abs().max()) <= 1e-12


@pytest.mark.parametrize("name", NAMES)
def test_batch_norm_is_folded_unless_the_method_is_a_gradient(name: str) -> None:
    model = net()
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    ops = {step.node.op for step in dlbt.explain(model, X, composite=name).plan.steps}
    folded = dlbt.default_plugins().composites.get(name)
    assert ("aten.batch_norm.default" in ops) == (folded is None or not folded.passes)
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())


def test_flat_takes_the_first_linear_map_too() -> None:
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    plan = dlbt.explain(model, torch.randn(2, 8), composite="epsilon_plus_flat").plan
    assert [s.rule.variant for s in plan.steps] == ["flat", "identity", "epsilon"]


@pytest.mark.parametrize("low", [None, -3.0, (-3.0, -2.5, -4.0)])
def test_parameters_reach_the_rules(low: Any) -> None:
    composite = dlbt.composite("epsilon_gamma_box", low=low, high=4, gamma=0.5, epsilon=1e-3, stabiliser=1e-4, bias="dropped")
    plan = dlbt.explain(net(), X, composite=composite).plan
    given = {step.node.name: dict(step.parameters) for step in plan.steps}
    assert given["conv2d"] == {"low": low, "high": 4.0, "epsilon": 1e-4, "relative": False}
    assert given["conv2d_1"] == {
        "gamma": 0.5, "form": "generalised", "epsilon": 1e-4, "relative": False, "bias": "dropped",
    }  # fmt: skip
    assert given["linear"] == {"epsilon": 1e-3, "relative": False, "bias": "dropped"}
    assert given["add"] == {"epsilon": 1e-4}
    assert dlbt.Composite.from_toml(composite.to_toml()) == composite


def test_a_recipe_round_trips_through_toml() -> None:
    for name in NAMES:
        composite = dlbt.default_plugins().composites.get(name)
        if composite is not None:
            assert dlbt.Composite.from_toml(composite.to_toml()) == composite


def test_none_is_no_toml() -> None:
    with pytest.raises(dlbt.errors.DlbtError) as found:
        dlbt.Composite("ours", ((dlbt.Select(op="aten.conv2d"), dlbt.Use("zbox", low=None)),)).to_toml()
    assert str(found.value) == (
        "TOML has no None: leave 'low' out of Use('zbox', low=None) for Select(op='aten.conv2d'), which means its default."
    )


def test_errors() -> None:
    with pytest.raises(UnknownParameterError) as unknown:
        dlbt.composite("epsilon_plus", gamma=0.5)
    assert str(unknown.value) == (
        "the composite 'epsilon_plus' has no parameter 'gamma'. It has: epsilon, stabiliser, bias."
    )
    with pytest.raises(UnknownParameterError) as none:
        dlbt.composite("guided_backprop", beta=1.0)
    assert str(none.value) == "the composite 'guided_backprop' has no parameters."
    with pytest.raises(UnknownCompositeError) as chosen:
        dlbt.composite("auto")
    assert str(chosen.value) == "'auto' is chosen by the model's graph; pass the name itself as composite."
    with pytest.raises(UnknownCompositeError) as near:
        dlbt.composite("epsilon_plas")
    known = ", ".join(dlbt.default_plugins().composites)
    assert str(near.value) == f"no composite 'epsilon_plas'. Did you mean 'epsilon_plus'? There are: {known}."


def test_alpha_beta_refuses_what_does_not_conserve() -> None:
    rules = [(dlbt.Select(op="aten.conv2d"), dlbt.Use("alpha_beta", alpha=2.0, beta=0.5))]
    with pytest.raises(UnknownParameterError) as found:
        dlbt.explain(net(), X, rules=rules)
    assert str(found.value) == (
        "aten.conv2d#alpha_beta: alpha - beta must be 1 and neither negative, so that relevance is conserved; "
        "got alpha=2.0, beta=0.5."
    )


def test_each_is_in_the_documentation() -> None:
    page = (Path(__file__).parent.parent / "docs" / "composites.md").read_text()
    assert [name for name in NAMES if f"`{name}`" not in page] == []


def test_the_modified_gradient_is_there_as_such() -> None:
    found = dlbt.explain(net(), X, composite="gradient_times_input", target=1)
    x = X.clone().requires_grad_()
    (expected,) = torch.autograd.grad(net()(x)[:, 1].sum(), x)
    torch.testing.assert_close(found.multipliers["x"], expected)
    assert dict(dlbt.explain(net(), X, composite="epsilon_plus_flat").multipliers) == {}


def test_a_gate_gets_nothing_if_the_signal_takes_all() -> None:
    """Squeeze and excitation: relevance flows through the signal alone, or is shared evenly if asked to be."""
    se = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 3, 1), nn.Sigmoid())

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.se = se

        def forward(self, x: Tensor) -> Tensor:
            return (self.se(x) * x).mean((2, 3))

    model = Gated().double().eval()
    shared = dlbt.explain(model, X, target=0, rules=[(dlbt.Select(fact="gated"), dlbt.Use("uniform"))], layers="all")
    torch.testing.assert_close(shared.at("sigmoid").sum((1, 2, 3)), shared.score / 2)
    signal = dlbt.explain(model, X, target=0, layers="all")
    assert {s.rule.variant for s in signal.plan.steps if s.node.name == "mul"} == {"signal"}
    assert float(signal.at("sigmoid").abs().max()) == 0
    torch.testing.assert_close(signal.relevance.sum((1, 2, 3)), signal.score)
    expected = torch.zeros_like(X)
    expected[:, 0] = (se(X) * X)[:, 0] / 64
    torch.testing.assert_close(signal.relevance, expected.detach())


def test_a_run_that_hangs_on_the_last_digit_is_explained_unfolded() -> None:
    """Folding moves numbers by a rounding; where that alone changes what the model does, the call goes without it."""

    class Brittle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(self.conv(x))
            digits = float(y.double().sum())  # read to the last of them
            return self.head(torch.relu(y).mean((2, 3)) * (1.0 if digits > -1e9 else 2.0))

    torch.manual_seed(0)
    model, x = Brittle().eval(), torch.randn(1, 3, 8, 8)
    model.norm.running_var.uniform_(0.5, 2.0)
    explainer = dlbt.Explainer(model, "epsilon_plus")
    for _ in range(2):
        found = explainer(x)
        assert found.ledger.error <= 1e-4
        assert {s.rule.variant for s in found.plan.steps if "batch_norm" in s.node.op} == {"pass"}
        assert found.plan.composite_name == (
            "epsilon_plus (without graph passes: what the model does hangs on the last digits of its numbers)"
        )
