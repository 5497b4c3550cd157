"""Books per sample: those of a batch are those of each sample alone, wherever the rows of the batch go in between."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import dlbt_core as dlbt

B, T, D = 3, 4, 6
Mix = Callable[[Tensor], Tensor]


def _order(size: int) -> Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(size))


def _there_and_back(x: Tensor) -> Tensor:
    """Rows of all samples in a random order, and back."""
    rows = x.reshape(-1, D)
    order = _order(len(rows))
    return torch.tanh(rows[order])[order.argsort()].view_as(x)


def _beams(x: Tensor) -> Tensor:
    """Each sample twice, two that differ, and their sum."""
    twice = x.repeat_interleave(2, 0) * torch.tensor([1.0, 3.0]).repeat(len(x))[:, None, None]
    return twice.view(len(x), 2, T, D).sum(1)


def _tiled(x: Tensor) -> Tensor:
    return torch.tanh(x.repeat(2, 1, 1)).view(2, len(x), T, D).sum(0)


def _experts(x: Tensor) -> Tensor:
    """Each token to two of three experts, picked by its own numbers; sorted by expert, and added up again."""
    rows = x.reshape(-1, D)
    chosen = rows[:, :3].topk(2).indices.flatten()
    order = chosen.argsort(stable=True)
    picked = rows[order // 2] * (1.0 + chosen[order])[:, None]
    return picked[order.argsort()].view(-1, 2, D).sum(1).view_as(x)


def _experts_one_by_one(x: Tensor) -> Tensor:
    """The same, expert after expert, added to where the token came from."""
    rows = x.reshape(-1, D)
    chosen = rows[:, :3].topk(2).indices
    out = torch.zeros_like(rows)
    for expert in range(3):
        token, _ = (chosen == expert).nonzero(as_tuple=True)
        out = out.index_add(0, token, rows[token] * (1.0 + expert))
    return out.view_as(x)


def _packed(x: Tensor) -> Tensor:
    """Sequences of several lengths, longest first, without the steps that some do not have."""
    packed = pack_padded_sequence(x, torch.full((len(x),), T), batch_first=True)
    data = torch.tanh(packed.data)
    return pad_packed_sequence(packed._replace(data=data), batch_first=True)[0]


def _masked(x: Tensor) -> Tensor:
    """Only the tokens that a mask leaves, and back into zeros."""
    mask = torch.ones(len(x), T, dtype=torch.bool)
    mask[:, 1] = False
    return torch.zeros_like(x).masked_scatter(mask[..., None].expand_as(x), torch.tanh(x[mask]))


def _one_by_one(x: Tensor) -> Tensor:
    return torch.stack([torch.tanh(x[i]) for i in range(len(x))])


def _written(x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    for i in reversed(range(len(x))):
        out[i] = torch.tanh(x[i])
    return out


def _gathered(x: Tensor) -> Tensor:
    order = _order(len(x))
    there = order[:, None, None].expand_as(x)
    return torch.zeros_like(x).scatter(0, there, x.gather(0, there) * 2)


WAYS: dict[str, Mix] = {
    "flip": lambda x: torch.tanh(x.flip(0)).flip(0),
    "roll": lambda x: torch.tanh(x.roll(1, 0)).roll(-1, 0),
    "permutation": _there_and_back,
    "index_select": lambda x: torch.tanh(x.index_select(0, _order(len(x)))).index_select(0, _order(len(x)).argsort()),
    "index_copy": lambda x: torch.zeros_like(x).index_copy(0, _order(len(x)), torch.tanh(x[_order(len(x))])),
    "index_put": lambda x: torch.zeros_like(x).index_put((_order(len(x)),), torch.tanh(x)[_order(len(x))]),
    "repeat_interleave": _beams,
    "repeat": _tiled,
    "gather_scatter": _gathered,
    "experts": _experts,
    "experts_one_by_one": _experts_one_by_one,
    "packed": _packed,
    "masked": _masked,
    "stack": _one_by_one,
    "written": _written,
    "split": lambda x: torch.cat([torch.tanh(part) for part in x.split(1)]),
    "time_first": lambda x: torch.tanh(x.transpose(0, 1).reshape(-1, D)).view(T, -1, D).transpose(0, 1),
    "rows_and_columns": lambda x: torch.tanh(x[torch.arange(len(x))[:, None], torch.tensor([3, 0, 1])]),
    "behind": lambda x: torch.tanh(x.permute(1, 2, 0)).movedim(-1, 0),
    "padded": lambda x: torch.tanh(nn.functional.pad(x, (0, 0, 0, 0, 1, 0)))[1:],
}


class Model(nn.Module):
    """Two layers with biases, and what happens to the rows between them."""

    def __init__(self, mix: Mix) -> None:
        super().__init__()
        self.first, self.mix, self.last = nn.Linear(D, D), mix, nn.Linear(D, 3)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.mix(self.first(x)) + 0.5
        return self.last(mixed).sum(1)


@pytest.mark.parametrize("target", [0, dlbt.target.function(lambda out: out[:, 1].square())], ids=["class", "function"])
@pytest.mark.parametrize("way", list(WAYS))
def test_books_of_a_batch_are_those_of_each_sample(way: str, target: object) -> None:
    model = Model(WAYS[way]).double().eval()
    x = torch.randn(B, T, D, dtype=torch.float64)
    explainer = dlbt.Explainer(model, "epsilon", audit=True)
    together = explainer(x, target=target).ledger
    assert not together.unassigned
    assert not together.mixed
    assert together.error <= 1e-9
    for row in range(B):
        alone = explainer(x[row : row + 1], target=target).ledger
        assert float(together.score[row]) == pytest.approx(float(alone.score), rel=1e-9)
        torch.testing.assert_close(together.inputs["x"][row], alone.inputs["x"][0])
        assert set(alone.absorbed) <= set(together.absorbed)
        for name, amount in together.absorbed.items():
            expected = alone.absorbed.get(name, torch.zeros(1, dtype=torch.float64))[0]
            torch.testing.assert_close(amount[row], expected)


MIXING: dict[str, Mix] = {
    "reversed": lambda x: x.flip(0),
    "with_the_next": lambda x: x + x.roll(1, 0),
    "mean_of_the_batch": lambda x: x - x.mean(0),
    "attention_between_samples": lambda x: nn.functional.scaled_dot_product_attention(*[x.transpose(0, 1)] * 3).transpose(0, 1),
    "packed_in_one_row": lambda x: nn.functional.scaled_dot_product_attention(*[x.reshape(1, -1, D)] * 3).view_as(x),
    "sorted_by_numbers": lambda x: x[x[:, 0, 0].argsort(descending=True)],
}  # fmt: skip


@pytest.mark.parametrize("way", list(MIXING))
def test_where_samples_are_mixed_the_books_say_so(way: str) -> None:
    """What cannot be told apart is booked for all samples together, and nothing of it for one of them."""
    x = torch.randn(B, T, D, dtype=torch.float64)
    explainer = dlbt.Explainer(Model(MIXING[way]).double().eval(), "epsilon")
    ledger = explainer(x, target=0).ledger
    assert "input x" in ledger.unassigned
    assert not ledger.inputs
    assert ledger.mixed
    assert "the samples cannot be told apart in" in str(ledger)
    assert ledger.error <= 1e-9
    of_head = ledger.at("linear_1").absorbed
    assert set(of_head) <= {"bias"}  # behind the mixing each row has its own again


def test_scores_in_another_order_than_the_samples() -> None:
    """A function that looks at the outputs in reverse: score 0 is of the last sample, and no sample's books would close."""
    x = torch.randn(B, T, D, dtype=torch.float64)
    model = Model(torch.tanh).double().eval()
    ledger = dlbt.explain(
        model, x, composite="epsilon", target=dlbt.target.function(lambda out: out.flip(0)[:, 0])
    ).ledger
    assert not ledger.inputs
    assert ledger.mixed == ("what is explained",)
    assert ledger.error <= 1e-9


def test_a_list_of_samples() -> None:
    """As detection models take them: one tensor for each sample."""

    class OfList(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Model(torch.tanh)

        def forward(self, items: list[Tensor]) -> Tensor:
            return self.inner(torch.stack(items))

    model, x = OfList().double().eval(), torch.randn(2, T, D, dtype=torch.float64)
    ledger = dlbt.explain(model, list(x), composite="epsilon", target=0).ledger
    assert not ledger.unassigned
    assert ledger.inputs["items.0"][1] == ledger.inputs["items.1"][0] == 0
    assert ledger.error <= 1e-9
