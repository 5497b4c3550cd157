"""Two streams of relevance, for what the target names and against it: where they start, and that each is accounted for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dlbt_core as dlbt
from dlbt_core.errors import DlbtError, TargetError, UnknownVariantError
from dlbt_core.seeds import of_others
from dlbt_core.testing.streams import streams_of
from oracles.harness import check_near, source

CONTRASTIVE = "dlb_contrastive"
STREAMS = ("for", "against")


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(F.relu(self.two(F.relu(self.one(x)))))
        return out


class Cnn(nn.Module):
    """Convolutions with a batch norm behind each, both kinds of pools, and a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.branch = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm, self.norm_of_branch = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.head = nn.Linear(16, 5)
        for norm in (self.norm, self.norm_of_branch):
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
            nn.init.normal_(norm.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(norm.running_var, 0.5, 2.0)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.conv(x))), 2)
        x = F.avg_pool2d(F.relu(x + self.norm_of_branch(self.branch(x))), 2)
        out: Tensor = self.head(x.flatten(1))
        return out


MODELS = {"mlp": (Mlp, (3, 6)), "cnn": (Cnn, (3, 2, 8, 8))}


@pytest.fixture(params=MODELS)
def model_and_input(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    make, shape = MODELS[request.param]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return make().double().eval(), source(70)(*shape)


def explain(model: Any, *inputs: Tensor, **more: Any) -> Any:
    return dlbt.explain(model, *inputs, **{"composite": CONTRASTIVE, "audit": True, **more})


def dropped(explanation: Any) -> Tensor:
    found: Tensor = explanation.ledger.absorbed.get("dropped", torch.zeros_like(explanation.score).double())
    return found


# -- end to end -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [None, 0, dlbt.target.contrast(1, 2), dlbt.target.classes([0, 3])], ids=str)
def test_each_stream_is_conserved(model_and_input: tuple[nn.Module, Tensor], target: Any) -> None:
    model, x = model_and_input
    found = explain(model, x, target=target)
    assert list(found.streams) == ["against"]
    assert found.streams["against"].target == f"{found.target}, against"
    for stream in streams_of(found):
        assert torch.equal(stream.score, found.score)
        assert stream.ledger.error <= 1e-9
        assert set(stream.ledger.absorbed) <= {"dropped"}
        check_near(stream.relevance.flatten(1).sum(1), found.score - dropped(stream), 1.0, "sum")
        assert all(float(account.leak.abs().max()) <= 1e-12 for account in stream.ledger.accounts)
    one, other = streams_of(found)
    assert float((one.relevance - other.relevance).abs().max()) > 1e-3


def test_the_rules_are_those_of_the_method(model_and_input: tuple[nn.Module, Tensor]) -> None:
    model, x = model_and_input
    used = {step.node.op.split(".")[1]: step.rule.variant for step in explain(model, x).plan.steps}
    expected = {"linear": CONTRASTIVE, "relu": "identity"}
    if isinstance(model, Cnn):
        expected |= dict.fromkeys(("conv2d", "add", "avg_pool2d"), CONTRASTIVE)
        expected |= {"max_pool2d": "dlb_default", "flatten": "gradient"}
    assert used == expected


def test_a_layer_holds_both_streams(model_and_input: tuple[nn.Module, Tensor]) -> None:
    model, x = model_and_input
    found = explain(model, x, layers="modules")
    for stream in streams_of(found):
        assert set(stream.layers) == set(found.layers)
        middle = stream.at("two" if isinstance(model, Mlp) else "norm")
        check_near(middle.flatten(1).sum(1), found.score, 1.0, "layer")


def test_relevance_that_nothing_can_take_is_dropped(model_and_input: tuple[nn.Module, Tensor]) -> None:
    """Of an input of zeros only the biases are left, and here they take nothing."""
    model, x = model_and_input
    zeros = torch.zeros_like(x[:1])
    found = explain(model, torch.cat([zeros, x[1:]]))
    for stream in streams_of(found):
        assert float(stream.relevance[0].abs().max()) == 0.0
        check_near(dropped(stream)[0], found.score[0], 1.0, "dropped")
        assert stream.ledger.error <= 1e-9


def test_several_targets_are_single_ones(model_and_input: tuple[nn.Module, Tensor]) -> None:
    model, x = model_and_input
    targets = [0, torch.tensor([1, 2, 0]), dlbt.target.contrast(3, 1)]
    for together, target in zip(explain(model, x, targets=targets), targets, strict=True):
        for got, want in zip(streams_of(together), streams_of(explain(model, x, target=target)), strict=True):
            check_near(got.relevance, want.relevance, 1.0, str(target))
            check_near(got.multipliers[next(iter(got.inputs))], want.multipliers[next(iter(want.inputs))], 1.0, "m")
            assert got.ledger.error <= 1e-9


def test_a_batch_is_its_samples(model_and_input: tuple[nn.Module, Tensor]) -> None:
    model, x = model_and_input
    whole = streams_of(explain(model, x))
    for row in range(len(x)):
        for got, want in zip(streams_of(explain(model, x[row : row + 1])), whole, strict=True):
            check_near(got.relevance, want.relevance[row : row + 1], 1.0, f"row {row}")
            check_near(dropped(got), dropped(want)[row : row + 1], 1.0, f"row {row}")


def test_without_an_audit_it_is_the_same(model_and_input: tuple[nn.Module, Tensor]) -> None:
    model, x = model_and_input
    for got, want in zip(streams_of(explain(model, x, audit=False)), streams_of(explain(model, x)), strict=True):
        assert torch.equal(got.relevance, want.relevance)
        assert got.ledger.error <= 1e-9


def test_saved_and_loaded(model_and_input: tuple[nn.Module, Tensor], tmp_path: Path) -> None:
    model, x = model_and_input
    explanation = explain(model, x, layers="modules")
    found = dlbt.load(explanation.save(tmp_path / "streams.safetensors"))
    for got, want in zip(streams_of(found), streams_of(explanation), strict=True):
        assert torch.equal(got.relevance, want.relevance)
        for what in ("inputs", "multipliers", "layers", "values", "outputs"):
            one, other = getattr(got, what), getattr(want, what)
            assert one.keys() == other.keys()
            assert one
            assert all(torch.equal(one[name], other[name]) for name in one), what
        assert str(got) == str(want)
        assert got.ledger.error == want.ledger.error
        assert got.ledger.audited
        assert got.plan.table() == want.plan.table()
    assert list(found.streams) == ["against"]


def test_by_hand() -> None:
    """z = (-1, 2.5). The class gets (0, 2.5) and the other (2.5, 0).

    Of the other unit, with products 1 and -2, both t and R for - R against are negative: what is against goes to the
    negative product. The class's products are both positive.
    """
    weight = torch.tensor([[1.0, -1.0], [0.5, 1.0]], dtype=torch.float64)
    found = explain(lambda x: F.linear(x, weight), torch.tensor([[1.0, 2.0]], dtype=torch.float64), target=1)
    assert found.relevance.tolist() == [[0.5, 2.0]]
    assert found.streams["against"].relevance.tolist() == [[0.0, 2.5]]


@pytest.mark.parametrize("bias", [0.5, 1.5])
def test_a_bias_decides_for_what_a_unit_speaks(bias: float) -> None:
    """Of a unit with products 1 and -2 and one against which nothing speaks: with its bias it is below zero, or above."""
    weight = torch.tensor([[1.0, -1.0], [0.5, 1.0]], dtype=torch.float64)
    b = torch.tensor([bias, 0.0], dtype=torch.float64)
    found = explain(lambda x: F.linear(x, weight, b), torch.tensor([[1.0, 2.0]], dtype=torch.float64), target=1)
    assert found.relevance.tolist() == [[0.5, 2.0]]
    want = [[0.0, 2.5]] if bias < 1.0 else [[2.5, 0.0]]
    check_near(found.streams["against"].relevance, torch.tensor(want), 1.0, "against")


def test_rules_that_do_not_couple_run_once_for_each_stream(model_and_input: tuple[nn.Module, Tensor]) -> None:
    model, x = model_and_input
    composite = dlbt.Composite("two alone", dlbt.composite("attnlrp").choices, streams=("for", "against"))
    found = explain(model, x, target=2, composite=composite)
    out = model(x).detach()
    named = F.one_hot(torch.full((len(x),), 2), out.shape[1]).double()
    starts = (named, of_others(out, named))
    for stream, weights in zip(streams_of(found), starts, strict=True):
        alone = explain(model, x, target=dlbt.target.logits(weights), composite="attnlrp")
        check_near(stream.relevance, alone.relevance, 1.0, "alone")
        check_near(stream.score, alone.score, 1.0, "score")
        assert stream.ledger.error <= 1e-9


def test_what_is_held_constant_is_not_contrasted() -> None:
    """The statistic of a norm is a constant, also where its op has a rule for two streams."""
    weight = source(71)(4, 6)
    found = explain(lambda x: F.linear(x / x.abs().mean(-1, keepdim=True), weight), source(72)(3, 6))
    assert [step.node.op for step in found.plan.steps] == ["aten.div.Tensor", "aten.linear.default"]


# -- where the streams start ----------------------------------------------------------------------------------------------


def started(out: Tensor, weights: Tensor) -> Tensor:
    """The relevance with which the other stream starts."""
    return out * of_others(out, weights)


def test_others_share_the_same_total_by_size() -> None:
    out = torch.tensor([[3.0, -1.0, 2.0, -1.0], [-4.0, 1.0, 1.0, 6.0]])
    weights = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    assert started(out, weights).tolist() == [[0.0, 0.75, 1.5, 0.75], [0.0, -0.5, -0.5, -3.0]]


def test_what_is_named_may_be_several_and_weighted() -> None:
    out = torch.tensor([[3.0, 2.0, 4.0, -1.0]])
    weights = torch.tensor([[1.0, -0.5, 0.0, 0.0]])
    check_near(started(out, weights), torch.tensor([[0.0, 0.0, 1.6, 0.4]]), 1.0, "total of 2", tolerance=1e-6)


def test_rows_in_which_nothing_is_named_start_nothing() -> None:
    """A token's rivals are the other tokens at its position."""
    out = source(73)(2, 3, 4)
    weights = torch.zeros_like(out)
    weights[:, 1, 2] = 1.0
    found = started(out, weights)
    assert (found[:, [0, 2]] == 0).all()
    assert (found[:, 1, 2] == 0).all()
    check_near(found[:, 1].sum(-1), out[:, 1, 2], 1.0, "position")
    sizes = out[:, 1, [0, 1, 3]].abs()
    check_near(found[:, 1, [0, 1, 3]], sizes / sizes.sum(-1, keepdim=True) * out[:, 1, 2:3], 1.0, "by size")


@pytest.mark.parametrize("shape", [(), (1,), (3, 1)])
def test_a_single_output_starts_both(shape: tuple[int, ...]) -> None:
    out = source(74)(*shape)
    weights = torch.full_like(out, 0.5)
    assert torch.equal(of_others(out, weights), weights)


@pytest.mark.parametrize(
    ("out", "weights"),
    [([[2.0, -1.0]], [[1.0, 0.5]]), ([[2.0, 0.0, 0.0]], [[1.0, 0.0, 0.0]]), ([2.0, 0.0], [1.0, 0.0])],
    ids=["all named", "others are zero", "others are zero, one sample"],
)
def test_where_no_other_can_take_any_both_start_there(out: Any, weights: Any) -> None:
    """All outputs are named; or behind a ReLU the others are 0, and a multiplier of 0 is no relevance."""
    assert torch.equal(of_others(torch.tensor(out), torch.tensor(weights)), torch.tensor(weights))


def test_an_output_that_is_ruled_out_is_no_rival() -> None:
    """-infinity is the logit of what was masked."""
    out = torch.tensor([[3.0, -torch.inf, 2.0, -1.0]])
    found = of_others(out, torch.tensor([[1.0, 0.0, 0.0, 0.0]]))
    check_near(found, torch.tensor([[0.0, 0.0, 1.0, -1.0]]), 1.0, "rivals", tolerance=1e-6)


@pytest.mark.parametrize(
    ("head", "target"),
    [(lambda z: z, dlbt.target.logits()), (lambda z: F.relu(z - z.amax(1, keepdim=True) + 0.05), None),
     (lambda z: z.masked_fill(torch.tensor([False, True, False, False]), -torch.inf), 0)],
    ids=["all named", "others are zero", "one is ruled out"],
)  # fmt: skip
def test_the_other_stream_is_always_the_whole_score(head: Any, target: Any) -> None:
    torch.manual_seed(1)
    model = Mlp().double().eval()
    found = explain(lambda x: head(model(x)), source(75)(3, 6), target=target)
    assert [stream.ledger.error <= 1e-9 for stream in streams_of(found)] == [True, True]


def test_a_target_of_two_outputs_has_rivals_in_both() -> None:
    first, second = source(76)(3, 6), source(77)(4, 6)
    target = dlbt.target.contrast(dlbt.target.output("b", 1), dlbt.target.output("a", 0))
    found = explain(lambda x: {"a": F.linear(x, first), "b": F.linear(x, second)}, source(78)(2, 6), target=target)
    for stream in streams_of(found):
        check_near(stream.relevance.sum(1), found.score - dropped(stream), 1.0, "sum")
        assert stream.ledger.error <= 1e-9


# -- composites and errors ------------------------------------------------------------------------------------------------


def test_a_coupled_rule_needs_two_streams() -> None:
    composite = dlbt.Composite("ours", ((dlbt.Select(op="aten.linear"), dlbt.Use(CONTRASTIVE)),))
    text = (
        "core:aten.linear#dlb_contrastive couples two streams of relevance, and composite 'ours' has one.\n"
        "  fix  Composite(..., streams=('for', 'against')), or composite='dlb_contrastive'."
    )
    with pytest.raises(UnknownVariantError, match=f"^{re.escape(text)}$"):
        explain(Mlp().eval(), torch.randn(2, 6), composite=composite)


@pytest.mark.parametrize("target", [dlbt.target.function(lambda out: out[:, 0]), lambda out: out[:, 0]])
def test_a_function_has_no_others(target: Any) -> None:
    text = (
        "composite 'dlb_contrastive' contrasts what the target names with all other outputs; a function names none.\n"
        "  fix  target=3, dlbt.target.token(...), contrast(...) or output(...), or another composite."
    )
    with pytest.raises(TargetError, match=f"^{re.escape(text)}$"):
        explain(Mlp().eval(), torch.randn(2, 6), target=target)


@pytest.mark.parametrize("streams", [("for",), ("for", "against", "beside")])
def test_streams_are_two(streams: Any) -> None:
    text = "composite 'ours': streams are two, such as ('for', 'against'), or none."
    with pytest.raises(DlbtError, match=f"^{re.escape(text)}$"):
        dlbt.Composite("ours", (), streams=streams)


def test_toml_keeps_the_streams(tmp_path: Path) -> None:
    composite = dlbt.composite(CONTRASTIVE)
    assert composite.streams == STREAMS
    assert 'streams = [\n    "for",\n    "against",\n]' in composite.to_toml()
    assert dlbt.Composite.from_toml(composite.to_toml()) == composite
    path = tmp_path / "composite.toml"
    path.write_text(composite.to_toml())
    assert dlbt.Composite.from_toml(path).streams == STREAMS
    assert "streams" not in dlbt.composite("dlb_default").to_toml()
    text = "composite 'x': streams are two, such as ('for', 'against'), or none."
    with pytest.raises(DlbtError, match=f"^{re.escape(text)}$"):
        dlbt.Composite.from_toml('name = "x"\nstreams = ["for"]')


def test_a_composite_read_from_toml_explains_the_same(model_and_input: tuple[nn.Module, Tensor]) -> None:
    model, x = model_and_input
    read = dlbt.Composite.from_toml(dlbt.composite(CONTRASTIVE).to_toml())
    for got, want in zip(streams_of(explain(model, x, composite=read)), streams_of(explain(model, x)), strict=True):
        assert torch.equal(got.relevance, want.relevance)


def test_names_of_streams_are_the_composites() -> None:
    composite = dlbt.Composite("ours", dlbt.composite(CONTRASTIVE).choices, streams=("pro", "contra"))
    found = explain(Mlp().eval(), torch.randn(2, 6), composite=composite, target=1)
    assert list(found.streams) == ["contra"]
    assert found.streams["contra"].target == "class 1, contra"
    assert not found.streams["contra"].streams
