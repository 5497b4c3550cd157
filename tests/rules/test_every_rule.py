"""What must hold for every registered rule, whoever brought it. A rule without a sample fails."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from dlbt_core.plugins.loader import default_plugins
from oracles.cases.every import ABSENT, ALL, UNBATCHED, samples, tried_in_all_ways
from oracles.harness import (
    Check,
    amounts,
    assert_books,
    assert_near,
    check_rule,
    masks_for,
    relevances,
    run,
)
from oracles.streams import streams_of

BUNDLED = ("core", "nlp", "vision")
RULES = [(row["op"], row["variant"]) for row in default_plugins().registry.table() if row["plugin"] in BUNDLED]
LINEAR = {(str(rule.op), rule.variant): rule.linear for rule in default_plugins().registry}
SAMPLES = [check for op, variant in RULES for check in samples(op, variant)]
THOROUGH = [check for check in SAMPLES if tried_in_all_ways(check)]
SOLE = [check for op, variant in RULES for check in samples(op, variant)[:1] if tried_in_all_ways(check)]


@pytest.mark.parametrize(("op", "variant"), RULES, ids=[f"{op}#{variant}" for op, variant in RULES])
def test_every_rule_has_a_sample(op: str, variant: str) -> None:
    if op in ABSENT:
        assert not hasattr(torch.ops.aten, op.split(".")[1])
        return
    assert samples(op, variant), f"{op}#{variant} has no sample: add a case with an oracle to tests/oracles/cases"


def test_every_sample_has_a_rule() -> None:
    assert {(c.case.op, c.variant) for c in ALL} <= set(RULES)


def test_all_rules_but_few_have_a_batched_sample() -> None:
    rules = {(op, variant) for op, variant in RULES if op not in ABSENT}
    batched = {(op, variant) for op, variant in rules if any(c.case.batched for c in samples(op, variant))}
    ops = {op for op, _ in batched}
    of_no_rule = {op for op, _ in rules if op not in ops}
    of_some = {f"{op}#{variant}" for op, variant in rules - batched if op in ops}
    assert of_no_rule | of_some == UNBATCHED


@pytest.mark.parametrize("check", [c for c in SAMPLES if c.case.op == "aten.detach"], ids=lambda c: c.id)
def test_detach(check: Check) -> None:
    check_rule(check)


def _all(explanation: Any, check: Check) -> list[tuple[str, torch.Tensor]]:
    """Relevances and amounts of all streams, with their names."""
    found = []
    for name, stream in zip(("", *explanation.streams), streams_of(explanation), strict=True):
        here = [(f"input {i}", r) for i, r in enumerate(relevances(stream, check.case))]
        here += sorted(amounts(stream, check.case.batched).items())
        found += [(f"{what}{name and f', {name}'}", tensor) for what, tensor in here]
    return found


@pytest.mark.parametrize("check", [c for c in THOROUGH if LINEAR[c.case.op, c.variant]], ids=lambda c: c.id)
def test_linear_in_the_message(check: Check) -> None:
    """A rule handed a m1 + b m2 gives a times what it gives for m1 and b times what it gives for m2."""
    z = check.case.outputs()
    first, second = masks_for(z, 1), masks_for(z, 2)
    both = [2.5 * m - 0.75 * n for m, n in zip(first, second, strict=True)]
    one, two, three = (_all(run(check, masks), check) for masks in (first, second, both))
    for (name, a), (_, b), (_, c) in zip(one, two, three, strict=True):
        assert_near(c, 2.5 * a - 0.75 * b, 1.0, f"{check.id}: {name}")


@pytest.mark.parametrize("check", THOROUGH, ids=lambda c: c.id)
def test_pure_and_finite(check: Check) -> None:
    """Nothing that goes in is changed, a second call gives the same bits, and all of it is finite."""
    before = copy.deepcopy((check.case.inputs, check.case.constants))
    masks = masks_for(check.case.outputs())
    kept = [m.clone() for m in masks]
    one, two = (_all(run(check, masks), check) for _ in range(2))
    for then, now in zip(
        [*before[0], *before[1], *kept], [*check.case.inputs, *check.case.constants, *masks], strict=True
    ):
        assert torch.equal(then, now)
    for (name, a), (_, b) in zip(one, two, strict=True):
        assert bool(torch.isfinite(a).all()), f"{check.id}: {name}"
        assert torch.equal(a, b), f"{check.id}: {name}"


@pytest.mark.parametrize("check", SAMPLES, ids=lambda c: c.id)
def test_reads_what_it_declares(check: Check) -> None:
    """Behind other ops, with and without an audit, which keeps more values: a rule may read only what it asked for."""
    for audit in (False, True) if tried_in_all_ways(check) else (False,):
        check_rule(check, behind=True, audit=audit)


@pytest.mark.parametrize("check", [c for c in THOROUGH if c.case.batched], ids=lambda c: c.id)
def test_rows_do_not_mix(check: Check) -> None:
    """A sample's relevance and amounts are those it has alone."""
    masks = masks_for(check.case.outputs())
    whole = _all(run(check, masks), check)
    for row in range(len(check.case.inputs[0])):
        alone = replace(check, case=check.case.rows(row))
        single = dict(_all(run(alone, [m[row : row + 1] for m in masks]), alone))
        for name, a in whole:
            got = single.get(name, torch.zeros_like(a[:1]))
            assert_near(got, a[row : row + 1], 1.0, f"{check.id}, row {row}: {name}")


@pytest.mark.parametrize("check", THOROUGH, ids=lambda c: c.id)
def test_several_targets_at_once(check: Check) -> None:
    """Mapped over targets by vmap, without a word of warning, each is what it is alone."""
    z = check.case.outputs()
    sets = [masks_for(z, seed) for seed in (3, 4, 5)]
    together = run(check, sets[0], targets=[check.target(masks) for masks in sets])
    for explanation, masks in zip(together, sets, strict=True):
        for (name, a), (_, b) in zip(_all(explanation, check), _all(run(check, masks), check), strict=True):
            assert_near(a, b, 1.0, f"{check.id}: {name}")
        for stream in streams_of(explanation):
            assert_books(stream, check.id)


@pytest.mark.parametrize("check", SOLE, ids=lambda c: c.id)
def test_single_precision_is_close(check: Check) -> None:
    single = replace(check, case=check.case.to(torch.float32))
    masks = masks_for(check.case.outputs())
    double, rounded = _all(run(check, masks), check), dict(_all(run(single, [m.float() for m in masks]), single))
    whole = max(float(r.abs().max()) for _, r in double if r.numel())
    for name, want in double:
        got = rounded[name]
        if name.startswith("input") and not check.case.op.endswith("embedding"):
            assert got.dtype == torch.float32
        assert_near(got, want, whole, f"{check.id}: {name}", tolerance=1e-4)
