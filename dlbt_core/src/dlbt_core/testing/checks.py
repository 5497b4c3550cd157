"""What must hold for every rule, one function each: it raises where it does not."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from dlbt_core.errors import NonFiniteError, RuleCheckError, RuleContractError
from dlbt_core.plugins.loader import default_plugins
from dlbt_core.rules.rule import Rule
from dlbt_core.testing.agreement import CONVERTED, check_books, check_near, check_rule, everything
from dlbt_core.testing.one_op import masks_for, run, target_of
from dlbt_core.testing.samples import Case, Check, floating
from dlbt_core.testing.streams import streams_of
from dlbt_core.testing.tracing import PURE, OpNotTraceable, traced_twin

__all__ = ["CHECKS", "rule_of"]

ROUNDED = {torch.float32: 1e-4, torch.bfloat16: 0.2, torch.float16: 0.05}
"""How far a rule in another precision may be from float64: the norm of the difference, relative to all that was moved."""


def rule_of(check: Check) -> Rule:
    """The rule that a check is for."""
    plugins = check.plugins or default_plugins()
    return plugins.registry.find(check.case.op, check.variant)


def absorbs(check: Check) -> None:
    """Score = inputs + absorbed, at the node and in all, under the names that the rule declares."""
    check_rule(replace(check, oracle=None))


def reference(check: Check) -> str | None:
    """Relevance, and amounts where the reference names them, are those of the author's own formula."""
    if check.oracle is None:
        return "the sample has no reference"
    check_rule(check)
    return None


def reads(check: Check) -> None:
    """Behind other ops a rule has what it declares to read, with and without an audit, which keeps more values."""
    for audit in (False, True):
        check_rule(check, behind=True, audit=audit)


def linear(check: Check) -> str | None:
    """A rule handed a m1 + b m2 gives a times what it gives for m1 and b times what it gives for m2."""
    if not rule_of(check).linear:
        return "the rule is declared linear=False"
    z = check.case.outputs()
    first, second = masks_for(z, 1), masks_for(z, 2)
    both = [2.5 * m - 0.75 * n for m, n in zip(first, second, strict=True)]
    one, two, three = (everything(run(check, masks), check) for masks in (first, second, both))
    for (name, a), (_, b), (_, c) in zip(one, two, three, strict=True):
        check_near(c, 2.5 * a - 0.75 * b, 1.0, f"{check.id}: {name} is not linear in the message")
    return None


def pure(check: Check) -> None:
    """Nothing that goes in is changed, and a second call gives the same bits."""
    before = copy.deepcopy((check.case.inputs, check.case.constants))
    masks = masks_for(check.case.outputs())
    kept = [m.clone() for m in masks]
    one, two = (everything(run(check, masks), check) for _ in range(2))
    now = [*check.case.inputs, *check.case.constants, *masks]
    for then, tensor in zip([*before[0], *before[1], *kept], now, strict=True):
        if not torch.equal(then, tensor):
            raise RuleCheckError(f"{check.id}: the rule changes a tensor in place")
    for (name, a), (_, b) in zip(one, two, strict=True):
        if not torch.equal(a, b):
            raise RuleCheckError(f"{check.id}: {name} is another when the same is asked twice")


def finite(check: Check) -> None:
    """Relevances and amounts are finite, also where all inputs are 0, if the op and its slope are finite there."""
    zeros = replace(check.case, inputs=tuple(x * 0 for x in check.case.inputs))
    for case, where in ((check.case, ""), (zeros, " where all inputs are 0")):
        if where and not (_runs(case) and _has_slope(case)):
            continue
        here = replace(check, case=case)
        try:
            found = everything(run(here, masks_for(case.outputs())), here)
        except NonFiniteError as error:
            raise RuleCheckError(f"{check.id}{where}: {error}") from error
        for name, tensor in found:
            if not bool(torch.isfinite(tensor).all()):
                raise RuleCheckError(f"{check.id}: {name} is not finite{where}")


def _has_slope(case: Case) -> bool:
    """Whether an op's results and their derivatives are finite."""
    inputs = [x.detach().requires_grad_(x.is_floating_point()) for x in case.inputs]
    results = floating(case.fn(*[inputs[i] for i in case.places], *case.constants))
    wanted = [x for x in inputs if x.requires_grad]
    total = sum((z.sum() for z in results), torch.zeros(()))
    slopes = torch.autograd.grad(total, wanted, allow_unused=True) if total.requires_grad else ()
    return all(bool(torch.isfinite(t).all()) for t in (*results, *slopes) if t is not None)


def rows(check: Check) -> str | None:
    """A sample's relevance and amounts are those it has alone."""
    if not check.case.batched:
        return "the sample is not batched"
    masks = masks_for(check.case.outputs())
    whole = everything(run(check, masks), check)
    for row in range(len(check.case.inputs[0])):
        alone = replace(check, case=check.case.rows(row))
        single = dict(everything(run(alone, [m[row : row + 1] for m in masks]), alone))
        for name, a in whole:
            got = single.get(name, torch.zeros_like(a[:1]))
            check_near(got, a[row : row + 1], 1.0, f"{check.id}, row {row} alone: {name}")
    return None


def vmap(check: Check) -> None:
    """Mapped over several targets at once, each is what it is alone."""
    z = check.case.outputs()
    sets = [masks_for(z, seed) for seed in (3, 4, 5)]
    try:
        together = run(check, sets[0], targets=[target_of(check, masks) for masks in sets])
    except RuntimeError as error:
        if not str(error).startswith("vmap: "):
            raise
        rule = rule_of(check)
        raise RuleCheckError(f"{rule.id} does not run under vmap: {error}\n{PURE}\n  where  {rule.location}") from error
    for explanation, masks in zip(together, sets, strict=True):
        alone = everything(run(check, masks), check)
        for (name, a), (_, b) in zip(everything(explanation, check), alone, strict=True):
            check_near(a, b, 1.0, f"{check.id}: {name} with several targets")
        for stream in streams_of(explanation):
            check_books(stream, check.id)


def dtype(check: Check) -> str | None:
    """In float32, bfloat16 and float16, as far as the op has them: the same precision comes out, near float64's values."""
    masks = masks_for(check.case.outputs())
    double = everything(run(check, masks), check)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "ComplexHalf support is experimental", UserWarning)
        tried = [precision for precision in ROUNDED if _in_precision(check, masks, precision, double)]
    return None if tried else "the op has none of float32, bfloat16 and float16"


def _in_precision(check: Check, masks: list[Tensor], precision: torch.dtype, double: list[tuple[str, Tensor]]) -> bool:
    rounded = replace(check, case=check.case.to(precision))
    if not _runs(rounded.case):
        return False  # the op itself has no kernel for it, or not for its gradient
    try:
        found = dict(everything(run(rounded, [m.to(precision) for m in masks]), rounded))
    except NotImplementedError:
        return False  # torch lacks a kernel: the case for complex numbers of half precision
    whole = sum(float(r.norm()) for _, r in double)
    for name, want in double:
        got = found[name]
        if name.startswith("input") and got.dtype != precision and got.dtype != torch.float32:
            raise RuleCheckError(f"{check.id}: {name} is {got.dtype} where the input is {precision}")
        gap = float((got.double() - want).norm())
        if not gap <= ROUNDED[precision] * whole:
            raise RuleCheckError(f"{check.id}: {name} in {precision}: off by {gap:.2e}\ngot  {got}\nwant {want}")
    return True


def _runs(case: Case) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own on the precision, not the rule's
        try:
            _has_slope(case)
        except (RuntimeError, NotImplementedError):
            return False
    return True


def device(check: Check) -> str | None:
    """On a GPU it gives what it gives on the CPU."""
    if not torch.cuda.is_available():
        return "there is no GPU here"
    masks = masks_for(check.case.outputs())
    moved = replace(check.case, inputs=_cuda(check.case.inputs), constants=_cuda(check.case.constants))
    there = replace(check, case=moved)
    one, two = everything(run(check, masks), check), everything(run(there, list(_cuda(tuple(masks)))), there)
    for (name, want), (_, got) in zip(one, two, strict=True):
        check_near(got, want, 1.0, f"{check.id}: {name} on the GPU", tolerance=1e-8)
    return None


def _cuda(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(tensor.cuda() for tensor in tensors)


def tracing(check: Check) -> str | None:
    """``make_fx`` can trace the rule, and the trace gives for another message what the rule gives."""
    rule = rule_of(check)
    variant, plugins = traced_twin(rule, check.plugins)
    try:
        run(replace(check, variant=variant, plugins=plugins), masks_for(check.case.outputs()))
    except OpNotTraceable as error:
        return str(error)
    except RuleContractError as error:
        twin = plugins.registry.find(check.case.op, variant)
        raise RuleContractError(str(error).replace(twin.id, rule.id)) from error
    return None


def defaults(check: Check) -> str | None:
    """With its default parameters it runs, and the books close."""
    if not rule_of(check).parameters:
        return "the rule has no parameters"
    check_rule(replace(check, parameters={}, oracle=None, tolerance=max(check.tolerance, CONVERTED)))
    return None


CHECKS: Mapping[str, Callable[[Check], Any]] = MappingProxyType(
    {
        function.__name__: function
        for function in (absorbs, reference, reads, linear, pure, finite, rows, vmap, dtype, device, tracing, defaults)
    }
)
"""Name to check. Each raises where the rule fails, and returns a reason where it does not apply."""

