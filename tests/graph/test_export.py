"""torch.export as the second way in: the same ops in the same modules, the same relevance."""

from __future__ import annotations

import inspect
import io
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dlbt_core as dlbt
from dlbt_core.errors import CaptureError, InputError
from dlbt_core.graph.ops import packet
from zoo import make

NAMES = ["mlp", "called_twice", "in_place", "two_inputs", "resnet18", "bert", "hf_vit"]


def _export(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None, **options: Any) -> Any:
    with warnings.catch_warnings():  # export warns about its own internals
        warnings.simplefilter("ignore")
        return torch.export.export(model, args, kwargs or {}, **options)


def _path(found: dlbt.Explanation) -> list[tuple[str, str, int]]:
    return [(packet(step.node.op), step.node.site.module, step.node.site.call) for step in found.plan.steps]


def _same_relevance(found: dlbt.Explanation, expected: dlbt.Explanation) -> None:
    assert list(found.inputs) == list(expected.inputs)
    torch.testing.assert_close(found.score, expected.score, rtol=1e-6, atol=1e-6)
    for name, relevance in expected.inputs.items():
        torch.testing.assert_close(found.inputs[name], relevance, rtol=0.0, atol=1e-6 * float(relevance.abs().max()))


@pytest.mark.parametrize("model_name", NAMES)
def test_a_program_is_explained_as_the_model_is(model_name: str) -> None:
    model, inputs, target = make(model_name, 3)
    expected = dlbt.explain(model, **inputs, target=target, layers="modules")
    found = dlbt.explain(_export(model, (), dict(inputs)), **inputs, target=target, layers="modules")
    assert _path(found) == _path(expected)
    _same_relevance(found, expected)
    assert {name for name in expected.layers if ":" not in name} <= set(found.layers) | {""}


def test_source_lines_are_the_models() -> None:
    model, inputs, _ = make("called_twice", 3)
    lines = [step.node.site.line for step in dlbt.explain(model, **inputs).plan.steps]
    assert [s.node.site.line for s in dlbt.explain(_export(model, (), dict(inputs)), **inputs).plan.steps] == lines
    model, inputs, _ = make("mlp", 3)
    assert {s.node.site.line for s in dlbt.explain(_export(model, (), dict(inputs)), **inputs).plan.steps} == {""}


@pytest.mark.parametrize("model_name", ["mlp", "bert"])
def test_a_dynamic_batch_is_explained_in_any_size(model_name: str) -> None:
    model, inputs, _ = make(model_name, 3)
    (name,) = inputs
    batch = torch.export.Dim("batch", min=2, max=64)
    explainer = dlbt.Explainer(_export(model, (), dict(inputs), dynamic_shapes={name: {0: batch}}))
    for size in (2, 5):
        given = make(model_name, size)[1]
        _same_relevance(explainer(**given), dlbt.explain(model, **given))


def test_a_size_that_was_burnt_in_is_refused() -> None:
    model, inputs, _ = make("mlp", 3)
    batch = torch.export.Dim("batch", min=2, max=64)
    with pytest.raises(InputError) as caught:
        dlbt.Explainer(_export(model, (), dict(inputs), dynamic_shapes={"input": {0: batch}}))(torch.randn(5, 7))
    assert str(caught.value) == (
        "the call does not fit the model: input has shape (5, 7); the program was exported for (any, 8): for other sizes "
        "export it with dynamic_shapes."
    )
    explainer = dlbt.Explainer(_export(model, (), dict(inputs)))
    with pytest.raises(InputError) as caught:
        explainer(torch.randn(5, 8))
    assert str(caught.value) == (
        "the call does not fit the model: input has shape (5, 8); the program was exported for (3, 8): for other sizes "
        "export it with dynamic_shapes."
    )
    with pytest.raises(InputError) as caught:
        explainer(torch.randn(3, 8, 1))
    assert str(caught.value) == (
        "the call does not fit the model: input has 3 dimensions; the program was exported for 2."
    )


class _NoGrad(nn.Module):
    """A block without gradients, a buffer that counts, nested inputs and outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.Linear(8, 8), nn.Linear(8, 4)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor, context: dict[str, Tensor], scale: float = 2.0, *, extra: Any = None) -> Any:
        with torch.no_grad():
            gate = torch.sigmoid(self.a(x))
        self.count += 1
        y = self.a(x) * gate + context["c"] * scale * self.count
        if extra is not None:
            y = y + extra[0]
        return {"logits": self.head(torch.relu(y)), "hidden": (y,)}


def test_a_block_without_gradients_and_nested_inputs() -> None:
    model = _NoGrad().eval()
    x, c, e = torch.randn(3, 3, 8)
    args, kwargs = (x, {"c": c}), {"extra": [e]}
    program = _export(model, args, kwargs)
    assert any("set_grad_enabled" in str(node.target) for node in program.graph.nodes)
    expected = dlbt.explain(model, *args, **kwargs)
    found = dlbt.explain(program, *args, **kwargs)
    assert list(found.inputs) == ["x", "context.c", "extra.0"]
    _same_relevance(found, expected)
    assert _path(found) == _path(expected)
    assert float(model.count) == 0  # type: ignore[arg-type]
    assert float(program.state_dict["count"]) == 0


def test_arguments_go_by_name() -> None:
    model = _NoGrad().eval()
    x, c = torch.randn(2, 3, 8)
    program = _export(model, (x,), {"context": {"c": c}})
    expected = dlbt.explain(program, x, context={"c": c})
    _same_relevance(dlbt.explain(program, context={"c": c}, x=x), expected)
    _same_relevance(dlbt.explain(program, x, {"c": c}), expected)


@pytest.mark.parametrize(
    ("args", "kwargs", "takes"),
    [
        ((), {}, "the program takes (x, context)"),
        ((1, 2, 3), {}, "the program takes (x, context)"),
        ((), {"y": 1}, "the program takes (x, context)"),
        ((torch.ones(3, 8), {"c": torch.ones(1), "d": 1}), {}, "the program takes 2 tensors or numbers, not 3"),
    ],
)
def test_a_call_that_does_not_fit_the_program_says_what_does(args: Any, kwargs: Any, takes: str) -> None:
    model = _NoGrad().eval()
    program = _export(model, (torch.randn(3, 8), {"c": torch.randn(3, 8)}))
    with pytest.raises(InputError) as caught:
        dlbt.explain(program, *args, **kwargs)
    assert str(caught.value) == f"the call does not fit the model: {takes}."


class _Autocast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            y = self.a(x)
        return y.float() * 2


def test_an_autocast_block() -> None:
    model, x = _Autocast().eval(), torch.randn(3, 8)
    expected, found = dlbt.explain(model, x), dlbt.explain(_export(model, (x,)), x)
    assert _path(found) == _path(expected)
    assert torch.equal(found.inputs["x"], expected.inputs["x"])


def test_updated_weights_are_seen() -> None:
    model, inputs, _ = make("mlp", 3)
    program = _export(model, (), dict(inputs))
    explainer = dlbt.Explainer(program)
    first = explainer(**inputs)
    with torch.no_grad():
        model[0].weight.mul_(2)  # type: ignore[index]
    again = explainer(**inputs)
    assert not torch.allclose(again.score, first.score)
    _same_relevance(again, dlbt.explain(model, **inputs))
    program.state_dict["2.weight"].data.mul_(3)
    _same_relevance(explainer(**inputs), dlbt.explain(model, **inputs))


@pytest.mark.parametrize("model_name", ["mlp", "in_place"])
def test_a_loaded_and_a_functional_program(model_name: str) -> None:
    model, inputs, _ = make(model_name, 3)
    program = _export(model, (), dict(inputs))
    expected = dlbt.explain(model, **inputs)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    _same_relevance(dlbt.explain(torch.export.load(file), **inputs), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        functional = program.run_decompositions({})
    _same_relevance(dlbt.explain(functional, **inputs), expected)


class _Cond(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return torch.cond(x.sum() > 0, lambda x: x * 2, lambda x: x * 3, (x,))


def test_a_higher_order_op_of_a_program_says_so() -> None:
    x = torch.randn(3, 8)
    with pytest.raises(CaptureError) as caught:
        dlbt.explain(_export(_Cond(), (x,)), x)
    line = inspect.getsourcelines(_Cond.forward)[1] + 1
    assert str(caught.value) == (
        f"the higher-order op 'cond' in (model) (_Cond) at {__file__}:{line} cannot be recorded.\n"
        "  fix  run the model with the plain (eager) implementation of that part, e.g. attn_implementation='sdpa'."
    )
