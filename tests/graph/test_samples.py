"""Sample axes: where the samples lie in each value. Checked by changing one sample and looking at what changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dlbt_core as dlbt
from dlbt_core.graph.sample_axis import SampleAxis
from dlbt_core.graph.samples import Follower, per_sample
from dlbt_core.graph.structure import leaves
from dlbt_core.scheduler.capture import Capture
from dlbt_core.scheduler.forward import ForwardProgram
from graph.replaying import recorded
from zoo import ZOO, make

B = 3
Layout = Callable[[Tensor], Tensor]


def _owners(shape: tuple[int, ...], axis: SampleAxis) -> Tensor:
    """The sample each element belongs to."""
    if axis.axis is None:
        return axis.ids.expand(shape)
    return axis.ids.view([-1 if d == axis.axis else 1 for d in range(len(shape))]).expand(shape)


def _followed(found: Capture, values: list[Any]) -> dict[int, SampleAxis]:
    """The sample axes of all values that have one."""
    graph = found.graph
    axes = Follower(graph, graph.inputs.values()).forward(B, values)
    return {index: axis for index, axis in axes.items() if not axis.lost}


def _check(found: Capture, inputs: dict[str, Tensor], others: dict[str, Tensor]) -> dict[int, SampleAxis]:
    """Exchange one sample after the other; what changes must belong to it."""
    graph = found.graph
    program = ForwardProgram(graph, keep=[value.index for value in graph.values])
    values = program.run(inputs, found.state).values
    axes = _followed(found, values)
    for sample in range(B):
        mixed = {p: t.clone() if t.shape[:1] == (B,) else t for p, t in inputs.items()}
        for path, tensor in mixed.items():
            if tensor.shape[:1] == (B,):
                tensor[sample] = others[path][sample]
        again = program.run(mixed, found.state).values
        for index, axis in axes.items():
            changed = (again[index] != values[index]) & ~(again[index].isnan() & values[index].isnan())
            owners = _owners(graph.values[index].shape, axis)
            assert bool((owners[changed] == sample).all()), f"{graph.values[index]} with {axis}"
    return axes


def _windows(x: Tensor) -> Tensor:
    """(B, 6, 4) to windows of 2 by 2, and back."""
    y = x.view(B, 3, 2, 2, 2).permute(0, 1, 3, 2, 4).reshape(-1, 4)
    return torch.tanh(y).view(B, 3, 2, 2, 2).permute(0, 1, 3, 2, 4).reshape(B, 6, 4)


def _heads(x: Tensor) -> Tensor:
    """(B, 6, 4) to (B * H, T, d), attention, and back."""
    h = x.view(B, 6, 2, 2).transpose(1, 2).reshape(-1, 6, 2)
    mixed = torch.bmm(torch.softmax(torch.bmm(h, h.mT), -1), h)
    return mixed.view(B, 2, 6, 2).transpose(1, 2).reshape(B, 6, 4)


def _heads_first(x: Tensor) -> Tensor:
    """(B, 6, 4) to (H * B, T, d), as some attention folds it."""
    h = torch.cat(x.chunk(2, -1), 0) if x.shape[0] == 1 else x.view(B, 6, 2, 2).permute(2, 0, 1, 3).reshape(-1, 6, 2)
    return torch.tanh(h).view(2, B, 6, 2).permute(1, 2, 0, 3).reshape(B, 6, 4)


def _time_first(x: Tensor) -> Tensor:
    """(B, T, D) to (T, B, D) to (T * B, D), and back."""
    t = x.transpose(0, 1)
    rows = torch.relu(t.reshape(-1, 4)) @ torch.ones(4, 5)
    return rows.view(6, B, 5).permute(1, 0, 2)


LAYOUTS: dict[str, Layout] = {
    "rows": lambda x: torch.relu(x.reshape(-1, 4)).view(B, 6, 4),
    "flat": lambda x: x.flatten(1) @ torch.ones(24, 2),
    "all_flat": lambda x: x.reshape(-1).tanh().reshape(B, -1),
    "windows": _windows,
    "heads": _heads,
    "heads_first": _heads_first,
    "time_first": _time_first,
    "last": lambda x: x.permute(2, 1, 0) * torch.ones(4, 1, 1),
    "movedim": lambda x: torch.tanh(x.movedim(0, 1)).movedim(1, -1),
    "select": lambda x: x[:, -1] + x.select(1, 0),
    "select_time_first": lambda x: x.transpose(0, 1)[2] * 2,
    "unbind": lambda x: torch.stack([t.tanh() for t in x.unbind(1)], 1),
    "stack_in_front": lambda x: torch.stack([x, x * 2]).sum(0),
    "stack_behind": lambda x: torch.stack([x, x * 2], -1).mean(-1),
    "unsqueezed": lambda x: (x.unsqueeze(0) * torch.ones(2, 1, 1, 1)).unsqueeze(-1).squeeze(-1),
    "expanded": lambda x: x[:, None].expand(B, 5, 6, 4) * 2,
    "expanded_in_front": lambda x: x.expand(2, B, 6, 4) * 2,
    "cat": lambda x: torch.cat([torch.zeros(B, 1, 4), x], 1),
    "einsum": lambda x: torch.einsum("btd,de->ebt", x, torch.ones(4, 5)),
    "einsum_pair": lambda x: torch.einsum("bid,bjd->ijb", x, x),
    "matmul": lambda x: x @ x.mT,
    "linear_of_time": lambda x: nn.functional.linear(x.mT, torch.ones(2, 6)),
    "reduced": lambda x: x.mean(1) / x.var((1, 2))[:, None] + x.amax(1, keepdim=True).squeeze(1),
    "reduced_in_front": lambda x: x.transpose(0, 1).sum(0),
    "maximum": lambda x: x.max(1).values,
    "rows_picked": lambda x: x[torch.arange(B), (x.sum(-1) > 0).int().argmax(-1)],
    "columns_picked": lambda x: x[:, torch.tensor([2, 0])],
    "gathered": lambda x: x.gather(1, x.argsort(1)),
    "softmax_loss": lambda x: torch.logsumexp(x, -1) - x[..., 0],
    "lstm": nn.LSTM(4, 5, batch_first=True),
    "gru_time_first": lambda x: _GRU(x.transpose(0, 1)),
    "convolution": nn.Conv1d(6, 2, 3, padding=1),
    "padded": lambda x: nn.functional.pad(x, (1, 1)).roll(1, -1).flip(1),
    "square_batch": lambda x: x[:, :B, :B] @ x[:, :B, :B].mT + x[:, :B, :B].transpose(1, 2),
    "split": lambda x: x.split([2, 4], 1)[0] * x.chunk(3, 1)[0],
    "normed": nn.LayerNorm(4),
    "flipped": lambda x: (x.flip(0) * 2).flip(0),
    "rolled": lambda x: x.roll(1, 0).tanh().roll((-1, 0), (0, 1)),
    "sorted_rows": lambda x: x[torch.tensor([2, 0, 1])].tanh(),
    "tokens_sorted": lambda x: x.reshape(-1, 4)[_ORDER // 2].tanh()[_ORDER.argsort()].view(B, 6, 2, 4).sum(2),
    "one_after_the_other": lambda x: torch.stack([x[i].tanh().sum(0) for i in range(B)]),
    "split_and_joined": lambda x: torch.cat([part * 2 for part in x.split(1)]),
    "scattered": lambda x: torch.zeros(B + 2, 6, 4).index_copy(0, torch.tensor([4, 0, 2]), x),
    "added": lambda x: torch.zeros(B, 6, 4).index_add(0, torch.tensor([2, 0, 1, 0]), x[torch.tensor([0, 1, 2, 1])]),
    "put": lambda x: torch.zeros(36, 4).index_put((_ORDER[:18],), x.reshape(-1, 4)),
    "padded_rows": lambda x: nn.functional.pad(x, (0, 0, 0, 0, 1, 2)) * 2,
    "masked": lambda x: torch.zeros(B, 6, 4).masked_scatter(_MASK, x[_MASK]),
    "scatter_added": lambda x: torch.zeros(B, 6, 4).scatter_add(1, x.argsort(1), x),
    "einsum_dots": lambda x: torch.einsum("...td,...sd->...ts", x, x),
    "repeated": lambda x: x.repeat(2, 1, 1) * 2,
    "interleaved": lambda x: x.repeat_interleave(2, 0) * 2,
}
_GRU = nn.GRU(4, 5)
_ORDER = torch.randperm(36, generator=torch.Generator().manual_seed(1))
_MASK = torch.tensor([[1, 0, 1, 1, 0, 1], [0, 0, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]], dtype=torch.bool)[..., None].expand(B, 6, 4)


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_samples_are_followed_through_layouts(name: str) -> None:
    model: Any = LAYOUTS[name]
    x, other = torch.randn(2, B, 6, 4)
    found = recorded(model, x)
    (path,) = found.graph.inputs
    axes = _check(found, {path: x}, {path: other})
    assert set(found.graph.outputs.values()) <= set(axes)
    assert set(axes) <= {value.index for value in found.graph.values}


MEETING: dict[str, Layout] = {
    "with_the_next": lambda x: x + x.roll(1, 0),
    "with_the_reverse": lambda x: x * x.flip(0),
    "in_a_sum": lambda x: x - x.mean(0),
    "in_a_softmax": lambda x: x.softmax(0),
    "in_a_product": lambda x: x.flatten(1) @ x.flatten(1).T,
    "in_the_batchs_attention": lambda x: nn.functional.scaled_dot_product_attention(*[x.transpose(0, 1)] * 3),
    "in_a_running_sum": lambda x: x.cumsum(0),
    "in_what_is_added": lambda x: torch.zeros(2, 6, 4).index_add(0, torch.tensor([0, 0, 1]), x),
    "in_the_channels": lambda x: nn.functional.conv1d(x[:, 0][None], torch.ones(B, B, 1)),
    "in_a_norm": lambda x: nn.functional.layer_norm(x.permute(1, 2, 0), (4, B)),
    "in_features": lambda x: x.permute(1, 2, 0) @ torch.ones(B, B),
    "in_one_row": lambda x: x.transpose(0, 1).reshape(6, -1) @ torch.ones(4 * B, B),
}


@pytest.mark.parametrize("name", list(MEETING))
def test_where_samples_meet_none_is_named(name: str) -> None:
    x, other = torch.randn(2, B, 6, 4)
    found = recorded(MEETING[name], x)
    (path,) = found.graph.inputs
    axes = _check(found, {path: x}, {path: other})
    assert not set(found.graph.outputs.values()) & set(axes)


def test_a_batch_of_one_needs_no_axes() -> None:
    assert per_sample(torch.ones(6), None, 1)[0].tolist() == [6.0]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("shape", "axis", "expected", "rest"),
    [
        ((3, 2), SampleAxis.batch(3), [1, 5, 9], None),
        ((2, 3), SampleAxis.batch(3, axis=1), [3, 5, 7], None),
        ((6,), SampleAxis.batch(3, inner=2), [1, 5, 9], None),
        ((6,), SampleAxis.batch(3, outer=2), [3, 5, 7], None),
        ((1, 6), SampleAxis.batch(3, inner=2, axis=1), [1, 5, 9], None),
        ((3, 2), SampleAxis.of(0, torch.tensor([2, 0, 0])), [14, 0, 1], None),
        ((3, 2), SampleAxis.of(0, torch.tensor([-1, 1, 0])), [9, 5, 0], 1),
        ((3, 2), SampleAxis(None, torch.tensor([1])), [0, 15, 0], None),
        ((3, 2), None, None, 15),
        ((4, 1), SampleAxis.batch(3), None, 6),
    ],
)
def test_amounts_are_summed_per_sample(
    shape: tuple[int, ...], axis: SampleAxis | None, expected: list[int] | None, rest: int | None
) -> None:
    amount = torch.arange(float(torch.Size(shape).numel())).view(shape)
    known, left = per_sample(amount, axis, 3)
    assert (known if known is None else known.tolist()) == expected
    assert (left if left is None else float(left)) == rest


def test_half_precision_is_summed_in_float32() -> None:
    amount = torch.full((3, 4000), 100.0, dtype=torch.float16)
    known, _ = per_sample(amount, SampleAxis.batch(3), 3)
    assert known is not None
    assert known.tolist() == [400000.0] * 3


_HEAVY = {"resnet50", "densenet121", "vit_b_16", "mobilenet_v2", "vgg11_bn", "distilbert", "albert", "roberta", "qwen3"}


@pytest.mark.parametrize("model_name", [name for name in ZOO if name not in _HEAVY])
def test_every_carrying_value_of_the_zoo_has_its_sample_axis(model_name: str) -> None:
    model, inputs, target = make(model_name, B)
    explainer = dlbt.Explainer(model, layers="none")
    found = explainer(**inputs, target=target)
    assert not found.ledger.unassigned
    assert not found.ledger.mixed
    assert float(found.ledger.error) <= 1e-4
    capture = recorded(model, **inputs)
    tensors = {path: leaf for path, leaf in leaves(inputs) if isinstance(leaf, Tensor)}
    if not any(node.guard is not None for node in capture.graph.nodes):
        others = {path: leaf.roll(1, 0) for path, leaf in tensors.items()}
        _check(capture, tensors, others)


def test_nothing_at_all() -> None:
    """A value without elements has no samples to find, and nothing to book."""
    found = recorded(lambda x: x[:, :0].reshape(-1, 3), torch.randn(B, 4, 3))
    _followed(found, [None] * len(found.graph.values))
    assert per_sample(torch.zeros(0, 3), None, 2)[0].tolist() == [0.0, 0.0]  # type: ignore[union-attr]


def test_where_rows_went_is_read_anew_for_each_run() -> None:
    """The recording is the same for other inputs, the rows that are picked are not."""

    def sorted_rows(x: Tensor) -> Tensor:
        rows = x.reshape(-1, 4)
        return rows[rows[:, 0].argsort()] * 2

    x, other = torch.randn(2, B, 6, 4)
    found = recorded(sorted_rows, x)
    (out,) = found.graph.outputs.values()
    follower = Follower(found.graph, found.graph.inputs.values())
    program = ForwardProgram(found.graph, keep=follower.reads)
    for tensor in (x, other, x):
        values = program.run(dict.fromkeys(found.graph.inputs, tensor), found.state).values
        expected = tensor[:, :, 0].flatten().argsort() // 6
        assert torch.equal(follower.forward(B, values)[out].ids, expected)
