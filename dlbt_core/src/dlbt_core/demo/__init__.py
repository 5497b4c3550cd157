"""The demo: real sentences and real images, explained in one report. ``dlbt demo`` on the command line."""

from __future__ import annotations

from dlbt_core.demo.report import write_demo

__all__ = ["write_demo"]
