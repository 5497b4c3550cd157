"""Progress of the demo: a bar while something runs, a line when it is done."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

__all__ = ["Step", "Steps"]


class Step:
    """Something that is being done."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task
        self.result = ""

    def advance(self) -> None:
        """One more part is done."""
        self._progress.advance(self._task)

    def done(self, result: str) -> None:
        """Say what came of it."""
        self.result = result


class Steps:
    """Shows steps on a console, which is standard error unless another is given."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)

    @contextmanager
    def step(self, what: str, parts: int | None = None) -> Iterator[Step]:
        """While this runs, a bar is shown; after it a line with the result and the time it took.

        Parameters
        ----------
        what : str
            What is being done.
        parts : int, optional
            In how many parts; unknown unless given.
        """
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        started = time.perf_counter()
        with Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as progress:
            step = Step(progress, progress.add_task(what, total=parts))
            yield step
        result = f": {step.result}" if step.result else ""
        line = f"{what}{result} ({time.perf_counter() - started:.1f} s)"
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)
