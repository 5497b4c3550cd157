"""Parity with the authors' own relevance propagation through a bidirectional LSTM: Arras et al. 2017."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dlbt_core as dlbt
from dlbt_core.plugins.hookspecs import PluginInfo, hookimpl
from dlbt_core.plugins.loader import Plugins

FILE = Path(__file__).parent / "peers" / "arras_lstm_bidi.npz"
SIDES = ("Left", "Right")


@pytest.fixture(scope="module")
def arrays() -> dict[str, Tensor]:
    with np.load(FILE, allow_pickle=False) as file:
        return {name: torch.tensor(file[name]) for name in file.files if file[name].dtype == np.float64}


def in_torchs_order(rows: Tensor) -> Tensor:
    """The gates' blocks, which are i, g, f, o there."""
    i, g, f, o = rows.chunk(4)
    return torch.cat([i, f, g, o])


def weights(arrays: dict[str, Tensor], side: str) -> list[Tensor]:
    return [in_torchs_order(arrays[f"w/{name}_{side}"]) for name in ("Wxh", "Whh", "bxh", "bhh")]


class Bidirectional(nn.Module):
    """Last states of both directions, and a linear layer without bias."""

    def __init__(self, arrays: dict[str, Tensor]) -> None:
        super().__init__()
        size, features = arrays["w/Whh_Left"].shape[1], arrays["x"].shape[1]
        self.lstm = nn.LSTM(features, size, bidirectional=True).double()
        self.head = nn.Linear(2 * size, len(arrays["logits"]), bias=False).double()
        given = [w for side in SIDES for w in weights(arrays, side)]
        with torch.no_grad():
            for own, weight in zip(self.lstm.parameters(), given, strict=True):
                own.copy_(weight)
            self.head.weight.copy_(torch.cat([arrays[f"w/Why_{side}"] for side in SIDES], 1))

    def forward(self, x: Tensor, h: Tensor | None = None, c: Tensor | None = None) -> Tensor:
        _, (last, _) = self.lstm(x[:, None], None if h is None else (h, c))
        return self.head(last.reshape(1, -1))  # type: ignore[no-any-return]


class Apart(nn.Module):
    """The same, each direction with an input of its own."""

    def __init__(self, arrays: dict[str, Tensor]) -> None:
        super().__init__()
        whole = Bidirectional(arrays)
        self.head = whole.head
        self.sides = nn.ModuleList(nn.LSTM(*whole.lstm.weight_ih_l0.shape[:0:-1], 6).double() for _ in SIDES)
        with torch.no_grad():
            for side, lstm in zip(SIDES, self.sides, strict=True):
                for own, weight in zip(lstm.parameters(), weights(arrays, side), strict=True):
                    own.copy_(weight)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        ends = [lstm(x[:, None])[1][0] for lstm, x in zip(self.sides, (left, right.flip(0)), strict=True)]
        return self.head(torch.cat(ends, -1)[0])  # type: ignore[no-any-return]


class SpreadPlugin:
    """Arras et al. 2017, with bias factor 1 for the last linear layer."""

    @hookimpl
    def dlbt_plugin_info(self) -> PluginInfo:
        return PluginInfo(rule_api="1.0", summary="bias factor 1 for linear layers")

    @hookimpl
    def dlbt_register_rules(self, add: Any) -> None:
        @add.rule("aten.linear", variant="spread", takes="relevance")
        def spread(ctx: Any, R: Tensor, *, epsilon: float = 1e-3) -> dict[str, Tensor]:
            """R_i = sum_j (x_i w_ji + (b_j + eps sgn z_j) / N) / (z_j + eps sgn z_j) R_j."""
            x, w, z = ctx.args["input"], ctx.args["weight"], ctx.output
            q = R / ctx.stabilise(z, epsilon)
            return {"input": x * (q @ w) + (R - q * (x @ w.mT)).sum(-1, keepdim=True) / x.shape[-1]}


def rules(epsilon: float, spread: bool) -> Any:
    recurrent, linear = ("signal_spread", "testplugin:spread") if spread else ("signal", "epsilon")
    return [
        (dlbt.Select(op="aten.lstm"), dlbt.Use(recurrent, epsilon=epsilon)),
        (dlbt.Select(op="aten.linear"), dlbt.Use(linear, epsilon=epsilon)),
    ]


def explain(model: nn.Module, *inputs: Tensor, epsilon: float, spread: bool) -> Any:
    plugins = Plugins()
    plugins.add(SpreadPlugin(), "testplugin")
    return dlbt.explain(model.eval(), *inputs, target=1, rules=rules(epsilon, spread), plugins=plugins, audit=True)


@pytest.mark.parametrize(("epsilon", "spread"), [(1e-3, False), (1e-6, False), (1e-3, True)])
def test_relevance(arrays: dict[str, Tensor], epsilon: float, spread: bool) -> None:
    """Each direction's, and their sum where both read one input."""
    expected = [arrays[f"R/{side.lower()}_eps{epsilon:g}_bias{int(spread)}"] for side in SIDES]
    apart = explain(Apart(arrays), arrays["x"], arrays["x"], epsilon=epsilon, spread=spread)
    for name, want in zip(("left", "right"), expected, strict=True):
        assert float((apart.inputs[name] - want).abs().max()) <= 1e-9
    both = explain(Bidirectional(arrays), arrays["x"], epsilon=epsilon, spread=spread)
    assert float((both.score - arrays["logits"][1]).abs()) <= 1e-12
    assert float((both.inputs["x"] - sum(expected)).abs().max()) <= 1e-9
    for found in (apart, both):
        assert found.ledger.error <= 1e-12


def test_a_bias_factor_of_one_conserves(arrays: dict[str, Tensor]) -> None:
    """The score is the sum over inputs and initial states, to the last digits."""
    h = torch.zeros(2, 1, 6, dtype=torch.float64)
    found = explain(Bidirectional(arrays), arrays["x"], h, h.clone(), epsilon=1e-3, spread=True)
    total = sum(found.inputs[name].sum() for name in ("x", "h", "c"))
    assert float((total - arrays["logits"][1]).abs()) <= 1e-12
    assert float(sum(t.abs().sum() for t in found.ledger.absorbed.values())) <= 1e-12
