"""Every model of torchvision, explained: classification, segmentation, video, detection.

Random weights that keep the scale of what passes (see `zoo_models`), one random input as small as the model sensibly takes,
batch of one. Run with ``make zoo``, or e.g.

    python benchmarks/zoo_torchvision.py 'resnet*' segmentation --composites auto epsilon_plus --dtype float64

Exits with 1 if an op had no rule, a relevance was not finite, the books missed more than the limit, or anything failed.
"""

from __future__ import annotations

import argparse
import gc
import math
import statistics
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import zoo_models
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from timing import interleaved

import dlbt_core as dlbt

COMPOSITES = ("epsilon", "epsilon_plus", "epsilon_gamma_box", "auto")
LIMITS = {torch.float32: 1e-3, torch.float64: 1e-8}
REPEATS = 3


@dataclass
class Row:
    """One model under one composite."""

    entry: zoo_models.Entry
    composite: str
    missing: tuple[str, ...] = ()
    error: float = math.nan
    absorbed: tuple[tuple[str, float], ...] = ()
    ratio: float = math.nan
    failure: str = ""

    def verdict(self, limit: float) -> str:
        """What is wrong with it, in a word or two; empty if nothing is."""
        if self.missing:
            return "missing rules"
        if self.failure:
            return "failed"
        return "" if self.error <= limit else "ledger"

    @property
    def absorbed_text(self) -> str:
        return ", ".join(f"{name} {100 * share:+.3g} %" for name, share in self.absorbed) or "nothing"


# -- measuring ----------------------------------------------------------------------------------------------------------


def rows(entry: zoo_models.Entry, composites: list[str], dtype: torch.dtype, repeats: int) -> list[Row]:
    """One model under all composites; a failure is reported in its row."""
    found = {name: Row(entry, name) for name in composites}
    try:
        model, inputs = entry.make(dtype)
        runs: dict[str, Any] = {"gradient": zoo_models.gradient(entry, model, inputs)}
        explainer = dlbt.Explainer(model, layers="none")
        for name, row in found.items():
            if _explained(explainer, inputs, row):
                runs[name] = lambda c=name: explainer(*inputs, target=entry.target, composite=c)
        if repeats and len(runs) > 1:
            times = interleaved(runs, repeats, warm_up=0)  # each ran once above
            for name in runs:
                if name in found:
                    found[name].ratio = times[name] / times["gradient"]
    except Exception as error:  # any failure belongs into the table
        for row in found.values():
            row.failure = row.failure or _text(error)
    return list(found.values())


def _explained(explainer: Any, inputs: tuple[Any, ...], row: Row) -> bool:
    """Explain once and fill the row; whether it worked."""
    try:
        found = explainer(*inputs, target=row.entry.target, composite=row.composite)
    except dlbt.errors.NoRuleError as error:
        row.missing = _missing(error)
        return False
    except Exception as error:  # any failure belongs into the table
        row.failure = _text(error)
        return False
    ledger = found.ledger
    amounts = {**ledger.absorbed, **{f"{name} (all samples)": a for name, a in ledger.unassigned.items()}}
    shares = {name: float(amount.sum() / found.score.sum()) for name, amount in amounts.items() if amount.any()}
    row.absorbed = tuple(sorted(shares.items(), key=lambda item: -abs(item[1]))[:3])
    row.error = ledger.error
    if not all(bool(torch.isfinite(r).all()) for r in found.inputs.values()):
        row.failure = "relevance is not finite"
    elif not any(bool(r.abs().max() > 0) for r in found.inputs.values()):
        row.failure = "relevance is 0 everywhere"
    return not row.failure


def _missing(error: Exception) -> tuple[str, ...]:
    """The ops that a NoRuleError lists."""
    words = {word.strip("`'\",;()[]") for word in str(error).split()}
    ops = {word for word in words if word.count(".") >= 1 and word.split(".")[0] in ("aten", "torchvision", "prims")}
    return tuple(sorted(ops or {_text(error)}))


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:160]


# -- showing ------------------------------------------------------------------------------------------------------------

COLUMNS = (
    "model",
    "px",
    "composite",
    "missing rules",
    "ledger error",
    "absorbed, in % of the score",
    "time / gradient",
)


def cells(row: Row, limit: float) -> tuple[str, ...]:
    """A row as text."""
    error = "" if math.isnan(row.error) else f"{row.error:.1e}"
    ratio = "" if math.isnan(row.ratio) else f"{row.ratio:.2f}"
    absorbed = row.failure or ("" if row.missing else row.absorbed_text)
    if row.verdict(limit) == "ledger":
        error += " !"
    missing = ", ".join(row.missing)
    return (row.entry.name, str(row.entry.size), row.composite, missing, error, absorbed, ratio)


def table(found: list[Row], kind: str, limit: float) -> Table:
    """The rows of one kind."""
    shown = Table(title=kind)
    for column in COLUMNS:
        shown.add_column(column, justify="right" if column in ("px", "ledger error", "time / gradient") else "left")
    for row in found:
        style = "red" if row.verdict(limit) else ""
        shown.add_row(*cells(row, limit), style=style)
    return shown


def summary(found: list[Row], limit: float) -> Iterator[tuple[str, ...]]:
    """Per composite: models, sound ones, largest ledger error, median and largest time ratio."""
    yield "composite", "models", "sound", "largest ledger error", "median time / gradient", "largest"
    for composite in dict.fromkeys(row.composite for row in found):
        own = [row for row in found if row.composite == composite]
        sound = [row for row in own if not row.verdict(limit)]
        errors = [row.error for row in own if not math.isnan(row.error)]
        ratios = [row.ratio for row in own if not math.isnan(row.ratio)]
        figures = [f"{f:.2f}" for f in (statistics.median(ratios), max(ratios))] if ratios else ["", ""]
        worst = f"{max(errors):.1e}" if errors else ""
        yield composite, str(len(own)), str(len(sound)), worst, *figures


def by_kind(found: list[Row]) -> dict[str, list[Row]]:
    """The rows, sorted into kinds."""
    return {kind: [r for r in found if r.entry.kind == kind] for kind in dict.fromkeys(r.entry.kind for r in found)}


WRITTEN_BY = "Written by `make zoo` (`benchmarks/zoo_torchvision.py`); do not edit."
HOW = f"""\
Random weights: torchvision's own would leave nothing to explain (heads of zeros, layer scales of 1e-6), so all are drawn anew:
Kaiming for convolutions and linear maps, 0.7 to 1.3 for norms, batch norm statistics from a random batch that holds the input.
Explained: the largest class; for segmentation the mean over pixels of each pixel's largest class; for detection the best box's
score. A model is sound if every op had a rule, the relevance is finite and not all 0, and the books close to {{limit:g}} of the
score. Times: explanation over forward + input gradient by autograd, medians of {REPEATS} interleaved runs."""


def markdown(found: list[Row], limit: float, dtype: torch.dtype) -> str:
    """A page with all rows."""

    def lines(header: tuple[str, ...], body: list[tuple[str, ...]]) -> list[str]:
        escaped = [[cell.replace("|", "\\|") for cell in cells_] for cells_ in (header, *body)]
        shown = ["| " + " | ".join(cells_) + " |" for cells_ in escaped]
        return [shown[0], "|" + "---|" * len(header), *shown[1:], ""]

    import torchvision

    header, *body = summary(found, limit)
    setting = (
        f"torch {torch.__version__}, torchvision {torchvision.__version__}, {str(dtype).removeprefix('torch.')}, "
        f"{torch.get_num_threads()} threads, one random input."
    )
    page = ["# Every model of torchvision", "", WRITTEN_BY, "", setting, "", HOW.format(limit=limit), ""]
    page += lines(header, body)
    for kind, own in by_kind(found).items():
        page += [f"## {kind.capitalize()}", "", *lines(COLUMNS, [cells(row, limit) for row in own])]
    return "\n".join(page)


# -- running ------------------------------------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="globs on name, kind or kind/name; all unless given")
    parser.add_argument("--composites", nargs="+", default=list(COMPOSITES))
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--size", type=int, help="pixels a side, for models that take any")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="timed runs; 0 to leave out the times")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--markdown", type=Path, help="where to write the page")
    return parser.parse_args()


def main() -> int:
    given = arguments()
    torch.set_num_threads(given.threads)
    warnings.filterwarnings("ignore", module="torchvision")
    dtype = getattr(torch, given.dtype)
    limit = LIMITS[dtype]
    chosen = [entry.resized(given.size) for entry in zoo_models.entries(given.models)]
    console = Console(width=170)
    found: list[Row] = []
    bar = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*bar, console=console) as progress:
        task = progress.add_task("", total=len(chosen))
        for entry in chosen:
            progress.update(task, description=entry.name)
            new = rows(entry, given.composites, dtype, given.repeats)
            gc.collect()
            found += new
            for row in new:
                if row.verdict(limit):
                    progress.console.print(f"{row.verdict(limit)}: {' | '.join(cells(row, limit))}", style="red")
            progress.advance(task)
            if given.markdown:  # after each model, so that a run cut short leaves what it found
                given.markdown.write_text(markdown(found, limit, dtype), encoding="utf-8")
    for kind, own in by_kind(found).items():
        console.print(table(own, kind, limit))
    header, *body = summary(found, limit)
    total = Table(title=f"{given.dtype}, limit {limit:g}, {torch.get_num_threads()} threads")
    for column in header:
        total.add_column(column)
    for line in body:
        total.add_row(*line)
    console.print(total)
    return int(any(row.verdict(limit) for row in found) or not found)


if __name__ == "__main__":
    sys.exit(main())
