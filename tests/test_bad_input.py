"""Bad input: an error that says what, where and the remedy; model and explainer work afterwards."""

from __future__ import annotations

import inspect
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

CASES: dict[str, tuple[Callable[[dlbt.Explainer], Any], type[Exception], str]] = {
    "wrong shape": (
        lambda e: e(torch.ones(2, 7)),
        errors.InputError,
        "the model cannot run on these inputs: RuntimeError: {torch (2, 7)}\n"
        "  where  0 (Linear)\n"
        "  input  input: float32 (2, 7) on cpu\n"
        "  fix    pass what model(...) itself accepts: check shapes, dtypes and devices above.",
    ),
    "wrong dtype": (
        lambda e: e(X.double()),
        errors.InputError,
        "the model cannot run on these inputs: RuntimeError: {torch float64}\n"
        "  where  0 (Linear)\n"
        "  input  input: float64 (2, 8) on cpu\n"
        "  fix    pass what model(...) itself accepts: check shapes, dtypes and devices above.",
    ),
    "integers without an embedding": (
        lambda e: dlbt.explain(lambda x: x.float() @ torch.ones(8, 4), X.long()),
        errors.InputError,
        "none of the inputs can be explained: 'x' (torch.int64).\n"
        "  fix  pass floating-point inputs or token ids that enter an embedding, or name the inputs with "
        "explain_inputs=[...].",
    ),
    "an argument too many": (
        lambda e: e(X, X),
        errors.InputError,
        "the call does not fit the model: too many positional arguments.",
    ),
    "no tensor": (
        lambda e: e("text"), errors.InputError, "no tensor among the inputs; pass what model(...) takes."
    ),
    "unknown input to explain": (
        lambda e: dlbt.explain(e.model, X, explain_inputs=["y"]),
        errors.InputError,
        "no input 'y' to explain. The call has: 'input'.",
    ),
    "class out of range": (
        lambda e: e(X, target=4), errors.TargetError, "class 4 is out of range: the output has 4, so 0 to 3."
    ),
    "too few classes": (
        lambda e: e(X, target=torch.tensor([1, 2, 3])),
        errors.TargetError,
        "3 class indices for 2 samples.\n  fix  give one, or one per sample.",
    ),
    "a float as class": (
        lambda e: e(X, target=1.5),
        errors.TargetError,
        "1.5 is not a target. Pass None, a class, a tensor with one class per sample, a function of the outputs, or one of "
        "dlbt.target.token, continuation, label, span, contrast, classes, region, detection, cosine, similarity, each, "
        "logits, output, function.",
    ),
    "unknown output": (
        lambda e: e(X, target=dlbt.target.output("logits", 1)),
        errors.TargetError,
        "the model has no output 'logits'. It returns: ''.",
    ),
    "token of a classifier": (
        lambda e: e(X, target=dlbt.target.token(-1)),
        errors.TargetError,
        "token() needs an output of shape (samples, positions, vocabulary), not (2, 4).\n"
        "  fix  for classes pass the class: target=3.",
    ),
    "function of the wrong shape": (
        lambda e: e(X, target=dlbt.target.function(lambda out: out)),
        errors.TargetError,
        "the target function returned (2, 4); it must give one number per sample, shape (samples,).",
    ),
    "target and targets": (
        lambda e: e(X, target=1, targets=[1]), errors.InputError, "give target or targets, not both."
    ),
    "no targets": (lambda e: e(X, targets=[]), errors.InputError, "targets is empty: give at least one."),
    "unknown composite": (
        lambda e: e(X, composite="epsilom"),
        errors.UnknownCompositeError,
        "no composite 'epsilom'. Did you mean 'epsilon'? There are: {composites}.",
    ),
    "unknown variant": (
        lambda e: e(X, rules=[(dlbt.Select(op="aten.linear"), dlbt.Use("gama"))]),
        errors.UnknownVariantError,
        "no op has a variant 'gama' (asked by this call's rules: Select(op='aten.linear')).\n  Known variants: {variants}",
    ),
    "variant of another op": (
        lambda e: e(X, rules=[(dlbt.Select(op="aten.linear"), dlbt.Use("taylor"))]),
        errors.UnknownVariantError,
        "aten.linear.default has no variant 'taylor' (asked by this call's rules: Select(op='aten.linear')).\n"
        "  It has: {variants of linear}",
    ),
    "unknown parameter": (
        lambda e: e(X, rules=[(dlbt.Select(op="aten.linear"), dlbt.Use("epsilon", eps=1.0))]),
        errors.UnknownParameterError,
        "aten.linear#epsilon has no parameter 'eps'. It has: epsilon, relative, bias.",
    ),
    "parameter of another type": (
        lambda e: e(X, rules=[(dlbt.Select(op="aten.linear"), dlbt.Use("epsilon", epsilon="much"))]),
        errors.UnknownParameterError,
        "core:aten.linear#epsilon: parameter 'epsilon' takes float, not 'much'.",
    ),
    "a parameter in two dimensions": (
        lambda e: e(X, rules=[(dlbt.Select(op="aten.linear"), dlbt.Use("epsilon", epsilon=[[1.0]]))]),
        errors.UnknownParameterError,
        "Use('epsilon'): 'epsilon' is a number, a string, True, False, None or a list of these, not [[1.0]].",
    ),
    "a variant without a name": (
        lambda e: e(X, rules=[(dlbt.Select(op="aten.linear"), dlbt.Use(3))]),
        errors.UnknownVariantError,
        "a variant is a name, not 3.\n  fix  Use('epsilon', epsilon=1e-6).",
    ),
    "a parameter that is called variant": (
        lambda e: e(X, rules=[(dlbt.Select(op="aten.linear"), dlbt.Use("epsilon", variant="gamma"))]),
        errors.UnknownParameterError,
        "aten.linear#epsilon has no parameter 'variant'. It has: epsilon, relative, bias.",
    ),
    "a glob that is no text": (
        lambda e: e(X, rules=[(dlbt.Select(op=["aten.linear", 3]), dlbt.Use("epsilon"))]),
        errors.DlbtError,
        "Select: op is a string or several, not ['aten.linear', 3].",
    ),
    "a fact that is no text": (
        lambda e: e(X, rules=[(dlbt.Select(fact=3), dlbt.Use("epsilon"))]),
        errors.DlbtError,
        "Select: fact is a string, not 3.",
    ),
    "a composite without a name": (
        lambda e: e(X, composite=dlbt.Composite(3)),
        errors.DlbtError,
        "a composite's name is a string, not 3.\n  fix  Composite('ours', [...]).",
    ),
    "one pass in place of a list": (
        lambda e: e(X, composite=dlbt.Composite("ours", passes="fold_batch_norm")),
        errors.DlbtError,
        "composite 'ours': passes is a list of names, not 'fold_batch_norm'.",
    ),
    "no samples": (
        lambda e: e(X[:0]),
        errors.InputError,
        "there is nothing in input 'input' of shape (0, 8).\n  fix  pass at least one sample.",
    ),
    "no such choice": (
        lambda e: e(X, rules=["aten.linear"]),
        errors.DlbtError,
        "a choice is a pair (Select(...), Use(...)), not 'aten.linear'.",
    ),
    "unknown layers": (
        lambda e: dlbt.Explainer(e.model, layers="some"),
        errors.InputError,
        "layers is 'blocks', 'modules', 'all', 'none' or a list of globs, not 'some'.",
    ),
    "unknown backend": (
        lambda e: dlbt.Explainer(e.model, backend="magic"), errors.InputError, "no backend 'magic'. There is: 'eager'."
    ),
    "unknown fallback": (
        lambda e: dlbt.Explainer(e.model, fallback="zero"),
        errors.InputError,
        "fallback is None or 'gradient', not 'zero'.",
    ),
    "no input to explain": (
        lambda e: dlbt.Explainer(e.model, explain_inputs=[]),
        errors.InputError,
        "explain_inputs is empty: name at least one, or leave it out.",
    ),
    "a function that ignores the outputs": (
        lambda e: e(X, target=lambda out: (out > 0).float().sum(1)),
        errors.TargetError,
        "the target function does not depend on the model's outputs through floating-point ops.\n"
        "  fix  return a number made of them, e.g. lambda out: out[:, 3].",
    ),
    "not a model": (
        lambda e: dlbt.Explainer(3),
        errors.InputError,
        "a model is a torch.nn.Module, a torch.export program or a callable, not int.",
    ),
    "NaN in the input": (
        lambda e: e(torch.full((2, 8), float("nan"))),
        errors.NonFiniteError,
        "the score of largest class is not finite for sample 0, 1.\n"
        "  cause  input 'input' holds NaN or infinity.\n"
        "  fix    mend the input or the weights; a score that is not a number cannot be handed back.",
    ),
    "layer not kept": (
        lambda e: e(X).at("features"),
        errors.DlbtError,
        "no relevance was kept for 'features'.\n"
        "  fix  explain(..., layers='modules') keeps every module's output, layers='all' every node's, "
        "layers=['encoder.*'] those that match; 'blocks', the default, those of modules made of other modules.",
    ),
    "audit not asked for": (
        lambda e: e(X).ledger.worst(),
        errors.AuditError,
        "what a node's books miss is known after an audit.\n  fix  explain(..., audit=True).",
    ),
    "no such account": (
        lambda e: e(X).ledger.at("linear_7"),
        errors.AuditError,
        "no account of a node 'linear_7'.\n  fix  ask with audit=True: then every node on the path has an account.",
    ),
    "no such account after an audit": (
        lambda e: e(X, audit=True).ledger.at("linear_7"), errors.AuditError, "no account of a node 'linear_7'."
    ),
}  # fmt: skip


def of_torch(x: Tensor) -> str:
    """What the model itself says to an input it cannot take."""
    with pytest.raises(RuntimeError) as caught:
        net()(x)
    return str(caught.value)


def filled(text: str) -> str:
    """The message with what differs from version to version in place of its placeholders."""
    plugins = dlbt.default_plugins()
    of_linear = plugins.registry.variants("aten.linear.default")
    return (
        text.replace("{torch (2, 7)}", of_torch(torch.ones(2, 7)))
        .replace("{torch float64}", of_torch(X.double()))
        .replace("{composites}", ", ".join(sorted(plugins.composites)))
        .replace("{variants}", ", ".join(plugins.registry.variant_names()))
        .replace("{variants of linear}", ", ".join(f"core:{name}" for name in sorted(of_linear)))
    )


@pytest.mark.parametrize("case", CASES)
def test_error_and_life_afterwards(case: str) -> None:
    call, kind, text = CASES[case]
    model = net()
    explainer = dlbt.Explainer(model)
    expected = explainer(X).relevance
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(kind) as caught:
        call(explainer)
    assert str(caught.value) == filled(text)
    assert torch.equal(explainer(X).relevance, expected)
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


class Odd(nn.Module):
    """Ops on the path without a rule."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(x)
        return torch.lgamma(x.abs() + 1) + torch.lgamma(x.abs() + 2) + torch.digamma(x.abs() + 1)


def test_all_ops_without_a_rule_are_listed_at_once() -> None:
    with pytest.raises(errors.NoRuleError) as caught:
        dlbt.explain(Odd(), X)
    line = f"{__file__}:{inspect.getsourcelines(Odd.forward)[1] + 2}"
    assert str(caught.value) == (
        "no relevance rule for aten.lgamma.default, aten.digamma.default\n"
        "  op          aten.lgamma.default\n"
        f"  node        lgamma in (model) (Odd) at {line} and 1 more\n"
        "  op          aten.digamma.default\n"
        f"  node        digamma in (model) (Odd) at {line}\n"
        f"  plugins     {', '.join(map(str, dlbt.default_plugins().loaded))}\n"
        "  fix         in a plugin ('dlbt new-plugin' writes one) write it as ops that have rules: "
        "@add.lowering('aten.lgamma'),\n"
        "              or register a rule: @add.rule('aten.lgamma', variant='epsilon', default=True) def ...(ctx, m); or "
        "hold the node constant:\n"
        "              rules=[(Select(op='aten.lgamma'), Use('constant'))]; or run the op's gradient: "
        "fallback='gradient'"
    )


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
    with pytest.raises(errors.InputError) as caught:
        dlbt.explain(model, x, rules=[(dlbt.Select(op=("aten.lgamma", "aten.digamma")), dlbt.Use("constant"))])
    assert str(caught.value) == (
        "nothing to explain: output '' does not depend on 'x' (torch.float64, shape (2, 8)) through floating-point ops or "
        "an embedding.\n"
        "  fix  pass floating-point inputs, or name the inputs to explain with explain_inputs=[...]; integer inputs are "
        "explained where they enter an embedding."
    )


def test_several_positions_need_a_position() -> None:
    model, inputs, _ = make("llama", 1)
    with pytest.raises(errors.TargetError) as caught:
        dlbt.explain(model, **inputs)
    shape = tuple(model(**inputs).logits.shape)
    assert str(caught.value) == (
        f"an output of shape {shape} has more than one row of classes per sample, so a class alone does not name a number.\n"
        "  fix  target=dlbt.target.token(-1) for the last position, dlbt.target.output(path, (position, class)), or "
        "dlbt.target.function(fn)."
    )
