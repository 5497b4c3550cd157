"""Twins of a rule: the same declaration, and a function around the rule's own that looks at what it does."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from torch import Tensor

from dlbt_core.errors import RuleContractError
from dlbt_core.graph.ir import Node
from dlbt_core.plugins.hookspecs import hookimpl
from dlbt_core.plugins.loader import Plugins
from dlbt_core.rules.context import RuleContext
from dlbt_core.rules.rule import Form, Rule, RuleFunction
from dlbt_core.testing.samples import Check

__all__ = ["Amounts", "Given", "of_rule", "readable", "twin_of", "with_twin"]


def twin_of(
    rule: Rule,
    kind: str,
    function: RuleFunction,
    plugins: Plugins | None,
    *,
    all_read: bool = True,
    form: Form | None = None,
) -> tuple[str, Plugins]:
    """A rule like `rule` with another function: its qualified variant, and the plugins that have it.

    Parameters
    ----------
    rule
        What it is like.
    kind
        Its variant, one word for each kind of function.
    function
        Called in place of the rule's; with the same parameters.
    plugins
        To which the twin is added; all installed ones if None.
    all_read
        Whether it may read all, whatever the rule declares.
    form
        The form that it takes and gives, if not the rule's.
    """
    home = _installed() if plugins is None else plugins
    name = f"{kind}_{_suffix(rule)}"
    if all(plugin.name != name for plugin in home.loaded):
        home.add(_Twin(replace(rule, reads=None if all_read else rule.reads), kind, function, form), name)
    return f"{name}:{kind}", home


def with_twin(check: Check, rule: Rule, kind: str, function: RuleFunction, **options: Any) -> Check:
    """The check of a twin in the rule's place."""
    variant, plugins = twin_of(rule, kind, function, check.plugins, **options)
    return replace(check, variant=variant, plugins=plugins)


@cache
def _installed() -> Plugins:
    return Plugins()


def of_rule(text: str, rule: Rule) -> str:
    """A message about a twin, as one about the rule."""
    name = rf"\b(\w+?)_{re.escape(_suffix(rule))}"
    text = re.sub(rf"{name}:{re.escape(str(rule.op))}#\1\b", lambda _: rule.id, text)
    return re.sub(rf"{name}:\1\b", lambda _: f"{rule.source.plugin}:{rule.variant}", text)


def _suffix(rule: Rule) -> str:
    return f"{rule.source.plugin}_{rule.op}_{rule.variant}".replace(".", "_")


class _Twin:
    """A plugin that brings the twin of one rule."""

    def __init__(self, rule: Rule, kind: str, function: Callable[..., Any], form: Form | None) -> None:
        self.rule, self.kind, self.function, self.form = rule, kind, function, form

    @hookimpl
    def dlbt_register_rules(self, add: Any) -> None:
        rule = self.rule
        add.rule(
            str(rule.op), variant=self.kind, takes=self.form or rule.takes, gives=self.form or rule.gives,
            absorbs=rule.absorbs, reads=rule.reads, linear=rule.linear, coupled=rule.coupled,
        )(self.function)  # fmt: skip


def readable(ctx: RuleContext) -> dict[str, Any]:
    """The arguments a rule may read."""
    found = {}
    for name in ctx.args:
        try:
            found[name] = ctx.args[name]
        except RuleContractError:
            continue  # computed on the way and not declared: it has gone
    return found


class Given(Mapping[str, Any]):
    """Some arguments by name; for the others the node's own, with the errors it has for them."""

    def __init__(self, given: Mapping[str, Any], others: Mapping[str, Any]) -> None:
        self._given = given
        self._others = others

    def __getitem__(self, name: str) -> Any:
        return self._given[name] if name in self._given else self._others[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._others)

    def __len__(self) -> int:
        return len(self._others)


class Amounts:
    """Books that keep the amounts as they come."""

    def __init__(self) -> None:
        self.booked: list[Any] = []

    def absorb(self, node: Node, name: str, amount: Tensor, times: Tensor | None, like: int | None) -> None:
        """Keep one."""
        self.booked.append((amount, times))
