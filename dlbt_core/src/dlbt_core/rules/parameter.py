"""A rule's parameters: what they are called, which values they take."""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Literal

from dlbt_core.errors import RuleContractError, UnknownParameterError

__all__ = ["AtLeast", "NotNegative", "Parameter", "parameters_of"]

_PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True, slots=True)
class AtLeast:
    """A bound in an annotation: ``epsilon: Annotated[float, AtLeast(0.0)] = 1e-6``."""

    least: float


NotNegative = Annotated[float, AtLeast(0.0)]
"""A number that is at least 0, such as a stabiliser."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a rule, read from its signature."""

    name: str
    default: Any
    annotation: Any

    def check(self, value: Any, rule: str) -> Any:
        """`value` as this parameter takes it; an int will do for a float.

        Raises
        ------
        UnknownParameterError
            If the value is of another type, not a number, or below the bound that the annotation gives.
        """
        value = self._typed(value, rule)
        if isinstance(value, float) and math.isnan(value):
            raise UnknownParameterError(f"{rule}: parameter {self.name!r} is not a number.")
        for bound in getattr(self.annotation, "__metadata__", ()):
            if isinstance(bound, AtLeast) and value < bound.least:
                raise UnknownParameterError(f"{rule}: parameter {self.name!r} is at least {bound.least:g}, not {value!r}.")
        return value

    def _typed(self, value: Any, rule: str) -> Any:
        allowed = _alternatives(self.annotation)
        if float in allowed and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        for option in allowed:
            if typing.get_origin(option) is tuple and isinstance(value, (list, tuple)):
                return tuple(value)
            if option is Any or (isinstance(option, type) and type(value) is option):
                return value
            if type(value) is type(option) and value == option:
                return value
        shown = [None if option is type(None) else option for option in allowed]
        names = " or ".join(o.__name__ if isinstance(o, type) else repr(o) for o in shown)
        raise UnknownParameterError(f"{rule}: parameter {self.name!r} takes {names}, not {value!r}.")

    def __str__(self) -> str:
        return f"{self.name}={self.default!r}"


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    if annotation is inspect.Parameter.empty:
        return (Any,)
    if typing.get_origin(annotation) is Annotated:
        return _alternatives(annotation.__origin__)
    if typing.get_origin(annotation) is Literal:
        return typing.get_args(annotation)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(a for part in typing.get_args(annotation) for a in _alternatives(part))
    return (type(None),) if annotation is None else (annotation,)


def parameters_of(function: Callable[..., Any]) -> Mapping[str, Parameter]:
    """The parameters of a rule: keyword-only, each with a default of a plain type.

    Raises
    ------
    RuleContractError
        If the signature is another.
    """
    name = getattr(function, "__name__", repr(function))
    signature = list(inspect.signature(function).parameters.values())
    found: dict[str, Parameter] = {}
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if len(signature) < 2 or any(parameter.kind not in positional for parameter in signature[:2]):
        raise RuleContractError(f"{name}: a rule takes (ctx, message) and keyword-only parameters.")
    for parameter in signature[2:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise RuleContractError(f"{name}: *args and **kwargs are refused: the signature lists a rule's parameters.")
        if parameter.kind is not parameter.KEYWORD_ONLY or parameter.default is parameter.empty:
            raise RuleContractError(
                f"{name}: parameter {parameter.name!r} must be keyword-only and have a default, so that variants can be "
                f"listed, saved and swapped: def {name}(ctx, message, *, {parameter.name}=1e-6)."
            )
        plain = parameter.default if isinstance(parameter.default, tuple) else (parameter.default,)
        if not all(isinstance(value, _PLAIN) for value in plain):
            raise RuleContractError(
                f"{name}: the default of {parameter.name!r} must be a bool, int, float, str or None, or a tuple of these, "
                f"not {type(parameter.default).__name__}."
            )
        found[parameter.name] = Parameter(parameter.name, parameter.default, _hint(function, parameter))
    return MappingProxyType(found)


def _hint(function: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """The annotation of one parameter, resolved on its own: another one's may name what only type checkers import."""
    annotation = parameter.annotation
    if isinstance(annotation, str):
        try:
            annotation = eval(annotation, getattr(inspect.unwrap(function), "__globals__", {}))
        except NameError:
            return type(parameter.default)
    return type(parameter.default) if annotation is inspect.Parameter.empty else annotation
