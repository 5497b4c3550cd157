"""The tape: whole ops, modules, source lines, weights and structures of real modules."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import dlbt_core as dlbt
from dlbt_core.errors import CaptureError, InputError, RandomModelWarning
from graph.replaying import Lambda, holds_on, node_of, ops_of, recorded, replayed, same

F = nn.functional


def _pair(*shape: int) -> tuple[tuple[Tensor], tuple[Tensor]]:
    return (torch.randn(*shape),), (torch.randn(*shape),)


# -- ops stay whole, and hold on a second input -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "op", "options"),
    [
        (nn.LSTM, "aten.lstm", {"num_layers": 2, "bidirectional": True}),
        (nn.LSTM, "aten.lstm", {"num_layers": 2, "dropout": 0.2}),
        (nn.GRU, "aten.gru", {}),
        (nn.RNN, "aten.rnn_tanh", {}),
    ],
)
def test_recurrent_layers_are_one_op_and_not_a_constant(kind: Any, op: str, options: Any) -> None:
    """aten.lstm carries the tag of random ops; taken for random, its output would be burnt in."""
    model = kind(8, 6, batch_first=True, **options).eval()
    graph = holds_on(model, *_pair(3, 5, 8))
    assert [name for name in ops_of(graph) if name != "aten.zeros"] == [op]
    assert not graph.random


@pytest.mark.parametrize("frozen", [False, True])
def test_a_transformer_layer_is_recorded_op_by_op(frozen: bool) -> None:
    """Frozen, torch would run its fast path: one fused op."""
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval().requires_grad_(not frozen)
    graph = holds_on(model, *_pair(3, 5, 8), tolerance=1e-5)
    assert {"aten.scaled_dot_product_attention", "aten.layer_norm", "aten.linear"} <= set(ops_of(graph))
    assert torch.backends.mha.get_fastpath_enabled()


def test_multihead_attention_with_and_without_weights() -> None:
    part = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    graph = holds_on(lambda x: part(x, x, x, need_weights=False)[0], *_pair(3, 5, 8), tolerance=1e-6)
    assert "aten.scaled_dot_product_attention" in ops_of(graph)
    graph = holds_on(lambda x: part(x, x, x), *_pair(3, 5, 8), tolerance=1e-6)
    assert list(graph.outputs) == ["0", "1"]


def test_a_padding_mask_of_another_sample_is_used() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    masks = torch.zeros(2, 3, 5, dtype=torch.bool)
    masks[0, 1, 3:] = masks[1, 2, 2:] = True

    def run(x: Tensor, pad: Tensor) -> Any:
        return model(x, src_key_padding_mask=pad)

    (first,), (second,) = _pair(3, 5, 8)
    found = recorded(run, first, masks[0])
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        expected = run(second, masks[1])
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
    same(replayed(found, run, second, masks[1]), expected, 1e-5)


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0) * 2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad


def _autocast(part: nn.Module, x: Tensor) -> Any:
    with torch.autocast("cpu", torch.bfloat16):
        return part(x), x @ x.mT


_PART = nn.Linear(8, 8)
_WAYS: dict[str, Any] = {
    "autograd_function": (lambda x: _Doubled.apply(x) + 1, ["aten.clamp", "aten.mul", "aten.add"]),
    "checkpoint": (
        lambda x: checkpoint(lambda y: torch.relu(_PART(y)), x, use_reentrant=False),
        ["aten.linear", "aten.relu"],
    ),
    "autocast": (lambda x: _autocast(_PART, x), None),
    "vmap": (lambda x: torch.vmap(lambda row: torch.softmax(_PART(row), 0) * row.sum())(x), None),
    "func_grad": (lambda x: torch.func.grad(lambda y: (y**3).sum())(x), None),
    "einsum": (lambda x: torch.einsum("bij,bkj->bik", x, x), ["aten.einsum"]),
    "fft": (lambda x: torch.fft.irfft(torch.fft.rfft(x), n=8), None),
    "inference_mode": (torch.inference_mode()(lambda x: (x * 2).add_(1)), ["aten.mul", "aten.add"]),
    "traced_by_fx": (torch.fx.symbolic_trace(nn.Sequential(_PART, nn.ReLU())), ["aten.linear", "aten.relu"]),
    "weight_norm": (torch.nn.utils.parametrizations.weight_norm(nn.Linear(8, 3)), ["aten._weight_norm", "aten.linear"]),
    "dropout_eval": (nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5, inplace=True)).eval(), ["aten.dropout"] * 2),
    "integers": (lambda x: (x * 5).long() // 2 + (x * 3).int() % 3, None),
}


@pytest.mark.parametrize("way", list(_WAYS))
def test_ways_to_run_are_recorded_and_hold_on_a_second_input(way: str) -> None:
    model, ops = _WAYS[way]
    graph = holds_on(model, *_pair(3, 5, 8), tolerance=1e-6)
    assert ops is None or ops_of(graph) == ops


# -- modules and places -------------------------------------------------------------------------------------------------


class _TwiceAndTied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(8, 8)
        self.tied = nn.Linear(8, 8)
        self.tied.weight = self.shared.weight

    def forward(self, x: Tensor) -> Tensor:
        once = self.shared(x)
        return self.tied(self.shared(torch.relu(once)))


def test_a_module_called_twice_has_a_call_index_and_its_outputs() -> None:
    graph = holds_on(_TwiceAndTied(), *_pair(3, 8), tolerance=1e-6)
    linear = [node for node in graph.nodes if node.op.startswith("aten.linear")]
    assert [(node.site.module, node.site.call) for node in linear] == [("shared", 0), ("shared", 1), ("tied", 0)]
    calls = {(call.module, call.call): dict(call.outputs) for call in graph.modules}
    assert calls["shared", 0] == {"": linear[0].outputs[0]}
    assert calls["shared", 1] == {"": linear[1].outputs[0]}
    assert calls["", 0] == {"": graph.outputs[""]}


def test_a_tied_weight_is_one_value() -> None:
    graph = holds_on(_TwiceAndTied(), *_pair(3, 8), tolerance=1e-6)
    weights = {node.args["weight"].index for node in graph.nodes if node.op.startswith("aten.linear")}
    assert len(weights) == 1
    assert sorted(graph.states) == ["shared.bias", "shared.weight", "tied.bias"]


def test_a_site_is_the_line_of_the_model() -> None:
    graph = recorded(_TwiceAndTied(), torch.randn(3, 8)).graph
    lines, start = inspect.getsourcelines(_TwiceAndTied.forward)
    at = {text.strip(): f"{__file__}:{start + i}" for i, text in enumerate(lines)}
    assert graph.nodes[0].site.line == at["once = self.shared(x)"]
    assert node_of(graph, "aten.relu").site.line == at["return self.tied(self.shared(torch.relu(once)))"]
    assert node_of(graph, "aten.relu").site.module_type.endswith("_TwiceAndTied")
    assert graph.nodes[0].site.module_type == "torch.nn.modules.linear.Linear"


def test_a_model_without_source_of_its_own_has_no_lines() -> None:
    """Not the line from which it was explained."""
    graph = recorded(nn.Sequential(nn.Linear(8, 8), nn.ReLU()), torch.randn(3, 8)).graph
    assert [str(node.site) for node in graph.nodes] == ["0 (Linear)", "1 (ReLU)"]


def test_an_error_in_the_model_names_the_module() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.Linear(7, 7)))
    with pytest.raises(InputError) as caught:
        recorded(model, torch.randn(3, 8))
    assert str(caught.value).partition("\n")[2] == (
        "  where  1.0 (Linear)\n"
        "  input  input: float32 (3, 8) on cpu\n"
        "  fix    pass what model(...) itself accepts: check shapes, dtypes and devices above."
    )


# -- arguments and results ----------------------------------------------------------------------------------------------


@dataclasses.dataclass
class _Out:
    logits: Tensor
    more: dict[str, Any]


def test_nested_inputs_and_dataclass_outputs_have_paths() -> None:
    def model(a: dict[str, Tensor], b: list[Any], *, c: Tensor, **rest: Tensor) -> _Out:
        return _Out(a["x"] @ b[0].t(), {"k": [c * b[1], (a["x"], rest["d"])]})

    def call(seed: int) -> Any:
        x = torch.randn(4, 3, 8, generator=torch.Generator().manual_seed(seed))
        return ({"x": x[0]}, [x[1], 2]), {"c": x[2], "d": x[3]}

    args, kwargs = call(1)
    found = recorded(model, *args, **kwargs)
    assert list(found.graph.inputs) == ["a.x", "b.0", "c", "d"]
    assert list(found.graph.outputs) == ["logits", "more.k.0", "more.k.1.0", "more.k.1.1"]
    args, kwargs = call(2)
    tensors = replayed(found, model, *args, **kwargs)
    same(tensors, model(*args, **kwargs))
    again = found.rebuild(tensors)
    assert isinstance(again, _Out)
    assert again.more["k"][1][0] is tensors["more.k.1.0"]


def test_a_callable_that_is_no_module_is_a_model() -> None:
    weight = torch.randn(4, 8)

    class Model:
        def __call__(self, x: Tensor) -> Tensor:
            return x @ weight.t()

    graph = holds_on(Model(), *_pair(3, 8))
    assert ops_of(graph) == ["aten.t", "aten.matmul"]
    assert [value.kind for value in graph.values[:2]] == ["input", "constant"]


def test_the_same_tensor_twice_is_one_value() -> None:
    x = torch.randn(3, 8)
    graph = recorded(lambda a, b: a + b, x, x).graph
    assert graph.inputs["a"] == graph.inputs["b"]


# -- state --------------------------------------------------------------------------------------------------------------


class _Writes(nn.Module):
    """Writes a buffer, a weight through .data, and rebinds a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("last", torch.zeros(3, 8))
        self.weight = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        self.mean.mul_(0.9).add_(x.mean(0), alpha=0.1)
        self.weight.data.mul_(1.5)
        self.last = self.last + x
        return x * self.mean * self.count * self.weight + self.last


def test_buffers_and_weights_written_in_forward_are_restored() -> None:
    model = _Writes().eval()
    before = {name: (tensor, tensor.clone()) for name, tensor in model.state_dict(keep_vars=True).items()}
    (first,), (second,) = _pair(3, 8)
    found = recorded(model, first)
    for name, tensor in model.state_dict(keep_vars=True).items():
        assert tensor is before[name][0]
        assert torch.equal(tensor, before[name][1])
    same(replayed(found, model, second), copy.deepcopy(model)(second), 1e-6)


def test_an_input_written_in_forward_is_the_users_again() -> None:
    def model(x: Tensor) -> Tensor:
        x[0].mul_(2)
        x.view(-1).add_(1)
        return x.t_()

    x = torch.randn(3, 8)
    content, stride = x.clone(), x.stride()
    found = recorded(model, x)
    assert torch.equal(x, content)
    assert x.stride() == stride
    second = torch.randn(3, 8)
    same(replayed(found, model, second), model(second.clone()))


def test_a_changed_weight_is_seen_by_the_replay() -> None:
    model = nn.Linear(8, 4)
    found = recorded(model, torch.randn(3, 8))
    x = torch.randn(3, 8)
    with torch.no_grad():
        model.weight.mul_(3)
    same(replayed(found, model, x), model(x))
    model.weight = nn.Parameter(torch.randn(4, 8))
    same(replayed(found, model, x), model(x))


def test_restoring_leaves_no_trace_in_the_graph() -> None:
    graph = recorded(_Writes().eval(), torch.randn(3, 8)).graph
    assert max(graph.outputs.values()) == len(graph.values) - 1


# -- random numbers -----------------------------------------------------------------------------------------------------


def test_random_numbers_are_kept_and_announced_and_the_state_is_untouched() -> None:
    head = nn.Linear(8, 4)

    def model(x: Tensor) -> Tensor:
        return head(x * torch.rand_like(x) + torch.empty_like(x).normal_())

    explainer = dlbt.Explainer(model)
    x = torch.randn(3, 8)
    state = torch.get_rng_state()
    with pytest.warns(RandomModelWarning) as caught:
        first = explainer(x)
    assert [str(one.message) for one in caught] == [
        f"the model draws random numbers (aten.rand_like.default in (model) (function) at {__file__}:"
        f"{model.__code__.co_firstlineno + 1}); the explanation keeps those of the first run."
    ]
    again = explainer(x)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.score, again.score)
    assert torch.equal(first.inputs["x"], again.inputs["x"])


@pytest.mark.parametrize(
    ("draws", "model"),
    [
        (True, lambda x: F.dropout(x, 0.5, True)),
        (True, lambda x: x + torch.randn(8)),
        (True, lambda x: x * torch.empty_like(x).bernoulli_(0.5)),
        (False, lambda x: F.dropout(x, 0.5, False)),
        (False, lambda x: F.scaled_dot_product_attention(x, x, x)),
    ],
)
def test_only_what_draws_is_called_random(draws: bool, model: Any) -> None:
    assert bool(recorded(model, torch.randn(2, 3, 8)).graph.random) is draws


def test_a_module_out_of_a_function_has_module_paths() -> None:
    model = Lambda(lambda self, x: self.a(self.b(x)), a=nn.Linear(8, 8), b=nn.Linear(8, 8))
    assert [node.site.module for node in recorded(model, torch.randn(3, 8)).graph.nodes] == ["b", "a"]


# -- memory that is shared ----------------------------------------------------------------------------------------------


def test_slices_of_one_batch_are_inputs_of_their_own() -> None:
    def model(a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([a.mul_(2), b + a])

    both = torch.randn(2, 3, 8)
    untouched = both.clone()
    found = recorded(model, both[0], both[1])
    assert found.graph.inputs["a"] != found.graph.inputs["b"]
    assert torch.equal(both, untouched)
    c, d = torch.randn(3, 8), torch.randn(3, 8)
    same(replayed(found, model, c, d), model(c.clone(), d.clone()))


def test_one_tensor_given_twice_is_another_recording_than_two_tensors() -> None:
    head = nn.Linear(8, 4)
    explainer = dlbt.Explainer(lambda a, b: head(a) * torch.sigmoid(b.sum()))
    x, y = torch.randn(3, 8), torch.randn(3, 8)
    for a, b in ((x, x), (x, y), (y, x), (y, y)):
        torch.testing.assert_close(explainer(a, b).score, explainer.model(a, b).amax(-1))


def test_weights_that_share_one_memory_are_weights_of_their_own() -> None:
    """Recurrent layers on a GPU, sharded models and quantised ones flatten their weights."""
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    flat = torch.randn(2 * 72)
    for i, layer in enumerate(model):
        layer.weight.data = flat[i * 72 : i * 72 + 64].view(8, 8)
        layer.bias.data = flat[i * 72 + 64 : (i + 1) * 72]
    x = torch.randn(3, 8)
    graph = holds_on(model, (x,), (torch.randn(3, 8),), 1e-6)
    assert ops_of(graph) == ["aten.linear"] * 2
    assert sorted(graph.states) == ["0.bias", "0.weight", "1.bias", "1.weight"]
    found = recorded(lambda x: model[1].weight.data[0] * x, x)
    assert set(ops_of(found.graph)) <= {"aten.detach", "aten.select", "aten.mul"}


def test_a_weight_read_through_data_is_that_weight() -> None:
    model = Lambda(lambda self, x: x @ self.a.weight.data.t() + self.a.bias.detach(), a=nn.Linear(8, 8))
    found = recorded(model, torch.randn(3, 8))
    assert sorted(found.graph.states) == ["a.bias", "a.weight"]
    with torch.no_grad():
        model.a.weight.mul_(2)  # type: ignore[union-attr]
    x = torch.randn(3, 8)
    same(replayed(found, model, x), model(x))


def test_a_weight_given_as_input_is_refused() -> None:
    model = nn.Linear(8, 8)
    with pytest.raises(CaptureError) as caught:
        recorded(model, model.weight.detach()[:3])
    assert str(caught.value) == (
        "input 'input' shares its memory with the model's own 'weight'.\n  fix  pass a copy of it: .clone()."
    )
