"""Several composites on the same model and inputs, side by side: what they agree on, and what each costs."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dlbt_core.correlation import cosine, ranks
from dlbt_core.errors import InputError
from dlbt_core.explanation import Explanation
from dlbt_core.scheduler.differences import NodeDifference, called, plan_differences

__all__ = ["Comparison", "Pair"]


@dataclass(frozen=True)
class Pair:
    """How alike two composites are.

    Attributes
    ----------
    a, b : str
        Their names.
    spearman, cosine : Tensor
        Rank correlation and cosine of the relevance of all explained inputs, shape (B,), float64; NaN where undefined:
        a relevance that is the same throughout has no ranks, one that is 0 throughout no direction.
    differences : list of NodeDifference
        The nodes whose rule or parameters differ.
    """

    a: str
    b: str
    spearman: Tensor
    cosine: Tensor
    differences: list[NodeDifference]


@dataclass(frozen=True, eq=False)
class Comparison:
    """The same call of a model, explained under several composites: ``comparison["epsilon"]`` is one explanation.

    Attributes
    ----------
    explanations : mapping of str to Explanation
        By the composite's name, in the order in which they were given.
    times : mapping of str to tuple of float
        Seconds that each repeated explanation took, without recording and planning.
    threads : int
        How many threads torch had.
    """

    explanations: Mapping[str, Explanation]
    times: Mapping[str, tuple[float, ...]]
    threads: int

    def __getitem__(self, name: str) -> Explanation:
        return self.explanations[name]

    def __len__(self) -> int:
        return len(self.explanations)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the composites."""
        return tuple(self.explanations)

    # -- agreement ----------------------------------------------------------------------------------------------------

    def relevance(self, name: str) -> Tensor:
        """The relevance of all explained inputs under a composite, one row per sample, shape (B, N)."""
        explanation = self.explanations[name]
        samples = explanation.score.numel()
        return torch.cat([_rows(r, samples) for r in explanation.inputs.values()], 1)

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """Each two composites, and how alike they are."""
        relevance = {name: self.relevance(name).double() for name in self.names}
        ranked = {name: ranks(values) for name, values in relevance.items()}
        centred = {name: values - values.mean(-1, keepdim=True) for name, values in ranked.items()}
        return tuple(
            Pair(
                a,
                b,
                cosine(centred[a], centred[b]),
                cosine(relevance[a], relevance[b]),
                plan_differences(self[a].plan, self[b].plan),
            )
            for a, b in itertools.combinations(self.names, 2)
        )

    def pair(self, a: str, b: str) -> Pair:
        """How alike two composites are.

        Raises
        ------
        InputError
            If there are no such two.
        """
        for pair in self.pairs:
            if {pair.a, pair.b} == {a, b} and a != b:
                return pair
        raise InputError(f"no two composites {a!r} and {b!r} here. There are: {', '.join(map(repr, self.names))}.")

    def same_plan_as(self, name: str) -> str | None:
        """The first composite before this one that chooses the same rule with the same parameters at each node."""
        for pair in self.pairs:
            if pair.b == name and not pair.differences:
                return pair.a
        return None

    @property
    def notes(self) -> list[str]:
        """What a reader should know before taking the numbers at face value."""
        found = [
            f"{name} has the same plan as {same}: the same rule with the same parameters at each node."
            for name in self.names
            if (same := self.same_plan_as(name)) is not None
        ]
        first = self[self.names[0]]
        for name in self.names[1:]:
            picked = zip(first.picked, self[name].picked, strict=False)
            for sample, (one, other) in enumerate(picked):
                if one != other:
                    found.append(
                        f"sample {sample}: {self.names[0]} explains {one}, {name} explains {other}; the model decides by the "
                        "last digits, which graph passes change. Name the target."
                    )
        for name in self.names if self.pairs else ():
            rows = self.relevance(name)
            flat = (rows == rows[:, :1]).all(1).nonzero().flatten().tolist()
            if flat:
                found.append(
                    f"{name}: the relevance of sample {', '.join(map(str, flat))} is the same throughout, so it has no order: "
                    "its rank correlation is undefined, as is the cosine of one that is 0. Means leave both out."
                )
        streams = [name for name in self.names if self[name].streams]
        if streams:
            found.append(f"{', '.join(streams)}: compared is the first of two streams.")
        return found

    # -- as rows ------------------------------------------------------------------------------------------------------

    def table(self) -> list[dict[str, Any]]:
        """One plain row per composite: its score, books, cost, and whose plan it shares.

        ``score`` is a list over the samples, ``absorbed`` name to such a list (one number where samples cannot be told
        apart), ``seconds`` the median of the repeats.
        """
        return [
            {
                "name": name,
                "composite": explanation.plan.composite_name,
                "score": explanation.score.tolist(),
                "ledger_error": explanation.ledger.error,
                "absorbed": {
                    entry.partition(": ")[2]: amount.tolist()
                    for entry, amount in explanation.ledger.rows()
                    if entry.startswith("absorbed")
                },
                "seconds": statistics.median(self.times[name]),
                "nodes": len(explanation.plan.table()),
                "same_plan_as": self.same_plan_as(name),
            }
            for name, explanation in self.explanations.items()
        ]

    def plan_table(self) -> list[dict[str, Any]]:
        """Where the plans differ: one row per op and set of rules, with the number and the names of the nodes."""
        rows = [{row["node"]: row for row in self[name].plan.table()} for name in self.names]
        differing = dict.fromkeys(difference.node for pair in self.pairs for difference in pair.differences)
        groups: dict[tuple[str, ...], list[str]] = {}
        for node in (node for node in dict.fromkeys(itertools.chain(*rows)) if node in differing):
            there = [plan.get(node) for plan in rows]
            op = next(row["op"] for row in there if row is not None)
            groups.setdefault((op, *(called(row, there) for row in there)), []).append(node)
        return [
            {"op": op, "nodes": nodes, "rules": dict(zip(self.names, rules, strict=True))}
            for (op, *rules), nodes in groups.items()
        ]

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values, without the relevance itself."""
        return {
            "target": self[self.names[0]].target,
            "threads": self.threads,
            "repeats": len(next(iter(self.times.values()))),
            "composites": self.table(),
            "pairs": [
                {
                    "a": pair.a, "b": pair.b, "spearman": _numbers(pair.spearman), "spearman_mean": _mean(pair.spearman),
                    "cosine": _numbers(pair.cosine), "cosine_mean": _mean(pair.cosine),
                    "nodes_that_differ": len(pair.differences),
                }
                for pair in self.pairs
            ],
            "plans": self.plan_table(),
            "notes": self.notes,
        }  # fmt: skip

    # -- as text, picture and page ------------------------------------------------------------------------------------

    def __str__(self) -> str:
        from dlbt_core.show.comparison import text

        return text(self)

    def __repr__(self) -> str:
        samples = self[self.names[0]].score.numel()
        return f"<Comparison of {', '.join(self.names)} on {samples} sample{'s' * (samples != 1)}>"

    def figure(self, input: str | None = None, **options: Any) -> Any:
        """Relevance side by side as a matplotlib figure; see `dlbt_core.show.comparison.comparison_figure`."""
        from dlbt_core.show.comparison import comparison_figure

        return comparison_figure(self, input, **options)

    def show(self, input: str | None = None, **options: Any) -> None:
        """Open the figure: in the notebook, else in a window."""
        from dlbt_core.show import figure

        figure.show(self.figure(input, **options))

    def save(self, path: str | Path, **options: Any) -> Path:
        """Write a figure (``.png``, ``.svg``, ``.pdf``), or a page (``.html``) with all that is known.

        Parameters
        ----------
        path : str or Path
            The file; its ending says the format.
        **options
            As for `figure` or `to_html`.

        Raises
        ------
        InputError
            If the ending is none of these.
        """
        if Path(path).suffix.lower() in (".html", ".htm"):
            return self.to_html(path, **options)
        from dlbt_core.show import figure

        return figure.save(self.figure(**options), path)

    def to_html(self, path: str | Path, **options: Any) -> Path:
        """Write a self-contained page; see `dlbt_core.show.comparison.comparison_page` for the options."""
        from dlbt_core.show.comparison import comparison_page

        return comparison_page(self, path, **options)

    def _repr_html_(self) -> str:
        from dlbt_core.show.comparison import comparison_fragment

        return comparison_fragment(self)


def _rows(values: Tensor, samples: int) -> Tensor:
    """One row per sample; an input that the samples share belongs to each of them."""
    if values.dim() and values.shape[0] == samples:
        return values.detach().reshape(samples, -1)
    return values.detach().reshape(1, -1).expand(samples, -1)


def _numbers(values: Tensor) -> list[float | None]:
    """Numbers for JSON, which has no NaN."""
    return [None if value != value else value for value in values.tolist()]


def _mean(values: Tensor) -> float | None:
    mean = float(values.nanmean())
    return None if mean != mean else mean
