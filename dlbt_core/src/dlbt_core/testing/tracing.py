"""Whether a rule can be traced: a twin of it that traces itself wherever it is called, and compares."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache, wraps
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_unflatten

from dlbt_core.errors import RuleCheckError, RuleContractError
from dlbt_core.graph.ir import Node
from dlbt_core.plugins.hookspecs import hookimpl
from dlbt_core.plugins.loader import Plugins
from dlbt_core.rules.context import RuleContext
from dlbt_core.rules.rule import Rule
from dlbt_core.testing.samples import TOLERANCE

__all__ = ["PURE", "OpNotTraceable", "traced_twin"]

PURE = "  fix    a rule is a pure function: no .item() and no Python branch on the values of a tensor"


def traced_twin(rule: Rule, plugins: Plugins | None = None) -> tuple[str, Plugins]:
    """A rule like `rule` that traces itself when called: its qualified variant, and the plugins that have it.

    Parameters
    ----------
    rule
        The rule to trace.
    plugins
        To which the twin is added; all installed ones if none are given.
    """
    home = _installed() if plugins is None else plugins
    name = f"traced_{rule.source.plugin}_{rule.op}_{rule.variant}".replace(".", "_")
    if all(plugin.name != name for plugin in home.loaded):
        home.add(_Twin(rule), name)
    return f"{name}:traced", home


_NO_FUNCTORCH = "must override the setup_context staticmethod"


class OpNotTraceable(Exception):
    """Not the rule but the op is at fault: its autograd function is written so that torch cannot trace it."""


@cache
def _installed() -> Plugins:
    return Plugins()


class _Twin:
    """A plugin that brings the twin of one rule."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule

    @hookimpl
    def dlbt_register_rules(self, add: Any) -> None:
        rule = self.rule
        add.rule(
            str(rule.op), variant="traced", takes=rule.takes, gives=rule.gives, absorbs=rule.absorbs, reads=None,
            linear=rule.linear, coupled=rule.coupled,
        )(_traced(rule))  # fmt: skip


def _traced(rule: Rule) -> Callable[..., Mapping[str, Any]]:
    """The rule's function; when called, its trace on one message is held against the function on another."""

    @wraps(rule.function)
    def twin(ctx: RuleContext, message: Any, **parameters: Any) -> Mapping[str, Any]:
        flat, form = tree_flatten((_read(ctx), ctx._output, message))
        place = [i for i, x in enumerate(flat) if isinstance(x, Tensor) and (x.is_floating_point() or x.is_complex())]

        def body(*given: Tensor) -> list[Tensor]:
            filled = list(flat)
            for i, tensor in zip(place, given, strict=True):
                filled[i] = tensor
            args, output, arrived = tree_unflatten(filled, form)
            books = _Amounts()
            handed = rule.function(ctx.elsewhere(_Given(args, ctx.args), output, books), arrived, **parameters)
            return [x for x in tree_flatten((dict(handed), books.booked))[0] if isinstance(x, Tensor)]

        given = [flat[i] for i in place]
        messages = {id(x) for x in tree_flatten(message)[0]}
        others = [x * 0.5 + 0.25 if id(x) in messages else x for x in given]
        try:
            found = make_fx(body)(*others)(*given)
        except RuleContractError:
            raise
        except Exception as error:
            if _NO_FUNCTORCH in str(error):
                raise OpNotTraceable(f"the gradient of {ctx.node.op} cannot be traced by torch itself") from error
            raise RuleCheckError(
                f"{rule.id} cannot be traced: {type(error).__name__}: {error}\n{PURE}\n  where  {rule.location}"
            ) from error
        for got, want in zip(found, body(*given), strict=True):
            if not torch.allclose(got, want, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True):
                raise RuleCheckError(
                    f"{rule.id}: traced with one message it gives something else for another than when it is called\n"
                    "  fix    nothing in a rule may depend on a message but through torch operations\n"
                    f"  where  {rule.location}"
                )
        return rule.function(ctx, message, **parameters)

    return twin


def _read(ctx: RuleContext) -> dict[str, Any]:
    """The arguments a rule may read."""
    found = {}
    for name in ctx.args:
        try:
            found[name] = ctx.args[name]
        except RuleContractError:
            continue  # computed on the way and not declared: it has gone
    return found


class _Given(Mapping[str, Any]):
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


class _Amounts:
    """Books that keep the amounts as they come."""

    def __init__(self) -> None:
        self.booked: list[Any] = []

    def absorb(self, node: Node, name: str, amount: Tensor, times: Tensor | None, like: int | None) -> None:
        """Keep one."""
        self.booked.append((amount, times))
