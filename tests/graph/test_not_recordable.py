"""What cannot be recorded says so: what, where, and the remedy."""

from __future__ import annotations

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

HERE = r"test_not_recordable\.py:\d+"
CASES: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "gradient": (_gradient, rf"calls autograd inside its forward pass, in .*{HERE}.*fix  explain the part .*export"),
    "backward": (_backward, rf"calls autograd inside its forward pass, in .*{HERE}.*fix  explain the part .*export"),
    "cond": (_cond, rf"the higher-order op 'cond' in .*{HERE} cannot be recorded.*fix  run the model with the plain"),
    "sparse_constant": (_sparse, rf"a torch.sparse_coo tensor in .*{HERE} cannot be recorded.*fix  use dense tensors"),
    "several_resized": (
        lambda x: torch.max(x, 1, out=(x.new_empty(5), torch.empty(2, dtype=torch.long))),
        r"max.* resizes a tensor; that cannot be recorded.*fix  make a new tensor",
    ),
    "nested": (
        lambda x: torch.nested.nested_tensor([x[0], x[1, :2]]).to_padded_tensor(0.0),
        rf"a nested tensor in .*{HERE} cannot be recorded.*fix  use padded tensors",
    ),
}


@pytest.mark.filterwarnings("ignore:An output with one or more elements was resized", "ignore:The PyTorch API of nested")
@pytest.mark.parametrize("name", list(CASES))
def test_a_run_that_cannot_be_recorded_says_so(name: str) -> None:
    function, message = CASES[name]
    with pytest.raises(CaptureError, match=f"(?s){message}"):
        recorded(function, torch.randn(16, 8))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_says_so() -> None:
    message = rf"the higher-order op 'flex_attention' in .*{HERE} cannot be recorded.*attn_implementation='sdpa'"
    with pytest.raises(CaptureError, match=f"(?s){message}"):
        recorded(_flex, torch.randn(16, 8))


def test_the_module_is_named_too() -> None:
    model = nn.Sequential(nn.Linear(8, 8), Lambda(lambda self, x: _gradient(self.a(x)), a=nn.Linear(8, 8)))
    with pytest.raises(CaptureError, match=rf"in 1 \(Lambda\) at .*{HERE};"):
        recorded(model, torch.randn(3, 8))


def test_a_sparse_tensor_made_of_the_input_is_an_op_without_a_rule() -> None:
    with pytest.raises(NoRuleError, match=r"(?s)no relevance rule for .*aten\._to_sparse.*fix"):
        dlbt.explain(lambda x: torch.sparse.mm(x.to_sparse(), _EYE), torch.randn(3, 8))
