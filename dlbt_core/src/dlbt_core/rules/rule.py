"""A rule: one way to hand relevance back through one op; and the set in which a plugin declares its rules."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from dlbt_core.errors import DuplicateRuleError, RuleContractError, UnknownParameterError
from dlbt_core.rules.opkey import OpKey

__all__ = ["Asked", "Form", "Parameter", "Provenance", "Rule", "RuleFunction", "RuleSet"]

Form = Literal["multiplier", "relevance", "either"]
RuleFunction = Callable[..., Mapping[str, Any]]


class Asked(NamedTuple):
    """What a rule is asked to do at one node: the op, parameters, carrying arguments, and the form of the message."""

    op: str
    parameters: Mapping[str, Any]
    carries: frozenset[str]
    form: Form


Reads = tuple[str, ...] | Callable[[Asked], tuple[str, ...]] | None

_PLAIN = (bool, int, float, str, type(None))


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
            If the value is of another type.
        """
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
    if typing.get_origin(annotation) is Literal:
        return typing.get_args(annotation)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(a for part in typing.get_args(annotation) for a in _alternatives(part))
    return (type(None),) if annotation is None else (annotation,)


@dataclass(frozen=True, slots=True)
class Provenance:
    """Who brought a rule: plugin, distribution, version."""

    plugin: str
    distribution: str = "(local)"
    version: str = "0"

    def __str__(self) -> str:
        return (
            f"{self.plugin} (by hand)"
            if self.distribution == "(local)"
            else f"{self.plugin} ({self.distribution} {self.version})"
        )


@dataclass(frozen=True, slots=True)
class Rule:
    """One way to hand relevance back through one op.

    Attributes
    ----------
    op, variant
        What it is for and what it is called.
    function
        ``function(ctx, message, **parameters)`` gives a mapping from argument name to message.
    takes, gives
        The form of the message: ``"multiplier"``, ``"relevance"``, or ``"either"``, which gives what it takes.
    absorbs
        Names under which it may book what it does not hand on.
    default
        Whether it is used where nobody chose another.
    reads
        What it needs of the forward pass besides weights and constants: argument names, ``"output"``, ``"constants"``
        (results that carry no relevance) and ``"pullback"`` (the op's vector-Jacobian product, kept ready from the
        forward pass). None stands for all arguments and the output. May be a function of an `Asked` that returns such a
        tuple.
    linear
        Whether it is linear in the message, as all rules are but those that look at its sign.
    coupled
        Whether it takes the messages of all streams at once, along a leading axis. Others get one after the other.
    """

    op: OpKey
    variant: str
    function: RuleFunction
    takes: Form
    gives: Form
    absorbs: tuple[str, ...]
    default: bool
    reads: Reads
    parameters: Mapping[str, Parameter]
    source: Provenance
    location: str
    linear: bool = True
    coupled: bool = False

    @property
    def id(self) -> str:
        """Name used in plans and messages: ``vision:aten.conv2d#epsilon``."""
        return f"{self.source.plugin}:{self.op}#{self.variant}"

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return (inspect.getdoc(self.function) or "").split("\n")[0]

    def needs(self, asked: Asked) -> tuple[str, ...] | None:
        """`reads` at one node."""
        return self.reads(asked) if callable(self.reads) else self.reads

    def complete(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """All parameters, those not given at their defaults.

        Raises
        ------
        UnknownParameterError
            If there is no parameter of a given name, or its value is of another type.
        """
        unknown = sorted(set(given) - set(self.parameters))
        if unknown:
            has = ", ".join(self.parameters) or "no parameters"
            raise UnknownParameterError(f"{self.op}#{self.variant} has no parameter {unknown[0]!r}. It has: {has}.")
        values = {
            p.name: p.check(given[p.name], self.id) if p.name in given else p.default for p in self.parameters.values()
        }
        return MappingProxyType(values)

    def __str__(self) -> str:
        return f"{self.id}({', '.join(map(str, self.parameters.values()))})"


class RuleSet:
    """Where one plugin declares its rules. Nothing takes effect until the whole set is taken in."""

    def __init__(self, source: Provenance) -> None:
        self.source = source
        self._rules: dict[tuple[OpKey, str], Rule] = {}

    def rule(
        self,
        *ops: Any,
        variant: str,
        takes: Form = "multiplier",
        gives: Form | None = None,
        absorbs: tuple[str, ...] = (),
        default: bool = False,
        reads: Reads = None,
        linear: bool = True,
        coupled: bool = False,
    ) -> Callable[[RuleFunction], RuleFunction]:
        """Decorator that declares a rule for one or several ops.

        Parameters
        ----------
        *ops
            Op keys: ``"aten.linear"``, ``"aten.add.Tensor"``, ``"myns::op"`` or torch op objects.
        variant
            Its name, a lower-case word.
        takes, gives, absorbs, default, reads, linear, coupled
            See `Rule`. `gives` is `takes` unless said.

        Raises
        ------
        OpKeyError
            If a key names no op or an in-place one.
        DuplicateRuleError
            If this plugin has declared the variant for the op already.
        RuleContractError
            If the signature or one of the declarations does not fit the contract.
        """
        if not ops:
            raise RuleContractError("rule() needs at least one op, e.g. @add.rule('aten.linear', variant='epsilon').")
        if not variant.isidentifier() or variant != variant.lower():
            raise RuleContractError(f"variant {variant!r} must be a lower-case word such as 'epsilon' or 'alpha_beta'.")
        for form in (takes, gives):
            if form not in ("multiplier", "relevance", "either", None):
                raise RuleContractError(f"a rule takes and gives 'multiplier', 'relevance' or 'either', not {form!r}.")

        def declare(function: RuleFunction) -> RuleFunction:
            parameters = _parameters_of(function)
            location = _location_of(function)
            for op in ops:
                key = OpKey.of(op)
                known = self._rules.get((key, variant))
                if known is not None:
                    raise DuplicateRuleError(
                        f"plugin {self.source.plugin!r} declares {key}#{variant} twice:\n"
                        f"  first   {known.location}\n  second  {location}"
                    )
                other = next((r for r in self._rules.values() if default and r.default and r.op == key), None)
                if other is not None:
                    raise DuplicateRuleError(
                        f"plugin {self.source.plugin!r} declares two default rules for {key}: {other.variant} and {variant}:\n"
                        f"  first   {other.location}\n  second  {location}"
                    )
                self._rules[key, variant] = Rule(
                    key, variant, function, takes, gives or takes, tuple(absorbs), default, reads, parameters,
                    self.source, location, linear, coupled,
                )  # fmt: skip
            return function

        return declare

    def __iter__(self) -> Iterator[Rule]:
        return iter(self._rules.values())

    def __len__(self) -> int:
        return len(self._rules)


def _parameters_of(function: RuleFunction) -> Mapping[str, Parameter]:
    """The parameters of a rule: keyword-only, each with a default of a plain type."""
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


def _hint(function: RuleFunction, parameter: inspect.Parameter) -> Any:
    """The annotation of one parameter, resolved on its own: another one's may name what only type checkers import."""
    annotation = parameter.annotation
    if isinstance(annotation, str):
        try:
            annotation = eval(annotation, getattr(inspect.unwrap(function), "__globals__", {}))
        except NameError:
            return type(parameter.default)
    return type(parameter.default) if annotation is inspect.Parameter.empty else annotation


def _location_of(function: Any) -> str:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else repr(function)
