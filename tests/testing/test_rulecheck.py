"""The test kit itself: each check finds what it is for, and good rules pass all of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import dlbt_core as dlbt
from dlbt_core.errors import RuleCheckError, UnknownVariantError
from dlbt_core.plugins.hookspecs import GraphPass
from dlbt_core.plugins.loader import Plugins
from dlbt_core.testing import ALL_CHECKS, Arriving, Handed, Sample, check_plugin, rulecheck
from dlbt_core.testing.samples import source

rand = source(3)
X, W, B = rand(3, 4), rand(5, 4), rand(5)
LINEAR = Sample(F.linear, (X,), (W, B), batched=True)
RELU = Sample(torch.relu, (X,), batched=True)


class Plugin:
    """A plugin made by hand of one rule."""

    def __init__(self, op: str, function: Callable[..., Any], **options: Any) -> None:
        self.op, self.function, self.options = op, function, options

    @dlbt.hookimpl
    def dlbt_register_rules(self, add: dlbt.RuleSet) -> None:
        add.rule(self.op, variant="mine", **self.options)(self.function)


def outcomes(sample: Sample, function: Callable[..., Any], op: str = "aten.relu", **options: Any) -> dict[str, str]:
    """What the checks say of one rule, by name."""
    report = check_plugin(Plugin(op, function, **options), {op: [sample]}, name="acme", raise_exception=False)
    return report[f"acme:{op}#mine"]


def failed(found: dict[str, str]) -> set[str]:
    return {name for name, outcome in found.items() if outcome != "SUCCESS" and not outcome.startswith("not tried")}


def identity(ctx: dlbt.RuleContext, m: Tensor) -> dict[str, Tensor]:
    return {"self": m * (ctx.args["self"] > 0)}


def test_a_good_rule_passes_everything() -> None:
    found = outcomes(RELU, identity, reads=("self",))
    assert tuple(found) == ALL_CHECKS
    assert failed(found) == set()
    assert found["reference"] == "not tried: the sample has no reference"
    assert found["defaults"] == "not tried: the rule has no parameters"
    assert found["device"] == found["tracing"] == found["rows"] == found["linear"] == "SUCCESS"


def halved(ctx: dlbt.RuleContext, m: Tensor) -> dict[str, Tensor]:
    return {"self": 0.5 * m * (ctx.args["self"] > 0)}


def undeclared(ctx: dlbt.RuleContext, m: Tensor) -> dict[str, Tensor]:
    ctx.absorb("half", 0.5 * m * ctx.output)
    return halved(ctx, m)


def greedy(ctx: dlbt.RuleContext, m: Tensor) -> dict[str, Tensor]:
    return {"self": m * (ctx.output > 0)}


def sign(ctx: dlbt.RuleContext, m: Tensor) -> dict[str, Tensor]:
    ctx.absorb("negative", ctx.output * m.clamp(max=0))
    return {"self": m.clamp(min=0) * (ctx.args["self"] > 0)}


def in_place(ctx: dlbt.RuleContext, m: Tensor) -> dict[str, Tensor]:
    ctx.args["self"].mul_(1.5)
    return {"self": m * (ctx.args["self"] > 0)}


def unstable(ctx: dlbt.RuleContext, R: Tensor) -> dict[str, Tensor]:
    return {"self": R / ctx.output.clamp(min=0) * ctx.args["self"].clamp(min=0)}


def across(ctx: dlbt.RuleContext, m: Tensor) -> dict[str, Tensor]:
    mean = m.mean(0, keepdim=True).expand_as(m)
    ctx.absorb("mean", multiply(ctx.output, mean))
    return {"self": (m - mean) * (ctx.args["self"] > 0)}


def multiply(a: Tensor, b: Tensor) -> Tensor:
    return a * b


def branching(ctx: dlbt.RuleContext, m: Tensor) -> dict[str, Tensor]:
    return {"self": m * (ctx.args["self"] > 0) if float(ctx.args["self"].sum()) > -1e9 else m}


def looking(ctx: dlbt.RuleContext, m: Tensor) -> dict[str, Tensor]:
    return {"self": m * (ctx.args["self"] > 0) if m.sum() > -1e9 else m}


def remembered(ctx: dlbt.RuleContext, m: Tensor) -> dict[str, Tensor]:
    CALLS.append(1)
    return {"self": m * (ctx.args["self"] > 0) * (1.0 + 1e-6 * (len(CALLS) % 2))}


def broken_default(ctx: dlbt.RuleContext, m: Tensor, *, power: float = -1.0) -> dict[str, Tensor]:
    scale = 1.0 if power > 0 else 2.0
    return {"self": m * (ctx.args["self"] > 0) * scale}


def of_ratio(ctx: dlbt.RuleContext, m: Tensor) -> dict[str, Tensor]:
    return {"self": m * ctx.args["self"] / ctx.args["self"]}


def coarse(ctx: dlbt.RuleContext, m: Tensor) -> dict[str, Tensor]:
    """Right in float64 alone."""
    return {"self": m * (ctx.args["self"] > 0) * (1.0 if m.dtype == torch.float64 else 1.01)}


def double(ctx: dlbt.RuleContext, m: Tensor) -> dict[str, Tensor]:
    return {"self": m.double() * (ctx.args["self"] > 0)}


def in_place_and_back(ctx: dlbt.RuleContext, m: Tensor) -> dict[str, Tensor]:
    m *= 2
    m /= 2
    return identity(ctx, m)


def unseen(ctx: dlbt.RuleContext, m: Tensor) -> dict[str, Tensor]:
    handed = identity(ctx, m)
    ctx.args["self"].data.mul_(1.0 + 1e-12)
    return handed


def of_large_numbers(ctx: dlbt.RuleContext, m: Tensor) -> dict[str, Tensor]:
    clipped = m.clamp(-50.0, 50.0)
    ctx.absorb("clipped", multiply(ctx.output, m - clipped))
    return identity(ctx, clipped)


def by_the_sum(ctx: dlbt.RuleContext, m: Tensor) -> dict[str, Tensor]:
    total = m.abs().sum(-1, keepdim=True)
    return identity(ctx, m / total * total)


def stabilised_too_little(ctx: dlbt.RuleContext, R: Tensor) -> dict[str, Tensor]:
    c = R / (ctx.output + 1e-12)
    ctx.absorb("epsilon", R - c * ctx.output)
    return {"self": c * ctx.args["self"].clamp(min=0)}


def made_on_the_cpu(ctx: dlbt.RuleContext, m: Tensor) -> dict[str, Tensor]:
    return identity(ctx, m * torch.ones(m.shape, dtype=m.dtype))


def left_on_the_cpu(ctx: dlbt.RuleContext, m: Tensor) -> dict[str, Tensor]:
    identity(ctx, m)
    return {"self": torch.zeros(m.shape, dtype=m.dtype)}


def not_in_half(ctx: dlbt.RuleContext, m: Tensor) -> dict[str, Tensor]:
    if m.dtype == torch.bfloat16:
        raise NotImplementedError("no bfloat16")
    return identity(ctx, m)


def on_multipliers_alone(ctx: dlbt.RuleContext, message: Tensor) -> dict[str, Tensor]:
    return identity(ctx, message if ctx.form == "multiplier" else 0.9 * message)


CALLS: list[int] = []


ID = "aten.relu#acme:mine()-sample"
NOT_FINITE = (
    "the relevance of input 'a' is not finite.\n  fix    find the node with audit=True on float64 weights "
    "(model.double()), or give its op another variant."
)
BOOKS = f"{ID}: books do not close; what a rule does not hand on it must absorb"
OUTPUT = (
    "acme:aten.relu#mine uses ctx.output, which it did not declare.\n"
    "  fix  reads=(..., 'output') in its declaration, or no reads at all."
)
PURE = "  fix    a rule is a pure function: no .item() and no Python branch on the values of a tensor"
WRITES = (
    "acme:aten.relu#mine writes to a tensor that it was given.\n"
    "  fix    make a new one: m * 2 in place of m.mul_(2) or m *= 2\n  where  HERE"
)
AWAY = "  fix    make it like one that was given: torch.zeros_like(m), m.new_tensor(...), device=m.device\n  where  HERE"
ON_CPU = (
    "acme:aten.relu#mine makes a tensor on the CPU where what it is given is elsewhere: A message or an amount is on the CPU."
    f"\n{AWAY}"
)
MIXED = (
    "acme:aten.relu#mine makes a tensor on the CPU where what it is given is elsewhere: Expected all tensors to be on the "
    f"same device.\n{AWAY}"
)
CONSTANT = "  fix    nothing in a rule may depend on a message but through torch operations"


@pytest.mark.parametrize(
    ("function", "options", "expected"),
    [
        (halved, {"reads": ("self",)}, {"absorbs": BOOKS, "reads": BOOKS, "vmap": BOOKS}),
        (greedy, {"reads": ("self",)}, {"absorbs": OUTPUT, "reads": OUTPUT}),
        (
            identity,
            {"reads": ("self", "outptu")},
            {
                "reads": "acme:aten.relu#mine declares to read 'outptu', which aten.relu.default does not have.\n"
                "  fix    its arguments: self; or output, carrying, constants, pullback.\n  where  HERE"
            },
        ),
        (
            in_place,
            {},
            {
                "pure": WRITES,
                "reads": f"{ID}: aten.mul.Tensor leaks NUMBER; what a rule does not hand on it must absorb",
            },
        ),
        (
            unstable,
            {"takes": "relevance"},
            {"finite": f"{ID}: {NOT_FINITE}"},
        ),
        (
            across,
            {"absorbs": ("mean",)},
            {"rows": f"{ID}, row 0 alone: input 0: off by NUMBER\ngot  TENSOR\nwant TENSOR"},
        ),
        (branching, {}, {"tracing": f"acme:aten.relu#mine cannot be traced: RuntimeError: TORCH\n{PURE}\n  where  HERE"}),
        (looking, {}, {"vmap": f"acme:aten.relu#mine does not run under vmap: TORCH\n{PURE}\n  where  HERE"}),
        (of_ratio, {"takes": "relevance"}, {"finite": f"{ID} where all inputs are 0: {NOT_FINITE}"}),
        (
            remembered,
            {},
            {
                "pure": f"{ID}: input 0 is another when the same is asked twice",
                "tracing": "acme:aten.relu#mine: traced with one message it gives something else for another than when it "
                f"is called\n{CONSTANT}\n  where  HERE",
            },
        ),
        (in_place_and_back, {}, {"pure": WRITES}),
        (unseen, {}, {"pure": f"{ID}: the rule changes a tensor in place"}),
        (
            of_large_numbers,
            {"absorbs": ("clipped",)},
            {
                "linear": f"{ID}: input 0 is not linear in the message, which is 1e+06 times another: "
                "off by NUMBER\ngot  TENSOR\nwant TENSOR"
            },
        ),
        (by_the_sum, {"linear": False}, {"finite": f"{ID} where nothing arrives: {NOT_FINITE}"}),
        (
            stabilised_too_little,
            {"takes": "relevance", "absorbs": ("epsilon",)},
            {"dtype": f"{ID} in torch.float16: {NOT_FINITE}"},
        ),
        (not_in_half, {}, {"dtype": "it raises NotImplementedError: no bfloat16\n  where  HERE"}),
        (
            on_multipliers_alone,
            {"takes": "either"},
            {"absorbs": f"{ID}, on relevance: books do not close; what a rule does not hand on it must absorb"},
        ),
        (double, {}, {"dtype": f"{ID}: input 0 is torch.float64 where the input is torch.float32"}),
        (
            coarse,
            {},
            {"dtype": f"{ID}: input 0 in torch.float32: off by NUMBER\ngot  TENSOR\nwant TENSOR"},
        ),
    ],
)  # fmt: skip
def test_each_check_finds_what_it_is_for(function: Callable[..., Any], options: Any, expected: dict[str, str]) -> None:
    CALLS.clear()
    sample = Sample(torch.relu, (X.clone(),), batched=True)
    found = outcomes(sample, function, **options)
    assert expected.keys() <= failed(found)
    assert {name: plainly(found[name], function) for name in expected} == expected


@pytest.mark.parametrize(("function", "expected"), [(made_on_the_cpu, MIXED), (left_on_the_cpu, ON_CPU)])
def test_a_tensor_made_on_the_cpu_is_found_without_a_gpu(
    function: Callable[..., Any], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    message = outcomes(RELU, function)["device"]
    assert plainly(message, function) == expected


def test_what_a_rule_keeps_from_other_inputs_and_weights() -> None:
    kept: list[Tensor] = []

    def of_inputs(ctx: dlbt.RuleContext, R: Tensor) -> dict[str, Tensor]:
        x, w = ctx.args["input"] ** 2, ctx.args["weight"] ** 2
        c = R / ctx.cached("z", lambda: x @ w.T)
        ctx.absorb("epsilon", R - c * (x @ w.T))
        return {"input": x * (c @ w)}

    def of_weights(ctx: dlbt.RuleContext, m: Tensor) -> dict[str, Tensor]:
        kept.append(ctx.args["weight"])
        ctx.absorb("bias", m, ctx.args["bias"])
        return {"input": m @ kept[0].to(m)}

    found = outcomes(LINEAR, of_inputs, "aten.linear", takes="relevance", absorbs=("epsilon",))
    name = "aten.linear#acme:mine()-sample"
    assert plainly(found["pure"], of_inputs) == (
        f"{name}: input 0 depends on what the rule kept from other inputs: off by NUMBER\ngot  TENSOR\nwant TENSOR"
    )
    found = outcomes(LINEAR, of_weights, "aten.linear", absorbs=("bias",))
    assert failed(found) == {"pure"}
    assert found["pure"].startswith(f"{name}, other weights: books do not close; what a rule does not hand on it must absorb\n")


def test_a_stabiliser_that_float16_does_not_have() -> None:
    def squares(ctx: dlbt.RuleContext, R: Tensor, *, epsilon: float = 1e-12) -> dict[str, Tensor]:
        x, w = ctx.args["input"] ** 2, ctx.args["weight"] ** 2
        c = R / (x @ w.T + epsilon)
        ctx.absorb("epsilon", R - c * (x @ w.T))
        return {"input": x * (c @ w)}

    found = outcomes(LINEAR, squares, "aten.linear", takes="relevance", absorbs=("epsilon",))
    assert failed(found) == {"dtype"}
    assert found["dtype"] == f"aten.linear#acme:mine()-sample in torch.float16 where all inputs are 0: {NOT_FINITE}"


@torch.library.custom_op("dlbt_rulecheck::half_and_half", mutates_args=())
def half_and_half(x: Tensor, *, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    return x * scale, x.sum(1)


def test_an_op_without_a_gradient_is_tried_in_all_ways() -> None:
    def right(ctx: dlbt.RuleContext, m: list[Tensor | None]) -> dict[str, Tensor]:
        each, total = m
        handed = torch.zeros_like(ctx.args["x"])
        if each is not None:
            handed = handed + each * ctx.args["scale"]
        return {"x": handed if total is None else handed + total[:, None]}

    def wrong(ctx: dlbt.RuleContext, m: list[Tensor | None]) -> dict[str, Tensor]:
        (handed,) = right(ctx, m).values()
        return {"x": handed * (1.0 if handed.dtype == torch.float64 else 1.1)}

    op, sample = "dlbt_rulecheck.half_and_half", Sample(lambda x: half_and_half(x, scale=0.5), (X,), batched=True)
    found = outcomes(sample, right, op)
    assert {name for name, text in found.items() if text != "SUCCESS"} == {"reference", "defaults"}
    assert failed(outcomes(sample, wrong, op)) == {"dtype"}


def test_a_plugin_may_bring_analysers_or_passes_alone() -> None:
    class Analysers:
        @dlbt.hookimpl
        def dlbt_register_analysers(self, add: Any) -> None:
            add.analyser("acme_look")(lambda graph: {})

    class Passes:
        @dlbt.hookimpl
        def dlbt_graph_passes(self) -> list[GraphPass]:
            return [GraphPass("acme_pass", lambda graph, state: graph)]

    assert check_plugin(Analysers(), {}, name="acme") == check_plugin(Passes(), {}, name="acme") == {}


def test_relevance_at_one_result_or_through_one_input() -> None:
    def of_all(ctx: dlbt.RuleContext, m: list[Tensor]) -> dict[str, Tensor]:
        return {"self": torch.cat(m, 1)}

    def of_some(ctx: dlbt.RuleContext, m: list[Tensor | None]) -> dict[str, Tensor]:
        return ctx.vjp(m)

    split = Sample(lambda x: x.split(2, 1), (X,), batched=True)
    found = outcomes(split, of_all, "aten.split")
    assert failed(found) == {"absorbs"}
    assert found["absorbs"] == (
        "it raises TypeError: expected Tensor as element 1 in argument 0, but got NoneType\n"
        f"  where  {__file__}:{of_all.__code__.co_firstlineno}"
    )
    assert failed(outcomes(split, of_some, "aten.split")) == set()

    def to_all(ctx: dlbt.RuleContext, m: Tensor) -> dict[str, Any]:
        return {"tensors": list(m.split(4, 1))}

    def to_some(ctx: dlbt.RuleContext, m: Tensor) -> dict[str, Any]:
        if len(ctx.places()) < 2:
            ctx.absorb_offset("constant", m)
        return to_all(ctx, m)

    cat = Sample(lambda a, b: torch.cat([a, b], 1), (X, 2 * X), batched=True)
    found = outcomes(cat, to_all, "aten.cat")
    assert failed(found) == {"absorbs"}
    assert found["absorbs"].startswith("aten.cat#acme:mine()-sample, relevance through a alone: books do not close;")
    assert failed(outcomes(cat, to_some, "aten.cat", absorbs=("constant",))) == set()


def test_a_rule_that_raises_does_not_end_the_others() -> None:
    def broken(ctx: dlbt.RuleContext, m: Tensor) -> dict[str, Tensor]:
        raise ZeroDivisionError

    class Two:
        @dlbt.hookimpl
        def dlbt_register_rules(self, add: dlbt.RuleSet) -> None:
            add.rule("aten.relu", variant="broken")(broken)
            add.rule("aten.relu", variant="good")(identity)

    report = check_plugin(Two(), {"aten.relu": [RELU]}, name="acme", raise_exception=False)
    text = f"it raises ZeroDivisionError\n  where  {__file__}:{broken.__code__.co_firstlineno}"
    assert {report["acme:aten.relu#broken"][name] for name in ("absorbs", "pure", "vmap")} == {text}
    assert failed(report["acme:aten.relu#good"]) == set()


def plainly(message: str, function: Callable[..., Any]) -> str:
    """Without tensors and ledgers, the place in this file, torch's own words and the numbers of a difference."""
    message = re.sub(r"(?s)\ngot  tensor.*\nwant tensor.*", "\ngot  TENSOR\nwant TENSOR", message)
    message = message.split("\nledger")[0]
    message = message.replace(f"{__file__}:{function.__code__.co_firstlineno}", "HERE")
    message = re.sub(r"(?<=RuntimeError: ).*|(?<=under vmap: )vmap: .*", "TORCH", message)
    return re.sub(r"(?<=by |ks )\d+\.\d+(e[+-]\d+)?", "NUMBER", message)


def test_an_undeclared_name_is_refused_by_the_books() -> None:
    found = outcomes(RELU, undeclared)
    message = found["absorbs"]
    assert message == found["tracing"]  # of the rule, and not of its traced twin
    assert message == (
        "acme:aten.relu#mine books 'half', which it did not declare; it declared nothing.\n"
        "  fix    absorbs=('half', ...) in its declaration, or book it under a name that is there.\n"
        f"  where  {__file__}:{undeclared.__code__.co_firstlineno}"
    )
    assert outcomes(RELU, undeclared, absorbs=("half",))["absorbs"] == "SUCCESS"


def test_checks_that_say_the_same_are_said_together() -> None:
    plugin = Plugin("aten.relu", undeclared)
    with pytest.raises(RuleCheckError) as caught:
        check_plugin(plugin, {"aten.relu": [RELU]}, name="acme", checks=("absorbs", "pure", "tracing"))
    assert str(caught.value) == (
        "3 of the checks failed:\n"
        f"- acme:aten.relu#mine: absorbs, pure, tracing: {outcomes(RELU, undeclared)['absorbs']}"
    )


def test_linear_is_checked_unless_declared_otherwise() -> None:
    found = outcomes(RELU, sign, absorbs=("negative",))["linear"]
    assert plainly(found, sign) == f"{ID}: input 0 is not linear in the message: off by NUMBER\ngot  TENSOR\nwant TENSOR"
    declared = outcomes(RELU, sign, absorbs=("negative",), linear=False)
    assert declared["linear"] == "not tried: the rule is declared linear=False"
    assert failed(declared) == set()


def test_defaults_are_tried_without_the_parameters_of_the_sample() -> None:
    sample = Sample(torch.relu, (X,), parameters={"power": 1.0}, batched=True)
    found = outcomes(sample, broken_default)
    assert failed(found) == {"defaults"}
    assert plainly(found["defaults"], broken_default) == BOOKS


def test_reference() -> None:
    def right(arriving: Arriving, x: Tensor) -> Tensor:
        return arriving.R[0]

    def wrong(arriving: Arriving, x: Tensor) -> list[Tensor]:
        return [0.9 * arriving.R[0]]

    def cut(arriving: Arriving, x: Tensor) -> Tensor:
        return arriving.R[0][:2]

    def with_amounts(arriving: Arriving, x: Tensor) -> Handed:
        return Handed([arriving.R[0]], {"nothing": torch.ones(3)})

    assert outcomes(Sample(torch.relu, (X,), reference=right, batched=True), identity)["reference"] == "SUCCESS"
    found = outcomes(Sample(torch.relu, (X,), reference=wrong, batched=True), identity)
    off = "off by NUMBER\ngot  TENSOR\nwant TENSOR"
    assert plainly(found["reference"], identity) == f"{ID}: relevance of input a: {off}"
    found = outcomes(Sample(torch.relu, (X,), reference=with_amounts, batched=True), identity)
    assert plainly(found["reference"], identity) == (
        f"{ID}: absorbed by 'nothing': off by NUMBER\ngot  TENSOR\nwant TENSOR"
    )
    found = outcomes(Sample(torch.relu, (X,), reference=cut, batched=True), identity)
    assert found["reference"] == f"{ID}: relevance of input a: shape (3, 4) instead of (2, 4)"


def test_rows_mixed_in_the_op_are_no_failure_where_the_sample_is_not_batched() -> None:
    assert outcomes(Sample(torch.relu, (X,)), identity)["rows"] == "not tried: the sample is not batched"


def test_two_forms_and_two_streams_of_our_own_rules() -> None:
    for variant in ("epsilon", "zplus", "dlb_contrastive"):
        found = rulecheck(f"aten.linear#{variant}", [LINEAR])
        assert failed(found) == set()
    assert rulecheck("core:aten.linear#epsilon", [LINEAR], checks=("pure",)) == {"pure": "SUCCESS"}


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_messages() -> None:
    with pytest.raises(ValueError, match=rf"^no check 'speed'\. There are: {', '.join(ALL_CHECKS)}\.$"):
        rulecheck("aten.linear#epsilon", [LINEAR], checks=("speed",))
    with pytest.raises(UnknownVariantError) as named:
        rulecheck("aten.linear", [LINEAR])
    assert str(named.value) == "'aten.linear' names no rule. Write op#variant, e.g. 'aten.linear#epsilon'."
    registry = dlbt.default_plugins().registry
    with pytest.raises(UnknownVariantError) as named:
        rulecheck("aten.linear#nought", [LINEAR])
    assert str(named.value) == (
        "aten.linear has no variant 'nought'.\n"
        f"  It has: {', '.join(f'core:{name}' for name in sorted(registry.variants('aten.linear')))}\n"
        f"  No op has it. Known variants: {', '.join(registry.variant_names())}"
    )
    with pytest.raises(RuleCheckError) as caught:
        rulecheck("aten.linear#epsilon", [])
    assert str(caught.value) == (
        "core:aten.linear#epsilon has no samples.\n  fix  give at least one Sample whose fn calls aten.linear."
    )
    with pytest.raises(ValueError, match=r"^a sample has 1 to 4 explained tensors, not 0; pass the others as constants=$"):
        Sample(torch.relu, ())
    found = rulecheck("aten.linear#epsilon", [RELU], checks=("absorbs", "reads"), raise_exception=False)
    idle = "aten.linear#core:epsilon()-sample: the rule did not run; the sample's fn must call its op:\nplan: "
    assert all(text.startswith(idle) for text in found.values())
    with pytest.raises(RuleCheckError) as caught:
        rulecheck("aten.linear#epsilon", [RELU], checks=("absorbs", "reads"))
    assert str(caught.value) == "2 of the checks failed:\n" + "\n".join(
        f"- core:aten.linear#epsilon: {name}: {text}" for name, text in found.items()
    )
    two = Sample(lambda x: torch.relu(x).exp(), (X,))
    (text,) = rulecheck("aten.relu#identity", [two], checks=("absorbs",), raise_exception=False).values()
    assert text.startswith("aten.relu#core:identity()-sample: more than one op was recorded:\nplan: ")


def test_samples_that_meet_are_not_told_apart() -> None:
    def mixing(ctx: dlbt.RuleContext, m: Tensor) -> dict[str, Tensor]:
        ctx.absorb("half", 0.5 * multiply(ctx.output, m))
        return {"self": 0.5 * ctx.vjp(m)["self"]}

    sample = Sample(lambda x: torch.cumsum(x, 0), (X,), batched=True)
    assert outcomes(sample, mixing, "aten.cumsum", absorbs=("half",))["pure"] == (
        "amounts of 'input a', 'half' are not told apart per sample.\n  fix  batched=False if the op mixes the samples."
    )


def test_check_plugin_fails_for_rules_without_samples_and_samples_without_rules() -> None:
    plugin = Plugin("aten.relu", identity)
    text = (
        r"^1 of the checks failed:\n"
        r"- acme:aten.relu#mine: samples: none. fix  add samples\['aten.relu'\] or samples\['aten.relu#mine'\]$"
    )
    with pytest.raises(RuleCheckError, match=text):
        check_plugin(plugin, {}, name="acme")
    text = r"^1 of the checks failed:\n- aten.gelu: samples: of no rule: the plugin registers none of that name$"
    with pytest.raises(RuleCheckError, match=text):
        check_plugin(plugin, {"aten.relu": [RELU], "aten.gelu": [RELU]}, name="acme", checks=("pure",))

    class Empty:
        @dlbt.hookimpl
        def dlbt_plugin_info(self) -> dlbt.PluginInfo:
            return dlbt.PluginInfo()

    with pytest.raises(RuleCheckError, match=r"^1 of the checks failed:\n- acme: rules: the plugin registers nothing$"):
        check_plugin(Empty(), {}, name="acme")


def test_samples_of_a_rule_come_before_those_of_its_op() -> None:
    seen: list[str] = []

    def named(name: str) -> Sample:
        def reference(arriving: Arriving, x: Tensor) -> Tensor:
            seen.append(name)
            return arriving.R[0]

        return Sample(torch.relu, (X,), reference=reference, batched=True)

    check_plugin(Plugin("aten.relu", identity), {"aten.relu": [named("op")], "aten.relu#mine": [named("rule")]},
                 name="acme", checks=("reference",))  # fmt: skip
    assert seen == ["rule"]


def test_the_plugins_given_are_the_ones_tried() -> None:
    plugins = Plugins(strict=True)
    plugins.add(Plugin("aten.relu", halved), "acme")
    with pytest.raises(RuleCheckError, match=r"acme:aten.relu#mine: absorbs"):
        rulecheck("acme:aten.relu#mine", [RELU], plugins=plugins)
    (rule,) = [r for r in plugins.registry if r.source.plugin == "acme"]
    with pytest.raises(RuleCheckError, match=r"acme:aten.relu#mine: absorbs"):
        rulecheck(rule, [RELU], plugins=plugins)
