"""The checks see what they are for: every rule with its sign flipped, or with its bookings left out, is caught."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_map

from dlbt_core.errors import DlbtError
from dlbt_core.plugins.loader import default_plugins
from dlbt_core.rules.context import RuleContext
from dlbt_core.rules.rule import RuleFunction
from dlbt_core.testing.streams import plugins_with_decree
from oracles.cases.every import ABSENT, ALL, samples
from oracles.harness import Check, amounts, check_rule

RULES = sorted({(check.case.op, check.variant) for check in ALL if check.case.op not in ABSENT})
GIVE_NOTHING = {
    ("aten._safe_softmax", "detach"),
    ("aten._softmax", "detach"),
    ("aten.detach", "gradient"),
    ("aten.div.Scalar_mode", "gradient"),
    ("aten.div.Scalar_mode", "uniform"),
    ("aten.div.Tensor_mode", "gradient"),
    ("aten.div.Tensor_mode", "uniform"),
    ("aten.sigmoid", "detach"),
    ("aten.softmax", "detach"),
}
"""They stop all relevance: there is no sign to flip."""

named = pytest.mark.parametrize(("op", "variant"), RULES, ids=[f"{op}#{variant}" for op, variant in RULES])


@contextmanager
def mutated(op: str, variant: str, mutate: Callable[[RuleFunction], RuleFunction]) -> Iterator[None]:
    """The rule, among all plugins and among those with the tests' second stream, does what a mutant does."""
    rules = [plugins.registry.find(op, variant) for plugins in (default_plugins(), plugins_with_decree())]
    honest = [rule.function for rule in rules]
    for rule, function in zip(rules, honest, strict=True):
        object.__setattr__(rule, "function", mutate(function))
    try:
        yield
    finally:
        for rule, function in zip(rules, honest, strict=True):
            object.__setattr__(rule, "function", function)


def flipped(function: RuleFunction) -> RuleFunction:
    def mutant(ctx: RuleContext, message: Any, **parameters: Any) -> Mapping[str, Any]:
        handed = function(ctx, message, **parameters)
        return {name: tree_map(lambda m: -m if isinstance(m, torch.Tensor) else m, of) for name, of in handed.items()}

    return mutant


def unbooked(function: RuleFunction) -> RuleFunction:
    def mutant(ctx: RuleContext, message: Any, **parameters: Any) -> Mapping[str, Any]:
        books = ctx._books
        ctx._books = SimpleNamespace(absorb=lambda *args, **kwargs: None)
        try:
            return function(ctx, message, **parameters)
        finally:
            ctx._books = books

    return mutant


def passes(check: Check) -> bool:
    try:
        check_rule(check)
    except DlbtError:
        return False
    return True


def books_something(check: Check) -> bool:
    found = amounts(check_rule(check), check.case.batched)
    return any(float(amount.abs().max()) > 100 * check.tolerance for amount in found.values())


@named
def test_a_flipped_sign_is_seen(op: str, variant: str) -> None:
    with mutated(op, variant, flipped):
        assert all(map(passes, samples(op, variant))) == ((op, variant) in GIVE_NOTHING)


@named
def test_a_missing_booking_is_seen(op: str, variant: str) -> None:
    booking = [check for check in samples(op, variant) if books_something(check)]
    with mutated(op, variant, unbooked):
        assert not any(map(passes, booking))
