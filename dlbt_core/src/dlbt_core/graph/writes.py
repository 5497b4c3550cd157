"""Ops that write: what each amounts to when nothing may be written, only new values made."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import torch

__all__ = ["METADATA_ONLY", "TRUTH", "WHOLE", "Functional", "functional_form", "plain_name"]

METADATA_ONLY = {
    "unsqueeze_": "unsqueeze", "squeeze_": "squeeze", "t_": "t", "transpose_": "transpose", "detach_": "detach",
    "swapaxes_": "swapaxes", "swapdims_": "swapdims", "as_strided_": "as_strided",
}  # fmt: skip
"""Ops that only change how a tensor looks at its memory, and the view each amounts to."""
_OVERLOADS = {"aten.transpose.default": "aten.transpose.int"}
_RENAMED_IN_PLACE = {"__iand__": "__and__", "__ior__": "__or__", "__ixor__": "__xor__"}
WHOLE = {"copy_", "fill_", "zero_"}
"""Ops that write a whole tensor from one other or from a number."""
TRUTH = {f"aten.{n}" for n in "eq ne lt le gt ge not_equal less less_equal greater greater_equal logical_not "
          "logical_and logical_or logical_xor".split()}  # fmt: skip
"""Ops whose functional form gives booleans, whatever dtype they write into."""


def plain_name(func: Any) -> str:
    """The op's name; for one that only changes how a tensor looks at its memory, the name of the view it amounts to."""
    namespace, name, overload = str(func).split(".")
    found = f"{namespace}.{METADATA_ONLY.get(name, name)}.{overload}"
    return _OVERLOADS.get(found, found)


class Functional(NamedTuple):
    """The op that makes new values where another writes into old ones, and the other's names for its arguments."""

    op: str
    names: Mapping[str, str]

    def take(self, refs: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of the writing op as this one's."""
        return {self.names[name]: arg for name, arg in refs.items() if name in self.names}


@cache
def functional_form(func: Any) -> Functional | None:
    """The functional form of an in-place or out= op, if it has one."""
    namespace, name, overload = str(func).split(".")
    name = _RENAMED_IN_PLACE.get(name, name[:-1] if name.endswith("_") and not name.endswith("__") else name)
    family = getattr(getattr(torch.ops, namespace), name, None)
    given = [a for a in func._schema.arguments if not a.is_out]
    for other in sorted(family.overloads(), key=lambda o: o != overload) if family is not None else ():
        schema = getattr(family, other)._schema
        fits = [str(a.type) for a in schema.arguments] == [str(a.type) for a in given]
        if fits and not schema.is_mutable:
            names = {mine.name: its.name for mine, its in zip(given, schema.arguments, strict=True)}
            return Functional(f"{namespace}.{name}.{other}", names)
    return None
