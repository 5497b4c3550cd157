"""The front door: recordings kept and renewed, targets, several at once, layers, printing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dlbt_core as dlbt
from dlbt_core.errors import DlbtError
from zoo import make


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4)).eval()


X = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))


class Counting(nn.Module):
    """Counts how often its forward runs."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = net()
        self.runs: list[int] = []
        self.factor = 2.0

    def forward(self, x: Tensor) -> Tensor:
        self.runs.append(1)
        if x[0, 0] > 100:
            x = x * 0.001
        return self.inner(x) * self.factor  # type: ignore[no-any-return]


def test_a_recording_is_kept_per_shape_of_call() -> None:
    model = Counting()
    model.eval()
    explainer = dlbt.Explainer(model)
    for _ in range(3):
        explainer(X)
    assert len(model.runs) == 1
    explainer(X[:2])
    explainer(X.clone())
    assert len(model.runs) == 2
    explainer.model.double()
    explainer(X.double())
    assert len(model.runs) == 3


def test_a_guard_that_differs_makes_a_new_recording() -> None:
    model = Counting()
    model.eval()
    explainer = dlbt.Explainer(model)
    explainer(X)
    large = X.clone()
    large[0, 0] = 1000.0
    found = explainer(large)
    assert len(model.runs) == 2
    assert torch.allclose(found.score, model(large).amax(1))


def test_an_updated_weight_is_seen() -> None:
    model = net()
    explainer = dlbt.Explainer(model)
    explainer(X)
    with torch.no_grad():
        model[0].weight.mul_(2)  # type: ignore[index,union-attr,operator]
    assert torch.allclose(explainer(X).score, model(X).amax(1))
    model[0].weight.data = torch.randn(6, 8)  # type: ignore[index]
    assert torch.allclose(explainer(X).score, model(X).amax(1))
    model.load_state_dict(net().state_dict(), assign=True)
    assert torch.allclose(explainer(X).score, model(X).amax(1))
    model[2] = nn.Linear(6, 5)  # type: ignore[index]
    assert torch.allclose(explainer(X).score, model(X).amax(1))


def test_a_changed_attribute_makes_a_new_recording() -> None:
    model = Counting()
    model.eval()
    explainer = dlbt.Explainer(model)
    before = explainer(X).score
    model.factor = 4.0
    assert torch.allclose(explainer(X).score, 2 * before)


def test_grad_modes_of_the_caller() -> None:
    model = net()
    expected = dlbt.explain(model, X).relevance
    with torch.no_grad():
        assert torch.equal(dlbt.explain(model, X).relevance, expected)
    with torch.inference_mode():
        assert torch.equal(dlbt.explain(model, X.clone()).relevance, expected)
    found = dlbt.explain(model, X.clone().requires_grad_())
    assert torch.equal(found.relevance, expected)
    assert not found.relevance.requires_grad


TARGETS: dict[str, Any] = {
    "class": 2,
    "class from the end": -1,
    "one per sample": torch.tensor([0, 3, 1]),
    "list": [0, 3, 1],
    "contrast": dlbt.target.contrast(0, 1),
    "contrast of targets": dlbt.target.contrast(dlbt.target.output("", 2), None),
    "masked logits": dlbt.target.logits(torch.tensor([1.0, 0.0, -2.0, 0.5])),
    "all logits": dlbt.target.logits(),
    "function": dlbt.target.function(lambda out: torch.log_softmax(out, -1)[:, 1]),
    "plain function": lambda out: out[:, 0] * out[:, 1],
}

SCORES: dict[str, Any] = {
    "class": lambda out: out[:, 2],
    "class from the end": lambda out: out[:, 3],
    "one per sample": lambda out: out[[0, 1, 2], [0, 3, 1]],
    "list": lambda out: out[[0, 1, 2], [0, 3, 1]],
    "contrast": lambda out: out[:, 0] - out[:, 1],
    "contrast of targets": lambda out: out[:, 2] - out.amax(1),
    "masked logits": lambda out: out @ torch.tensor([1.0, 0.0, -2.0, 0.5], dtype=out.dtype),
    "all logits": lambda out: out.sum(1),
    "function": lambda out: torch.log_softmax(out, -1)[:, 1],
    "plain function": lambda out: out[:, 0] * out[:, 1],
}


@pytest.mark.parametrize("name", TARGETS)
def test_targets(name: str) -> None:
    """Score, and relevance by gradient_times_input against autograd."""
    model = net().double()
    x = X.double()
    found = dlbt.explain(model, x, target=TARGETS[name], composite="gradient_times_input")
    grown = x.clone().requires_grad_()
    score = SCORES[name](model(grown))
    assert torch.allclose(found.score, score.detach())
    assert torch.allclose(found.relevance, torch.autograd.grad(score.sum(), grown)[0] * x)
    assert found.ledger.error < 1e-9


@pytest.mark.parametrize("composite", ["auto", "gradient_times_input"])
@pytest.mark.parametrize("model_name", ["mlp", "two_inputs", "in_place", "bert", "llama", "hf_vit"])
def test_several_targets_with_one_forward(model_name: str, composite: str) -> None:
    model, inputs, _ = make(model_name, 2, torch.float64)
    if model_name == "llama":
        targets: list[Any] = [dlbt.target.token(-1, 5), dlbt.target.token(2), dlbt.target.token(0, 7)]
    else:
        targets = [0, 1, dlbt.target.contrast(0, 1)]
    explainer = dlbt.Explainer(model, composite, audit=True)
    together = explainer(**inputs, targets=targets)
    assert len(together) == len(targets)
    for target, found in zip(targets, together, strict=True):
        alone = explainer(**inputs, target=target)
        assert torch.equal(found.score, alone.score)
        for name, relevance in alone.inputs.items():
            assert torch.allclose(found.inputs[name], relevance, rtol=1e-9, atol=1e-12)
        for name, relevance in alone.layers.items():
            assert torch.allclose(found.layers[name], relevance, rtol=1e-9, atol=1e-12), name
        for name, amount in alone.ledger.absorbed.items():
            assert torch.allclose(found.ledger.absorbed[name], amount, rtol=1e-9, atol=1e-12), name
        assert found.ledger.error <= max(1e-9, 2 * alone.ledger.error)


def test_several_targets_run_the_model_once() -> None:
    model = Counting()
    model.eval()
    calls: list[int] = []
    model.inner.register_forward_hook(lambda *_: calls.append(1))
    dlbt.explain(model, X, targets=[0, 1, 2])
    assert len(model.runs) == len(calls) == 1


def test_function_and_class_targets_together() -> None:
    model = net()
    function = dlbt.target.function(lambda out: out[:, 0] - out[:, 2])
    first, second = dlbt.explain(model, X, targets=[function, dlbt.target.contrast(0, 2)])
    assert torch.allclose(first.relevance, second.relevance, atol=1e-6)
    assert first.plan.tail is not None
    assert second.plan.tail is None


def test_several_outputs() -> None:
    model, inputs, _ = make("two_inputs", 2)
    found = dlbt.explain(model, **inputs, target=dlbt.target.output("extra.hidden.0", 3))
    assert found.inputs.keys() == {"x", "context.c"}
    assert torch.equal(found.score, found.outputs["extra.hidden.0"][:, 3])
    both = dlbt.explain(model, **inputs, target=lambda out: out["logits"][:, 0] + out["extra"]["hidden"][0].sum(1))
    assert both.ledger.error < 1e-5


def test_layers() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(8, 6), nn.ReLU()), nn.Linear(6, 4)).eval()
    found = dlbt.explain(model, X, target=0)
    assert sorted(found.layers) == ["", "0", "1"]
    assert torch.allclose(found.at("").sum(1), found.score)
    assert sorted(dlbt.explain(model, X, layers="modules").layers) == ["", "0", "0.0", "0.1", "1"]
    assert sorted(dlbt.explain(model, X, layers=["0.*", "relu"]).layers) == ["0.0", "0.1", "relu"]
    assert dlbt.explain(model, X, layers="none").layers == {}
    everything = dlbt.explain(model, X, layers="all")
    assert torch.equal(everything.at("relu"), everything.at("0"))
    for name in ("0.0", "0", "1"):
        assert everything.at(name).shape == (3, {"0.0": 6, "0": 6, "1": 4}[name])


def test_layers_of_a_module_called_several_times() -> None:
    model, inputs, _ = make("called_twice", 2)
    found = dlbt.explain(model, **inputs)
    assert found.at("shared", call=0).shape == found.at("shared", call=1).shape
    assert not torch.equal(found.at("shared", call=0), found.at("shared", call=1))
    with pytest.raises(DlbtError) as caught:
        found.at("shared")
    assert str(caught.value) == "module 'shared' ran 2 times.\n  fix  at('shared', call=0) to call=1."
    with pytest.raises(DlbtError) as caught:
        found.at("haed")
    assert str(caught.value) == (
        "no relevance was kept for 'haed'. Close: 'shared', 'head', 'shared#1'.\n"
        "  fix  explain(..., layers='modules') keeps every module's output, layers='all' every node's, "
        "layers=['encoder.*'] those that match; 'blocks', the default, those of modules made of other modules."
    )


def test_several_outputs_and_several_inputs_are_asked_for_by_name() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(8, 4, batch_first=True)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            states, (_, cell) = self.lstm(x)
            return states[:, -1] + cell[-1] + y

    found = dlbt.explain(Recurrent().eval(), torch.randn(2, 3, 8), torch.randn(2, 4), layers="modules")
    with pytest.raises(DlbtError) as caught:
        found.at("lstm")
    assert str(caught.value) == (
        "module 'lstm' has several outputs.\n  fix  at() one of: 'lstm:0', 'lstm:1.0', 'lstm:1.1'."
    )
    with pytest.raises(DlbtError) as caught:
        _ = found.relevance
    assert str(caught.value) == "several inputs were explained: 'x', 'y'; use .inputs[name]."


def test_relevance_at_a_layer_is_what_a_model_cut_there_would_get() -> None:
    model = net()
    found = dlbt.explain(model, X, target=1)
    hidden = model[1](model[0](X)).detach()  # type: ignore[index,operator]
    assert torch.allclose(found.at("1"), dlbt.explain(model[2], hidden, target=1).relevance)  # type: ignore[index]


def test_an_audit_after_a_call_without() -> None:
    explainer = dlbt.Explainer(net())
    expected = explainer(X)
    found = explainer(X, audit=True)
    assert torch.equal(found.relevance, expected.relevance)
    assert len(found.ledger.accounts) == 3
    assert not explainer(X).ledger.audited


def test_it_prints() -> None:
    found = dlbt.explain(net(), X, target=1, audit=True)
    text = str(found)
    assert "explanation of class 1" in text
    assert "composite auto -> epsilon" in text
    assert "absorbed: bias" in text
    assert "input input (3, 8): sum " in text
    assert repr(found).startswith("<Explanation of class 1: score ")
    assert "ledger error" in repr(found)
    assert str(found.plan).count("\n") == 3
    assert repr(dlbt.Explainer(net())) == "<Explainer of Sequential, composite 'auto', 0 recordings>"
    assert repr(found.plan.graph).startswith("<Graph of 3 nodes")
    assert "aten.linear.default" in str(found.plan.graph)


def test_progress_is_shown_if_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    dlbt.explain(net(), X)
    assert capsys.readouterr().err == ""
    dlbt.explain(net(), X, progress=True)
    assert "handing back relevance" in capsys.readouterr().err


def test_public_names() -> None:
    """What is in `__all__` is what we promise."""
    assert dlbt.__all__ == [
        "Comparison", "Composite", "Explainer", "Explanation", "Ledger", "Plan", "PluginInfo", "Plugins", "RuleContext",
        "RuleSet", "Select", "Use", "__version__", "compare", "composite", "default_plugins", "errors", "explain",
        "hookimpl", "load", "reload_plugins", "target", "use_rules",
    ]  # fmt: skip
    assert all(hasattr(dlbt, name) for name in dlbt.__all__)
