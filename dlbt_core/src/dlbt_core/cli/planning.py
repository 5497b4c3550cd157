"""``dlbt plan``, ``dlbt coverage``, ``dlbt diff``: what would be done, before it is done."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from dlbt_core.cli.asked import Asked
from dlbt_core.cli.options import (
    AsJson,
    CompositeName,
    Explained,
    Inputs,
    Model,
    OptionalModel,
    Rules,
    Seed,
    TargetText,
    Text,
)
from dlbt_core.cli.output import prints_aside

__all__ = ["coverage", "diff", "plan"]


def plan(
    model: Model,
    composite: CompositeName = "auto",
    rule: Rules = None,
    target: TargetText = None,
    explain: Explained = None,
    input: Inputs = None,
    text: Text = None,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Write the plan as JSON, for dlbt diff.", dir_okay=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Show which rule would run at which node of a model, with which parameters, and why."""
    found = Asked.of(model, input, text, seed, target, rule, explain).plan(composite)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(found.to_json() + "\n", encoding="utf-8")
    if as_json:
        typer.echo(found.to_json())
    elif out is not None:
        typer.echo(str(out))
    else:
        _print_plan(found)


def _print_plan(found: Any) -> None:
    from dlbt_core.cli import tables
    from dlbt_core.show.words import short_line

    rows = found.table()
    typer.echo(f"composite {found.composite_name}; explained: {', '.join(found.explained)}")
    tables.print_table(
        ("node", "rule", "parameters", "why", "module", "line"),
        [
            (
                row["node"],
                "held constant" if row["rule"] == "constant" else row["rule"],
                ", ".join(f"{name}={value!r}" for name, value in row["parameters"].items()),
                row["reason"],
                row["module"],
                short_line(row["line"]),
            )
            for row in rows
        ],
    )
    typer.echo(f"{len(rows)} nodes.")
    for choice in found.unused:
        typer.echo(f"fits no node: {choice}")


def coverage(
    model: Model,
    composite: CompositeName = "auto",
    rule: Rules = None,
    target: TargetText = None,
    explain: Explained = None,
    input: Inputs = None,
    text: Text = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Show which ops of a model have rules and from whom; the exit code is 1 if one has none."""
    from dlbt_core.cli import tables
    from dlbt_core.coverage import coverage as covered

    asked = Asked.of(model, input, text, seed, target, rule, explain)
    with prints_aside():
        found = covered(
            asked.model, asked.args, asked.kwargs, composite=composite, rules=asked.rules, target=asked.target,
            explain_inputs=asked.explain_inputs,
        )  # fmt: skip
    if as_json:
        tables.print_json(found.to_dict())
    else:
        _print_coverage(found)
    if found.missing:
        raise typer.Exit(1)


def _print_coverage(found: Any) -> None:
    from dlbt_core.cli import tables

    statuses = {
        "constant": "held constant",
        "lowered": "lowered by",
        "decomposed": "decomposed by",
        "missing": "MISSING",
    }
    tables.print_table(
        ("op", "nodes", "status", "from", "rule", "variants"),
        [
            (
                entry.op,
                str(entry.nodes),
                statuses.get(entry.status, entry.status),
                f"{entry.plugin} ({entry.distribution} {entry.version})" if entry.distribution else entry.plugin,
                entry.rule,
                ", ".join(entry.variants),
            )
            for entry in found.ops
        ],
    )
    named = f"{found.on_path} of {found.nodes} nodes are on the way of the relevance; composite {found.composite_name}."
    typer.echo(named)
    typer.echo(found.help if found.missing else "Every op on it has a rule.")


def diff(
    a: Annotated[str, typer.Argument(help="A plan (.json), an explanation (.safetensors); with --model a composite.")],
    b: Annotated[str, typer.Argument(help="The other one.")],
    model: OptionalModel = None,
    rule: Rules = None,
    target: TargetText = None,
    explain: Explained = None,
    input: Inputs = None,
    text: Text = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Show the nodes whose rule or parameters differ between two plans; the exit code is 1 if there are any."""
    from dlbt_core.cli import tables
    from dlbt_core.scheduler.differences import plan_differences

    _check_sides(a, b, model)
    asked = None if model is None else Asked.of(model, input, text, seed, target, rule, explain)
    first, second = (_plan_named(side, asked) for side in (a, b))
    found = plan_differences(first, second)
    if as_json:
        sides = {
            name: {"given": given, "composite": plan.composite_name, "nodes": len(plan.table())}
            for name, given, plan in (("a", a, first), ("b", b, second))
        }
        rows = [json.loads(json.dumps(difference.to_dict())) for difference in found]
        tables.print_json({**sides, "equal": not found, "differences": rows})
    else:
        _print_differences(first, second, found, (a, b))
    if found:
        raise typer.Exit(1)


def _is_file(side: str) -> bool:
    return Path(side).suffix in (".json", ".safetensors")


def _check_sides(a: str, b: str, model: str | None) -> None:
    from dlbt_core.errors import InputError

    for side in (a, b):
        if _is_file(side) and not Path(side).is_file():
            remedy = "\n  fix  a file that 'dlbt plan ... --out' or explanation.save() has written."
            raise InputError(f"there is no file {side!r}.{remedy}")
        if not _is_file(side) and model is None:
            raise InputError(
                f"{side!r} is neither a plan (.json) nor a saved explanation (.safetensors).\n"
                "  fix  'dlbt plan MODEL --out a.json' writes one; names of composites need --model MODEL."
            )


def _plan_named(side: str, asked: Asked | None) -> Any:
    from dlbt_core.storage import read_plan

    if _is_file(side):
        return read_plan(side)
    assert asked is not None
    return asked.plan(side)


def _print_differences(first: Any, second: Any, found: Sequence[Any], given: Sequence[str]) -> None:
    from dlbt_core.cli import tables
    from dlbt_core.scheduler.differences import called

    names: Sequence[str] = [plan.composite_name for plan in (first, second)]
    if not found:
        typer.echo(f"the same rule with the same parameters at all {len(first.table())} nodes: {names[0]}; {names[1]}")
        return
    if names[0] == names[1]:
        names = given  # a composite and its variation may have one name
    tables.print_table(
        ("node", "op", "module", "what differs", f"a: {names[0]}", f"b: {names[1]}"),
        [(d.node, d.op, d.module, d.kind, called(d.a, (d.a, d.b)), called(d.b, (d.a, d.b))) for d in found],
    )
    count = len({row["node"] for plan in (first, second) for row in plan.table()})
    typer.echo(f"{len(found)} of {count} nodes differ.")
