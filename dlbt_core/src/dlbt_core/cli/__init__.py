"""The command line."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run ``dlbt``."""
    from dlbt_core.cli.app import app
    from dlbt_core.cli.output import write_everywhere

    write_everywhere()
    app()
