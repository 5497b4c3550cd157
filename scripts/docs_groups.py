"""For the API page: an entry of several names, ``start, end : int``, becomes one entry for each of them.

griffe gives all names of such an entry the type and default of the first.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_SECTION = re.compile(r"^Parameters\n-+\n(?P<entries>.*?)(?=\n\n\S+\n-+\n|\Z)", re.DOTALL | re.MULTILINE)
_GROUP = re.compile(
    r"^(?P<names>\*{0,2}\w+(?:, \*{0,2}\w+)+)(?P<type> : .+)?\n(?P<text>(?:[ ]+.*\n?|\n)+)", re.MULTILINE
)


class Ungrouped(griffe.Extension):
    """Splits the entries of docstrings before they are parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = _SECTION.sub(lambda found: _GROUP.sub(_apart, found[0]), obj.docstring.value)


def _apart(group: re.Match[str]) -> str:
    text = group["text"].rstrip("\n")
    entries = [f"{name}{group['type'] or ''}\n{text}" for name in group["names"].split(", ")]
    return "\n".join(entries) + group["text"][len(text) :]
