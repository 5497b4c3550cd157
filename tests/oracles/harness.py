"""Runs a one-op model, and compares what its rule hands back and books with what an oracle says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

import dlbt_core as dlbt
from oracles.streams import DECREED, decreed, plugins_with_decree, streams_of, with_decree

TOLERANCE = 1e-10
CONVERTED = 1e-8
"""Where relevance is turned into multipliers on its way to the input: R / (a + 1e-12 sgn a) loses more the smaller a is."""

Function = Callable[..., Any]
Amounts = Mapping[str, Tensor]


@dataclass(frozen=True)
class Case:
    """One op on given tensors.

    Attributes
    ----------
    op
        The op as it is recorded, with or without overload.
    name
        What is special about the case.
    fn
        Calls the op: first the slots, then the constants.
    inputs, constants
        Explained and other tensors.
    slots
        Which input goes to which argument of `fn`; each to its own unless given.
    batched
        Whether the first dimension of all inputs and outputs counts samples that do not mix.
    per_sample
        The constants of which that is true as well.
    rectified
        Whether the inputs, which must not be negative, go through a ReLU first, so that this is known of them.
    """

    op: str
    name: str
    fn: Function
    inputs: tuple[Tensor, ...]
    constants: tuple[Tensor, ...] = ()
    slots: tuple[int, ...] = ()
    batched: bool = False
    per_sample: tuple[int, ...] = ()
    rectified: bool = False

    @property
    def places(self) -> tuple[int, ...]:
        return self.slots or tuple(range(len(self.inputs)))

    @property
    def arguments(self) -> list[Tensor]:
        """The inputs as the op gets them."""
        return [self.inputs[i] for i in self.places]

    def call(self, *slots: Tensor) -> Any:
        """The op on other tensors, with the case's constants."""
        return self.fn(*slots, *self.constants)

    def outputs(self) -> list[Tensor]:
        return floating(self.call(*self.arguments))

    def per_input(self, by_slot: Sequence[Tensor]) -> list[Tensor]:
        """Relevance per input: summed over the slots it goes to."""
        totals = [torch.zeros(x.shape, dtype=torch.float64) for x in self.inputs]
        for place, found in zip(self.places, by_slot, strict=True):
            totals[place] = totals[place] + found
        return totals

    def rows_of(self, out: Tensor) -> Tensor:
        """An output as one row per sample, or as one in all."""
        return out.reshape(len(out) if self.batched else 1, -1)

    def rows(self, row: int) -> Case:
        """One sample alone."""
        constants = tuple(t[row : row + 1] if k in self.per_sample else t for k, t in enumerate(self.constants))
        return replace(self, inputs=tuple(x[row : row + 1] for x in self.inputs), constants=constants)

    def to(self, dtype: torch.dtype) -> Case:
        def convert(ts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return tuple(t.to(dtype) if t.is_floating_point() else t for t in ts)

        return replace(self, inputs=convert(self.inputs), constants=convert(self.constants))


@dataclass(frozen=True)
class Arriving:
    """What arrives at the op's outputs: multipliers, and the relevances ``z * m`` the formulas are written on.

    Where two streams arrive, each relevance is (2, ...), and there are no multipliers.
    """

    m: list[Tensor]
    R: list[Tensor]
    z: list[Tensor]


@dataclass(frozen=True)
class Handed:
    """What an oracle says: relevance per input, and amounts by name (first dimension: samples, if there are any)."""

    inputs: list[Tensor]
    absorbed: Amounts = field(default_factory=dict)


Oracle = Callable[[Case, Arriving], Handed | tuple[Handed, ...]]
"""What a rule hands on: in one stream, or one for each of several."""


@dataclass(frozen=True)
class Check:
    """A case, a rule, and the oracle for the two; `streams` says whether the rule couples two streams."""

    case: Case
    variant: str
    oracle: Oracle
    parameters: Mapping[str, Any] = field(default_factory=dict)
    composite: str = "attnlrp"
    tolerance: float = TOLERANCE
    streams: bool = False

    @property
    def id(self) -> str:
        given = ",".join(f"{k}={v}" for k, v in self.parameters.items())
        return f"{self.case.op}#{self.variant}({given})-{self.case.name}"

    def target(self, masks: Sequence[Tensor]) -> Any:
        """The outputs, weighted by masks and summed."""
        return (target_of_streams if self.streams else target_for)(self.case, masks)

    def arriving(self, masks: Sequence[Tensor]) -> Arriving:
        """What then arrives at the op."""
        z = self.case.outputs()
        if self.streams:
            (out,) = z
            weights = self.target(masks).mask
            both = decreed(self.case.rows_of(out.double()) * weights)
            return Arriving([], [both.reshape(2, *out.shape)], z)
        R = [torch.where(m == 0, 0.0, m * out.double()) for m, out in zip(masks, z, strict=True)]
        return Arriving(list(masks), R, z)

    def expected(self, arriving: Arriving) -> tuple[Handed, ...]:
        """What the oracle says, for each stream."""
        found = self.oracle(self.case, arriving)
        return (found,) if isinstance(found, Handed) else found


class OneOp(nn.Module):
    """The model: the op alone, or behind ``2 * (x / 2)`` so that its arguments are values computed on the way.

    Before two streams there is a copy of its output, one row per sample, on which their relevance is decreed.
    """

    def __init__(self, case: Case, behind: bool = False, streams: bool = False) -> None:
        super().__init__()
        self.rows = case.rows_of if streams else None
        self.fn, self.places, self.behind, self.count = case.fn, case.places, behind, len(case.constants)
        self.rectified = case.rectified
        for i, constant in enumerate(case.constants):
            self.register_buffer(f"constant_{i}", constant)

    def forward(self, a: Tensor, b: Tensor | None = None, c: Tensor | None = None, d: Tensor | None = None) -> Any:
        inputs = [t for t in (a, b, c, d) if t is not None]
        constants = [getattr(self, f"constant_{i}") for i in range(self.count)]
        if self.behind:
            inputs = [_again(t) for t in inputs]
            constants = [_again(t) for t in constants]
        if self.rectified:
            inputs = [torch.relu(t) for t in inputs]
        out = floating(self.fn(*[inputs[i] for i in self.places], *constants))
        if self.rows is not None:
            return self.rows(out[0]).clone()
        return out[0] if len(out) == 1 else tuple(z.clone() for z in out)


def _again(tensor: Tensor) -> Tensor:
    """The same numbers, as a value computed on the way. Exact: halving and doubling lose nothing."""
    return (tensor * 0.5) * 2.0 if tensor.is_floating_point() else tensor.clone()


def floating(out: Any) -> list[Tensor]:
    items = [out] if isinstance(out, Tensor) else list(out)
    return [item for item in items if isinstance(item, Tensor) and item.is_floating_point()]


def source(seed: int) -> Callable[..., Tensor]:
    """A function that gives random float64 tensors, the same in every run."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    return rand


def masks_for(outputs: Sequence[Tensor], seed: int = 0) -> list[Tensor]:
    """Random multipliers for all outputs, exact in float32 too; 0 where an output is infinite."""
    rand = source(1000 + seed)
    return [torch.where(torch.isfinite(z), (rand(*z.shape) * 64).round() / 64, 0.0) for z in outputs]


def target_for(case: Case, masks: Sequence[Tensor]) -> Any:
    """The outputs, weighted by masks and summed: per sample if the case has samples, else in all."""
    if len(masks) == 1 and case.batched and masks[0].dim() > 1:
        return dlbt.target.logits(masks[0])

    def weighted(out: Any) -> Tensor:
        parts = []
        for z, mask in zip(floating(out), masks, strict=True):
            product = z * mask.to(z.dtype)
            parts.append(product.reshape(z.shape[0], -1).sum(1) if case.batched else product.sum())
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    return dlbt.target.function(weighted)


def target_of_streams(case: Case, masks: Sequence[Tensor]) -> Any:
    """The same, but for the last output of each sample, at which the other stream starts."""
    (mask,) = masks
    weights = case.rows_of(mask).clone()
    if weights.shape[1] > 1:
        weights[:, -1] = 0.0
    return dlbt.target.logits(weights)


def run(check: Check, masks: Sequence[Tensor], *, audit: bool = True, behind: bool = False, **more: Any) -> Any:
    """The explanation of a one-op model by one rule."""
    case = check.case
    rules = [(dlbt.Select(op=case.op), dlbt.Use(check.variant, **check.parameters))]
    target = {} if "targets" in more else {"target": check.target(masks)}
    names = "abcd"[: len(case.inputs)]
    composite = with_decree(check.composite) if check.streams else check.composite
    if check.streams:
        more["plugins"] = plugins_with_decree()
    return dlbt.explain(
        OneOp(case, behind, check.streams).eval(), *case.inputs, rules=rules, composite=composite, layers="none",
        audit=audit, explain_inputs=list(names), **target, **more,
    )  # fmt: skip


def relevances(explanation: Any, case: Case) -> list[Tensor]:
    return [explanation.inputs[name] for name, _ in zip("abcd", case.inputs, strict=False)]


def amounts(explanation: Any, batched: bool) -> dict[str, Tensor]:
    """What was absorbed, by name: per sample, or in all."""
    ledger = explanation.ledger
    if batched:
        assert not ledger.unassigned, f"not told apart per sample: {dict(ledger.unassigned)}"
        return {name: amount for name, amount in ledger.absorbed.items() if name != DECREED}
    totals = {name: amount.sum() for name, amount in ledger.absorbed.items() if name != DECREED}
    for name, amount in ledger.unassigned.items():
        if not name.startswith("input ") and name != DECREED:
            totals[name] = totals.get(name, 0.0) + amount
    return totals


def check_rule(check: Check, *, audit: bool = True, behind: bool = False, seed: int = 0) -> Any:
    """Assert that rule and oracle agree, that the books close, and that each node's do."""
    masks = masks_for(check.case.outputs(), seed)
    explanation = run(check, masks, audit=audit, behind=behind)
    assert_plan(explanation, check, behind)
    arriving = check.arriving(masks)
    scale = max(1.0, *(float(r.abs().max()) for r in arriving.R if r.numel()))
    tolerance = max(check.tolerance, CONVERTED) if behind else check.tolerance
    for stream, expected in zip(streams_of(explanation), check.expected(arriving), strict=True):
        assert_handed(stream, check, expected, scale, tolerance)
        assert_books(stream, check.id, audit, check.tolerance)
    return explanation


def assert_handed(explanation: Any, check: Check, expected: Handed, scale: float, tolerance: float) -> None:
    """Relevances and amounts are what an oracle says."""
    case = check.case
    for name, got, want in zip("abcd", relevances(explanation, case), expected.inputs, strict=False):
        assert_near(got, want, scale, f"{check.id}: relevance of input {name}", tolerance)
    found = amounts(explanation, case.batched)
    for name in sorted({*found, *expected.absorbed}):
        want = expected.absorbed.get(name, torch.zeros((), dtype=torch.float64))
        want = want.reshape(len(explanation.score), -1).sum(1) if case.batched and want.dim() else want.sum()
        got = found.get(name, torch.zeros_like(want))
        want = want if name in expected.absorbed else torch.zeros_like(got)
        assert_near(got, want, scale, f"{check.id}: absorbed by {name!r}", tolerance)


def assert_books(explanation: Any, what: str, audit: bool = True, tolerance: float = TOLERANCE) -> None:
    """Score = inputs + absorbed: to `tolerance` of the score, or of all that was moved where the score nearly cancels."""
    ledger = explanation.ledger
    moved = max(1.0, sum(float(t.abs().sum()) for _, t in ledger.rows()))
    gap = ledger.gap
    if ledger.unassigned:
        gap = gap.sum() - sum(ledger.unassigned.values())
    closed = ledger.error <= tolerance or float(gap.abs().max()) <= 0.01 * tolerance * moved
    assert closed, f"{what}: books do not close\n{ledger}"
    if audit:
        for account in ledger.worst(1):
            leak = float(account.leak.abs().max()) if account.leak is not None else 0.0
            assert leak <= tolerance * moved, f"{what}: {account.op} leaks {leak}"


def assert_plan(explanation: Any, check: Check, behind: bool) -> None:
    """The rule that was asked for is the one that ran, and nothing else did."""
    steps = [s for s in explanation.plan.steps if s.rule.variant == check.variant and _fits(s.node.op, check.case.op)]
    assert steps, f"{check.id}: the rule did not run:\n{explanation.plan}"
    if not behind:
        around = {
            "aten.clone.default",
            *(_ROWS if check.streams else ()),
            *(("aten.relu.default",) if check.case.rectified else ()),
        }
        others = [s for s in explanation.plan.steps if s not in steps and s.node.op not in around]
        assert [len(steps), len(others)] == [1, 0], f"{check.id}: more than one op was recorded:\n{explanation.plan}"


_ROWS = ("aten.view.default", "aten.reshape.default", "aten._unsafe_view.default")


def _fits(op: str, key: str) -> bool:
    return op == key or op.startswith(key + ".")


def assert_near(got: Any, want: Any, scale: float, what: str, tolerance: float = TOLERANCE) -> None:
    got, want = torch.as_tensor(got).double(), torch.as_tensor(want).double()
    assert got.shape == want.shape, f"{what}: shape {tuple(got.shape)} instead of {tuple(want.shape)}"
    if not got.numel():
        return
    gap = float((got - want).abs().max())
    scale = max(scale, float(want.abs().max()))
    assert gap <= tolerance * scale, f"{what}: off by {gap:.2e}\ngot  {got}\nwant {want}"
