"""Names of classes: those a model knows, and the class that a name is of."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from dlbt_core.errors import TargetError
from dlbt_core.show.words import Labels

__all__ = ["class_called", "labels_of"]


def labels_of(model: Any) -> dict[int, str] | None:
    """The names of the classes in a transformers config; none where they are only numbers."""
    known = getattr(getattr(model, "config", None), "id2label", None)
    if not isinstance(known, Mapping) or all(str(name) == f"LABEL_{number}" for number, name in known.items()):
        return None
    return {int(number): str(name) for number, name in known.items()}


def class_called(name: str, labels: Labels | None, remedy: str) -> int:
    """The number of the class with that label, whatever the case of its letters.

    Parameters
    ----------
    name : str
        The label.
    labels : sequence or mapping of int to str, optional
        Names of the classes.
    remedy : str
        What to do where no labels are known.

    Raises
    ------
    TargetError
        If there is none.
    """
    if labels is None:
        raise TargetError(f"the target {name!r} is the label of a class, but no labels are known.\n  fix  {remedy}")
    pairs = labels.items() if isinstance(labels, Mapping) else enumerate(labels)
    found = {str(label).lower(): number for number, label in reversed(list(pairs))}
    if name.lower() not in found:
        near = difflib.get_close_matches(name.lower(), list(found), 3)
        hint = f" Close: {', '.join(map(repr, near))}." if near else ""
        raise TargetError(f"no class is called {name!r}.{hint}\n  fix  one of the labels, or the number of the class.")
    return found[name.lower()]
