"""A new plugin: the example distribution, copied and renamed."""

from __future__ import annotations

import keyword
import re
from importlib.resources import as_file, files
from pathlib import Path

from dlbt_core.errors import PluginError

__all__ = ["new_plugin"]

_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
_LONGEST = 64
"""Characters of a name: of it file names and the names of ops are made."""
_TAKEN = frozenset(
    {"core", "vision", "nlp", "rules_vision", "rules_nlp", "example", "plugin_example", "aten", "prim", "torchvision"}
)
_LEFT_OUT = re.compile(r"__pycache__|.*\.pyc|.*\.egg-info|\.pytest_cache|\.mypy_cache|\.ruff_cache|dist|build")


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
        If the name does not fit, is that of a bundled plugin or a word of Python's, or if the folder is there already or
        cannot be written.
    """
    plain = name.removeprefix("dlbt-").removeprefix("dlbt_")
    if not _NAME.fullmatch(plain) or len(plain) > _LONGEST:
        raise PluginError(
            f"{name!r} is no name for a plugin.\n  fix  lower-case words and digits joined by '-', "
            f"{_LONGEST} characters at most, e.g. acme-rotary."
        )
    dashed, words = plain.replace("_", "-"), plain.replace("-", "_")
    if keyword.iskeyword(words):  # torch.ops.class.mix is no Python
        raise PluginError(f"the name {words!r} is a word of Python's.\n  fix  another one, e.g. acme-{dashed}.")
    if words in _TAKEN:
        raise PluginError(f"the name {words!r} is taken by dlbt or torch.\n  fix  another one, e.g. acme-{dashed}.")
    folder = into / f"dlbt-{dashed}"
    renamed = {
        "dlbt-plugin-example": f"dlbt-{dashed}",
        "dlbt_plugin_example": f"dlbt_{words}",
        "example": words,
    }
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        raise PluginError(f"{folder} is there already.\n  fix  another name or folder, or remove it.") from error
    except OSError as error:
        raise PluginError(
            f"{folder} cannot be written: {error.strerror}.\n  fix  another folder: --into FOLDER."
        ) from error
    _fill(folder, renamed)
    return folder


def _fill(folder: Path, renamed: dict[str, str]) -> None:
    """The example's files; neither their modes nor those of their folders, which may be read-only where it is installed."""
    with as_file(files("dlbt_core") / "_template") as template:
        for path in template.rglob("*"):
            parts = path.relative_to(template).parts
            if path.is_file() and not any(map(_LEFT_OUT.fullmatch, parts)):
                text = path.read_text(encoding="utf-8")
                new = folder.joinpath(*(_rename(part, renamed) for part in parts))
                new.parent.mkdir(parents=True, exist_ok=True)
                new.write_text(text if path.name == "LICENSE" else _rename(text, renamed), encoding="utf-8")


def _rename(text: str, renamed: dict[str, str]) -> str:
    """All names at once, longest first: what is put in may have one of the others in it."""
    names = sorted(renamed, key=len, reverse=True)
    return re.sub("|".join(map(re.escape, names)), lambda found: renamed[found[0]], text)
