"""Selecting nodes, and naming the variant to use for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import MappingProxyType, NoneType
from typing import Any

from dlbt_core.errors import DlbtError, UnknownParameterError, UnknownVariantError
from dlbt_core.graph.ir import Node
from dlbt_core.graph.ops import packet

__all__ = ["NodeView", "Select", "Use"]

Globs = str | tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node as a selection sees it.

    Attributes
    ----------
    node
        The node.
    facts
        Facts of its results.
    variants
        Names of the variants that its op has.
    """

    node: Node
    facts: frozenset[str] = frozenset()
    variants: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Select:
    """Which nodes a choice is for. Everything given must hold; nothing given means all nodes.

    Parameters
    ----------
    op
        Op names, with or without overload; globs: ``"aten.conv*"``. A tuple means any of them.
    module, module_type
        Globs on the module's path (``"encoder.layer.*"``) and type (``"*.Linear"``).
    fact
        A fact of one of the node's results, such as ``"statistic"``.
    has
        A variant that the node's op must have.
    first, last
        Only the first, or the last, such node on the relevance path, in the order of execution.

    Raises
    ------
    DlbtError
        If a name or a glob is no string.
    """

    op: Globs = None
    module: Globs = None
    module_type: Globs = None
    fact: str | None = None
    has: str | None = None
    first: bool = False
    last: bool = False

    def __post_init__(self) -> None:
        for name in ("op", "module", "module_type"):
            value = getattr(self, name)
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
            globs = getattr(self, name) if isinstance(getattr(self, name), tuple) else (value,)
            if value is not None and not all(isinstance(glob, str) for glob in globs):
                raise DlbtError(f"Select: {name} is a string or several, not {value!r}.")
        for name in ("fact", "has"):
            if not isinstance(getattr(self, name), (str, NoneType)):
                raise DlbtError(f"Select: {name} is a string, not {getattr(self, name)!r}.")

    @property
    def static(self) -> bool:
        """Whether a node alone tells if it is selected."""
        return not (self.first or self.last)

    def fits(self, view: NodeView) -> bool:
        """Whether the node is selected, `first` and `last` aside."""
        node = view.node
        return (
            _any_glob(self.op, node.op, packet(node.op))
            and _any_glob(self.module, node.site.module)
            and _any_glob(self.module_type, node.site.module_type)
            and (self.fact is None or self.fact in view.facts)
            and (self.has is None or self.has.rpartition(":")[2] in view.variants)
        )

    def names(self, op: str) -> bool:
        """Whether it names that op as it is, not by a glob."""
        return op in ((self.op,) if isinstance(self.op, str) else self.op or ())

    def __str__(self) -> str:
        given = [f"{k}={v!r}" for k, v in self.given().items()]
        return f"Select({', '.join(given)})"

    __repr__ = __str__

    def given(self) -> dict[str, Any]:
        """What differs from the default."""
        names = ("op", "module", "module_type", "fact", "has", "first", "last")
        return {name: getattr(self, name) for name in names if getattr(self, name) not in (None, False)}


def _any_glob(globs: Globs, *texts: str) -> bool:
    if globs is None:
        return True
    patterns = (globs,) if isinstance(globs, str) else globs
    return any(fnmatchcase(text, pattern) for pattern in patterns for text in texts)


@dataclass(frozen=True, init=False)
class Use:
    """A variant by name, with parameters.

    Parameters
    ----------
    variant
        ``"epsilon"``, or ``"plugin:epsilon"`` for the rule of one plugin. ``"constant"`` holds the selected node's
        result constant: no relevance is asked for what it was computed from.
    **parameters
        Parameters of the rule.

    Raises
    ------
    UnknownVariantError
        If the variant is no string.
    UnknownParameterError
        If a parameter is a dict, or a list of lists.
    """

    variant: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __init__(self, variant: str, /, **parameters: Any) -> None:
        if not isinstance(variant, str):
            raise UnknownVariantError(f"a variant is a name, not {variant!r}.\n  fix  Use('epsilon', epsilon=1e-6).")
        object.__setattr__(self, "variant", variant)
        plain = {name: tuple(value) if isinstance(value, list) else value for name, value in parameters.items()}
        for name, value in plain.items():
            try:
                hash(value)  # plans are kept by what was chosen
            except TypeError:
                raise UnknownParameterError(
                    f"Use({variant!r}): {name!r} is a number, a string, True, False, None or a list of these, not "
                    f"{parameters[name]!r}."
                ) from None
        object.__setattr__(self, "parameters", MappingProxyType(plain))

    @property
    def holds_constant(self) -> bool:
        """Whether the result is held constant instead of handed back by a rule."""
        return self.variant == CONSTANT

    def __hash__(self) -> int:
        return hash((self.variant, tuple(sorted(self.parameters.items()))))

    def __str__(self) -> str:
        return f"Use({', '.join([repr(self.variant), *(f'{k}={v!r}' for k, v in self.parameters.items())])})"

    __repr__ = __str__


CONSTANT = "constant"

Choice = tuple[Select, Use]
Choices = Sequence[Choice]
