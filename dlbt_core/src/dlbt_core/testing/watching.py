"""What a rule does besides giving a result: whether it writes to what it is given, and where its tensors are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from dlbt_core.errors import DlbtError, RuleCheckError
from dlbt_core.rules.context import RuleContext
from dlbt_core.rules.rule import Rule
from dlbt_core.testing.twins import Amounts, Given, readable

__all__ = ["NotWithoutNumbers", "moved_away", "watched"]

Function = Callable[..., Mapping[str, Any]]


def watched(rule: Rule) -> Function:
    """A rule's function; torch counts the writes to each tensor, so that one that is undone is seen, too."""

    @wraps(rule.function)
    def twin(ctx: RuleContext, message: Any, **parameters: Any) -> Mapping[str, Any]:
        given = [x for x in tree_flatten((readable(ctx), ctx._output, message))[0] if isinstance(x, Tensor)]
        before = [x._version for x in given]
        handed = rule.function(ctx, message, **parameters)
        if before != [x._version for x in given]:
            raise RuleCheckError(
                f"{rule.id} writes to a tensor that it was given.\n"
                "  fix    make a new one: m * 2 in place of m.mul_(2) or m *= 2\n"
                f"  where  {rule.location}"
            )
        return handed

    return twin


class NotWithoutNumbers(Exception):
    """The rule or its op cannot be run on tensors that have no numbers."""


def moved_away(rule: Rule) -> Function:
    """A rule's function; when called, it runs first on tensors without numbers that are on another device than the CPU."""

    @wraps(rule.function)
    def twin(ctx: RuleContext, message: Any, **parameters: Any) -> Mapping[str, Any]:
        flat, form = tree_flatten((readable(ctx), ctx._output, message))
        try:
            with FakeTensorMode():
                args, output, arrived = tree_unflatten([_away(x) for x in flat], form)
                books = Amounts()
                handed = rule.function(ctx.elsewhere(Given(args, ctx.args), output, books), arrived, **parameters)
                left = [x for x in tree_flatten((dict(handed), books.booked))[0] if isinstance(x, Tensor) and x.dim()]
        except DlbtError:
            raise
        except Exception as error:
            if "same device" not in str(error):
                raise NotWithoutNumbers(f"it needs numbers: {type(error).__name__}") from error
            raise RuleCheckError(_mixed(rule, str(error).partition(" but")[0].rstrip(","))) from error
        if any(x.device.type == "cpu" for x in left):
            raise RuleCheckError(_mixed(rule, "A message or an amount is on the CPU"))
        return rule.function(ctx, message, **parameters)

    return twin


def _mixed(rule: Rule, cause: str) -> str:
    return (
        f"{rule.id} makes a tensor on the CPU where what it is given is elsewhere: {cause}.\n"
        "  fix    make it like one that was given: torch.zeros_like(m), m.new_tensor(...), device=m.device\n"
        f"  where  {rule.location}"
    )


def _away(x: Any) -> Any:
    return torch.empty_strided(x.size(), x.stride(), dtype=x.dtype, device="meta") if isinstance(x, Tensor) else x
