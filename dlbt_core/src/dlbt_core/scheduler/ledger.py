"""The ledger: where every unit of relevance went."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dlbt_core.errors import AuditError, RuleContractError
from dlbt_core.graph.ir import Graph, Node
from dlbt_core.graph.sample_axis import SampleAxis
from dlbt_core.graph.samples import per_sample
from dlbt_core.rules.context import paired

if TYPE_CHECKING:
    from dlbt_core.rules.rule import Rule

__all__ = ["Account", "Bookkeeper", "Ledger"]


class Bookkeeper:
    """Takes the amounts that rules book in one backward pass, and sums them per sample.

    Parameters
    ----------
    graph
        The graph whose nodes book.
    axes
        Value to sample axis.
    samples
        Number of samples B.
    """

    def __init__(self, graph: Graph, axes: Mapping[int, SampleAxis], samples: int) -> None:
        self.graph = graph
        self.axes = axes
        self.samples = samples
        self.amounts: dict[tuple[int, str], Tensor] = {}
        self.unassigned: dict[tuple[int, str], Tensor] = {}
        self.rule: Rule | None = None  # the one that books now

    def absorb(self, node: Node, name: str, amount: Tensor, times: Tensor | None, like: int | None) -> None:
        """Book the sum of ``amount * times`` per sample under `name`."""
        if self.rule is not None and name not in self.rule.absorbs:
            declared = ", ".join(map(repr, self.rule.absorbs)) or "nothing"
            raise RuleContractError(
                f"{self.rule.id} books {name!r}, which it did not declare; it declared {declared}.\n"
                f"  fix    absorbs=({name!r}, ...) in its declaration, or book it under a name that is there.\n"
                f"  where  {self.rule.location}"
            )
        axis = self.axes.get(like) if like is not None else None
        self._enter((node.index, name), amount, times, axis)

    def absorb_anyway(self, node: Node, name: str, amount: Tensor, like: int) -> None:
        """Book what the core itself keeps when it converts a message, whatever the node's rule declared."""
        self._enter((node.index, name), amount, None, self.axes.get(like))

    def total(self, amount: Tensor, axis: SampleAxis | None) -> Tensor:
        """Per-sample sums, shape (B,); of shape () where the samples cannot be told apart."""
        known, rest = per_sample(amount, axis, self.samples)
        if known is None or rest is None:
            total = rest if known is None else known
            assert total is not None
            return total
        return known.sum() + rest

    def _enter(self, key: tuple[int, str], amount: Tensor, times: Tensor | None, axis: SampleAxis | None) -> None:
        if times is not None:
            amount = paired(times, _fold(_widened(amount), times, axis))
        for table, total in zip((self.amounts, self.unassigned), per_sample(amount, axis, self.samples), strict=True):
            if total is not None:
                total = total.double() if total.device.type != "mps" else total
                table[key] = table[key] + total if key in table else total


def _widened(amount: Tensor) -> Tensor:
    """Half precision as float32: its products and sums lose digits, and those of float16 overflow."""
    return amount.float() if amount.dtype in (torch.float16, torch.bfloat16) else amount


def _fold(amount: Tensor, times: Tensor, axis: SampleAxis | None) -> Tensor:
    """Sum `amount` over the dimensions along which `times` is the same, the sample axis aside."""
    missing = amount.dim() - times.dim()
    if missing < 0:
        return amount
    same = [
        d
        for d in range(amount.dim())
        if (d < missing or times.shape[d - missing] == 1) and amount.shape[d] > 1 and (axis is None or d != axis.axis)
    ]
    return amount.sum(same, keepdim=True) if same else amount


@dataclass(frozen=True)
class Account:
    """One node's account.

    Attributes
    ----------
    node, op, module
        Which node.
    received, handed_on
        Relevance that came in and went out, shape (B,), or () where the samples cannot be told apart; None unless audited.
    absorbed
        Name to amount, shape (B,).
    unassigned
        Name to amount over all samples, shape (), where they cannot be told apart.
    """

    node: str
    op: str
    module: str
    received: Tensor | None
    handed_on: Tensor | None
    absorbed: Mapping[str, Tensor]
    unassigned: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def leak(self) -> Tensor | None:
        """What the books of this node miss, shape (B,) or (); None unless audited."""
        if self.received is None or self.handed_on is None:
            return None
        gap, amounts = self.received - self.handed_on, list(self.absorbed.values())
        if self.unassigned or gap.dim() == 0:
            gap, amounts = gap.sum(), [a.sum() for a in (*amounts, *self.unassigned.values())]
        return gap - sum(amounts, torch.zeros_like(gap))


@dataclass(frozen=True)
class Ledger:
    """Score = sum over the explained inputs + what was absorbed, per sample.

    What was absorbed is booked by the rules that absorbed it, never found by subtraction, so that `error` is a check.

    Attributes
    ----------
    score : Tensor
        What was explained, shape (B,).
    inputs : mapping of str to Tensor
        Sum of the relevance of each explained input, shape (B,).
    accounts : tuple of Account
        Nodes that absorbed something; all nodes on the path if `audited`.
    unassigned : mapping of str to Tensor
        Amounts that could not be told apart per sample, by name, shape ().
    mixed : tuple of str
        The nodes in which samples meet, or behind which they cannot be followed.
    audited : bool
        Whether each node's inflow and outflow were summed.
    """

    score: Tensor
    inputs: Mapping[str, Tensor]
    accounts: tuple[Account, ...]
    unassigned: Mapping[str, Tensor] = field(default_factory=dict)
    audited: bool = False
    resolution: float = 2**-24
    mixed: tuple[str, ...] = ()

    @property
    def absorbed(self) -> dict[str, Tensor]:
        """Name to amount, shape (B,), over all nodes; largest first."""
        totals: dict[str, Tensor] = {}
        for account in self.accounts:
            for name, amount in account.absorbed.items():
                totals[name] = totals[name] + amount if name in totals else amount
        return dict(sorted(totals.items(), key=lambda item: -float(item[1].abs().max())))

    def _gap(self) -> Tensor:
        booked = sum([*self.inputs.values(), *self.absorbed.values()], torch.zeros_like(self.score.double()))
        return self.score.double() - booked

    @property
    def gap(self) -> Tensor:
        """Score - inputs - absorbed, shape (B,)."""
        return self._gap()

    @property
    def error(self) -> float:
        """The largest |score - inputs - absorbed| / |score| over the samples.

        The scale is |score|, but not less than one rounding unit of all that was moved. Where amounts could not be told
        apart per sample, the batch is taken as a whole.
        """
        gap, score = self._gap(), self.score.double()
        parts = [*self.inputs.values(), *self.absorbed.values()]
        moved = sum((p.double().abs() for p in parts), score.abs())
        if self.unassigned:
            rest = sum(self.unassigned.values(), torch.zeros((), dtype=gap.dtype, device=gap.device))
            gap, score, moved = (gap.sum() - rest)[None], score.abs().sum()[None], moved.sum()[None]
        scale = torch.maximum(score.abs(), self.resolution * moved).clamp_min(1e-300)
        worst = (gap.abs() / scale).max().item()
        return math.inf if math.isnan(worst) else float(worst)

    def at(self, node: str) -> Account:
        """The account of one node.

        Raises
        ------
        AuditError
            If the node has none; without an audit only nodes that absorb have one.
        """
        for account in self.accounts:
            if account.node == node:
                return account
        remedy = "" if self.audited else "\n  fix  ask with audit=True: then every node on the path has an account."
        raise AuditError(f"no account of a node {node!r}.{remedy}")

    def worst(self, count: int = 5) -> list[Account]:
        """The nodes whose books miss most.

        Raises
        ------
        AuditError
            If the explanation was not audited.
        """
        if not self.audited:
            raise AuditError("what a node's books miss is known after an audit.\n  fix  explain(..., audit=True).")
        return sorted(self.accounts, key=lambda a: -float(a.leak.abs().max()) if a.leak is not None else 0.0)[:count]

    def rows(self) -> Iterator[tuple[str, Tensor]]:
        """Score, inputs, absorbed amounts, in this order."""
        yield "score", self.score
        for name, amount in self.inputs.items():
            yield f"input {name}", amount
        for name, amount in self.absorbed.items():
            yield f"absorbed: {name}", amount
        for name, amount in self.unassigned.items():
            yield f"absorbed, all samples: {name}", amount

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return {name: amount.tolist() for name, amount in self.rows()} | {"error": self.error}

    def __str__(self) -> str:
        rows = list(self.rows())
        width = max(len(name) for name, _ in rows)
        lines = [f"  {name:<{width}}  {_numbers(amount)}" for name, amount in rows]
        if self.unassigned and self.mixed:
            lines.append(f"  the samples cannot be told apart in {', '.join(self.mixed[:3])}" + " ..." * (len(self.mixed) > 3))
        return "\n".join(["ledger", *lines, f"  {'error':<{width}}  {self.error:.1e}"])


def _numbers(amount: Tensor) -> str:
    values = amount.reshape(-1).tolist()
    text = "  ".join(f"{v:+.4g}" for v in values[:6])
    return text + (f"  ... ({len(values)})" if len(values) > 6 else "")
