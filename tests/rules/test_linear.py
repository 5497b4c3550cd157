"""Linear family: relevance, bias, epsilon and product amounts against the dense formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

import dlbt_core as dlbt
from dlbt_core.errors import DlbtError, UnknownParameterError
from dlbt_core.plugins.loader import Plugins
from dlbt_core.testing.streams import streams_of
from oracles.cases.family import COUPLED, ORACLES
from oracles.cases.linear import CHECKS
from oracles.harness import Arriving, Case, Check, amounts, check_books, check_near, check_rule, relevances, source
from oracles.probe import plugins_with_probe, probe


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.id)
def test_linear_family(check: Check) -> None:
    check_rule(check)


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_inputs_that_are_all_zero(epsilon: float) -> None:
    """After a ReLU a sample may be all zeros: its z is the bias alone. Nothing to hand on, and the books close."""
    rand = source(50)
    w, b, x = rand(3, 4), rand(3), rand(2, 4)
    x[1] = 0.0
    for bias in ("denominator", "dropped"):
        rules = [(dlbt.Select(op="aten.linear"), dlbt.Use("epsilon", epsilon=epsilon, bias=bias))]
        explanation = dlbt.explain(
            lambda a: F.linear(a, w, b), x, target=0, rules=rules, composite="attnlrp", layers="none", audit=True
        )
        check_near(explanation.inputs["a"][1], torch.zeros(4, dtype=torch.float64), 1.0, "zeros")
        check_books(explanation, bias)


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return plugins_with_probe()


@pytest.mark.parametrize("variant", [name for name in ORACLES if name not in ("epsilon", "norm")])
def test_any_relevance_at_outputs_that_are_zero(variant: str, plugins: Plugins) -> None:
    """From a layer above that takes relevance more may arrive at a unit than its z: also where z is 0."""
    x = torch.tensor([[1.0, -1.0, 2.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    w = torch.tensor([[1.0, 0.5, 0.0, -1.0], [1.0, -0.5, 0.0, 1.0], [0.0, 1.0, 0.0, 1.0]], dtype=torch.float64)
    case = Case("aten.mm", "zeros", torch.mm, (x,), (w,))
    assert int((case.outputs()[0] == 0).sum()) == 7
    explanation, R = probe(case, variant, plugins)
    expected = ORACLES[variant](case, Arriving([], R, case.outputs()))
    check_near(relevances(explanation, case)[0], expected.inputs[0], 1.0, variant, tolerance=1e-8)
    found = amounts(explanation, batched=False)
    for name, amount in expected.absorbed.items():
        check_near(found.get(name, torch.zeros(()).double()), amount.sum(), 1.0, f"{variant}: {name}", tolerance=1e-8)
    check_books(explanation, variant)


@pytest.mark.parametrize("variant", list(COUPLED))
def test_two_streams_at_outputs_that_are_zero(variant: str) -> None:
    """Where positive and negative products cancel the unit speaks for neither; where there are none nothing is shared."""
    x = torch.tensor([[0.0, 0.0, 0.0], [1.0, -1.0, 2.0]], dtype=torch.float64)
    w = torch.tensor([[1.0, 0.5, -1.0, 0.0], [1.0, -0.5, 1.0, 0.0], [0.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
    case = Case("aten.mm", "zeros", torch.mm, (x,), (w,))
    assert int((case.outputs()[0] == 0).sum()) == 6
    found = check_rule(Check(case, variant, COUPLED[variant], streams=True))
    assert all(float(stream.ledger.absorbed["dropped"].abs().sum()) > 0.1 for stream in streams_of(found))


@pytest.mark.parametrize(
    ("op", "fn", "shape"),
    [("linear", lambda x, w: F.linear(x, w), (2, 4)), ("mv", lambda x, w: w.mv(x), (4,))],
)
def test_pass_needs_an_output_of_the_inputs_shape(op: str, fn: Any, shape: tuple[int, ...]) -> None:
    x, w = source(51)(*shape), source(52)(3, 4)
    rules = [(dlbt.Select(op=f"aten.{op}"), dlbt.Use("pass"))]
    with pytest.raises(DlbtError) as caught:
        dlbt.explain(
            lambda a: fn(a, w).sum(), x, rules=rules, composite="attnlrp", target=dlbt.target.function(lambda z: z)
        )
    rule = dlbt.default_plugins().registry.find(f"aten.{op}.default", "pass")
    assert str(caught.value) == (
        f"core:aten.{op}#pass returned a message of shape {tuple(fn(x, w).shape)} for a value of shape {shape} (node {op} "
        f"in (model) (function) at {__file__}:{fn.__code__.co_firstlineno}).\n"
        "  fix    hand on a message of that shape; where the rule is not yours, give the op another variant.\n"
        f"  where  {rule.location}"
    )


@pytest.mark.parametrize(("alpha", "beta"), [(2.0, 0.5), (1.0, 1.0), (0.5, -0.5)])
def test_alpha_and_beta_must_conserve(alpha: float, beta: float) -> None:
    rules = [(dlbt.Select(op="aten.linear"), dlbt.Use("alpha_beta", alpha=alpha, beta=beta))]
    x, w = source(53)(2, 4), source(54)(3, 4)
    with pytest.raises(UnknownParameterError) as caught:
        dlbt.explain(lambda a: F.linear(a, w), x, rules=rules, composite="attnlrp")
    assert str(caught.value) == (
        "aten.linear#alpha_beta: alpha - beta must be 1 and neither negative, so that relevance is conserved; got "
        f"alpha={alpha}, beta={beta}."
    )


@pytest.mark.parametrize(
    ("variant", "given", "message"),
    [
        ("epsilon", {"epsilon": -0.1}, "core:aten.linear#epsilon: parameter 'epsilon' is at least 0, not -0.1."),
        ("gamma", {"gamma": -2}, "core:aten.linear#gamma: parameter 'gamma' is at least 0, not -2.0."),
        ("zplus", {"epsilon": float("nan")}, "core:aten.linear#zplus: parameter 'epsilon' is not a number."),
        (
            "zbox",
            {"low": 1.0, "high": -1.0},
            "aten.linear#zbox: low=1.0 is above high=-1.0; inputs lie between them.",
        ),
        (
            "zbox",
            {"low": (0.0, 0.0, 0.5, 0.0), "high": 0.25},
            "aten.linear#zbox: low=(0.0, 0.0, 0.5, 0.0) is above high=0.25; inputs lie between them.",
        ),
    ],
)
def test_parameters_out_of_their_range(variant: str, given: dict[str, Any], message: str) -> None:
    x, w = source(53)(2, 4), source(54)(3, 4)
    with pytest.raises(UnknownParameterError) as caught:
        dlbt.explain(
            lambda a: F.linear(a, w), x, rules=[(dlbt.Select(op="aten.linear"), dlbt.Use(variant, **given))]
        )
    assert str(caught.value) == message
    asked = ["  asked by    this call's rules: Select(op='aten.linear')"]
    assert getattr(caught.value, "__notes__", []) == (asked if "parameter" in message else [])


SIGNED = ["zplus", "alpha_beta", "gamma", "flat", "w_square", "zbox", "dlb_default"]


@pytest.mark.parametrize("variant", [*SIGNED, "epsilon", "norm", "pass"])
def test_books_close_where_only_the_bias_carries(variant: str) -> None:
    rand = source(55)
    x, w = rand(2, 3), rand(3, 3)
    explanation = dlbt.explain(
        lambda c: F.linear(x, w, c), rand(3), target=dlbt.target.function(lambda z: (z * x).sum()), composite="attnlrp",
        rules=[(dlbt.Select(op="aten.linear"), dlbt.Use(variant))], layers="none", audit=True,
    )  # fmt: skip
    check_books(explanation, variant)


class _Scaled(torch.nn.Module):
    """One weight, used twice on different scales."""

    def __init__(self, scales: tuple[float, ...]) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(source(56)(4, 3))
        self.bias = torch.nn.Parameter(source(57)(3))
        self.scales = scales

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.addmm(self.bias, x, self.weight, alpha=a) for a in self.scales], 1).sum(1)


@pytest.mark.parametrize("variant", SIGNED)
def test_what_is_made_of_weights_is_not_mixed_up(variant: str) -> None:
    """Derived weights are kept from call to call: for each op its own, and made anew when the parameter changes."""
    x, mask = source(58)(2, 4), source(59)(2, 3)
    rules = [(dlbt.Select(op="aten.addmm"), dlbt.Use(variant))]

    def explainer(*scales: float) -> Any:
        return dlbt.Explainer(_Scaled(scales), composite="attnlrp", rules=rules, layers="none")

    target = dlbt.target.logits(mask)
    both = explainer(1.0, -2.0)
    for _ in range(2):
        parts = [explainer(1.0), explainer(-2.0)]
        for part in parts:
            part.model.load_state_dict(both.model.state_dict())
        want = sum(part(x, target=target).inputs["x"] for part in parts)
        check_near(both(x, target=target).inputs["x"], want, 1.0, variant)
        with torch.no_grad():
            both.model.weight.mul_(-1.0).add_(0.25)
