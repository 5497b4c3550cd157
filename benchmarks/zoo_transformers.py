"""Every architecture of transformers, explained: each class of the auto mappings, tiny and with random weights.

One batch of two random inputs, in float32, one model at a time. Of texts the second row is padded at its end. Run with
``make zoo``, or e.g.

    python benchmarks/zoo_transformers.py causal 'image/*' BertForMaskedLM --dtype float64 --repeats 0

Exits with 1 if an op had no rule, a relevance was not finite or was not 0 where nothing could come from, the books missed
more than the limit, or dlbt failed. A class that transformers itself cannot build or run here is listed with the cause.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
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
from zoo_transformer_inputs import ASIDE, pad_of
from zoo_transformer_page import LIMITS, Row, causes, cells, markdown, reasons, summary, table

import dlbt_core as dlbt

COMPOSITES = ("auto", "attnlrp")
SECONDS = 300
TIMED = 60
"""Seconds for one class, and for timing it."""


# -- measuring ----------------------------------------------------------------------------------------------------------


def explained(entry: models.Entry, composites: list[str], dtype: torch.dtype, repeats: int = 0) -> list[Row]:
    """One class under all composites; a failure is reported in its rows.

    Where float32 exceeds a limit, float64 tells whether that is rounding, which some random models amplify without bound.
    """
    found = _measured(entry, composites, dtype, repeats)
    if dtype == torch.float64 or not any(row.verdict(dtype) in ("ledger", "rows differ") for row in found):
        return found
    for row, exact in zip(found, _measured(entry, composites, torch.float64, 0), strict=True):
        if row.verdict(dtype) in ("ledger", "rows differ") and not exact.failure:
            row.error, row.rows, row.zeros, row.precise = exact.error, exact.rows, exact.zeros, True
    return found


def _measured(entry: models.Entry, composites: list[str], dtype: torch.dtype, repeats: int) -> list[Row]:
    found = {c: Row(entry.name, entry.kind, entry.model_type, c) for c in composites}
    stage, trace = "build", ""
    try:
        with _limited(SECONDS):
            model, given = entry.make(dtype)
            stage = "run"
            with torch.no_grad():
                score = entry.score(model(**given), entry.batch)
            if not bool(torch.isfinite(score).all()):
                raise ArithmeticError("the model's own score is not finite")
            stage = "explain"
            explainer = _explain(entry, model, given, found)
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
    if repeats and stage == "done":
        _time(entry, model, given, found, explainer, repeats)
    return list(found.values())


def _explain(entry: models.Entry, model: Any, given: dict[str, Any], rows: dict[str, Row]) -> Any:
    explainer = dlbt.Explainer(model, layers="none")
    target = dlbt.target.function(partial(entry.score, batch=entry.batch))
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
            row.error, row.zeros, row.rows, row.failure = known.error, known.zeros, known.rows, known.failure
            continue
        done[choices] = row
        row.error = found.ledger.error
        row.failure = _wrong(found.inputs)
        row.zeros = _zeros(entry, model, given, found.inputs.get("input_ids"))
        row.rows = _rows_apart(entry, model, given, explainer, name, found.inputs) if entry.batch > 1 else math.nan
    return explainer


def _time(
    entry: models.Entry, model: Any, given: dict[str, Any], rows: dict[str, Row], explainer: Any, repeats: int
) -> None:
    """Explanation over forward + gradient; left out where that takes too long, or autograd refuses the model."""
    target = dlbt.target.function(partial(entry.score, batch=entry.batch))
    runs = {"gradient": models.gradient(entry, model, given)}
    for name, row in rows.items():
        if not math.isnan(row.error):
            runs[name] = partial(explainer, **given, target=target, composite=name)
    with suppress(Exception), _limited(TIMED):  # whatever a class has against autograd
        times = interleaved(runs, repeats, warm_up=1)
        for name in runs.keys() - {"gradient"}:
            rows[name].ratio = times[name] / times["gradient"]


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
    own = [*ASIDE, pad_of(model.config)]
    with torch.no_grad():
        before = entry.score(model(**given), entry.batch)
        kept = weight[own].clone()
        weight[own] = -0.5 * kept.roll(1, -1)  # another direction, too: a norm undoes a factor
        after = entry.score(model(**given), entry.batch)
        weight[own] = kept
    unmoved = ((after - before).abs() <= 1e-6 * before.abs()).nonzero().flatten()
    if not unmoved.numel():
        return ""
    return "no" if bool(relevance[unmoved, -2:].any()) else "yes"


def _rows_apart(
    entry: models.Entry, model: Any, given: dict[str, Any], explainer: Any, composite: str, together: Any
) -> float:
    """How far each row is from the sample alone; nothing where already the model's own scores are not those alone."""
    target = dlbt.target.function(partial(entry.score, batch=1))
    worst = 0.0
    with torch.no_grad():
        scores = entry.score(model(**given), entry.batch)
    for row in range(entry.batch):
        one = {k: v.chunk(entry.batch)[row] if isinstance(v, Tensor) else v for k, v in given.items()}
        with torch.no_grad():
            own = entry.score(model(**one), 1)
        if not torch.allclose(own, scores[row : row + 1], rtol=1e-3):
            return math.nan
        alone = explainer(**one, target=target, composite=composite)
        for name, relevance in alone.inputs.items():
            scale = float(relevance.abs().max()) or 1.0
            worst = max(worst, float((together[name].chunk(entry.batch)[row] - relevance).abs().max()) / scale)
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


# -- running ------------------------------------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="globs on class, kind, kind/class or model type; all unless given")
    parser.add_argument("--composites", nargs="+", default=list(COMPOSITES))
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs; 0 for none")
    parser.add_argument("--threads", type=int, default=1)
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
    why = Table("what is missing or fails, or why not here", "classes")
    for cause, names in (*causes(found), *reasons(found, dtype)):
        why.add_row(escape(cause), str(len(names)))
    console.print(why, total)
    return int(any(row.verdict(dtype) not in ("", "not here") for row in found) or not found)


if __name__ == "__main__":
    sys.exit(main())
