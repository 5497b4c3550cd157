"""What goes to stdout and stderr: any terminal can show it, and what a model prints is no part of it."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
from contextlib import AbstractContextManager

__all__ = ["close_stdout", "in_unicode", "prints_aside", "told", "write_everywhere"]

_IN_ASCII = {"−": "-", "→": "->", "±": "+-", "×": "x", "…": "...", "─": "-", "│": "|"}


def write_everywhere() -> None:
    """Let stdout and stderr write signs that their encoding lacks, such as the minus, in others."""
    codecs.register_error("dlbt", _in_other_signs)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="dlbt")


def _in_other_signs(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    return "".join(_IN_ASCII.get(s) or s.encode("ascii", "backslashreplace").decode() for s in signs), error.end


def in_unicode() -> bool:
    """Whether stdout can write every sign."""
    return (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf")


def prints_aside() -> AbstractContextManager[object]:
    """While a model is made and runs: what it prints goes to stderr, so that stdout holds the command's output alone."""
    return contextlib.redirect_stdout(sys.stderr)


def told(error: OSError) -> str:
    """A file that cannot be read or written, in words."""
    if error.strerror is None:
        return str(error)
    what = repr(str(error.filename)) if error.filename is not None else "the output"
    return (
        f"{what} cannot be read or written: {error.strerror}.\n  fix  another file or folder, or what its disk allows."
    )


def close_stdout() -> None:
    """Whoever read the output has stopped: what is still to be written goes nowhere."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
