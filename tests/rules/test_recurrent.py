"""Recurrent layers: against oracles step by step, and in models: packed, padded, stacked, written out with cells."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import dlbt_core as dlbt
from oracles.cases.recurrent import CHECKS
from oracles.harness import Check, check_near, check_rule, source

LENGTHS = torch.tensor([2, 5, 4])
MODULES = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn_tanh": nn.RNN, "rnn_relu": nn.RNN}


def layer(kind: str, *sizes: int, **options: Any) -> nn.Module:
    """The module of a kind, its weights the same in every run."""
    if kind == "rnn_relu":
        options["nonlinearity"] = "relu"
    module = MODULES[kind](*sizes, **options).double().eval()
    rand = source(50)
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(0.4 * rand(*weight.shape))
    return module


def last_h(states: Any) -> Tensor:
    h: Tensor = states[0] if isinstance(states, tuple) else states
    return h


class Reader(nn.Module):
    """A classifier of sequences: the last states, and the sum of all outputs."""

    def __init__(self, kind: str, *, packed: bool = False, in_order: bool = False, **options: Any) -> None:
        super().__init__()
        self.layer = layer(kind, 3, 4, num_layers=2, bidirectional=True, batch_first=True, **options)
        self.head = nn.Linear(8, 2).double()
        self.packed, self.in_order = packed, in_order

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        if lengths is not None:
            rows = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=self.in_order)
            out, states = self.layer(rows)
            out, _ = pad_packed_sequence(out, batch_first=True)
        else:
            out, states = self.layer(x)
        h = last_h(states)
        return self.head(torch.cat([h[-2], h[-1]], -1) + out.sum(1))  # type: ignore[no-any-return]


def explain(model: Any, *args: Any, **more: Any) -> Any:
    return dlbt.explain(model, *args, **{"target": 1, "explain_inputs": ["x"], "layers": "none", **more})


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.id)
def test_recurrent(check: Check) -> None:
    check_rule(check)


@pytest.mark.parametrize("in_order", [False, True])
@pytest.mark.parametrize("kind", MODULES)
def test_packed_sequences(kind: str, in_order: bool) -> None:
    """Padding gets exactly 0, and a sample what it gets alone, without padding."""
    model, x = Reader(kind, in_order=in_order), source(51)(3, 5, 3)
    lengths = LENGTHS.sort(descending=True).values if in_order else LENGTHS
    found = explain(model, x, lengths)
    assert found.ledger.error <= 1e-9
    for row, length in enumerate(lengths.tolist()):
        assert not found.inputs["x"][row, length:].any()
        alone = explain(model, x[row : row + 1, :length])
        assert alone.ledger.error <= 1e-9
        check_near(found.inputs["x"][row, :length], alone.inputs["x"][0], 1.0, f"sample {row}")


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("variant", ["signal", "signal_spread", "gradient"])
def test_a_batch_and_several_targets(kind: str, variant: str) -> None:
    """Each sample and each target is what it is alone, padded or not."""
    model, x = Reader(kind), source(52)(3, 5, 3)
    rules = [(dlbt.Select(op=f"aten.{kind}"), dlbt.Use(variant))]
    for args in ((x,), (x, LENGTHS)):
        together = explain(model, *args, targets=[0, 1], rules=rules, target=None)
        for target, found in enumerate(together):
            single = explain(model, *args, target=target, rules=rules)
            assert single.ledger.error <= 1e-9
            assert found.ledger.error <= 1e-9
            check_near(found.inputs["x"], single.inputs["x"], 1.0, f"target {target}")
            for row in range(3):
                parts = tuple(part[row : row + 1] for part in args)
                alone = explain(model, *parts, target=target, rules=rules)
                check_near(single.inputs["x"][row], alone.inputs["x"][0], 1.0, f"sample {row}")


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("variant", ["signal", "signal_spread", "gradient"])
def test_the_future_gets_nothing(kind: str, variant: str) -> None:
    """If the target is one step's output, in one direction, later inputs get exactly 0."""
    model, x = layer(kind, 3, 4, num_layers=2, batch_first=True), source(53)(2, 6, 3)
    rules = [(dlbt.Select(op=f"aten.{kind}"), dlbt.Use(variant))]
    target = dlbt.target.function(lambda out: out[0][:, 2].sum(-1))
    found = dlbt.explain(model, x, target=target, rules=rules, layers="none").relevance
    assert not found[:, 3:].any()
    assert bool((found[:, :3] != 0).any(-1).any(-1).all())


@pytest.mark.parametrize("kind", MODULES)
def test_single_precision(kind: str) -> None:
    """The books close, and relevance is near that of double precision."""
    model, x = Reader(kind), source(54)(3, 64, 3)
    double = explain(model, x)
    single = explain(model.float(), x.float())
    assert double.ledger.error <= 1e-9
    assert single.ledger.error <= 1e-3
    check_near(single.inputs["x"], double.inputs["x"], 1.0, kind, tolerance=1e-4)


@pytest.mark.parametrize("kind", MODULES)
def test_the_gradient_is_that_of_autograd(kind: str) -> None:
    """Through the whole model: input times gradient."""
    model, x = Reader(kind), source(55)(3, 5, 3).requires_grad_()
    (grad,) = torch.autograd.grad(model(x, LENGTHS)[:, 1].sum(), x)
    found = explain(model, x.detach(), LENGTHS, composite="gradient_times_input")
    check_near(found.inputs["x"], (x * grad).detach(), 1.0, kind)
    assert found.ledger.error <= 1e-9


# -- the same written in another way ------------------------------------------------------------------------------------

CELLS = {"lstm": nn.LSTMCell, "gru": nn.GRUCell, "rnn_tanh": nn.RNNCell, "rnn_relu": nn.RNNCell}


@pytest.mark.parametrize("variant", ["signal", "signal_spread"])
@pytest.mark.parametrize("kind", CELLS)
def test_a_loop_over_cells(kind: str, variant: str) -> None:
    whole, rand = layer(kind, 3, 4, batch_first=True), source(56)
    options = {"nonlinearity": "relu"} if kind == "rnn_relu" else {}
    cell = CELLS[kind](3, 4, **options).double()
    with torch.no_grad():
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(cell, name).copy_(getattr(whole, f"{name}_l0"))

    def loop(x: Tensor) -> Tensor:
        state = None
        for t in range(x.shape[1]):
            state = cell(x[:, t], state)
        return last_h(state)

    x = rand(2, 5, 3)
    rules = [(dlbt.Select(op=f"aten.{kind}{end}"), dlbt.Use(variant, epsilon=0.01)) for end in ("", "_cell")]
    one = explain(lambda x: last_h(whole(x)[1])[0], x, rules=rules)
    two = explain(loop, x, rules=rules)
    check_near(one.inputs["x"], two.inputs["x"], 1.0, kind, tolerance=1e-9)
    assert two.ledger.error <= 1e-9


def copied(module: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    with torch.no_grad():
        for name, weight in module.named_parameters():
            weight.copy_(weights[name])
    return module


@pytest.mark.parametrize("kind", MODULES)
def test_layers_and_directions_one_by_one(kind: str) -> None:
    """Two layers are one behind the other; two directions are two layers, one of which reads backwards."""
    deep, x = layer(kind, 4, 4, num_layers=2), source(57)(5, 2, 4)
    weights = dict(deep.named_parameters())
    first, second = (
        copied(layer(kind, 4, 4), {name.replace(f"_l{k}", "_l0"): w for name, w in weights.items() if f"_l{k}" in name})
        for k in (0, 1)
    )
    one = explain(lambda x: deep(x)[0][-1], x)
    two = explain(lambda x: second(first(x)[0])[0][-1], x)
    check_near(one.inputs["x"], two.inputs["x"], 1.0, "layers", tolerance=1e-9)

    both = layer(kind, 4, 4, bidirectional=True)
    weights = dict(both.named_parameters())
    ahead = copied(layer(kind, 4, 4), {name: w for name, w in weights.items() if "reverse" not in name})
    back = copied(layer(kind, 4, 4), {n.removesuffix("_reverse"): w for n, w in weights.items() if "reverse" in n})
    one = explain(lambda x: both(x)[0][1], x)
    two = explain(lambda x: torch.cat([ahead(x)[0], back(x.flip(0))[0].flip(0)], -1)[1], x)
    check_near(one.inputs["x"], two.inputs["x"], 1.0, "directions")


def test_without_a_batch_dimension() -> None:
    gru, x = layer("gru", 3, 4), source(58)(5, 3)
    found = explain(lambda x: gru(x)[0][-1:], x)
    batch = explain(lambda x: gru(x)[0][-1], x[:, None])
    check_near(found.inputs["x"], batch.inputs["x"][:, 0], 1.0, "one sequence")


# -- whose relevance it is ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODULES)
def test_spread_conserves(kind: str) -> None:
    """With the initial states explained as well, inputs sum to the score; else those keep their part, by name."""
    whole, rand = layer(kind, 3, 4, num_layers=2, batch_first=True), source(59)
    x, h, c = rand(3, 5, 3), rand(2, 3, 4), rand(2, 3, 4)
    rules = [(dlbt.Select(op=f"aten.{kind}"), dlbt.Use("signal_spread", epsilon=1e-3))]

    def model(x: Tensor, h: Tensor, c: Tensor) -> Tensor:
        return whole(x, (h, c) if kind == "lstm" else h)[0][:, -1]  # type: ignore[no-any-return]

    states = ["h", "c"] if kind == "lstm" else ["h"]
    found = explain(model, x, h, c, rules=rules, explain_inputs=["x", *states])
    total = sum(found.inputs[name].sum() for name in ("x", *states))
    check_near(total, found.score.sum(), 1.0, kind)
    apart = explain(model, x, h, c, rules=rules)
    kept = sum(found.inputs[name].transpose(0, 1).flatten(1).sum(1) for name in states)
    check_near(apart.ledger.absorbed["constant"], kept, 1.0, kind)


def test_weights_that_carry_get_nothing() -> None:
    """As gates do; what they multiply gets all."""
    gru, rand = layer("gru", 3, 4), source(60)
    x, shift, h = rand(5, 2, 3), rand(12, 3), torch.zeros(1, 2, 4, dtype=torch.float64)
    weights = list(gru.parameters())

    def model(x: Tensor, shift: Tensor) -> Tensor:
        return torch.gru(x, h, [weights[0] + shift, *weights[1:]], True, 1, 0.0, False, False, False)[1][0]

    found = explain(model, x, shift, explain_inputs=["x", "shift"], audit=True)
    assert not found.inputs["shift"].any()
    assert found.inputs["x"].any()
    assert found.ledger.error <= 1e-9


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_token_ids(kind: str) -> None:
    """From ids through an embedding: one number per token, 0 for padding where sequences are packed."""

    class Text(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(20, 3).double()
            self.reader = Reader(kind)

        def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
            return self.reader(self.embed(ids), lengths)  # type: ignore[no-any-return]

    ids = torch.tensor([[3, 4, 0, 0, 0], [7, 8, 9, 3, 1], [1, 2, 3, 4, 0]])
    found = dlbt.explain(Text().eval(), ids, LENGTHS, target=1, explain_inputs=["ids"])
    assert found.inputs["ids"].shape == ids.shape
    assert torch.equal(found.inputs["ids"] != 0, torch.arange(5) < LENGTHS[:, None])
    assert found.ledger.error <= 1e-9


def test_a_long_sequence_is_one_node() -> None:
    found = explain(Reader("lstm"), source(61)(2, 128, 3))
    assert [step.node.op for step in found.plan.steps].count("aten.lstm.input") == 1
    assert len(found.plan.steps) < 10
    assert found.ledger.error <= 1e-9


def test_one_explainer_for_other_lengths() -> None:
    """The packed layout follows from the lengths, so other lengths are another run."""
    model, x = Reader("lstm", packed=True).eval(), source(61)(3, 5, 3)
    explainer = dlbt.Explainer(model, explain_inputs=["x"])
    for lengths in (LENGTHS, torch.tensor([5, 5, 5]), LENGTHS):
        found, alone = explainer(x, lengths, target=0), dlbt.explain(model, x, lengths, target=0, explain_inputs=["x"])
        assert torch.equal(found.relevance, alone.relevance)
        assert found.ledger.error <= 1e-9
        for row, length in enumerate(lengths.tolist()):
            assert float(found.relevance[row, length:].abs().sum()) == 0


def test_packed_token_ids() -> None:
    """Ids that are packed before they are embedded carry relevance as those that are not."""

    class Embedder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(7, 3).double()
            self.layer = layer("gru", 3, 4)
            self.head = nn.Linear(4, 2).double()

        def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
            rows = pack_padded_sequence(ids, lengths, batch_first=True, enforce_sorted=False)
            out = self.layer(rows._replace(data=self.embed(rows.data)))[1]
            return self.head(last_h(out)[-1])  # type: ignore[no-any-return]

    torch.manual_seed(0)
    model, ids = Embedder().eval(), torch.tensor([[1, 2, 0, 0, 0], [3, 4, 5, 6, 1], [2, 2, 6, 1, 0]])
    found = dlbt.explain(model, ids, LENGTHS, target=1, explain_inputs=["ids"])
    assert found.relevance.shape == ids.shape
    assert found.ledger.error <= 1e-9
    assert float(found.relevance[0, :2].abs().min()) > 0
    assert float(found.relevance[0, 2:].abs().sum()) == 0
