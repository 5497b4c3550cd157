"""What must hold for every registered rule, whoever brought it. A rule without a sample fails."""

from __future__ import annotations

import pytest
import torch

from dlbt_core.plugins.loader import default_plugins
from dlbt_core.testing.checks import CHECKS
from oracles.cases.every import ABSENT, ALL, UNBATCHED, samples, tried_in_all_ways
from oracles.harness import Check, check_rule

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


@pytest.mark.parametrize("check", SAMPLES, ids=lambda c: c.id)
def test_books_close_in_every_way(check: Check) -> None:
    CHECKS["absorbs"](check)


@pytest.mark.parametrize("check", SAMPLES, ids=lambda c: c.id)
def test_reads_what_it_declares(check: Check) -> None:
    if tried_in_all_ways(check):
        CHECKS["reads"](check)
    else:
        check_rule(check, behind=True, audit=False)


@pytest.mark.parametrize("check", [c for c in THOROUGH if LINEAR[c.case.op, c.variant]], ids=lambda c: c.id)
def test_linear_in_the_message(check: Check) -> None:
    assert CHECKS["linear"](check) is None


@pytest.mark.parametrize("check", [c for c in THOROUGH if c.case.batched], ids=lambda c: c.id)
def test_rows_do_not_mix(check: Check) -> None:
    assert CHECKS["rows"](check) is None


@pytest.mark.parametrize("name", ["pure", "finite", "vmap"])
@pytest.mark.parametrize("check", THOROUGH, ids=lambda c: c.id)
def test_thoroughly(check: Check, name: str) -> None:
    CHECKS[name](check)


@pytest.mark.parametrize("name", ["dtype", "device", "tracing", "defaults"])
@pytest.mark.parametrize("check", SOLE, ids=lambda c: c.id)
def test_once(check: Check, name: str) -> None:
    CHECKS[name](check)
