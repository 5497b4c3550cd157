"""Source lines: which of the model's own is running, or raised an error."""

from __future__ import annotations

import os
import sys
import traceback
from types import FrameType

import torch

__all__ = ["is_models", "line_of_error", "line_running"]

_TORCH_DIR = os.path.dirname(torch.__file__) + os.sep
_OWN_DIR = os.path.dirname(os.path.dirname(__file__)) + os.sep
_RECORD_FILE = os.path.join(os.path.dirname(__file__), "record.py")  # where the model's own frames end


def is_models(file: str) -> bool:
    """Whether a source file is neither torch's nor ours."""
    return not file.startswith((_TORCH_DIR, _OWN_DIR, "<"))


def line_running() -> str | None:
    """The model's line that is running, as ``file:line``."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename != _RECORD_FILE:
        if is_models(frame.f_code.co_filename):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return None


def line_of_error(error: BaseException) -> str | None:
    """The model's line that an error comes from, as ``file:line``."""
    frames = traceback.extract_tb(error.__traceback__)[::-1]
    return next((f"{f.filename}:{f.lineno}" for f in frames if is_models(f.filename)), None)
