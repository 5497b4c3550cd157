"""What Python reads from tensors is guarded: a replay that would go another way becomes a new recording."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dlbt_core as dlbt
from dlbt_core.errors import GuardError
from graph.replaying import recorded, replayed

_A, _B, _C = torch.rand(3, 3, 8, generator=torch.Generator().manual_seed(1)) + 0.1
_OTHER = _A.clone()
_HEAD = nn.Linear(8, 4)


class _Counting(nn.Module):
    """Counts how often its function runs as Python: once per recording."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.head = _HEAD
        self.function = function
        self.runs: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.runs.append(1)
        return self.function(x)


def _branch(x: Tensor) -> Tensor:
    return _HEAD(x) if x.sum() > 0 else _HEAD(-2 * x)


def _loop(x: Tensor) -> Tensor:
    for _ in range(int(x.mean() * 10)):
        x = x * 1.1
    return _HEAD(x)


MODELS: dict[str, tuple[Callable[[Tensor], Tensor], list[Tensor], int]] = {
    "bool": (_branch, [_A, _B, -_A, -_B, -_C], 2),
    "bool_back": (_branch, [_A, -_A, _A], 3),
    "int": (_loop, [_A * 0 + 0.51, _A * 0 + 0.52, _A * 0 + 0.71], 3),
    "item": (lambda x: _HEAD(x * x.sum().item()), [_A, _A.clone(), _B], 2),
    "float": (lambda x: _HEAD(x * float(x.max())), [_A, _A.clone(), _B], 2),
    "equal": (lambda x: _HEAD(x) if torch.equal(x, _OTHER) else _HEAD(3 * x), [_A, _A.clone(), _B, _C], 2),
    "tolist": (lambda x: _HEAD(x * sum(x[0].tolist())), [_A, _A.clone(), _B], 2),
    "numpy": (lambda x: _HEAD(x * torch.from_numpy(x.detach().numpy() * 2)), [_A, _A.clone(), _B], 2),
    "boolean_index": (lambda x: _HEAD(x) + x[x > 0].sum(), [_A, _B, -_A], 2),
    "masked_select": (lambda x: _HEAD(x) + x.masked_select(x > 0).sum(), [_A, _B, -_A], 2),
    "nonzero": (lambda x: _HEAD(x) * (x > 0).nonzero().shape[0], [_A, _B, -_A + (_B > 1)], 2),
    "unique": (lambda x: _HEAD(x * (x > 0).long().unique().numel()), [_A, _B, _A - 0.5], 2),
    "shape": (_HEAD, [_A, _B, _A[:2], _B[:2], _C], 2),
}


@pytest.mark.parametrize("name", list(MODELS))
def test_recordings_are_made_anew_only_when_python_would_see_something_else(name: str) -> None:
    function, inputs, recordings = MODELS[name]
    model = _Counting(function).eval()
    explainer = dlbt.Explainer(model)
    for x in inputs:
        found = explainer(x)
        with torch.no_grad():
            expected = function(x).amax(-1)
        torch.testing.assert_close(found.score, expected, rtol=1e-5, atol=1e-5)
    assert len(model.runs) == recordings


@pytest.mark.parametrize(
    ("name", "node", "line", "kind"),
    [("bool", "is_nonzero", 1, "result"), ("tolist", "resolve_conj", 0, "content"), ("nonzero", "nonzero", 0, "shape")],
)
def test_a_replay_that_would_go_another_way_says_where(name: str, node: str, line: int, kind: str) -> None:
    function, inputs, _ = MODELS[name]
    found = recorded(function, inputs[0])
    with pytest.raises(GuardError) as caught:
        replayed(found, function, inputs[-1])
    where = f"{__file__}:{function.__code__.co_firstlineno + line}"
    assert str(caught.value) == f"{node} in (model) (function) at {where}: {kind} differs from the recording"


def test_a_guard_of_a_nan_holds_for_a_nan() -> None:
    def model(x: Tensor) -> Tensor:
        return x * 2 if x.sum().item() > 0 else x

    x = torch.full((2, 2), float("nan"))
    assert replayed(recorded(model, x), model, x)[""].isnan().all()


def test_constants_python_made_of_shapes_are_right_for_another_shape() -> None:
    def model(x: Tensor) -> Any:
        return _HEAD(x / x.shape[0])

    explainer = dlbt.Explainer(model)
    for x in (_A, _A[:2]):
        torch.testing.assert_close(explainer(x).score, model(x).amax(-1))
