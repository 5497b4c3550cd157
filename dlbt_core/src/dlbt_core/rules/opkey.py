"""Op keys: the name of an op as a string, with or without its overload."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from dlbt_core.errors import OpKeyError

__all__ = ["OpKey"]

_DOTTED = re.compile(r"^(?P<ns>\w+)\.(?P<name>\w+)(?:\.(?P<overload>\w+))?$")
_IN_PLACE_OPERATORS = {"__iand__": "__and__", "__ior__": "__or__", "__ixor__": "__xor__"}
_COLONS = re.compile(r"^(?P<ns>\w+)::(?P<name>\w+)(?:\.(?P<overload>\w+))?$")


@dataclass(frozen=True, slots=True, order=True)
class OpKey:
    """The name of an op.

    Parameters
    ----------
    namespace, name
        As in ``torch.ops.<namespace>.<name>``.
    overload
        One overload, or empty for all of them.
    """

    namespace: str
    name: str
    overload: str = ""

    @classmethod
    def of(cls, key: Any) -> OpKey:
        """The key of a string (``"aten.linear"``, ``"aten.add.Tensor"``, ``"myns::op"``) or a torch op object.

        Raises
        ------
        OpKeyError
            If `key` names no op, or names an in-place or ``out=`` op: graphs are functional, so the name to
            use is the functional one, which the message gives.
        """
        if isinstance(key, OpKey):
            return key
        text = key if isinstance(key, str) else _name_of(key)
        match = _DOTTED.match(text) or _COLONS.match(text)
        if match is None:
            raise OpKeyError(
                f"{text!r} is not an op key. Write 'aten.linear' (all overloads), 'aten.linear.default' (one), "
                "'mylib::op', or pass the torch.ops object itself."
            )
        found = cls(match["ns"], match["name"], match["overload"] or "")
        return found._refuse_mutation()

    def _refuse_mutation(self) -> OpKey:
        inplace = (self.name.endswith("_") and not self.name.endswith("__")) or self.name in _IN_PLACE_OPERATORS
        if inplace or self.overload == "out" or self.overload.endswith("_out"):
            name = _IN_PLACE_OPERATORS.get(self.name, self.name.rstrip("_")) if inplace else self.name
            overload = "" if "out" in self.overload else self.overload
            kind = "an in-place" if inplace else "an out="
            raise OpKeyError(
                f"{str(self)!r} is {kind} op. The graph is functional before rules are looked up: "
                f"register {str(OpKey(self.namespace, name, overload))!r} instead."
            )
        return self

    @property
    def packet(self) -> OpKey:
        """The key of all overloads."""
        return OpKey(self.namespace, self.name)

    def __str__(self) -> str:
        return f"{self.namespace}.{self.name}" + (f".{self.overload}" if self.overload else "")


def _name_of(op: Any) -> str:
    """The text form of a torch op object: an overload, a packet or a custom op."""
    for attribute in ("_opoverload", "_qualified_op_name"):
        found = getattr(op, attribute, None)
        if found is not None:
            op = found
    text = str(op)
    return text if re.match(r"^\w+(\.|::)\w+", text) else repr(op)
