"""A rule: one way to hand relevance back through one op; and the set in which a plugin declares its rules."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from dlbt_core.errors import DuplicateRuleError, RuleContractError, UnknownParameterError
from dlbt_core.rules.opkey import OpKey
from dlbt_core.rules.parameter import Parameter, parameters_of

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
            parameters = parameters_of(function)
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


def _location_of(function: Any) -> str:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else repr(function)
