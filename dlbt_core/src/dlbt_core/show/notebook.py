"""What a notebook shows of an explanation: its samples, with a style that touches nothing else on the page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from dlbt_core.explanation import Explanation
from dlbt_core.show.page import Side, Table, environment, ramp
from dlbt_core.show.views import Exhibit, view

__all__ = ["fragment"]


def fragment(
    explanations: Iterable[Explanation | Exhibit],
    *,
    tables: Sequence[Table] = (),
    sides: Sequence[Side] = (),
    notes: Sequence[str] = (),
    **options: Any,
) -> str:
    """A piece of HTML for notebooks: inputs in colour and in numbers; ledger and plan are left to `write_page`.

    Parameters
    ----------
    explanations : iterable of Explanation or Exhibit
        What to show. An `Exhibit` brings its own options.
    tables, sides, notes
        What comes before them.
    **options
        For each explanation that is not an `Exhibit`: as `Exhibit` describes them; at most 8 samples unless given.
    """
    options = {"samples": 8, **options}
    exhibits = [e if isinstance(e, Exhibit) else Exhibit(e, **options) for e in explanations]
    template = environment().get_template("fragment.html")
    return template.render(
        exhibits=[view(exhibit) for exhibit in exhibits], tables=tables, sides=sides, notes=notes,
        light_ramp=ramp("light"), dark_ramp=ramp("dark"),
    )  # fmt: skip
