"""What must hold for every rule, one function each: it raises where it does not."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from dlbt_core.errors import InputError, NonFiniteError, RuleCheckError
from dlbt_core.graph.ops import arguments
from dlbt_core.plugins.loader import default_plugins
from dlbt_core.rules.rule import Rule
from dlbt_core.testing.agreement import CONVERTED, check_books, check_near, check_rule, everything
from dlbt_core.testing.one_op import explainer_of, masks_for, run, target_of
from dlbt_core.testing.samples import NAMES, Case, Check, floating
from dlbt_core.testing.streams import streams_of
from dlbt_core.testing.tracing import PURE, OpNotTraceable, traced
from dlbt_core.testing.twins import with_twin
from dlbt_core.testing.watching import NotWithoutNumbers, moved_away, watched

__all__ = ["CHECKS", "rule_of"]

ROUNDED = {torch.float32: 1e-4, torch.bfloat16: 0.2, torch.float16: 0.05}
"""How far a rule in another precision may be from float64: the norm of the difference, relative to all that was moved."""


_NO_ARGUMENTS = ("output", "carrying", "constants", "pullback")
"""What a rule may read besides arguments."""


def rule_of(check: Check) -> Rule:
    """The rule that a check is for."""
    plugins = check.plugins or default_plugins()
    return plugins.registry.find(check.case.op, check.variant)


def absorbs(check: Check) -> None:
    """Score = inputs + absorbed, at the node and in all, under the names that the rule declares.

    Also where relevance flows through one of the inputs alone, as where another one is a constant of the model.
    """
    _in_every_way(replace(check, oracle=None))
    if len(check.case.inputs) > 1:
        for name, x in zip(NAMES, check.case.inputs, strict=False):
            if x.is_floating_point():
                alone = _named(replace(check, oracle=None), f"relevance through {name} alone")
                with contextlib.suppress(InputError):  # the output does not depend on it
                    check_rule(alone, explained=name)


def reference(check: Check) -> str | None:
    """Relevance, and amounts where the reference names them, are those of the author's own formula."""
    if check.oracle is None:
        return "the sample has no reference"
    _in_every_way(check)
    return None


def _in_every_way(check: Check) -> None:
    """In each form that the rule takes; and if the op has several results also where relevance comes to one alone."""
    check_rule(check)
    rule = rule_of(check)
    if rule.takes == "either":
        twin = with_twin(check, rule, "as_relevance", rule.function, all_read=False, form="relevance")
        check_rule(_named(replace(twin, oracle=None), "on relevance"))  # at 0 the forms may differ, and the reference fits one
    results = check.case.outputs()
    for i in range(len(results) if len(results) > 1 else 0):
        check_rule(_named(check, f"relevance at result {i} alone"), result=i)


def _named(check: Check, what: str) -> Check:
    return replace(check, case=replace(check.case, name=f"{check.case.name}, {what}"))


def reads(check: Check) -> None:
    """Behind other ops a rule has what it declares to read, with and without an audit, which keeps more values."""
    for audit in (False, True):
        explanation = check_rule(check, behind=True, audit=audit)
    rule = rule_of(check)
    for step in explanation.plan.steps:
        names = [argument.name for argument in arguments(step.node.op)]
        unknown = sorted({*(step.reads or ())} - {*names, *_NO_ARGUMENTS}) if step.rule.id == rule.id else []
        if unknown:
            raise RuleCheckError(
                f"{rule.id} declares to read {unknown[0]!r}, which {step.node.op} does not have.\n"
                f"  fix    its arguments: {', '.join(names)}; or output, carrying, constants, pullback.\n"
                f"  where  {rule.location}"
            )


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
    for size in (2.0**20, 2.0**-20):
        scaled = everything(run(check, [m * size for m in first]), check)
        for (name, a), (_, b) in zip(one, scaled, strict=True):
            check_near(b / size, a, 1.0, f"{check.id}: {name} is not linear in the message, which is {size:.0e} times another")
    return None


def pure(check: Check) -> None:
    """Nothing that goes in is changed, a second call gives the same bits, and nothing is kept for other numbers."""
    rule = rule_of(check)
    run(with_twin(check, rule, "watched", watched(rule), all_read=False), masks_for(check.case.outputs()))
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
    _keeps_nothing(check)


def _keeps_nothing(check: Check) -> None:
    """With other inputs an explainer gives what a new one gives; with other weights, too, the books close."""
    others = check.case.map(lambda t: t * 0.75)
    inputs = replace(check.case, inputs=others.inputs)
    if not (_runs(inputs) and _has_slope(inputs) and _runs(others) and _has_slope(others)):
        return
    masks = masks_for(inputs.outputs())
    explain, target = explainer_of(check), target_of(check, masks)
    explain(*check.case.inputs, target=target)
    kept = everything(explain(*inputs.inputs, target=target), check)
    new = everything(run(replace(check, case=inputs), masks), check)
    for (name, got), (_, want) in zip(kept, new, strict=True):
        check_near(got, want, 1.0, f"{check.id}: {name} depends on what the rule kept from other inputs")
    check_rule(_named(replace(check, case=others, oracle=None), "other weights"))


def finite(check: Check) -> None:
    """Relevances and amounts are finite, also where all inputs are 0, if the op and its slope are finite there."""
    for case, where in ((check.case, ""), (_zeros(check.case), " where all inputs are 0")):
        if where and not (_runs(case) and _has_slope(case)):
            continue
        masks = masks_for(case.outputs())
        _check_finite(replace(check, case=case), masks, where)
        _check_finite(replace(check, case=case), [m * 0 for m in masks], f"{where} where nothing arrives")


def _check_finite(check: Check, masks: list[Tensor], where: str) -> None:
    try:
        found = everything(run(check, masks), check)
    except NonFiniteError as error:
        raise RuleCheckError(f"{check.id}{where}: {error}") from error
    for name, tensor in found:
        if not bool(torch.isfinite(tensor).all()):
            raise RuleCheckError(f"{check.id}: {name} is not finite{where}")


def _zeros(case: Case) -> Case:
    return replace(case, inputs=tuple(x * 0 for x in case.inputs))


def _has_slope(case: Case) -> bool:
    """Whether an op's results are finite, and their derivatives, if it has any: one of our own may lack them."""
    inputs = [x.detach().requires_grad_(x.is_floating_point()) for x in case.inputs]
    results = floating(case.fn(*[inputs[i] for i in case.places], *case.constants))
    wanted = [x for x in inputs if x.requires_grad]
    total = sum((z.sum() for z in results), torch.zeros(()))
    try:
        slopes = torch.autograd.grad(total, wanted, allow_unused=True) if total.requires_grad else ()
    except RuntimeError as error:
        if "no autograd formula was registered" not in str(error):
            raise
        slopes = ()
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
    except NonFiniteError as error:
        raise RuleCheckError(f"{check.id} in {precision}: {error}") from error
    except (NotImplementedError, RuntimeError) as error:
        if "not implemented for" not in str(error):
            raise
        return False  # torch lacks a kernel: the case for complex numbers of half precision
    whole = sum(float(r.norm()) for _, r in double)
    for name, want in double:
        got = found[name]
        if name.startswith("input") and got.dtype != precision and got.dtype != torch.float32:
            raise RuleCheckError(f"{check.id}: {name} is {got.dtype} where the input is {precision}")
        gap = float((got.double() - want).norm())
        if not gap <= ROUNDED[precision] * whole:
            raise RuleCheckError(f"{check.id}: {name} in {precision}: off by {gap:.2e}\ngot  {got}\nwant {want}")
    zeros = _zeros(rounded.case)
    if _runs(zeros) and _has_slope(zeros):
        zero_masks = [m.to(precision) for m in masks_for(zeros.outputs())]
        _check_finite(replace(check, case=zeros), zero_masks, f" in {precision} where all inputs are 0")
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
    """On a GPU it gives what it gives on the CPU; without one, its tensors are where those are that it is given."""
    if not torch.cuda.is_available():
        rule = rule_of(check)
        try:
            run(with_twin(check, rule, "moved_away", moved_away(rule)), masks_for(check.case.outputs()))
        except NotWithoutNumbers as error:
            return f"there is no GPU here, and {error}"
        return None
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
    try:
        run(with_twin(check, rule, "traced", traced(rule)), masks_for(check.case.outputs()))
    except OpNotTraceable as error:
        return str(error)
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

