"""``dlbt new-plugin``: a plugin to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["new_plugin"]


def new_plugin(
    name: Annotated[str, typer.Argument(help="What it is about, e.g. acme-rotary.")],
    into: Annotated[Path, typer.Option(help="In which folder.", file_okay=False)] = Path(),
) -> None:
    """Write a plugin that can be installed and passes its tests, to be changed into your own."""
    from dlbt_core.plugins import scaffold

    folder = scaffold.new_plugin(name, into)
    typer.echo(
        f"{folder}: a plugin that works as it is.\n"
        f"  cd {folder}\n  pip install -e '.[test]'\n  pytest\n  dlbt plugins"
    )
