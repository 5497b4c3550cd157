"""Silent traps of the field in vision models, under the composites that are made for them."""

from __future__ import annotations

import inspect
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dlbt_core as dlbt
from zoo import widen

COMPOSITES = [
    "epsilon",
    "epsilon_plus",
    "epsilon_plus_flat",
    "epsilon_alpha2_beta1",
    "epsilon_gamma_box",
    "excitation_backprop",
]
every_composite = pytest.mark.parametrize("composite", COMPOSITES)


def drawn(model: nn.Module, seed: int = 0) -> Any:
    """Random weights in float64; statistics of batch norms as after training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        widen(model, 0.1).double()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0.0, 0.3)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
    return model.eval()


def image(*shape: int, seed: int = 7) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def small(bias: bool = True) -> Any:
    return drawn(nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=bias), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, bias=bias), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5, bias=bias),
    ))  # fmt: skip


def relevance(model: Any, x: Tensor, composite: str = "epsilon_plus", target: Any = 1, **options: Any) -> Tensor:
    return dlbt.explain(model, x, composite=composite, target=target, **options).relevance  # type: ignore[no-any-return]


def close(a: Tensor, b: Tensor, limit: float = 1e-9) -> bool:
    return bool((a - b).abs().max() <= limit * b.abs().max())


X = image(3, 3, 12, 12)


# -- what is explained --------------------------------------------------------------------------------------------------


@every_composite
def test_the_sum_of_the_logits_is_explained_only_when_asked_for(composite: str) -> None:
    model = small()
    default = dlbt.explain(model, X, composite=composite)
    asked = dlbt.explain(model, X, composite=composite, target=dlbt.target.function(lambda out: out.sum(1)))
    assert close(default.score, model(X).amax(1))
    assert close(asked.score, model(X).sum(1))
    assert not close(asked.relevance, default.relevance, 1e-3)


def test_relevance_is_not_multiplied_by_the_logit_again() -> None:
    """Twice the last layer, twice the logit: twice the relevance, not four times."""
    model, double = small(bias=False), small(bias=False)
    with torch.no_grad():
        double[-1].weight *= 2
    for composite in COMPOSITES:
        assert close(relevance(double, X, composite), 2 * relevance(model, X, composite), 1e-4), composite


@every_composite
def test_maps_of_different_classes_differ_and_have_both_signs(composite: str) -> None:
    maps = [e.relevance.flatten() for e in dlbt.explain(small(), X, composite=composite, targets=[0, 1])]
    assert F.cosine_similarity(maps[0], maps[1], dim=0) < 0.99
    if composite != "excitation_backprop":  # which is made to have one sign: z+ down from the logit's
        assert all((m > 0).any() and (m < 0).any() for m in maps)


@every_composite
def test_a_batch_is_its_samples(composite: str) -> None:
    explainer = dlbt.Explainer(small(), composite)
    alone = [explainer(X[i : i + 1], target=1).relevance for i in range(3)]
    assert close(explainer(X, target=1).relevance, torch.cat(alone))


# -- how the model is written -------------------------------------------------------------------------------------------


@every_composite
def test_a_forward_pass_before_or_between_changes_nothing(composite: str) -> None:
    model = small()
    expected = relevance(model, X, composite)
    explainer = dlbt.Explainer(model, composite)
    model(X)
    first = explainer(X, target=1).relevance
    model(X[:1])
    assert torch.equal(first, expected)
    assert torch.equal(explainer(X, target=1).relevance, expected)


class Residual(nn.Module):
    """x + f(x), functional, with functional ReLUs."""

    def __init__(self, bias: bool = False) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 6, 3, bias=bias), nn.Conv2d(6, 6, 3, padding=1, bias=bias)
        self.head = nn.Linear(6, 5, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.head(F.relu(x + self.body(x)).mean((2, 3)))


@every_composite
def test_a_functional_residual_sums_to_the_score_once(composite: str) -> None:
    found = dlbt.explain(drawn(Residual()), X, composite=composite)
    assert torch.allclose(found.relevance.sum((1, 2, 3)), found.score, rtol=1e-3)


@every_composite
def test_a_convolution_called_twice_is_two_that_share_weights(composite: str) -> None:
    shared = drawn(nn.Conv2d(3, 3, 3, padding=1))
    head = drawn(nn.Linear(3, 5))

    def network(first: nn.Module, second: nn.Module) -> nn.Module:
        pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), *pool, head).eval()

    assert torch.equal(
        relevance(network(shared, shared), X, composite), relevance(network(shared, deepcopy(shared)), X, composite)
    )


class Functional(nn.Module):
    """`small` without a module but those with weights."""

    def __init__(self, like: Any) -> None:
        super().__init__()
        self.a, self.b, self.c = like[0], like[3], like[7]

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.a(x)), 2)
        return self.c(F.adaptive_avg_pool2d(torch.relu(self.b(x)), 2).flatten(1))  # type: ignore[no-any-return]


@every_composite
def test_functional_layers_are_the_modules(composite: str) -> None:
    model = small()
    assert torch.equal(relevance(Functional(model), X, composite), relevance(model, X, composite))


@pytest.mark.parametrize("variant", ["flat", "w_square"])
def test_functional_relu_keeps_all_relevance_under_rules_that_ignore_the_input(variant: str) -> None:
    """These hand relevance to inputs that are 0, which the gradient of a ReLU would drop: half of it."""
    conv, _, _, second, *_ = small(bias=False)
    head = drawn(nn.Linear(8 * 10 * 10, 5, bias=False))

    def model(x: Tensor) -> Tensor:
        return head(F.relu(second(F.relu(conv(x)))).flatten(1))  # type: ignore[no-any-return]

    rules = [(dlbt.Select(op=("aten.conv2d", "aten.linear")), dlbt.Use(variant))]
    found = dlbt.explain(model, X, rules=rules)
    assert torch.allclose(found.relevance.sum((1, 2, 3)), found.score, rtol=1e-4)


@pytest.mark.parametrize("composite", ["guided_backprop", "deconvnet", "beta_smooth", *COMPOSITES])
def test_in_place_relus_are_the_others(composite: str) -> None:
    model = small()
    expected = relevance(model, X, composite)
    model[1].inplace = model[4].inplace = True
    assert torch.equal(relevance(model, X, composite), expected)


def test_the_first_layer_is_the_one_that_runs_first() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.late, self.early = nn.Linear(6, 5), nn.Conv2d(4, 6, 3), nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.relu(self.late(F.relu(self.early(x)))).mean((2, 3)))

    for composite, variant in (("epsilon_gamma_box", "zbox"), ("epsilon_plus_flat", "flat")):
        found = dlbt.explain(drawn(Backwards()), X, composite=composite)
        (row,) = (r for r in found.plan.table() if r["rule"].endswith(f"#{variant}"))
        assert row["module"] == "early"


# -- kinds of layers ----------------------------------------------------------------------------------------------------


def dense_form(conv: nn.Conv2d) -> nn.Conv2d:
    """The same convolution with one group and no dilation: zeros in place of what it does not read."""
    out, per_group, kernel, _ = conv.weight.shape
    groups, spread = conv.groups, (kernel - 1) * conv.dilation[0] + 1
    dense = nn.Conv2d(per_group * groups, out, spread, padding=conv.padding, dtype=torch.float64)  # type: ignore[arg-type]
    with torch.no_grad():
        dense.weight.zero_()
        for o in range(out):
            start = o // (out // groups) * per_group
            dense.weight[o, start : start + per_group, :: conv.dilation[0], :: conv.dilation[0]] = conv.weight[o]
        dense.bias = conv.bias
    return dense


@pytest.mark.parametrize(
    ("groups", "dilation"), [(8, 1), (2, 1), (1, 2), (8, 3)], ids=["depthwise", "grouped", "dilated", "both"]
)
@pytest.mark.parametrize("composite", [*COMPOSITES, "dlb_default"])
def test_groups_and_dilation_are_a_dense_convolution_with_zeros(composite: str, groups: int, dilation: int) -> None:
    model = small()
    model[3] = drawn(nn.Conv2d(8, 8, 3, padding=dilation, groups=groups, dilation=dilation))
    model[5] = nn.AdaptiveAvgPool2d(2)
    dense = deepcopy(model)
    dense[3] = dense_form(model[3])
    assert close(model(X), dense(X))
    assert close(relevance(model, X, composite), relevance(dense, X, composite))


@every_composite
def test_max_pool_hands_all_to_the_winner(composite: str) -> None:
    x = torch.tensor([[[[1.0, 3.0, 0.5, 0.0], [2.0, -1.0, 0.25, 4.0]]]], dtype=torch.float64)
    model = nn.Sequential(nn.MaxPool2d(2), nn.Flatten()).eval()
    found = dlbt.explain(model, x, composite=composite, target=dlbt.target.function(lambda out: out.sum(1)))
    assert torch.allclose(found.relevance, torch.tensor([[[[0.0, 3, 0, 0], [0, 0, 0, 4]]]], dtype=torch.float64))


@every_composite
def test_a_mean_over_positions_does_not_multiply_relevance(composite: str) -> None:
    head = drawn(nn.Linear(8, 5, bias=False))
    x = image(2, 50, 8).abs()
    found = dlbt.explain(lambda x: head(x.mean(1)), x, target=0, composite=composite)
    assert torch.allclose(found.relevance.sum((1, 2)), found.score, rtol=1e-4)


# -- what cannot be, and what follows -----------------------------------------------------------------------------------


def test_an_integer_image_is_refused_with_the_remedy() -> None:
    pixels = torch.randint(0, 256, (1, 3, 12, 12), dtype=torch.uint8)
    model = small()
    with pytest.raises(dlbt.errors.InputError) as caught:
        dlbt.explain(lambda x: model(x.double() / 255), pixels)
    assert str(caught.value) == (
        "none of the inputs can be explained: 'x' (torch.uint8).\n  fix  pass floating-point inputs or token ids that enter an "
        "embedding, or name the inputs with explain_inputs=[...]."
    )


def test_an_unsupported_layer_leaves_the_model_and_later_calls_as_they_are() -> None:
    class Unsupported(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner, self.odd = inner, True

        def forward(self, x: Tensor) -> Tensor:
            return torch.special.erfcx(self.inner(x)) if self.odd else self.inner(x)

    inner = small()
    expected = relevance(inner, X)
    model = Unsupported(inner).eval()
    attributes = {name: sorted(vars(module)) for name, module in model.named_modules()}
    explainer = dlbt.Explainer(model, "epsilon_plus")
    line = inspect.getsourcelines(Unsupported.forward)[1] + 1
    for _ in range(2):
        with pytest.raises(dlbt.errors.NoRuleError) as caught:
            explainer(X)
        assert str(caught.value) == (
            "no relevance rule for aten.special_erfcx.default\n"
            "  op          aten.special_erfcx.default\n"
            f"  node        special_erfcx in (model) (Unsupported) at {__file__}:{line}\n"
            f"  plugins     {', '.join(map(str, dlbt.default_plugins().loaded))}\n"
            "  fix         in a plugin ('dlbt new-plugin' writes one) write it as ops that have rules: "
            "@add.lowering('aten.special_erfcx'),\n"
            "              or register a rule: @add.rule('aten.special_erfcx', variant='epsilon', default=True) def ...(ctx, "
            "m); or hold the node constant:\n"
            "              rules=[(Select(op='aten.special_erfcx'), Use('constant'))]; or run the op's gradient: "
            "fallback='gradient'"
        )
    assert {name: sorted(vars(module)) for name, module in model.named_modules()} == attributes
    assert torch.equal(relevance(inner, X), expected)
    model.odd = False
    assert torch.equal(dlbt.explain(model, X, composite="epsilon_plus", target=1).relevance, expected)


def test_a_list_for_epsilon_is_refused() -> None:
    """As with a list of canonizers in the first place."""
    with pytest.raises(dlbt.errors.UnknownParameterError) as caught:
        dlbt.explain(small(), X, composite=dlbt.composite("epsilon_plus_flat", epsilon=["a canonizer"]))
    assert str(caught.value) == "core:aten.linear#epsilon: parameter 'epsilon' takes float, not ('a canonizer',)."
    with pytest.raises(TypeError):
        dlbt.composite("epsilon_plus_flat", [object()])  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("composite", "parameter", "value"),
    [
        ("epsilon_plus", "epsilon", 0.5), ("epsilon_plus", "stabiliser", 0.5), ("epsilon_plus", "bias", "dropped"),
        ("epsilon_gamma_box", "gamma", 2.0), ("epsilon_gamma_box", "low", -9.0), ("epsilon_gamma_box", "high", 9.0),
        ("beta_smooth", "beta", 0.5), ("excitation_backprop", "bias", "dropped"), ("epsilon", "epsilon", 0.5),
        ("epsilon_alpha2_beta1_flat", "stabiliser", 0.5), ("epsilon_plus_flat", "epsilon", 0.5),
        ("epsilon_alpha2_beta1", "bias", "dropped"),
    ],
)  # fmt: skip
def test_every_parameter_has_an_effect(composite: str, parameter: str, value: Any) -> None:
    changed = dlbt.composite(composite, **{parameter: value})
    assert not close(relevance(small(), X, changed), relevance(small(), X, composite), 1e-6)  # type: ignore[arg-type]


def test_negative_biases_have_no_part_in_the_positive_share() -> None:
    """alpha = 1, beta = 0 is z+, and neither has a negative bias in its denominator, nor a product of two signs."""
    layer = drawn(nn.Linear(6, 4))
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([-5.0, 2.0, -0.1, 0.3]))
    x = image(2, 6)
    found = [
        dlbt.explain(layer, x, target=2, rules=[(dlbt.Select(op="aten.linear"), use)])
        for use in (dlbt.Use("alpha_beta", alpha=1.0, beta=0.0), dlbt.Use("zplus"))
    ]
    z = (x * layer.weight[2]).clamp(min=0)
    expected = z / (z.sum(1, keepdim=True) + 1e-6) * layer(x)[:, 2:3]
    assert all(torch.allclose(f.relevance, expected.detach()) for f in found)
