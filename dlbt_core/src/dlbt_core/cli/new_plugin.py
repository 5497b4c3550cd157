"""``dlbt new-plugin``: a plugin to start from."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from dlbt_core.cli.options import AsJson

__all__ = ["new_plugin"]


def new_plugin(
    name: Annotated[str, typer.Argument(help="What it is about, e.g. acme-rotary.")],
    into: Annotated[Path, typer.Option(help="In which folder.", file_okay=False)] = Path(),
    as_json: AsJson = False,
) -> None:
    """Write a plugin that can be installed and passes its tests, to be changed into your own."""
    from dlbt_core.cli import tables
    from dlbt_core.plugins import scaffold

    folder = scaffold.new_plugin(name, into)
    plugin = folder.name.removeprefix("dlbt-").replace("-", "_")
    enter = f"cd {shlex.quote(str(folder))}"
    steps = [enter, "pip install -e '.[test]'", "pytest", "dlbt plugins", f"dlbt rules --plugin {plugin}"]
    if as_json:
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        tables.print_json({"folder": str(folder), "plugin": plugin, "files": files, "next": steps})
    else:
        typer.echo("\n  ".join([f"{folder}: a plugin that works as it is. In the environment of dlbt:", *steps]))
