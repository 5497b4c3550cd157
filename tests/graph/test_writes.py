"""In-place ops and writes through views: the recording, replayed on another input, gives what the model gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dlbt_core.errors import CaptureError
from dlbt_core.graph.ops import resolve_op
from graph.programs import PROGRAMS, program
from graph.replaying import node_of, ops_of, recorded, replayed, same


@pytest.mark.parametrize("name", list(PROGRAMS))
def test_a_program_is_replayed_on_another_input(name: str) -> None:
    first, second = torch.randn(4, 6), torch.randn(4, 6)
    untouched = first.clone()
    model = program(name)
    found = recorded(model, first)
    assert torch.equal(first, untouched)
    if any(node.guard is not None for node in found.graph.nodes):
        second = first * (0.5 + torch.rand(4, 6))
    same(replayed(found, model, second), model(second.clone()))
    assert not [node.op for node in found.graph.nodes if resolve_op(node.op)._schema.is_mutable]


def test_a_loop_that_fills_its_output_is_replayed() -> None:
    def model(x: Tensor) -> Tensor:
        state, out = torch.zeros(6), torch.empty(4, 6)
        for step in range(4):
            state = torch.tanh(state + x[step])
            out[step] = state
        return out

    second = torch.randn(4, 6)
    same(replayed(recorded(model, torch.randn(4, 6)), model, second), model(second))


def test_whole_writes_only_rename() -> None:
    """No copies, casts or scatters where an in-place op writes the whole tensor."""
    graph = recorded(lambda x: (x * 2).relu_().add_(x).mul_(3.0), torch.randn(4, 6)).graph
    assert ops_of(graph) == ["aten.mul", "aten.relu", "aten.add", "aten.mul"]


def test_a_dead_view_is_not_derived_again() -> None:
    """Views nobody reads after a write cost nothing."""

    def model(x: Tensor) -> Tensor:
        y = x * 1
        rows = [y[i] for i in range(4)]
        y.add_(1)
        return rows[2] * y.sum()

    graph = recorded(model, torch.randn(4, 6)).graph
    assert ops_of(graph).count("aten.select") == 5


def test_a_comparison_in_place_has_the_dtype_of_truth_before_the_cast() -> None:
    graph = recorded(lambda x: (x * 1).gt_(0) * x, torch.randn(4, 6)).graph
    assert graph.values[node_of(graph, "aten.gt").outputs[0] or 0].dtype == torch.bool
    assert graph.values[node_of(graph, "aten.to").outputs[0] or 0].dtype == torch.float32


def test_out_resizes_only_what_was_empty() -> None:
    def grows(x: Tensor) -> Tensor:
        out = torch.empty(0)
        torch.add(x, x, out=out)
        return out.mul_(2)

    second = torch.randn(4, 6)
    same(replayed(recorded(grows, torch.randn(4, 6)), grows, second), grows(second))


def test_a_window_outside_of_the_input_says_so() -> None:
    base = torch.randn(10, 6)

    def model(x: Tensor) -> Tensor:
        x[0] = 0
        return x.as_strided((2, 6), (6, 1), 0) * 1

    with pytest.raises(CaptureError) as caught:
        recorded(model, base[4:8])
    assert str(caught.value) == (
        "a window on memory outside of the tensor cannot be recorded.\n  fix  slice the tensor instead."
    )


# -- random programs ----------------------------------------------------------------------------------------------------


def _view(t: Tensor, kind: int, a: int, b: int) -> Tensor:
    """Some view of t (or t itself where it has none of that kind)."""
    if t.dim() == 0:
        return t.view(1)
    dim, rank = a % t.dim(), t.dim()
    size = t.shape[dim]
    match kind:
        case 0:
            return t.select(dim, b % size if b % 2 else -1 - b % size) if size else t
        case 1:
            return t.narrow(dim, b % size, 1 + (size - 1 - b % size) // 2) if size else t
        case 2:
            return t.transpose(dim, b % rank)
        case 3:
            return t.permute(*torch.roll(torch.arange(rank), a).tolist())
        case 4:
            return t.view(-1) if t.is_contiguous() else t.flatten()
        case 5:
            return t.chunk(2, dim)[-1]
        case 6:
            return t.diagonal(dim1=0, dim2=1) if rank >= 2 else t.unsqueeze(-1)
        case 7:
            return t[..., :: 1 + b % 2]
        case 8:
            return t.split(1 + b % 3, dim)[a % -(-size // (1 + b % 3))] if size else t
        case 9:
            return t.unbind(dim)[b % size] if size else t
        case 10:
            return t.unfold(dim, min(2, size), 2) if size else t
        case 11:
            return t.data
        case 12:
            return t.squeeze() if b % 2 else t.unsqueeze(dim)
        case _:
            return t.detach()[None]


def _write(t: Tensor, other: Tensor, kind: int, a: int, b: int) -> None:
    """Some write to t, of what is in another tensor."""
    value = other.mean() if other.numel() else other.sum()
    match kind:
        case 0:
            t.add_(value, alpha=2)
        case 1:
            t.mul_(0.5 + value)
        case 2:
            t.clamp_(-1, 1)
        case 3:
            t.copy_(value)
        case 4:
            t.fill_(float(a))
        case 5:
            t[t > 0] = 0.25
        case 6 if t.dim():
            t[..., b % max(1, t.shape[-1]) :] = value
        case 7:
            t.masked_fill_(t < 0, value)
        case 8 if t.dim() and t.shape[0]:
            t.index_add_(0, torch.tensor([a % t.shape[0]]), other.new_ones(1, *t.shape[1:]) * value)
        case 9 if t.dim():
            t.copy_(t.flip(0).clone())
        case 10:
            torch.sub(t.clone(), value, out=t)
        case 11 if t.dim() >= 2:
            t.transpose_(a % t.dim(), b % t.dim())
        case 12:
            t.unsqueeze_(0)
        case _:
            t.zero_()


def _run(steps: list[tuple[bool, int, int, int, int, int]], x: Tensor) -> list[Tensor]:
    live = [x, x * 2]
    for writes, which, kind, a, b, other in steps:
        t = live[which % len(live)]
        if not writes:
            live.append(_view(t, kind, a, b))
        elif not _overlaps(t):
            _write(t, live[other % len(live)], kind, a, b)
    return [t * 1 for t in live] + live


def _overlaps(t: Tensor) -> bool:
    """Whether two elements share a place in memory, so that writing is not defined."""
    places = torch.zeros(t.shape, dtype=torch.int64)
    for dim, (size, stride) in enumerate(zip(t.shape, t.stride(), strict=True)):
        places = places + (torch.arange(size) * stride).view([-1 if d == dim else 1 for d in range(t.dim())])
    return places.unique().numel() < t.numel()


_SMALL = st.integers(0, 13)
_STEPS = st.lists(st.tuples(st.booleans(), _SMALL, _SMALL, _SMALL, _SMALL, _SMALL), min_size=1, max_size=14)


@settings(max_examples=250, deadline=None, derandomize=True, database=None, report_multiple_bugs=False)
@given(_STEPS)
def test_random_programs_of_views_and_writes_are_replayed(steps: list[tuple[bool, int, int, int, int, int]]) -> None:
    generator = torch.Generator().manual_seed(1)
    first, second = (torch.randn(4, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    untouched = first.clone()

    def model(x: Tensor) -> Any:
        return _run(steps, x)

    found = recorded(model, first)
    assert torch.equal(first, untouched)
    same(replayed(found, model, second), model(second.clone()))
