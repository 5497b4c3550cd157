"""Whether a rule can be traced: a function that traces the rule wherever it is called, and compares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_unflatten

from dlbt_core.errors import RuleCheckError, RuleContractError
from dlbt_core.rules.context import RuleContext
from dlbt_core.rules.rule import Rule
from dlbt_core.testing.samples import TOLERANCE
from dlbt_core.testing.twins import Amounts, Given, readable

__all__ = ["PURE", "OpNotTraceable", "traced"]

PURE = "  fix    a rule is a pure function: no .item() and no Python branch on the values of a tensor"


_NO_FUNCTORCH = "must override the setup_context staticmethod"


class OpNotTraceable(Exception):
    """Not the rule but the op is at fault: its autograd function is written so that torch cannot trace it."""


def traced(rule: Rule) -> Callable[..., Mapping[str, Any]]:
    """A rule's function; when called, its trace on one message is held against the function on another."""

    @wraps(rule.function)
    def twin(ctx: RuleContext, message: Any, **parameters: Any) -> Mapping[str, Any]:
        flat, form = tree_flatten((readable(ctx), ctx._output, message))
        place = [i for i, x in enumerate(flat) if isinstance(x, Tensor) and (x.is_floating_point() or x.is_complex())]

        def body(*given: Tensor) -> list[Tensor]:
            filled = list(flat)
            for i, tensor in zip(place, given, strict=True):
                filled[i] = tensor
            args, output, arrived = tree_unflatten(filled, form)
            books = Amounts()
            handed = rule.function(ctx.elsewhere(Given(args, ctx.args), output, books), arrived, **parameters)
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
