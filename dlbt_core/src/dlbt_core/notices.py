"""Warnings that point at the user's line, and errors of others in words."""

from __future__ import annotations

import inspect
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["noted", "told", "warn_user"]

_PACKAGE = os.path.join(os.path.dirname(__file__), "")


def warn_user(text: str, category: type[Warning]) -> None:
    """Warn at the line outside this package that led here."""
    if sys.version_info >= (3, 12):
        warnings.warn(text, category, skip_file_prefixes=(_PACKAGE,))
    else:
        level, frame = 1, inspect.currentframe()
        while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
            level, frame = level + 1, frame.f_back
        warnings.warn(text, category, stacklevel=level)


def told(error: BaseException) -> str:
    """Type and words of an error that others raised, also if it has no words."""
    try:
        words = str(error)
    except Exception:
        words = "(its text cannot be shown)"
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


@contextmanager
def noted(text: str) -> Iterator[None]:
    """What fails inside gets a note that says where."""
    try:
        yield
    except Exception as error:
        error.add_note(text)
        raise
