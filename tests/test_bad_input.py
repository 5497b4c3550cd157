"""Bad input: an error that says what, where and the remedy; model and explainer work afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dlbt_core as dlbt
from dlbt_core import errors
from zoo import make


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4)).eval()


X = torch.ones(2, 8)

CASES: dict[str, tuple[Callable[[dlbt.Explainer], Any], type[Exception], list[str]]] = {
    "wrong shape": (
        lambda e: e(torch.ones(2, 7)),
        errors.InputError,
        ["cannot run on these inputs: RuntimeError", "where  0 (Linear)", "input  input: float32 (2, 7) on cpu", "fix"],
    ),
    "wrong dtype": (
        lambda e: e(X.double()),
        errors.InputError,
        ["cannot run on these inputs", "where  0 (Linear)", "float64 (2, 8)", "check shapes, dtypes"],
    ),
    "integers without an embedding": (
        lambda e: dlbt.explain(lambda x: x.float() @ torch.ones(8, 4), X.long()),
        errors.InputError,
        ["none of the inputs can be explained: 'x' (torch.int64)", "fix", "floating-point inputs or token ids"],
    ),
    "an argument too many": (
        lambda e: e(X, X),
        errors.InputError,
        ["the call does not fit the model: too many positional arguments"],
    ),
    "no tensor": (lambda e: e("text"), errors.InputError, ["no tensor among the inputs"]),
    "unknown input to explain": (
        lambda e: dlbt.explain(e.model, X, explain_inputs=["y"]),
        errors.InputError,
        ["no input 'y' to explain. The call has: 'input'."],
    ),
    "class out of range": (
        lambda e: e(X, target=4),
        errors.TargetError,
        ["class 4 is out of range: the output has 4, so 0 to 3."],
    ),
    "too few classes": (
        lambda e: e(X, target=torch.tensor([1, 2, 3])),
        errors.TargetError,
        ["3 class indices for 2 samples", "fix  give one, or one per sample"],
    ),
    "a float as class": (lambda e: e(X, target=1.5), errors.TargetError, ["1.5 is not a target", "dlbt.target.token"]),
    "unknown output": (
        lambda e: e(X, target=dlbt.target.output("logits", 1)),
        errors.TargetError,
        ["the model has no output 'logits'. It returns: ''."],
    ),
    "token of a classifier": (
        lambda e: e(X, target=dlbt.target.token(-1)),
        errors.TargetError,
        ["token() needs an output of shape (samples, positions, vocabulary), not (2, 4)", "target=3"],
    ),
    "function of the wrong shape": (
        lambda e: e(X, target=dlbt.target.function(lambda out: out)),
        errors.TargetError,
        ["the target function returned (2, 4); it must give one number per sample"],
    ),
    "target and targets": (
        lambda e: e(X, target=1, targets=[1]),
        errors.InputError,
        ["give target or targets, not both."],
    ),
    "no targets": (lambda e: e(X, targets=[]), errors.InputError, ["targets is empty"]),
    "unknown composite": (
        lambda e: e(X, composite="epsilom"),
        errors.UnknownCompositeError,
        ["no composite 'epsilom'. Did you mean 'epsilon'? There are: attnlrp, auto, beta_smooth, cp_lrp, deconvnet, "
            "dlb_contrastive, "
            "dlb_default, epsilon, epsilon_alpha2_beta1, epsilon_alpha2_beta1_flat, epsilon_gamma_box, epsilon_plus, "
            "epsilon_plus_flat, excitation_backprop, gradient_times_input, guided_backprop, mamba_lrp, "
            "vit_gamma."],
    ),
    "unknown variant": (
        lambda e: e(X, rules=[(dlbt.Select(op="aten.linear"), dlbt.Use("gama"))]),
        errors.UnknownVariantError,
        ["no op has a variant 'gama' (asked by this call's rules: Select(op='aten.linear'))", "Known variants: "],
    ),
    "variant of another op": (
        lambda e: e(X, rules=[(dlbt.Select(op="aten.linear"), dlbt.Use("taylor"))]),
        errors.UnknownVariantError,
        [
            "aten.linear.default has no variant 'taylor' (asked by this call's rules",
            "It has: core:alpha_beta, core:dlb_contrastive, core:dlb_default, core:epsilon, core:flat, core:gamma, "
            "core:gradient, core:norm, core:pass, core:signal, core:uniform, core:w_square, core:zbox, core:zplus",
        ],
    ),
    "unknown parameter": (
        lambda e: e(X, rules=[(dlbt.Select(op="aten.linear"), dlbt.Use("epsilon", eps=1.0))]),
        errors.UnknownParameterError,
        ["aten.linear#epsilon has no parameter 'eps'. It has: epsilon, relative, bias."],
    ),
    "parameter of another type": (
        lambda e: e(X, rules=[(dlbt.Select(op="aten.linear"), dlbt.Use("epsilon", epsilon="much"))]),
        errors.UnknownParameterError,
        ["core:aten.linear#epsilon: parameter 'epsilon' takes float, not 'much'."],
    ),
    "no such choice": (
        lambda e: e(X, rules=["aten.linear"]),
        errors.DlbtError,
        ["a choice is a pair (Select(...), Use(...))"],
    ),
    "unknown layers": (
        lambda e: dlbt.Explainer(e.model, layers="some"),
        errors.InputError,
        ["layers is 'blocks', 'modules', 'all', 'none' or a list of globs, not 'some'."],
    ),
    "unknown backend": (lambda e: dlbt.Explainer(e.model, backend="magic"), errors.InputError, ["no backend 'magic'"]),
    "not a model": (lambda e: dlbt.Explainer(3), errors.InputError, ["a model is a torch.nn.Module"]),
    "NaN in the input": (
        lambda e: e(torch.full((2, 8), float("nan"))),
        errors.NonFiniteError,
        ["the score of largest class is not finite for sample 0, 1.", "input 'input' holds NaN", "fix"],
    ),
    "layer not kept": (
        lambda e: e(X).at("features"),
        errors.DlbtError,
        ["no relevance was kept for 'features'.", "layers='modules'"],
    ),
    "audit not asked for": (
        lambda e: e(X).ledger.worst(),
        errors.AuditError,
        ["known after an audit.\n  fix  explain(..., audit=True)."],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_error_and_life_afterwards(case: str) -> None:
    call, kind, texts = CASES[case]
    model = net()
    explainer = dlbt.Explainer(model)
    expected = explainer(X).relevance
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(kind) as caught:
        call(explainer)
    for text in texts:
        assert text in str(caught.value), str(caught.value)
    assert torch.equal(explainer(X).relevance, expected)
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_nan_in_a_weight_names_the_node() -> None:
    model = net()
    with torch.no_grad():
        model[2].weight[0, 0] = float("nan")  # type: ignore[index]
    with pytest.raises(
        errors.NonFiniteError, match=r"the first NaN is in node linear_1 \(aten.linear.default\) in 2 \(Linear\)"
    ):
        dlbt.explain(model, X, target=0)


class Odd(nn.Module):
    """Ops on the path without a rule."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(x)
        return torch.lgamma(x.abs() + 1) + torch.lgamma(x.abs() + 2) + torch.digamma(x.abs() + 1)


def test_all_ops_without_a_rule_are_listed_at_once() -> None:
    model = Odd()
    with pytest.raises(errors.NoRuleError) as caught:
        dlbt.explain(model, X)
    text = str(caught.value)
    assert text.startswith("no relevance rule for aten.lgamma.default, aten.digamma.default\n")
    assert "node        lgamma in (model) (Odd) at " in text
    assert "test_bad_input.py:" in text
    assert "and 1 more" in text
    assert "plugins     core (dlbt-core " in text
    assert "@add.rule('aten.lgamma', variant='epsilon', default=True)" in text
    assert "fallback='gradient'" in text


def test_ways_around_a_missing_rule() -> None:
    model = Odd().double()
    x = torch.randn(2, 8, dtype=torch.float64)
    found = dlbt.explain(model, x, fallback="gradient", target=0)
    assert found.ledger.error < 1e-9
    assert any(step.rule.variant == "fallback_gradient" for step in found.plan.steps)
    assert "fallback" in found.ledger.absorbed
    grown = x.clone().requires_grad_()
    model(grown)[:, 0].sum().backward()
    gradient = dlbt.explain(model, x, fallback="gradient", target=0, composite=dlbt.Composite("plain"), rules=[
        (dlbt.Select(op=("aten.abs", "aten.add", "aten.linear")), dlbt.Use("gradient")),
    ])  # fmt: skip
    assert grown.grad is not None
    assert torch.allclose(gradient.relevance, grown.grad * x)
    hold = [(dlbt.Select(op="aten.lgamma"), dlbt.Use("constant"))]
    held = dlbt.explain(model, x, target=0, rules=hold, fallback="gradient")
    assert list(held.plan.held) == ["lgamma", "lgamma_1"]
    assert held.ledger.error < 1e-9
    with pytest.raises(errors.InputError, match="nothing to explain: output '' does not depend on 'x'"):
        dlbt.explain(model, x, rules=[(dlbt.Select(op=("aten.lgamma", "aten.digamma")), dlbt.Use("constant"))])


@pytest.mark.parametrize(
    ("layer", "name"),
    [(nn.Dropout(0.5), "Dropout"), (nn.BatchNorm1d(8), "BatchNorm1d"), (nn.RReLU(), "RReLU")],
    ids=lambda value: str(value),
)
def test_train_mode_is_refused(layer: nn.Module, name: str) -> None:
    model = nn.Sequential(layer, nn.Linear(8, 4)).train()
    state = torch.get_rng_state()
    with pytest.raises(errors.ModelStateError) as caught:
        dlbt.explain(model, X)
    assert f"module '0' ({name}) is in train mode" in str(caught.value)
    assert "model.eval()" in str(caught.value)
    assert model.training
    assert layer.training
    assert torch.equal(state, torch.get_rng_state())
    model.eval()
    dlbt.explain(model, X)


def test_train_mode_of_layers_that_do_not_care_is_fine() -> None:
    model = net().train()
    assert torch.equal(dlbt.explain(model, X).relevance, dlbt.explain(model.eval(), X).relevance)


def test_functional_dropout_in_train_mode_is_refused() -> None:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(nn.functional.dropout(x, 0.5, self.training))

    with pytest.raises(errors.ModelStateError, match="draws random numbers"):
        dlbt.explain(Hidden().train(), X)


def test_several_positions_need_a_position() -> None:
    model, inputs, _ = make("llama", 1)
    with pytest.raises(errors.TargetError, match=r"target=dlbt.target.token\(-1\) for the last position"):
        dlbt.explain(model, **inputs)


def test_a_rule_that_breaks_the_contract_is_named() -> None:
    class Bad:
        @dlbt.hookimpl
        def dlbt_plugin_info(self) -> dlbt.PluginInfo:
            return dlbt.PluginInfo()

        @dlbt.hookimpl
        def dlbt_register_rules(self, add: dlbt.RuleSet) -> None:
            @add.rule("aten.linear", variant="shape")
            def shape(ctx: dlbt.RuleContext, m: Tensor) -> dict[str, Tensor]:
                return {"input": m}

            @add.rule("aten.linear", variant="name")
            def name(ctx: dlbt.RuleContext, m: Tensor) -> dict[str, Tensor]:
                return {"x": m}

            @add.rule("aten.linear", variant="books")
            def books(ctx: dlbt.RuleContext, m: Tensor) -> dict[str, Tensor]:
                ctx.absorb("bias", m)
                return {}

            @add.rule("aten.linear", variant="peeks", reads=("output",))
            def peeks(ctx: dlbt.RuleContext, m: Tensor) -> dict[str, Tensor]:
                return {"input": ctx.args["input"]}

    plugins = dlbt.Plugins()
    plugins.add(Bad(), "bad")
    expected = {
        "shape": "bad:aten.linear#shape returned a message of shape (2, 4) for a value of shape (2, 6)",
        "name": "bad:aten.linear#name returned a message for 'x', which carries no relevance here; input do.",
        "books": "the rule of aten.linear.default books 'bias', which it did not declare; it declared nothing.",
        "peeks": "bad:aten.linear#peeks uses ctx.args['input'], which it did not declare; its reads are ('output',).",
    }
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4)).eval()
    for variant, text in expected.items():
        with pytest.raises(errors.RuleContractError) as caught:
            dlbt.explain(model, X, plugins=plugins, rules=[(dlbt.Select(module="2"), dlbt.Use(variant))])
        assert text in str(caught.value)
