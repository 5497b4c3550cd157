"""What the zoo of transformers found: its rows, and the tables of them."""

from __future__ import annotations

import collections
import math
import re
import statistics
from dataclasses import dataclass

import torch
from rich.markup import escape
from rich.table import Table

__all__ = ["COLUMNS", "LIMITS", "REASONS", "Row", "causes", "cells", "markdown", "reasons", "summary", "table"]

LIMITS = {torch.float32: 1e-3, torch.float64: 1e-8}
ROWS = 1e-3


@dataclass
class Row:
    """One class under one composite.

    Attributes
    ----------
    stage
        Where it ended: ``build``, ``run`` (of the model, without dlbt), ``explain``, or ``done``.
    missing
        Ops without a rule.
    error
        Of the ledger, relative to the score.
    zeros
        Whether what could not influence the score got exactly 0: ``yes``, ``no``, or empty where nothing could be told.
    rows
        How far a row of the batch is from the sample alone, relative.
    precise
        Whether error, zeros and rows are those in float64.
    ratio
        Time over that of forward + input gradient.
    """

    name: str
    kind: str
    model_type: str
    composite: str
    stage: str = "build"
    missing: tuple[str, ...] = ()
    error: float = math.nan
    zeros: str = ""
    rows: float = math.nan
    ratio: float = math.nan
    failure: str = ""
    precise: bool = False

    def verdict(self, dtype: torch.dtype) -> str:
        """What is wrong with it, in a word or two; empty if nothing is."""
        if self.stage in ("build", "run"):
            return "not here"
        if self.missing:
            return "missing rules"
        if self.failure:
            return "failed"
        if self.zeros == "no":
            return "not 0"
        if self.rows > ROWS:
            return "rows differ"
        return "" if self.error <= LIMITS[dtype] else "ledger"


COLUMNS = (
    "class",
    "kind",
    "composite",
    "missing rules, or what failed",
    "ledger error",
    "zeros",
    "rows",
    "time / gradient",
)


def cells(row: Row) -> tuple[str, ...]:
    """A row as text."""
    exact = " (float64)" if row.precise else ""
    error, rows = ("" if math.isnan(n) else f"{n:.1e}{exact}" for n in (row.error, row.rows))
    ratio = "" if math.isnan(row.ratio) else f"{row.ratio:.2f}"
    what = ", ".join(row.missing) or (f"{row.stage}: {row.failure}" if row.failure else "")
    return row.name, row.kind, row.composite, what, error, row.zeros, rows, ratio


def table(found: list[Row], dtype: torch.dtype) -> Table:
    """All rows in which something is wrong."""
    wrong = [row for row in found if row.verdict(dtype)]
    shown = Table(title=f"{len(wrong)} of {len(found)} rows in which something is wrong")
    for column in COLUMNS:
        shown.add_column(column, justify="right" if column in ("ledger error", "rows", "time / gradient") else "left")
    for row in wrong:
        shown.add_row(*map(escape, cells(row)), style="" if row.verdict(dtype) == "not here" else "red")
    return shown


def summary(found: list[Row], dtype: torch.dtype) -> list[tuple[str, ...]]:
    """Per composite: classes, those that run here, those that explain, and what is wrong with the others."""
    verdicts = ("missing rules", "failed", "ledger", "not 0", "rows differ")
    times = ("median time / gradient", "largest")
    lines: list[tuple[str, ...]] = [
        ("composite", "classes", "run here", "sound", *verdicts, "largest ledger error", *times)
    ]
    for composite in dict.fromkeys(row.composite for row in found):
        own = [row for row in found if row.composite == composite]
        here = [row for row in own if row.verdict(dtype) != "not here"]
        counted = collections.Counter(row.verdict(dtype) for row in here)
        worst = max((row.error for row in here if not row.failure and not math.isnan(row.error)), default=math.nan)
        ratios = [row.ratio for row in here if not math.isnan(row.ratio)]
        times = (f"{statistics.median(ratios):.2f}", f"{max(ratios):.2f}") if ratios else ("", "")
        lines.append((composite, str(len(own)), str(len(here)), str(counted[""]), *(str(counted[v]) for v in verdicts),
                      f"{worst:.1e}", *times))  # fmt: skip
    return lines


def causes(found: list[Row]) -> list[tuple[str, list[str]]]:
    """Ops without a rule, and what dlbt failed with, and the classes that have them; the most frequent first."""
    named: dict[str, list[str]] = {}
    for row in {row.name: row for row in found if row.stage not in ("build", "run")}.values():
        texts = [f"no rule: {op}" for op in row.missing] + (
            [f"{row.stage}: {row.failure[:110]}"] if row.failure else []
        )
        for text in texts:
            named.setdefault(text, []).append(row.name)
    return sorted(named.items(), key=lambda item: -len(item[1]))


def reasons(found: list[Row], dtype: torch.dtype) -> list[tuple[str, list[str]]]:
    """Why a class is not here, in words, and the classes; the most frequent first."""
    named: dict[str, list[str]] = {}
    for row in {row.name: row for row in found if row.verdict(dtype) == "not here"}.values():
        why = next((words for pattern, words in REASONS.items() if re.search(pattern, row.failure)), None)
        named.setdefault(why or f"{row.stage}: {row.failure[:110]}", []).append(row.name)
    return sorted(named.items(), key=lambda item: -len(item[1]))


REASONS = {
    r"without its kernel for CUDA": "needs a kernel for CUDA: without it its attention gives zeros",
    r"requires the timm library": "needs the package timm",
    r"requires the natten library": "needs the package natten",
    r"requires the detectron2 library": "needs the package detectron2",
    r"requires the torchaudio library": "needs the package torchaudio",
    r"no inputs known for inference_session": "is called with the session of a video, not with tensors",
    r"no inputs known for input \[": "has no `forward`: it only encodes, decodes or generates",
    r"has no attribute \w+ \[import_utils": "is in the auto mapping, but transformers does not export it",
    r"set of layer types producing a cache": "transformers' own check refuses its configuration: it has no keys of its own, "
    "but takes those of another model",
}
"""What an exception says to why a class is not here, in words."""

HOW = """\
Written by `make zoo` (`benchmarks/zoo_transformers.py`); do not edit.

Every class of the auto mappings whose configuration can be shrunk, with random weights (drawn anew: a standard deviation of
0.02 leaves nothing to explain) and a batch of two random inputs; of texts the second is padded. Explained: the largest class,
or the likeliest token at one position. *Zeros*: exactly 0 on the last two tokens wherever the score does not change with what
they are. *Rows*: how far a row of the batch is from the sample alone, unless already the model's score is. Sound: every op had
a rule, relevance is finite and not 0 everywhere, the books close to {limit:g} of the score, zeros and rows hold; *(float64)*:
in that type, since these random weights amplify the rounding of float32. Time / gradient: an explanation over forward + input
gradient by autograd, interleaved runs after a warm-up, on models so small that most of it is overhead of Python."""


def markdown(found: list[Row], dtype: torch.dtype) -> str:
    """A page with all rows."""
    import transformers

    def lines(header: tuple[str, ...], body: list[tuple[str, ...]]) -> list[str]:
        escaped = [[cell.replace("|", "\\|") for cell in line] for line in (header, *body)]
        shown = ["| " + " | ".join(line) + " |" for line in escaped]
        return [shown[0], "|" + "---|" * len(header), *shown[1:], ""]

    setting = (
        f"torch {torch.__version__}, transformers {transformers.__version__}, {str(dtype).removeprefix('torch.')}."
    )
    header, *body = summary(found, dtype)
    page = [
        "# Every architecture of transformers",
        "",
        HOW.format(limit=LIMITS[dtype]),
        "",
        setting,
        "",
        *lines(header, body),
    ]
    page += ["## What is missing or fails", ""]
    page += lines(("what", "classes", "which"), _counted(causes(found)))
    page += ["## What transformers cannot build or run here", ""]
    page += lines(("why", "classes", "which"), _counted(reasons(found, dtype)))
    page += ["## All classes", "", *lines(COLUMNS, [cells(row) for row in sorted(found, key=lambda row: row.kind)])]
    return "\n".join(page)


def _counted(named: list[tuple[str, list[str]]]) -> list[tuple[str, ...]]:
    return [(what, str(len(names)), ", ".join(names)) for what, names in named]
