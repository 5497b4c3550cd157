"""What must hold between the linear family's variants, on random linear maps and convolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

import dlbt_core as dlbt
from oracles.cases.family import COUPLED, MANY
from oracles.harness import check_near, source

SINGLE = [(variant, parameters) for variant, parameters in MANY if variant not in COUPLED]
"""Variants of one stream."""

quick = settings(max_examples=20, deadline=None, derandomize=True, database=None)


class Map(NamedTuple):
    """A linear map, an input, and what arrives as multipliers."""

    op: str
    options: dict[str, Any]
    x: Tensor
    weight: Tensor
    bias: Tensor | None
    mask: Tensor

    def on(self, x: Tensor) -> Tensor:
        out: Tensor = getattr(F, self.op)(x, self.weight, self.bias, **self.options)
        return out

    def explained(self, variant: str, **parameters: Any) -> Any:
        rules = [(dlbt.Select(op=f"aten.{self.op}"), dlbt.Use(variant, **parameters))]
        return dlbt.explain(
            self.on, self.x, target=dlbt.target.logits(self.mask), rules=rules, composite="attnlrp", layers="none"
        )

    def relevance(self, variant: str, **parameters: Any) -> Tensor:
        found: Tensor = self.explained(variant, **parameters).inputs["x"]
        return found

    def arriving_where(self, condition: Callable[[Tensor], Tensor]) -> Map:
        """Nothing arrives at the other outputs."""
        return self._replace(mask=torch.where(condition(self.on(self.x)), self.mask, 0.0))


@st.composite
def maps(draw: st.DrawFn) -> Map:
    number = st.integers(1, 3)
    rand = source(draw(st.integers(0, 10_000)))
    op = draw(st.sampled_from(["linear", "conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d"]))
    options: dict[str, Any] = {}
    if op == "linear":
        ins, outs = draw(number), draw(number)
        x, weight = rand(*draw(st.sampled_from([(2,), (2, 3)])), ins), rand(outs, ins)
    else:
        n = int(op[-2])
        groups = draw(st.integers(1, 2))
        ins, outs = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
        kernel = [draw(st.integers(1, 3)) for _ in range(n)]
        options = {"groups": groups, "stride": draw(st.integers(1, 3)), "dilation": draw(st.integers(1, 2))}
        options["padding"] = draw(st.integers(0, 1))
        x = rand(2, ins, *(draw(st.integers(3, 5)) for _ in range(n)))
        channels = (ins, outs // groups) if "transpose" in op else (outs, ins // groups)
        weight = rand(*channels, *kernel)
        span = [options["dilation"] * (k - 1) + 1 for k in kernel]
        if "transpose" in op:
            sizes = [
                (s - 1) * options["stride"] + d - 2 * options["padding"] for s, d in zip(x.shape[2:], span, strict=True)
            ]
        else:
            sizes = [s + 2 * options["padding"] - d + 1 for s, d in zip(x.shape[2:], span, strict=True)]
        assume(min(sizes) > 0)
    bias = draw(st.sampled_from([None, rand(outs)]))
    signs = draw(st.sampled_from(["any", "any", "positive"]))
    found = Map(op, options, x.abs() if signs == "positive" else x, weight, bias, x)
    return found._replace(mask=(rand(*found.on(x).shape) * 8).round() / 8)


@quick
@given(maps(), st.lists(st.sampled_from(SINGLE), min_size=4, max_size=4, unique_by=repr))
def test_finite_and_booked(mapped: Map, chosen: list[Any]) -> None:
    for variant, parameters in chosen:
        explanation = mapped.explained(variant, **parameters)
        assert bool(torch.isfinite(explanation.inputs["x"]).all()), (variant, parameters)
        moved = max(1.0, sum(float(t.abs().sum()) for _, t in explanation.ledger.rows()))
        assert float(explanation.ledger.gap.abs().max()) <= 1e-9 * moved, (variant, parameters)


@quick
@given(maps())
def test_gamma_of_zero_is_the_epsilon_rule(mapped: Map) -> None:
    want = mapped.relevance("norm", epsilon=0.1)
    for form in ("generalised", "original"):
        check_near(mapped.relevance("gamma", gamma=0.0, epsilon=0.1, form=form), want, 1.0, form)
    check_near(mapped.relevance("epsilon", epsilon=0.1), want, 1.0, "on multipliers")


@quick
@given(maps())
def test_alpha_beta_of_one_and_zero_is_z_plus(mapped: Map) -> None:
    for more in ({}, {"bias": "dropped"}, {"relative": True}):
        got = mapped.relevance("alpha_beta", alpha=1.0, beta=0.0, epsilon=0.1, **more)
        check_near(got, mapped.relevance("zplus", epsilon=0.1, **more), 1.0, f"{more}")


@quick
@given(maps())
def test_alpha_beta_is_a_line_in_alpha(mapped: Map) -> None:
    one, two, three = (mapped.relevance("alpha_beta", alpha=a, beta=a - 1, epsilon=0.1) for a in (1.0, 2.0, 3.0))
    check_near(three - two, two - one, 1.0, "alpha")


@quick
@given(maps())
def test_large_gamma_leaves_the_winning_side(mapped: Map) -> None:
    """Where z > 0 that is z+; where z < 0, the branch that alpha-beta subtracts: 2 z+ less alpha-beta(2, 1)."""
    excited = mapped.arriving_where(lambda z: z > 1e-3)
    got = excited.relevance("gamma", gamma=1e9, epsilon=0.0)
    check_near(got, excited.relevance("zplus", epsilon=0.0), 1.0, "z > 0", tolerance=1e-5)
    inhibited = mapped.arriving_where(lambda z: z < -1e-3)
    branch = 2 * inhibited.relevance("zplus", epsilon=0.0) - inhibited.relevance("alpha_beta", epsilon=0.0)
    got = inhibited.relevance("gamma", gamma=1e9, epsilon=0.0)
    check_near(got, branch, 1.0, "z < 0", tolerance=1e-5)


@quick
@given(maps())
def test_forms_of_gamma_agree_on_excited_units_of_positive_inputs(mapped: Map) -> None:
    """x >= 0, b = 0, z > 0: then x^+ w^+ are all positive products there are."""
    positive = mapped._replace(x=mapped.x.abs(), bias=None).arriving_where(lambda z: z > 0)
    one, other = (positive.relevance("gamma", gamma=0.7, form=form) for form in ("generalised", "original"))
    check_near(one, other, 1.0, "gamma")


@quick
@given(maps())
def test_rules_of_size_agree_where_nothing_is_negative(mapped: Map) -> None:
    positive = mapped._replace(
        x=mapped.x.abs(), weight=mapped.weight.abs(), bias=None if mapped.bias is None else mapped.bias.abs()
    )
    want = positive.relevance("epsilon")
    for variant in ("zplus", "gamma", "norm"):
        check_near(positive.relevance(variant, epsilon=0.0), want, 1.0, variant)
    check_near(positive.relevance("dlb_default"), want, 1.0, "dlb_default")


@quick
@given(maps())
def test_boundary_rules_meet_the_others(mapped: Map) -> None:
    """A box of zero width leaves the epsilon rule; weights of one size make w^2 flat."""
    bare = mapped._replace(bias=None)
    got = bare.relevance("zbox", low=0.0, high=0.0, epsilon=0.1)
    check_near(got, bare.relevance("norm", epsilon=0.1), 1.0, "box of zero width")
    even = mapped._replace(weight=torch.where(mapped.weight < 0, -1.0, 1.0).double())
    check_near(even.relevance("w_square", bias="dropped"), even.relevance("flat"), 1.0, "w^2")


@quick
@given(maps(), st.sampled_from(["zplus", "alpha_beta", "gamma", "dlb_default", "flat", "w_square"]))
def test_what_is_known_of_the_sign_changes_nothing(mapped: Map, variant: str) -> None:
    """Behind a ReLU rules may leave half of the work: the result is the same."""
    positive = mapped._replace(x=mapped.x.abs() + 0.125)
    rules = [(dlbt.Select(op=f"aten.{mapped.op}"), dlbt.Use(variant))]
    behind = dlbt.explain(
        lambda x: positive.on(torch.relu(x)), positive.x, target=dlbt.target.logits(positive.mask), rules=rules,
        composite="attnlrp", layers="none",
    )  # fmt: skip
    check_near(behind.inputs["x"], positive.relevance(variant), 1.0, variant)


@pytest.mark.parametrize("variant", ["zplus", "alpha_beta", "gamma", "flat", "w_square", "zbox"])
def test_scale_of_the_epsilon_does_not_depend_on_the_other_samples(variant: str) -> None:
    """An epsilon relative to the root mean square is each sample's own."""
    rand = source(40)
    x, weight, bias, mask = rand(3, 4), rand(2, 4), rand(2), rand(3, 2)
    bounds = {"low": -3.0, "high": 3.0} if variant == "zbox" else {}
    alone = Map("linear", {}, x[:1], weight, bias, mask[:1])
    among = Map("linear", {}, torch.cat([x[:1], 100 * x[1:]]), weight, bias, mask)
    got, want = (t.relevance(variant, epsilon=0.5, relative=True, **bounds) for t in (among, alone))
    check_near(got[:1], want, 1.0, variant)
