"""Activations and other functions of one tensor, also at 0 and far from it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

import dlbt_core as dlbt
from dlbt_core.plugins.loader import default_plugins
from oracles.cases.elementwise import ABSENT, AT_ZERO, CHECKS
from oracles.harness import Case, Check, check_books, check_near, check_rule, run
from oracles.probe import plugins_with_probe, probe


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.id)
def test_elementwise(check: Check) -> None:
    check_rule(check)


@pytest.mark.parametrize(("name", "fn", "slope"), AT_ZERO, ids=[row[0] for row in AT_ZERO])
def test_multiplier_at_zero_is_the_limit(name: str, fn: Any, slope: float) -> None:
    """x = u_1 + u_2 = 0: its relevance is 0, but u_1 and u_2 get u m_x each, with m_x = m lim f(x) / x."""
    u = torch.tensor([[1.5, -1.5], [-0.25, 0.25]], dtype=torch.float64)
    mask = torch.tensor([2.0, -3.0], dtype=torch.float64)
    target = dlbt.target.function(lambda z: z * mask)
    explanation = dlbt.explain(lambda a: fn(a.sum(-1)), u, target=target, composite="attnlrp", layers="none")
    check_near(explanation.inputs["a"], u * (mask * slope)[:, None], 1.0, name)


ROOTS = [("sqrt", torch.sqrt), ("pow 0.5", lambda x: x**0.5), ("pow 0.3", lambda x: x**0.3)]


@pytest.mark.parametrize(("name", "fn"), ROOTS, ids=[row[0] for row in ROOTS])
def test_root_of_zero_hands_back_the_zero_it_got(name: str, fn: Any) -> None:
    """f(0) = 0, so R = 0 there; the slope is infinite, but the identity rule is R_in = R_out."""
    x = torch.tensor([[0.0, 4.0], [1.0, 0.0]], dtype=torch.float64)
    mask = torch.tensor([[2.0, 3.0], [-1.0, 5.0]], dtype=torch.float64)
    explanation = dlbt.explain(fn, x, target=dlbt.target.logits(mask), composite="attnlrp", layers="none", audit=True)
    (relevance,) = explanation.inputs.values()
    check_near(relevance, mask * fn(x), 1.0, name)
    check_books(explanation, name)


CONSTANT = [
    ("power 0", lambda x: x**0),
    ("0-norm", lambda x: torch.linalg.vector_norm(x, 0, dim=-1)),
    ("floor division", lambda x: torch.div(x, 0.4, rounding_mode="floor")),
    ("division to zero", lambda x: torch.div(x, 0.4, rounding_mode="trunc")),
]


@pytest.mark.parametrize(("name", "fn"), CONSTANT, ids=[row[0] for row in CONSTANT])
def test_books_close_where_the_function_is_constant_in_steps(name: str, fn: Any) -> None:
    """Whoever gets the relevance, it is somewhere: with the input, or absorbed, or the call is refused."""
    x = torch.tensor([[1.5, -4.0], [1.0, 0.7]], dtype=torch.float64)

    def model(a: torch.Tensor) -> torch.Tensor:
        return torch.stack([fn(a).reshape(2, -1).sum(1), a.sum(1)], 1)

    mask = torch.tensor([[1.0, 0.5]], dtype=torch.float64)
    explanation = dlbt.explain(
        model, x, target=dlbt.target.logits(mask), composite="attnlrp", layers="none", audit=True
    )
    check_books(explanation, name)


def test_bounds_that_broadcast() -> None:
    """R_i = x / (x + eps sgn x) R, summed over what an element was broadcast to."""
    x, low = torch.tensor([0.5, -2.0, 3.0], dtype=torch.float64), torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    mask = torch.tensor([[1.0, 2.0, -1.0], [0.5, 3.0, 2.0]], dtype=torch.float64)
    target = dlbt.target.function(lambda z: (z * mask).sum())
    explanation = dlbt.explain(lambda a: torch.clamp(a, min=low), x, target=target, composite="attnlrp", layers="none")
    want = (mask * torch.maximum(x, low) * (x / (x + 1e-6 * x.sign()))).sum(0)
    check_near(explanation.inputs["a"], want, 1.0, "clamp")


def test_slope_that_carries_shares_with_the_input() -> None:
    """PReLU is a product where x < 0: halves there (Achtibat et al. 2024, prop. 3.2), all to x elsewhere."""
    x = torch.tensor([[1.5, -2.0], [-1.0, 0.5]], dtype=torch.float64)
    weight = torch.tensor([0.5, -0.25], dtype=torch.float64)
    check = Check(Case("aten.prelu", "both", F.prelu, (x, weight)), "identity", lambda *_: None)  # type: ignore[arg-type, return-value]
    R = F.prelu(x, weight)
    explanation = run(check, [torch.ones_like(x)])
    check_near(explanation.inputs["a"], torch.where(x > 0, R, R / 2), 1.0, "input")
    check_near(explanation.inputs["b"], torch.where(x > 0, 0.0, R / 2).sum(0), 1.0, "slope")
    check_books(explanation, "prelu")


def test_absent_ops_are_absent() -> None:
    for name in ABSENT:
        assert not hasattr(torch.ops.aten, name.split(".")[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_messages_keep_the_precision_of_the_values(dtype: torch.dtype) -> None:
    """A stabiliser made of Python numbers must not turn messages into another precision, nor be rounded itself."""
    x = torch.tensor([[0.5, -2.0, 3.0]], dtype=dtype)
    explanation = dlbt.explain(torch.sigmoid, x, target=dlbt.target.logits(), composite="attnlrp", layers="none")
    (relevance,) = explanation.inputs.values()
    assert relevance.dtype == dtype


def test_the_default_dtype_does_not_matter() -> None:
    x = torch.tensor([[0.5, -2.0, 3.0]], dtype=torch.float64)
    rules = [(dlbt.Select(op="aten.sigmoid"), dlbt.Use("identity", epsilon=0.1))]
    found = []
    before = torch.get_default_dtype()
    try:
        for dtype in (torch.float32, torch.float64):
            torch.set_default_dtype(dtype)
            target = dlbt.target.logits()
            explanation = dlbt.explain(torch.sigmoid, x, target=target, rules=rules, composite="attnlrp", layers="none")
            found.append(next(iter(explanation.inputs.values())))
    finally:
        torch.set_default_dtype(before)
    assert torch.equal(*found)


EITHER = {str(rule.op) for rule in default_plugins().registry if rule.variant == "identity" and rule.takes == "either"}
IDENTITIES = {c.case.op: c.case for c in reversed(CHECKS) if c.variant == "identity" and c.case.op in EITHER}


@pytest.fixture(scope="module")
def plugins() -> Any:
    return plugins_with_probe()


@pytest.mark.parametrize("case", IDENTITIES.values(), ids=IDENTITIES)
def test_relevance_passes_unchanged(case: Case, plugins: Any) -> None:
    """R_in = R_out (Achtibat et al. 2024, eq. 9) to the last bit, whatever x and f(x) are, if relevance is what arrives."""
    explanation, (R,) = probe(case, "identity", plugins)
    assert torch.equal(explanation.inputs["a"], R)
    check_books(explanation, case.op)
