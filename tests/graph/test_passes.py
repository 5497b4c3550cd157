"""fold_batch_norm: the same function with fewer nodes, on weights that stay the user's; and derived weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dlbt_core as dlbt
from dlbt_core.graph.ir import Graph
from dlbt_core.graph.passes import fold_batch_norm
from dlbt_core.scheduler.capture import Capture
from dlbt_core.scheduler.derived import DerivedWeights, weights_only
from dlbt_core.scheduler.forward import ForwardProgram
from graph.replaying import Lambda, ops_of, recorded
from zoo import make


def _trained(norm: nn.Module) -> nn.Module:
    """With statistics and weights as after training."""
    with torch.no_grad():
        norm.running_mean.normal_()  # type: ignore[union-attr, operator]
        norm.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr, operator]
        if norm.weight is not None:
            norm.weight.uniform_(-1.5, 1.5)  # type: ignore[union-attr, operator]
            norm.bias.normal_()  # type: ignore[union-attr, operator]
    return norm


def _pair(linear: nn.Module, norm: nn.Module) -> nn.Module:
    return nn.Sequential(linear, _trained(norm), nn.ReLU()).eval()


def _ahead(norm: nn.Module, linear: nn.Module) -> nn.Module:
    return nn.Sequential(_trained(norm), linear, nn.ReLU()).eval()


def _run(found: Capture, graph: Graph, x: Tensor) -> Tensor:
    (path,) = graph.inputs
    return ForwardProgram(graph).run({path: x}, found.state).values[next(iter(graph.outputs.values()))]


def _equal(found: Tensor, expected: Tensor) -> None:
    expected = expected.detach()
    tolerance = 1e-5 if expected.dtype == torch.float32 else 1e-12
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))


FOLDED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv1d": (lambda: _pair(nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6)), (2, 4, 9)),
    "conv2d": (lambda: _pair(nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6)), (2, 4, 8, 8)),
    "conv2d_same": (lambda: _pair(nn.Conv2d(4, 6, 3, padding="same"), nn.BatchNorm2d(6)), (2, 4, 8, 8)),
    "conv2d_no_bias": (lambda: _pair(nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6)), (2, 4, 8, 8)),
    "conv2d_groups": (lambda: _pair(nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)), (2, 4, 8, 8)),
    "conv2d_depthwise": (lambda: _pair(nn.Conv2d(4, 8, 3, groups=4, bias=False), nn.BatchNorm2d(8)), (2, 4, 8, 8)),
    "conv2d_not_affine": (lambda: _pair(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, affine=False)), (2, 4, 8, 8)),
    "conv2d_eps": (lambda: _pair(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, eps=0.3)), (2, 4, 8, 8)),
    "conv3d": (lambda: _pair(nn.Conv3d(2, 3, 3), nn.BatchNorm3d(3)), (2, 2, 5, 5, 5)),
    "conv_transpose1d": (lambda: _pair(nn.ConvTranspose1d(4, 6, 3), nn.BatchNorm1d(6)), (2, 4, 7)),
    "conv_transpose2d": (lambda: _pair(nn.ConvTranspose2d(4, 6, 3, stride=2), nn.BatchNorm2d(6)), (2, 4, 5, 5)),
    "conv_transpose3d": (lambda: _pair(nn.ConvTranspose3d(2, 3, 2, bias=False), nn.BatchNorm3d(3)), (2, 2, 4, 4, 4)),
    "ahead_conv2d": (lambda: _ahead(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, stride=2)), (2, 4, 8, 8)),
    "ahead_conv2d_groups": (lambda: _ahead(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, groups=2, bias=False)), (2, 4, 8, 8)),
    "ahead_conv1d_valid": (
        lambda: _ahead(nn.BatchNorm1d(4, affine=False), nn.Conv1d(4, 6, 3, padding="valid")),
        (2, 4, 9),
    ),
    "ahead_linear": (lambda: _ahead(nn.BatchNorm1d(8), nn.Linear(8, 6)), (5, 8)),
    "linear": (lambda: _pair(nn.Linear(8, 6), nn.BatchNorm1d(6)), (5, 8)),
    "linear_no_bias": (lambda: _pair(nn.Linear(8, 6, bias=False), nn.BatchNorm1d(6)), (5, 8)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", list(FOLDED))
def test_folding_changes_no_output_and_no_weight(name: str, dtype: torch.dtype) -> None:
    build, shape = FOLDED[name]
    model = build().to(dtype)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    found = recorded(model, torch.randn(shape, dtype=dtype))
    graph = fold_batch_norm(found.graph)
    assert "aten.batch_norm" not in ops_of(graph)
    x = torch.randn(shape, dtype=dtype)
    _equal(_run(found, graph, x), model(x))
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert dict(graph.inputs) == dict(found.graph.inputs)
    assert [call.module for call in graph.modules] == [call.module for call in found.graph.modules]


def test_a_chain_of_pairs_is_folded() -> None:
    pairs = [layer for i in range(3) for layer in _pair(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))]  # type: ignore[attr-defined]
    model = nn.Sequential(*pairs).eval()
    found = recorded(model, torch.randn(2, 4, 6, 6))
    graph = fold_batch_norm(found.graph)
    assert ops_of(graph).count("aten.conv2d") == 3
    assert "aten.batch_norm" not in ops_of(graph)
    x = torch.randn(2, 4, 6, 6)
    _equal(_run(found, graph, x), model(x))


@pytest.mark.parametrize("model_name", ["hf_resnet", pytest.param("resnet18", marks=pytest.mark.torchvision)])
def test_a_whole_network_is_folded(model_name: str) -> None:
    model, inputs, _ = make(model_name, 2, torch.float64)
    (x,) = inputs.values()
    found = recorded(model, *([x] if model_name == "resnet18" else []), **({} if model_name == "resnet18" else inputs))
    graph = fold_batch_norm(found.graph)
    assert "aten.batch_norm" not in ops_of(graph)
    out = model(x)
    _equal(_run(found, graph, x), out if isinstance(out, Tensor) else out.logits)


def _conv(**parts: nn.Module) -> dict[str, nn.Module]:
    return {"conv": nn.Conv2d(4, 4, 3), "norm": _trained(nn.BatchNorm2d(4)), **parts}


def _used_twice(self: Any, x: Tensor) -> Tensor:
    y = self.conv(x)
    return self.norm(y) + y


def _returned(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    y = self.conv(x)
    return self.norm(y), y


def _training_form(self: Any, x: Tensor) -> Tensor:
    return nn.functional.batch_norm(self.conv(x), None, None, self.norm.weight, self.norm.bias, training=True)


KEPT: dict[str, Callable[[Any, Tensor], Any]] = {
    "used_twice": _used_twice,
    "returned": _returned,
    "training_form": _training_form,
    "not_directly_behind": lambda self, x: self.norm(torch.relu(self.conv(x))),
    "in_front_of_zero_padding": lambda self, x: nn.functional.conv2d(self.norm(x), self.conv.weight, padding=1),
    "weight_made_of_the_input": lambda self, x: self.norm(nn.functional.conv2d(x, self.conv.weight * x.mean())),
}


@pytest.mark.parametrize("name", list(KEPT))
def test_a_norm_that_cannot_be_folded_stays(name: str) -> None:
    model = Lambda(KEPT[name], **_conv()).eval()
    found = recorded(model, torch.randn(2, 4, 6, 6))
    graph = fold_batch_norm(found.graph)
    assert ops_of(graph) == ops_of(found.graph)
    x = torch.randn(2, 4, 6, 6)
    out = model(x)
    _equal(_run(found, graph, x), out[0] if isinstance(out, tuple) else out)


def test_a_linear_map_over_a_sequence_is_not_folded_along_the_wrong_axis() -> None:
    model = nn.Sequential(nn.Linear(8, 6), _trained(nn.BatchNorm1d(5))).eval()
    found = recorded(model, torch.randn(2, 5, 8))
    graph = fold_batch_norm(found.graph)
    x = torch.randn(2, 5, 8)
    _equal(_run(found, graph, x), model(x))


def test_a_shared_convolution_is_folded_for_each_norm() -> None:
    parts = _conv(other=_trained(nn.BatchNorm2d(4)))
    model = Lambda(lambda self, x: self.norm(self.conv(x)) + self.other(self.conv(x)), **parts).eval()
    found = recorded(model, torch.randn(2, 4, 6, 6))
    graph = fold_batch_norm(found.graph)
    assert "aten.batch_norm" not in ops_of(graph)
    x = torch.randn(2, 4, 6, 6)
    _equal(_run(found, graph, x), model(x))


def test_a_graph_without_batch_norm_is_unchanged() -> None:
    found = recorded(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(3, 8))
    graph = fold_batch_norm(found.graph)
    assert graph is found.graph


# -- weights that change ------------------------------------------------------------------------------------------------


def _scale_weight(model: Any) -> None:
    with torch.no_grad():
        model[0].weight.mul_(2)


def _scale_through_data(model: Any) -> None:
    model[0].weight.data.mul_(2)


def _replace_weight(model: Any) -> None:
    model[0].weight = nn.Parameter(torch.randn_like(model[0].weight))


def _change_statistics(model: Any) -> None:
    model[1].running_var.mul_(4)


def _load(model: Any) -> None:
    model.load_state_dict({key: tensor + 1 for key, tensor in model.state_dict().items()})


@pytest.mark.parametrize("change", [_scale_weight, _scale_through_data, _replace_weight, _change_statistics, _load])
def test_derived_weights_are_computed_anew_only_after_a_change(
    change: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _pair(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6))
    x = torch.randn(2, 4, 8, 8)
    found = recorded(model, x)
    graph = fold_batch_norm(found.graph)
    program = ForwardProgram(graph)
    made: list[str] = []
    run_plain = ForwardProgram._run_plain

    def counting(self: ForwardProgram, call: Any, values: list[Any]) -> None:
        made.append(call.node.op)
        run_plain(self, call, values)

    monkeypatch.setattr(ForwardProgram, "_run_plain", counting)

    def run() -> int:
        made.clear()
        values = program.run({"input": x}, found.state).values
        _equal(values[graph.outputs[""]], model(x))
        return made.count("aten.rsqrt.default")

    assert [run(), run(), run()] == [1, 0, 0]
    change(model)
    assert [run(), run()] == [1, 0]


def test_weights_only_are_nodes_of_weights_and_constants() -> None:
    part, ones = nn.Linear(8, 8), torch.ones(8)
    model = Lambda(lambda self, x: x @ (self.a.weight * ones).t() + torch.arange(8.0).exp(), a=part)
    graph = recorded(model, torch.randn(3, 8)).graph
    assert {graph.nodes[i].op for i in weights_only(graph, graph.nodes)} == {"aten.mul.Tensor", "aten.t.default"}


def test_fresh_sees_every_kind_of_change() -> None:
    weight = torch.randn(6, 6)
    derived = DerivedWeights([0])
    assert [derived.fresh([weight]), derived.fresh([weight])] == [False, True]
    weight.add_(1)
    assert [derived.fresh([weight]), derived.fresh([weight])] == [False, True]
    weight.data.mul_(2)
    assert [derived.fresh([weight]), derived.fresh([weight])] == [False, True]
    assert [derived.fresh([weight.clone()])] == [False]


def test_constants_before_weights_are_there_when_weights_change() -> None:
    """What comes from constants alone and enters a weights-only op."""
    model = Lambda(lambda self, x: x * (2.0 * torch.arange(3.0)[:, None] * self.linear.weight), linear=nn.Linear(2, 3))
    x = torch.randn(3, 2)
    explainer = dlbt.Explainer(model.eval(), layers="none")
    for value in (1.0, 3.0):
        with torch.no_grad():
            model.linear.weight.fill_(value)  # type: ignore[operator, union-attr]
        found = explainer(x, target=dlbt.target.function(lambda out: out.sum(1)))
        torch.testing.assert_close(found.relevance, model(x).detach())
