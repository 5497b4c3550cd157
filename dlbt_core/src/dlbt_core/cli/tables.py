"""What the commands print."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dlbt_core.cli.output import in_unicode
from dlbt_core.composites.composite import Composite, as_composite
from dlbt_core.errors import PluginWarning
from dlbt_core.explanation import Explanation
from dlbt_core.plugins.loader import Plugins, default_plugins
from dlbt_core.show.words import short_line

__all__ = [
    "Terminal",
    "composite_json",
    "composite_rows",
    "explanation_json",
    "loaded_plugins",
    "plugins_json",
    "print_composite",
    "print_composites",
    "print_explanation",
    "print_json",
    "print_plugins",
    "print_rules",
    "print_table",
    "rules_like",
]

_WIDE = 200  # columns where the output is not a terminal, so that nothing is cut off in files and pipes


class Terminal(Console):
    """A console for which a reader that has gone is an error like any other; rich would end with the code of a finding."""

    def on_broken_pipe(self) -> None:
        """Say so."""
        raise BrokenPipeError


def print_json(value: Any) -> None:
    """Print JSON."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=not in_unicode()))


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; cells are plain text, whatever brackets they have."""
    console = Terminal()
    if not console.is_terminal:
        console = Terminal(width=_WIDE)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


# -- plugins -----------------------------------------------------------------------------------------------------------


def loaded_plugins() -> Plugins:
    """The plugins of this process, without the warnings: what failed is printed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PluginWarning)
        return default_plugins()


def plugins_json(plugins: Plugins, traceback: bool) -> list[dict[str, Any]]:
    """One plain row per plugin; those that failed have the cause, and the traceback if wanted."""
    failures = {(f.name, f.distribution, f.target): f for f in plugins.failures}
    rows = []
    for row in plugins.describe():
        entry: dict[str, Any] = {
            "name": row.name, "distribution": row.distribution, "version": row.version, "status": row.status,
            "stage": row.stage, "rules": row.rules, "target": row.target,
        }  # fmt: skip
        failure = failures.get((row.name, row.distribution, row.target)) if row.status == "failed" else None
        if failure is not None:
            entry["cause"] = failure.cause
            if traceback:
                entry["traceback"] = failure.traceback
        rows.append(entry)
    return rows


def print_plugins(plugins: Plugins, traceback: bool) -> None:
    """Print the plugins, and below them what went wrong."""
    header = ("plugin", "distribution", "version", "status", "stage", "rules", "target")
    print_table(
        header,
        [
            (r.name, r.distribution, r.version, r.status, r.stage, str(r.rules) if r.rules else "", r.target)
            for r in plugins.describe()
        ],
    )
    for failure in plugins.failures:
        typer.echo(f"{failure}" + (f"\n{failure.traceback}" if traceback else ""))
    if plugins.failures and not traceback:
        typer.echo("dlbt plugins --traceback shows the errors in full.")


# -- rules and composites ----------------------------------------------------------------------------------------------


def rules_like(op: str, variant: str, plugin: str) -> list[dict[str, Any]]:
    """Rows of the registry whose op, variant and plugin fit."""
    globs = {"op": op, "variant": variant, "plugin": plugin}
    rows = default_plugins().registry.table()
    return [row for row in rows if all(fnmatchcase(row[name], glob) for name, glob in globs.items())]


def print_rules(rows: Sequence[dict[str, Any]]) -> None:
    """Print rules."""
    header = ("op", "variant", "plugin", "parameters", "takes → gives", "absorbs", "formula", "declared in")
    print_table(header, [_rule_cells(row) for row in rows])
    typer.echo(f"{len(rows)} rule{'s' * (len(rows) != 1)}. An asterisk marks an op's default.")


def _rule_cells(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        row["op"],
        row["variant"] + (" *" if row["default"] else ""),
        f"{row['plugin']} ({row['distribution']} {row['version']})",
        ", ".join(f"{name}={value!r}" for name, value in row["parameters"].items()),
        row["takes"] if row["takes"] == row["gives"] else f"{row['takes']} → {row['gives']}",
        ", ".join(row["absorbs"]),
        row["summary"],
        short_line(row["location"]),
    )


def composite_rows() -> list[dict[str, Any]]:
    """One plain row per composite: what it is, who brought it, its parameters with their defaults."""
    plugins = default_plugins()
    known = plugins.composites
    rows = []
    for name in known:
        source = plugins.source_of(name)
        rows.append({
            "name": name, "summary": known.summary(name), "plugin": source.name, "distribution": source.distribution,
            "version": source.version, "parameters": dict(known.parameters(name)), "chosen_by_graph": known.get(name) is None,
        })  # fmt: skip
    return rows


def print_composites(rows: Sequence[dict[str, Any]]) -> None:
    """Print the names of the composites, with one line about each."""
    print_table(
        ("composite", "what it is", "plugin", "parameters"),
        [
            (
                row["name"],
                row["summary"],
                f"{row['plugin']} ({row['distribution']} {row['version']})",
                ", ".join(f"{name}={value!r}" for name, value in row["parameters"].items()),
            )
            for row in rows
        ],
    )


def composite_json(name: str) -> dict[str, Any]:
    """One composite as plain values: its row, its choices in order, and the whole of it as TOML.

    Raises
    ------
    UnknownCompositeError
        If there is none of that name.
    """
    found, row = _composite(name)
    if found is None:
        return {**row, "choices": None, "prefer": [], "passes": [], "streams": [], "toml": None}
    choices = [
        {"select": _plain(select.given()), "use": use.variant, "parameters": _plain(dict(use.parameters))}
        for select, use in found.choices
    ]
    return {
        **row, "choices": choices, "prefer": list(found.prefer), "passes": list(found.passes),
        "streams": list(found.streams), "toml": found.to_toml(),
    }  # fmt: skip


def print_composite(name: str) -> None:
    """Print what is in a composite.

    Raises
    ------
    UnknownCompositeError
        If there is none of that name.
    """
    found, row = _composite(name)
    if row["summary"]:
        typer.echo(f"{row['summary']}\n")
    chosen = f"composite {name}\n  chosen for each model: its plan names what it is there."
    typer.echo(chosen if found is None else str(found))


def _composite(name: str) -> tuple[Composite | None, dict[str, Any]]:
    """A composite by name or from a file, None if the graph chooses it; and what is known of it."""
    given = as_composite(name)
    if isinstance(given, Composite):
        return given, {"name": given.name, "summary": "", "file": name}
    known = default_plugins().composites
    known.parameters(name)  # raises if there is none of that name
    return known.get(name), next(row for row in composite_rows() if row["name"] == name)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


# -- explanations ------------------------------------------------------------------------------------------------------


def print_explanation(explanation: Explanation) -> None:
    """Print an explanation, its ledger and its plan in short."""
    typer.echo(str(explanation))
    print_table(("rule", "reason", "nodes"), [(rule, why, str(n)) for rule, why, n in explanation.plan.summary()])


def explanation_json(explanation: Explanation) -> dict[str, Any]:
    """An explanation as plain values: its ledger, its plan, and the shape and the sum of each input's relevance."""
    return {
        "target": explanation.target,
        "picked": explanation.picked,
        "score": explanation.score.tolist(),
        "composite": explanation.plan.composite_name,
        "inputs": [
            {"name": name, "shape": list(relevance.shape), "sum": explanation.ledger.inputs[name].tolist()
             if name in explanation.ledger.inputs else float(relevance.sum())}
            for name, relevance in explanation.inputs.items()
        ],
        "ledger": explanation.ledger.to_dict(),
        "plan": explanation.plan.table(),
    }  # fmt: skip
