"""Every architecture of transformers, explained: each class of the auto mappings, tiny and with random weights.

One batch of two random inputs, in float32, one model at a time. Of texts the second row is padded at its end. Run with
``make zoo``, or e.g.

    python benchmarks/zoo_transformers.py causal 'image/*' BertForMaskedLM --dtype float64 --repeats 3

Exits with 1 if an op had no rule, a relevance was not finite or was not 0 where nothing could come from, the books missed
more than the limit, or dlbt failed. A class that transformers itself cannot build or run here is listed with the cause.
"""

from __future__ import annotations

import argparse
import collections
import gc
import json
import math
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import zoo_transformer_models as models
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from timing import interleaved
from torch import Tensor

import dlbt_core as dlbt

COMPOSITES = ("auto", "attnlrp")
LIMITS = {torch.float32: 1e-3, torch.float64: 1e-6}  # norms and softmax are in float32 in many a float64 model
ROWS = 1e-3
SECONDS = 90


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


# -- measuring ----------------------------------------------------------------------------------------------------------


def explained(entry: models.Entry, composites: list[str], dtype: torch.dtype, repeats: int = 0) -> list[Row]:
    """One class under all composites; a failure is reported in its rows."""
    found = {c: Row(entry.name, entry.kind, entry.model_type, c) for c in composites}
    stage, trace = "build", ""
    try:
        with _limited(SECONDS):
            model, given = entry.make(dtype)
            stage = "run"
            with torch.no_grad():
                score = entry.score(model(**given))
            if not bool(torch.isfinite(score).all()):
                raise ArithmeticError("the model's own score is not finite")
            stage = "explain"
            _explain(entry, model, given, found, dtype, repeats)
            stage = "done"
    except Exception as error:  # any failure belongs into the table
        last = traceback.extract_tb(error.__traceback__)[-1]
        trace = f"{_text(error)} [{Path(last.filename).name}:{last.lineno}]"
    for row in found.values():
        if not row.missing and not row.failure:
            row.stage = stage if math.isnan(row.error) else "done"
            row.failure = trace
        else:
            row.stage = "explain"
    return list(found.values())


def _explain(
    entry: models.Entry, model: Any, given: dict[str, Any], rows: dict[str, Row], dtype: torch.dtype, repeats: int
) -> None:
    explainer = dlbt.Explainer(model, layers="none")
    target = dlbt.target.function(entry.score)
    done: dict[Any, Row] = {}
    for name, row in rows.items():
        try:
            found = explainer(**given, target=target, composite=name)
        except dlbt.errors.NoRuleError as error:
            row.missing = _missing(error)
            continue
        choices = found.plan.composite.choices
        if choices in done:  # auto chose what was asked for by name before
            known = done[choices]
            row.error, row.zeros, row.rows, row.ratio, row.failure = (
                known.error, known.zeros, known.rows, known.ratio, known.failure,
            )  # fmt: skip
            continue
        done[choices] = row
        row.error = found.ledger.error
        row.failure = _wrong(found.inputs)
        row.zeros = _zeros(entry, model, given, found.inputs.get("input_ids"))
        row.rows = _rows_apart(explainer, given, target, name, found.inputs)
        if repeats:
            runs = {
                "gradient": models.gradient(entry, model, given),
                "explain": lambda c=name: explainer(**given, target=target, composite=c),
            }
            times = interleaved(runs, repeats, warm_up=1)
            row.ratio = times["explain"] / times["gradient"]


def _wrong(inputs: Any) -> str:
    if not all(bool(torch.isfinite(r).all()) for r in inputs.values()):
        return "relevance is not finite"
    if not any(bool(r.abs().max() > 0) for r in inputs.values() if r.numel()):
        return "relevance is 0 everywhere"
    return ""


def _zeros(entry: models.Entry, model: Any, given: dict[str, Any], relevance: Tensor | None) -> str:
    """Whether the last two tokens got exactly 0 wherever the score does not change with what they are embedded as."""
    if relevance is None or relevance.dim() != 2:
        return ""
    try:
        weight = model.get_input_embeddings().weight
    except (AttributeError, NotImplementedError):
        return ""
    own = [*models.ASIDE, models.pad_of(model.config)]
    with torch.no_grad():
        before = entry.score(model(**given))
        kept = weight[own].clone()
        weight[own] *= 0.5
        after = entry.score(model(**given))
        weight[own] = kept
    unmoved = ((after - before).abs() <= 1e-6 * before.abs()).nonzero().flatten()
    if not unmoved.numel():
        return ""
    return "no" if bool(relevance[unmoved, -2:].any()) else "yes"


def _rows_apart(explainer: Any, given: dict[str, Any], target: Any, composite: str, together: Any) -> float:
    worst = 0.0
    for row in range(2):
        one = {k: v[row : row + 1] if isinstance(v, Tensor) else v for k, v in given.items()}
        alone = explainer(**one, target=target, composite=composite)
        for name, relevance in alone.inputs.items():
            scale = float(relevance.abs().max()) or 1.0
            worst = max(worst, float((together[name][row : row + 1] - relevance).abs().max()) / scale)
    return worst


@contextmanager
def _limited(seconds: int) -> Iterator[None]:
    """Raise TimeoutError after so many seconds, where the system has alarms."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"not done in {seconds} s")

    if not hasattr(signal, "SIGALRM"):
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _missing(error: Exception) -> tuple[str, ...]:
    """The ops that a NoRuleError lists."""
    first = str(error).splitlines()[0].removeprefix("no relevance rule for ")
    return tuple(sorted(op.strip() for op in first.split(",")))


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:180]


# -- showing ------------------------------------------------------------------------------------------------------------

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
    error, rows = ("" if math.isnan(n) else f"{n:.1e}" for n in (row.error, row.rows))
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
    lines: list[tuple[str, ...]] = [("composite", "classes", "run here", "sound", *verdicts, "largest ledger error")]
    for composite in dict.fromkeys(row.composite for row in found):
        own = [row for row in found if row.composite == composite]
        here = [row for row in own if row.verdict(dtype) != "not here"]
        counted = collections.Counter(row.verdict(dtype) for row in here)
        worst = max((row.error for row in here if not math.isnan(row.error)), default=math.nan)
        lines.append((composite, str(len(own)), str(len(here)), str(counted[""]), *(str(counted[v]) for v in verdicts),
                      f"{worst:.1e}"))  # fmt: skip
    return lines


def causes(found: list[Row]) -> list[tuple[str, int]]:
    """Ops without a rule, and errors, by how many classes have them."""
    counted: collections.Counter[str] = collections.Counter()
    for row in {row.name: row for row in found}.values():
        counted.update(f"no rule: {op}" for op in row.missing)
        if row.failure:
            counted[f"{row.stage}: {row.failure[:110]}"] += 1
    return counted.most_common()


HOW = """\
Written by `make zoo` (`benchmarks/zoo_transformers.py`); do not edit.

Every class of the auto mappings whose configuration can be shrunk, with random weights (drawn anew: a standard deviation of
0.02 leaves nothing to explain) and a batch of two random inputs; of texts the second is padded. Explained: the largest class,
or the likeliest token at one position. *Zeros*: exactly 0 on the last two tokens wherever the score does not change with what
they are. *Rows*: how far a row of the batch is from the sample alone. Sound: every op had a rule, relevance is finite and not
0 everywhere, the books close to {limit:g} of the score, zeros and rows hold."""


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
    page += ["## What is missing or fails, by classes", ""]
    page += lines(("what", "classes"), [(cause, str(count)) for cause, count in causes(found)])
    page += ["## All classes", "", *lines(COLUMNS, [cells(row) for row in found])]
    return "\n".join(page)


# -- running ------------------------------------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="globs on class, kind, kind/class or model type; all unless given")
    parser.add_argument("--composites", nargs="+", default=list(COMPOSITES))
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--repeats", type=int, default=0, help="timed runs; none unless given")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one-head", action="store_true", help="only one class of each model type")
    parser.add_argument("--markdown", type=Path, help="where to write the page")
    parser.add_argument("--json", type=Path, help="where to append one line per row; classes in it are not run again")
    return parser.parse_args()


def _known(path: Path | None) -> list[Row]:
    """The rows of an earlier run."""
    if path is None or not path.exists():
        return []
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [Row(**{**row, "missing": tuple(row["missing"])}) for row in rows]


def main() -> int:
    given = arguments()
    torch.set_num_threads(given.threads)
    warnings.filterwarnings("ignore")
    import transformers

    transformers.logging.set_verbosity_error()
    dtype = getattr(torch, given.dtype)
    found = _known(given.json)
    known = {row.name for row in found}
    chosen = models.entries(given.models)
    if given.one_head:
        chosen = list({entry.model_type: entry for entry in reversed(chosen)}.values())[::-1]
    console = Console(width=200)
    bar = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*bar, console=console) as progress:
        task = progress.add_task("", total=len(chosen))
        for entry in chosen:
            progress.update(task, description=entry.name)
            if entry.name not in known:
                new = explained(entry, given.composites, dtype, given.repeats)
                gc.collect()
                found += new
                for row in new[:1]:
                    if row.verdict(dtype):
                        progress.console.print(
                            escape(f"{row.verdict(dtype)}: {' | '.join(cells(row))}"), highlight=False
                        )
                if given.json:
                    with given.json.open("a", encoding="utf-8") as file:
                        file.writelines(json.dumps(asdict(row)) + "\n" for row in new)
            progress.advance(task)
    if given.markdown:
        given.markdown.write_text(markdown(found, dtype), encoding="utf-8")
    console.print(table(found, dtype))
    header, *body = summary(found, dtype)
    total = Table(*header, title=f"{given.dtype}, limit {LIMITS[dtype]:g}")
    for line in body:
        total.add_row(*line)
    why = Table("what is missing or fails", "classes")
    for cause, count in causes(found):
        why.add_row(escape(cause), str(count))
    console.print(why, total)
    return int(any(row.verdict(dtype) not in ("", "not here") for row in found) or not found)


if __name__ == "__main__":
    sys.exit(main())
