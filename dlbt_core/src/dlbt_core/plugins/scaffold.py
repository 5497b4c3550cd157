"""A new plugin: the example distribution, copied and renamed."""

from __future__ import annotations

import re
import shutil
from importlib.resources import as_file, files
from pathlib import Path

from dlbt_core.errors import PluginError

__all__ = ["new_plugin"]

_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
_LEFT_OUT = shutil.ignore_patterns(
    "__pycache__", "*.pyc", "*.egg-info", ".pytest_cache", ".mypy_cache", ".ruff_cache", "dist", "build"
)


def new_plugin(name: str, into: Path = Path()) -> Path:
    """Write a plugin that can be installed and passes its tests, to be changed into one's own.

    Parameters
    ----------
    name
        What it is about, e.g. ``"acme-rotary"``: lower-case words joined by ``-``. The distribution becomes
        ``dlbt-acme-rotary``, the package ``dlbt_acme_rotary``, the plugin and its namespace of ops ``acme_rotary``.
    into
        In which folder; the distribution's name is the new folder's.

    Returns
    -------
    Path
        The new folder.

    Raises
    ------
    PluginError
        If the name does not fit, is that of a bundled plugin, or the folder is there already.
    """
    plain = name.removeprefix("dlbt-").removeprefix("dlbt_")
    if not _NAME.fullmatch(plain):
        raise PluginError(
            f"{name!r} is no name for a plugin.\n  fix  lower-case words and digits joined by '-', e.g. acme-rotary."
        )
    dashed, words = plain.replace("_", "-"), plain.replace("-", "_")
    if words in ("core", "vision", "nlp", "example", "aten", "prim", "torchvision"):
        raise PluginError(f"the name {words!r} is taken by dlbt or torch.\n  fix  another one, e.g. acme-{dashed}.")
    folder = into / f"dlbt-{dashed}"
    if folder.exists():
        raise PluginError(f"{folder} is there already.\n  fix  another name or folder, or remove it.")
    renamed = {
        "dlbt-plugin-example": f"dlbt-{dashed}",
        "dlbt_plugin_example": f"dlbt_{words}",
        "example": words,
    }  # longest first: the last one is in the others
    with as_file(files("dlbt_core") / "_template") as template:
        shutil.copytree(template, folder, ignore=_LEFT_OUT)
    for path in sorted(folder.rglob("*"), key=lambda p: len(p.parts), reverse=True):
        if path.is_file() and path.name != "LICENSE":
            path.write_text(_rename(path.read_text(encoding="utf-8"), renamed), encoding="utf-8")
        new = _rename(path.name, renamed)
        if new != path.name:
            path.rename(path.with_name(new))
    return folder


def _rename(text: str, renamed: dict[str, str]) -> str:
    for old, new in renamed.items():
        text = text.replace(old, new)
    return text
