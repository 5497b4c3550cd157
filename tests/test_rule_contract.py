"""What a plugin's rules may do: declare, take either form, derive weights, ask for facts, lower an op."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dlbt_core as dlbt
from dlbt_core.errors import (
    DuplicateRuleError,
    OpKeyError,
    RuleContractError,
    UnknownParameterError,
    UnknownVariantError,
)
from dlbt_core.rules.rule import Provenance


def rules() -> dlbt.RuleSet:
    return dlbt.RuleSet(Provenance("mine"))


def plugin(declare: Callable[[dlbt.RuleSet], None], lower: Callable[[Any], None] | None = None) -> dlbt.Plugins:
    class Mine:
        @dlbt.hookimpl
        def dlbt_plugin_info(self) -> dlbt.PluginInfo:
            return dlbt.PluginInfo(owns=("mine",))

        @dlbt.hookimpl
        def dlbt_register_rules(self, add: dlbt.RuleSet) -> None:
            declare(add)

        @dlbt.hookimpl
        def dlbt_register_lowerings(self, add: Any) -> None:
            if lower is not None:
                lower(add)

    plugins = dlbt.Plugins(strict=True)
    plugins.add(Mine(), "mine")
    return plugins


KEYS = "Write 'aten.linear' (all overloads), 'aten.linear.default' (one), 'mylib::op', or pass the torch.ops object itself."
REFUSED: dict[str, tuple[dict[str, Any], Callable[..., Any], type[Exception], str]] = {
    "positional parameter": (
        {},
        lambda ctx, m, eps=1e-6: {},
        RuleContractError,
        "<lambda>: parameter 'eps' must be keyword-only and have a default, so that variants can be listed, saved and "
        "swapped: def <lambda>(ctx, message, *, eps=1e-6).",
    ),
    "kwargs": (
        {},
        lambda ctx, m, **more: {},
        RuleContractError,
        "<lambda>: *args and **kwargs are refused: the signature lists a rule's parameters.",
    ),
    "a default that is no plain value": (
        {},
        eval("lambda ctx, m, *, t=[1, 2]: {}"),
        RuleContractError,
        "<lambda>: the default of 't' must be a bool, int, float, str or None, or a tuple of these, not list.",
    ),
    "too few arguments": (
        {},
        lambda ctx: {},
        RuleContractError,
        "<lambda>: a rule takes (ctx, message) and keyword-only parameters.",
    ),
    "no op": (
        {"op": ()},
        lambda ctx, m: {},
        RuleContractError,
        "rule() needs at least one op, e.g. @add.rule('aten.linear', variant='epsilon').",
    ),
    "an upper-case variant": (
        {"variant": "Gamma"},
        lambda ctx, m: {},
        RuleContractError,
        "variant 'Gamma' must be a lower-case word such as 'epsilon' or 'alpha_beta'.",
    ),
    "an unknown form": (
        {"takes": "both"},
        lambda ctx, m: {},
        RuleContractError,
        "a rule takes and gives 'multiplier', 'relevance' or 'either', not 'both'.",
    ),
    "an in-place op": (
        {"op": ("aten.add_.Tensor",)},
        lambda ctx, m: {},
        OpKeyError,
        "'aten.add_.Tensor' is an in-place op. The graph is functional before rules are looked up: register "
        "'aten.add.Tensor' instead.",
    ),
    "an out op": (
        {"op": ("aten.add.out",)},
        lambda ctx, m: {},
        OpKeyError,
        "'aten.add.out' is an out= op. The graph is functional before rules are looked up: register 'aten.add' instead.",
    ),
    "no op key": ({"op": ("linear",)}, lambda ctx, m: {}, OpKeyError, f"'linear' is not an op key. {KEYS}"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_at_declaration(case: str) -> None:
    options, function, kind, text = REFUSED[case]
    given = {"op": ("aten.linear",), "variant": "mine", **options}
    with pytest.raises(kind) as caught:
        rules().rule(*given.pop("op"), **given)(function)
    assert str(caught.value) == text


def first(ctx: Any, m: Any) -> dict[str, Any]:
    return {}


def second(ctx: Any, m: Any) -> dict[str, Any]:
    return {}


def place(function: Any) -> str:
    return f"{__file__}:{function.__code__.co_firstlineno}"


def test_duplicates_name_both_places() -> None:
    add = rules()
    add.rule("aten.linear", variant="mine", default=True)(first)
    both = f"  first   {place(first)}\n  second  {place(second)}"
    with pytest.raises(DuplicateRuleError) as caught:
        add.rule("aten.linear", variant="mine")(second)
    assert str(caught.value) == f"plugin 'mine' declares aten.linear#mine twice:\n{both}"
    with pytest.raises(DuplicateRuleError) as caught:
        add.rule("aten.linear", variant="other", default=True)(second)
    assert str(caught.value) == f"plugin 'mine' declares two default rules for aten.linear: mine and other:\n{both}"


BROKEN: dict[str, tuple[dict[str, Any], Callable[..., Any], str]] = {
    "shape": (
        {},
        lambda ctx, m: {"input": m},
        "mine:aten.linear#broken returned a message of shape (2, 4) for a value of shape (2, 6) (node linear_1 in 2 "
        "(Linear)).\n  fix    hand on a message of that shape; where the rule is not yours, give the op another variant.\n"
        "  where  {place}",
    ),
    "name": (
        {},
        lambda ctx, m: {"x": m},
        "mine:aten.linear#broken returned a message for 'x', which carries no relevance here; input do.\n  where  {place}",
    ),
    "no mapping": (
        {},
        lambda ctx, m: m,
        "mine:aten.linear#broken returned Tensor; a rule returns a mapping from argument name to message.\n"
        "  where  {place}",
    ),
    "books": (
        {},
        lambda ctx, m: ctx.absorb("bias", m),
        "mine:aten.linear#broken books 'bias', which it did not declare; it declared nothing.\n"
        "  fix    absorbs=('bias', ...) in its declaration, or book it under a name that is there.\n  where  {place}",
    ),
    "an argument that is not there": (
        {},
        lambda ctx, m: {"input": m @ ctx.args["weights"]},
        "mine:aten.linear#broken uses ctx.args['weights'], which aten.linear.default does not have.\n"
        "  fix    one of its arguments: input, weight, bias.\n  where  {place}",
    ),
    "peeks": (
        {"reads": ("output",)},
        lambda ctx, m: {"input": ctx.args["input"]},
        "mine:aten.linear#broken uses ctx.args['input'], which it did not declare; its reads are ('output',).\n"
        "  fix    reads=(..., 'input') in its declaration, or no reads at all.\n  where  {place}",
    ),
    "peeks at the output": (
        {"reads": ("input",)},
        lambda ctx, m: {"input": ctx.output},
        "mine:aten.linear#broken uses ctx.output, which it did not declare.\n"
        "  fix  reads=(..., 'output') in its declaration, or no reads at all.",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_rule_that_breaks_the_contract_is_named(case: str) -> None:
    options, function, text = BROKEN[case]
    plugins = plugin(lambda add: add.rule("aten.linear", variant="broken", **options)(function) and None)
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4)).eval()
    with pytest.raises(RuleContractError) as caught:
        dlbt.explain(model, torch.ones(2, 8), plugins=plugins, rules=[(dlbt.Select(module="2"), dlbt.Use("broken"))])
    assert str(caught.value) == text.replace("{place}", place(function))


def test_op_keys_of_torch_objects() -> None:
    add = rules()
    add.rule(torch.ops.aten.linear, torch.ops.aten.add.Tensor, "mine::op", variant="mine")(lambda ctx, m: {})
    assert [str(rule.op) for rule in add] == ["aten.linear", "aten.add.Tensor", "mine.op"]


def test_parameters_come_from_the_signature_and_are_checked() -> None:
    add = rules()

    @add.rule("aten.linear", variant="mine")
    def mine(ctx: Any, m: Any, *, low: float | None = None, count: int = 2, on: bool = True) -> dict[str, Any]:
        """A rule."""
        return {}

    (rule,) = add
    assert dict(rule.complete({})) == {"low": None, "count": 2, "on": True}
    assert rule.complete({"low": 1})["low"] == 1.0
    for name, wrong, kinds in (("low", "x", "float or None"), ("count", 1.5, "int"), ("on", 1, "bool")):
        with pytest.raises(UnknownParameterError) as caught:
            rule.complete({name: wrong})
        assert str(caught.value) == f"mine:aten.linear#mine: parameter {name!r} takes {kinds}, not {wrong!r}."
    with pytest.raises(UnknownParameterError) as caught:
        rule.complete({"high": 1.0})
    assert str(caught.value) == "aten.linear#mine has no parameter 'high'. It has: low, count, on."
    with pytest.raises(UnknownParameterError) as caught:
        dlbt.default_plugins().registry.find("aten.relu.default", "identity").complete({"high": 1.0})
    assert str(caught.value) == "aten.relu#identity has no parameter 'high'. It has: no parameters."
    with pytest.raises(UnknownVariantError) as none:
        dlbt.default_plugins().registry.find("acme.nothing.default", "epsilon")
    assert str(none.value) == "acme.nothing.default has no variant 'epsilon'.\n  It has: none"


X = torch.randn(3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4)).double().eval()


def test_a_rule_on_relevance_between_rules_on_multipliers() -> None:
    """The planned conversions m -> R -> m change nothing if the rule is the same formula."""

    def declare(add: dlbt.RuleSet) -> None:
        @add.rule("aten.linear", variant="shares", takes="relevance", gives="relevance", absorbs=("bias",))
        def shares(ctx: dlbt.RuleContext, relevance: Tensor) -> dict[str, Tensor]:
            share = relevance / ctx.output
            ctx.absorb("bias", share, ctx.args["bias"])
            return {"input": ctx.args["input"] * ctx.vjp(share)["input"]}

    expected = dlbt.explain(net(), X, composite="attnlrp", audit=True)
    for module in ("0", "2", "*"):
        found = dlbt.explain(net(), X, composite="attnlrp", plugins=plugin(declare), audit=True,
                             rules=[(dlbt.Select(op="aten.linear", module=module), dlbt.Use("shares"))])  # fmt: skip
        assert torch.allclose(found.relevance, expected.relevance, rtol=1e-6, atol=1e-9)
        assert found.ledger.error < 1e-9


def test_derived_weights_are_kept_until_a_weight_changes() -> None:
    made: list[int] = []

    def declare(add: dlbt.RuleSet) -> None:
        @add.rule("aten.linear", variant="derived")
        def derived(ctx: dlbt.RuleContext, m: Tensor) -> dict[str, Tensor]:
            weight = ctx.cached("plus", lambda: made.append(1) or ctx.args["weight"].clamp(min=0))
            return {"input": m @ weight}

    model = net()
    explainer = dlbt.Explainer(model, plugins=plugin(declare), rules=[(dlbt.Select(module="0"), dlbt.Use("derived"))])
    first = explainer(X).relevance
    assert torch.equal(explainer(X).relevance, first)
    assert len(made) == 1
    model[0].weight.data.mul_(2)  # type: ignore[index,union-attr,operator]
    assert not torch.equal(explainer(X).relevance, first)
    assert len(made) == 2
    with torch.no_grad():
        model[2].weight.mul_(2)  # type: ignore[index,union-attr,operator]
    explainer(X)
    assert len(made) == 2


def test_facts_reach_the_rule() -> None:
    seen: list[Any] = []

    def declare(add: dlbt.RuleSet) -> None:
        @add.rule("aten.mul", variant="looks")
        def looks(ctx: dlbt.RuleContext, m: Tensor) -> dict[str, Any]:
            seen.append({name: sorted(facts) for name, facts in ctx.facts.items()})
            return ctx.vjp(m / len(ctx.carries))

    def model(x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)

    dlbt.explain(model, X, plugins=plugin(declare), composite=dlbt.Composite("plain"),
                 rules=[(dlbt.Select(op="aten.mul"), dlbt.Use("looks"))])  # fmt: skip
    assert seen == [{"self": [], "other": ["nonnegative", "statistic"]}]


def test_vjp_with_replaced_arguments_and_call() -> None:
    def declare(add: dlbt.RuleSet) -> None:
        @add.rule("aten.linear", variant="positive", takes="relevance")
        def zplus(ctx: dlbt.RuleContext, relevance: Tensor) -> dict[str, Tensor]:
            plus = {"weight": ctx.args["weight"].clamp(min=0), "bias": None}
            share = relevance / ctx.stabilise(ctx.call(**plus), 1e-12)
            return {"input": ctx.args["input"] * ctx.vjp(share, "input", **plus)["input"]}

    model, x = net(), X.abs()
    rules = [(dlbt.Select(op="aten.linear"), dlbt.Use("positive"))]
    found = dlbt.explain(model, x, target=1, plugins=plugin(declare), rules=rules)
    assert torch.allclose(found.relevance.sum(1), found.score)
    weight = [layer.weight.detach().clamp(min=0) for layer in (model[0], model[2])]  # type: ignore[index,operator,union-attr]
    hidden = model[1](model[0](x)).detach()  # type: ignore[index,operator]
    R = torch.zeros(3, 4, dtype=torch.float64)
    R[:, 1] = found.score
    for a, w in ((hidden, weight[1]), (x, weight[0])):
        z = torch.einsum("bi,ji->bji", a, w)
        R = torch.einsum("bji,bj->bi", z / (z.sum(2, keepdim=True) + 1e-300), R)
    assert torch.allclose(found.relevance, R)
    several = dlbt.explain(model, x, targets=[0, 1], plugins=plugin(declare), rules=rules)
    assert torch.allclose(several[1].relevance, found.relevance)


@torch.library.custom_op("dlbt_tests::scale", mutates_args=())
def scale(x: Tensor, by: float) -> Tensor:
    """An op of our own."""
    return x * by


def test_an_op_of_ones_own_with_a_rule_or_a_lowering() -> None:
    def model(x: Tensor) -> Tensor:
        return torch.ops.dlbt_tests.scale(x, 3.0)  # type: ignore[no-any-return]

    def declare(add: dlbt.RuleSet) -> None:
        @add.rule("dlbt_tests::scale", variant="identity", default=True)
        def identity(ctx: dlbt.RuleContext, m: Tensor) -> dict[str, Tensor]:
            return {"x": m * ctx.args["by"]}

    def lower(add: Any) -> None:
        @add.lowering("dlbt_tests::scale")
        def multiplied(x: Tensor, by: float) -> Tensor:
            return x * by

    with pytest.raises(dlbt.errors.NoRuleError) as caught:
        dlbt.explain(model, X)
    assert str(caught.value) == (
        "no relevance rule for dlbt_tests.scale.default\n"
        "  op          dlbt_tests.scale.default\n"
        f"  node        scale in (model) (function) at {__file__}:{model.__code__.co_firstlineno + 1}\n"
        f"  plugins     {', '.join(map(str, dlbt.default_plugins().loaded))}\n"
        "  fix         in a plugin ('dlbt new-plugin' writes one) write it as ops that have rules: "
        "@add.lowering('dlbt_tests.scale'),\n"
        "              or register a rule: @add.rule('dlbt_tests.scale', variant='epsilon', default=True) def ...(ctx, m); or "
        "hold the node constant:\n"
        "              rules=[(Select(op='dlbt_tests.scale'), Use('constant'))]; or run the op's gradient: fallback='gradient'"
    )
    for plugins, op in (
        (plugin(declare), "dlbt_tests.scale.default"),
        (plugin(lambda add: None, lower), "aten.mul.Tensor"),
    ):
        found = dlbt.explain(model, X, target=2, plugins=plugins)
        assert [step.node.op for step in found.plan.steps] == [op]
        assert torch.allclose(found.relevance[:, 2], found.score)


def test_torch_runs_composite_ops_without_a_rule_as_simpler_ones() -> None:
    found = dlbt.explain(lambda x: torch.cosine_similarity(x, x.flip(1)), X, target=lambda out: out)
    assert "aten.cosine_similarity.default" not in {step.node.op for step in found.plan.steps}
    assert found.ledger.error < 1e-9
