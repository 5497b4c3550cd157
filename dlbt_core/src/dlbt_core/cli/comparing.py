"""``dlbt compare``: several composites on one model, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dlbt_core.cli.asked import Asked
from dlbt_core.cli.options import AsJson, Explained, Inputs, Model, Rules, Seed, TargetText, Text
from dlbt_core.cli.output import prints_aside

__all__ = ["compare"]


def compare(
    model: Model,
    composites: Annotated[str, typer.Option(help="Names or TOML files, set apart by commas.")],
    rule: Rules = None,
    target: TargetText = None,
    explain: Explained = None,
    input: Inputs = None,
    text: Text = None,
    seed: Seed = 0,
    repeats: Annotated[int, typer.Option(help="How often each is explained, for the median of its time.", min=1)] = 3,
    out: Annotated[
        Path | None, typer.Option(help="Write a page (.html) or a picture (.png, .svg, .pdf).", dir_okay=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Explain a model under several composites: agreement, books, time, and where their plans differ."""
    from dlbt_core.cli import tables
    from dlbt_core.comparing import compare_call
    from dlbt_core.show import comparison

    names = [name.strip() for name in composites.split(",") if name.strip()]
    asked = Asked.of(model, input, text, seed, target, rule, explain)
    call = {**asked.kwargs, "target": asked.target, "rules": asked.rules}
    with prints_aside():
        found = compare_call(asked.explainer("auto"), asked.args, call, names, repeats)
    if out is not None:
        found.save(out, **asked.shown)
    if as_json:
        tables.print_json(found.to_dict())
    elif out is not None:
        typer.echo(str(out))
    else:
        typer.echo(comparison.text(found, **asked.shown))
