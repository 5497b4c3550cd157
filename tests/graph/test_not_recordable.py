"""What cannot be recorded says so: what, where, and the remedy."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import flex_attention

import dlbt_core as dlbt
from dlbt_core.errors import CaptureError, NoRuleError
from graph.replaying import Lambda, recorded

_EYE = torch.eye(8)


def _gradient(x: Tensor) -> Tensor:
    with torch.enable_grad():
        x = x.clone().requires_grad_()
        return torch.autograd.grad((x**2).sum(), x)[0]


def _backward(x: Tensor) -> Any:
    x = x.clone().requires_grad_()
    (x**2).sum().backward()
    return x.grad


def _flex(x: Tensor) -> Any:
    x = x.expand(1, 2, 16, 8)
    return flex_attention(x, x, x)


def _cond(x: Tensor) -> Any:
    return torch.cond(x.sum() > 0, lambda x: x * 2, lambda x: x * 3, (x,))


def _sparse(x: Tensor) -> Tensor:
    return torch.sparse.mm(_SPARSE, x.t())


_SPARSE = _EYE.to_sparse()


@torch.library.custom_op("dlbt_tests::overwrite", mutates_args=("x",))
def _overwrite(x: Tensor) -> None:
    x.mul_(2)


def _overwritten(x: Tensor) -> Tensor:
    y = x * 1
    torch.ops.dlbt_tests.overwrite(y)
    return y


_COUNT = torch.ones(1)
_UNSEEN = _COUNT.numpy()
"""The same memory, written to out of sight of torch."""


def _counting(x: Tensor) -> Tensor:
    y = x * 2 if _COUNT.item() < 100 else x
    _UNSEEN[0] += 1
    return y


def _scaled(x: Tensor) -> Tensor:
    y = x * _COUNT
    _UNSEEN[0] += 1
    return y

AUTOGRAD = (
    "the model calls autograd inside its forward pass, in (model) (function) at HERE; that cannot be recorded.\n"
    "  fix  explain the part of the model that does not, or hand over a torch.export program."
)
CASES: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "gradient": (_gradient, AUTOGRAD),
    "backward": (_backward, AUTOGRAD),
    "cond": (
        _cond,
        "the higher-order op 'cond' in (model) (function) at HERE cannot be recorded.\n"
        "  fix  run the model with the plain (eager) implementation of that part, e.g. attn_implementation='sdpa'.",
    ),
    "flex": (
        _flex,
        "the higher-order op 'flex_attention' in (model) (function) at HERE cannot be recorded.\n"
        "  fix  run the model with the plain (eager) implementation of that part, e.g. attn_implementation='sdpa'.",
    ),
    "sparse_constant": (
        _sparse,
        "a torch.sparse_coo tensor in (model) (function) at HERE cannot be recorded.\n  fix  use dense tensors there.",
    ),
    "several_resized": (
        lambda x: torch.max(x, 1, out=(x.new_empty(5), torch.empty(2, dtype=torch.long))),
        "aten.max.dim_max in (model) (function) at HERE resizes a tensor; that cannot be recorded.\n"
        "  fix  make a new tensor there.",
    ),
    "resized": (
        lambda x: (x * 1).resize_(2, 3),
        "aten.resize_.default in (model) (function) at HERE resizes a tensor; that cannot be recorded.\n"
        "  fix  make a new tensor there.",
    ),
    "nested": (
        lambda x: torch.nested.nested_tensor([x[0], x[1, :2]]).to_padded_tensor(0.0),
        "a nested tensor in (model) (function) at HERE cannot be recorded.\n  fix  use padded tensors there.",
    ),
    "written by an op of one's own": (
        _overwritten,
        "dlbt_tests.overwrite.default in (model) (function) at HERE writes into a tensor and has no functional form.\n"
        "  fix  use an op that returns a new tensor there.",
    ),
    "counting": (
        _counting,
        "the same inputs do not lead to the same run again: item in (model) (function) at HERE: result differs from the "
        "recording.\n"
        "  cause  the model depends on something besides its inputs and weights, or writes to memory unseen.\n"
        "  fix    call it the same way twice and compare; a counter or a clock may decide what it does.",
    ),
    "scaled by a count": (
        _scaled,
        "replaying the recording gives another output '' than the model.\n"
        "  cause  the model changed a tensor in a way that was not seen, or reads memory it did not write.\n"
        "  fix    please report it with the model's code; meanwhile hand over a torch.export program.",
    ),
}


def said(error: BaseException) -> str:
    """The message, without the number of the line in this file."""
    return re.sub(rf"{re.escape(__file__)}:\d+", "HERE", str(error))


@pytest.mark.filterwarnings(
    "ignore:An output with one or more elements was resized",
    "ignore:The PyTorch API of nested",
    "ignore:flex_attention called without torch.compile",
)
@pytest.mark.parametrize("name", list(CASES))
def test_a_run_that_cannot_be_recorded_says_so(name: str) -> None:
    function, message = CASES[name]
    with pytest.raises(CaptureError) as caught:
        recorded(function, torch.randn(16, 8))
    assert said(caught.value) == message


def test_the_module_is_named_too() -> None:
    model = nn.Sequential(nn.Linear(8, 8), Lambda(lambda self, x: _gradient(self.a(x)), a=nn.Linear(8, 8)))
    with pytest.raises(CaptureError) as caught:
        recorded(model, torch.randn(3, 8))
    assert said(caught.value) == AUTOGRAD.replace("(model) (function)", "1 (Lambda)")


def test_a_sparse_tensor_made_of_the_input_is_an_op_without_a_rule() -> None:
    def model(x: Tensor) -> Tensor:
        return torch.sparse.mm(x.to_sparse(), _EYE)

    with pytest.raises(NoRuleError) as caught:
        dlbt.explain(model, torch.randn(3, 8))
    where = f"in (model) (function) at {__file__}:{model.__code__.co_firstlineno + 1}"
    assert str(caught.value) == (
        "no relevance rule for aten._to_sparse.default, aten._sparse_addmm.default\n"
        f"  op          aten._to_sparse.default\n  node        to_sparse {where}\n"
        f"  op          aten._sparse_addmm.default\n  node        sparse_addmm {where}\n"
        f"  plugins     {', '.join(map(str, dlbt.default_plugins().loaded))}\n"
        "  fix         in a plugin ('dlbt new-plugin' writes one) write it as ops that have rules: "
        "@add.lowering('aten._to_sparse'),\n"
        "              or register a rule: @add.rule('aten._to_sparse', variant='epsilon', default=True) def ...(ctx, m); or "
        "hold the node constant:\n"
        "              rules=[(Select(op='aten._to_sparse'), Use('constant'))]; or run the op's gradient: "
        "fallback='gradient'"
    )
