"""Comparing what a rule handed back and booked with what it should have."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dlbt_core.errors import RuleCheckError
from dlbt_core.testing.one_op import arriving, masks_for, run
from dlbt_core.testing.samples import NAMES, TOLERANCE, Case, Check, Handed
from dlbt_core.testing.streams import DECREED, streams_of

__all__ = [
    "CONVERTED",
    "amounts",
    "check_books",
    "check_handed",
    "check_near",
    "check_plan",
    "check_rule",
    "everything",
    "relevances",
]

CONVERTED = 1e-8
"""Where relevance is turned into multipliers on its way to the input: R / (a + 1e-12 sgn a) loses more the smaller a is."""

_ROWS = ("aten.view.default", "aten.reshape.default", "aten._unsafe_view.default")


def relevances(explanation: Any, case: Case) -> list[Tensor]:
    """Relevance of each explained input."""
    return [explanation.inputs[name] for name, _ in zip(NAMES, case.inputs, strict=False)]


def amounts(explanation: Any, batched: bool) -> dict[str, Tensor]:
    """What was absorbed, by name: per sample, or in all.

    Raises
    ------
    RuleCheckError
        If samples are told apart in the case but not in the books.
    """
    ledger = explanation.ledger
    if batched:
        if ledger.unassigned:
            names = ", ".join(map(repr, ledger.unassigned))
            raise RuleCheckError(
                f"amounts of {names} are not told apart per sample.\n  fix  batched=False if the op mixes the samples."
            )
        return {name: amount for name, amount in ledger.absorbed.items() if name != DECREED}
    totals = {name: amount.sum() for name, amount in ledger.absorbed.items() if name != DECREED}
    for name, amount in ledger.unassigned.items():
        if not name.startswith("input ") and name != DECREED:
            totals[name] = totals.get(name, 0.0) + amount
    return totals


def everything(explanation: Any, check: Check) -> list[tuple[str, Tensor]]:
    """Relevances and amounts of all streams, with their names."""
    found = []
    for name, stream in zip(("", *explanation.streams), streams_of(explanation), strict=True):
        here = [(f"input {i}", r) for i, r in enumerate(relevances(stream, check.case))]
        here += sorted(amounts(stream, check.case.batched).items())
        found += [(f"{what}{name and f', {name}'}", tensor) for what, tensor in here]
    return found


def check_rule(
    check: Check, *, audit: bool = True, behind: bool = False, seed: int = 0, result: int | None = None, explained: str = ""
) -> Any:
    """Rule and oracle agree, the books close, and each node's do. Without an oracle only the books are looked at.

    Parameters
    ----------
    check
        The op, the rule and the oracle.
    audit, behind
        See `explainer_of`.
    seed
        Of the multipliers that arrive.
    result
        At which of the op's results alone; at all of them unless given.
    explained
        The name of the one input through which relevance flows; all of them unless given. For rules without an oracle.

    Raises
    ------
    RuleCheckError
        If not, with the numbers.
    """
    masks: list[Tensor | None] = [*masks_for(check.case.outputs(), seed)]
    if result is not None:
        masks = [m if i == result else None for i, m in enumerate(masks)]
    explanation = run(check, masks, audit=audit, behind=behind, explained=explained or None)
    check_plan(explanation, check, behind)
    came = arriving(check, masks)
    scale = max(1.0, *(float(r.abs().max()) for r in came.R if r.numel()))
    tolerance = max(check.tolerance, CONVERTED) if behind else check.tolerance
    expected = check.expected(came) or [None] * len(streams_of(explanation))
    for stream, handed in zip(streams_of(explanation), expected, strict=True):
        if handed is not None:
            check_handed(stream, check, handed, scale, tolerance)
        check_books(stream, check.id, audit, check.tolerance)
    return explanation


def check_handed(explanation: Any, check: Check, expected: Handed, scale: float, tolerance: float) -> None:
    """Relevances and amounts are what an oracle says.

    Raises
    ------
    RuleCheckError
        If not.
    """
    case = check.case
    for name, got, want in zip(NAMES, relevances(explanation, case), expected.inputs, strict=False):
        check_near(got, want, scale, f"{check.id}: relevance of input {name}", tolerance)
    if expected.absorbed is None:
        return
    found = amounts(explanation, case.batched)
    for name in sorted({*found, *expected.absorbed}):
        want = expected.absorbed.get(name, torch.zeros((), dtype=torch.float64))
        want = want.reshape(len(explanation.score), -1).sum(1) if case.batched and want.dim() else want.sum()
        got = found.get(name, torch.zeros_like(want))
        want = want if name in expected.absorbed else torch.zeros_like(got)
        check_near(got, want, scale, f"{check.id}: absorbed by {name!r}", tolerance)


def check_books(explanation: Any, what: str, audit: bool = True, tolerance: float = TOLERANCE) -> None:
    """Score = inputs + absorbed: to `tolerance` of the score, or of all that was moved where the score nearly cancels.

    Raises
    ------
    RuleCheckError
        If not.
    """
    ledger = explanation.ledger
    moved = max(1.0, sum(float(t.abs().sum()) for _, t in ledger.rows()))
    gap = ledger.gap
    if ledger.unassigned:
        gap = gap.sum() - sum(ledger.unassigned.values())
    if not (ledger.error <= tolerance or float(gap.abs().max()) <= 0.01 * tolerance * moved):
        raise RuleCheckError(f"{what}: books do not close; what a rule does not hand on it must absorb\n{ledger}")
    for account in ledger.worst(1) if audit else ():
        leak = float(account.leak.abs().max()) if account.leak is not None else 0.0
        if not leak <= tolerance * moved:
            raise RuleCheckError(f"{what}: {account.op} leaks {leak}; what a rule does not hand on it must absorb")


def check_plan(explanation: Any, check: Check, behind: bool) -> None:
    """The rule that was asked for is the one that ran, and nothing else did.

    Raises
    ------
    RuleCheckError
        If not.
    """
    variant = check.variant.rpartition(":")[2]
    steps = [s for s in explanation.plan.steps if s.rule.variant == variant and _fits(s.node.op, check.case.op)]
    if not steps:
        raise RuleCheckError(f"{check.id}: the rule did not run; the sample's fn must call its op:\n{explanation.plan}")
    if not behind:
        around = {
            "aten.clone.default",
            *check.case.around,
            *(_ROWS if check.streams else ()),
            *(("aten.relu.default",) if check.case.rectified else ()),
            *check.case.around,
        }
        others = [s for s in explanation.plan.steps if s not in steps and s.node.op not in around]
        if others or len(steps) > 1:
            raise RuleCheckError(f"{check.id}: more than one op was recorded:\n{explanation.plan}")


def _fits(op: str, key: str) -> bool:
    return op == key or op.startswith(key + ".")


def check_near(got: Any, want: Any, scale: float, what: str, tolerance: float = TOLERANCE) -> None:
    """Two tensors agree to `tolerance`, relative to `scale` or to what is wanted, whichever is larger.

    Raises
    ------
    RuleCheckError
        If not.
    """
    got, want = (torch.as_tensor(x).detach().to("cpu", torch.float64) for x in (got, want))
    if got.shape != want.shape:
        raise RuleCheckError(f"{what}: shape {tuple(got.shape)} instead of {tuple(want.shape)}")
    if not got.numel():
        return
    gap = float((got - want).abs().max())
    scale = max(scale, float(want.abs().max()))
    if not gap <= tolerance * scale:
        raise RuleCheckError(f"{what}: off by {gap:.2e}\ngot  {got}\nwant {want}")


