"""Token ids that are computed from token ids before they enter an embedding, position by position."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dlbt_core as dlbt
from oracles.harness import check_books, check_near, source

rand = source(51)
IDS = torch.tensor([[3, 7, 1, 4, 9], [2, 2, 8, 0, 5]])


def hashes(ids: Tensor) -> list[Tensor]:
    """One id per table, as in CANINE."""
    return [((ids + 1) * prime) % 16 for prime in (31, 43)]


def shifted(ids: Tensor) -> list[Tensor]:
    """Ids behind those of another vocabulary in a shared table, limited and cast."""
    return [(ids.to(torch.int32) + 2).clamp(max=10).long()]


def prompted(ids: Tensor) -> list[Tensor]:
    """Behind fixed ids of a prompt, as in CPM-Ant."""
    return [torch.cat([torch.arange(2).expand(len(ids), 2), ids], 1)[:, 2:] * 1]


def pairs(ids: Tensor) -> list[Tensor]:
    """Each id with the one before it: both make the new one."""
    return [(F.pad(ids, (1, -1)) * 31 + ids) % 16]


class Computed(nn.Module):
    """Embeddings of computed ids, summed up."""

    def __init__(self, made: Callable[[Tensor], list[Tensor]]) -> None:
        super().__init__()
        self.made = made
        self.register_buffer("tables", rand(2, 16, 4))

    def forward(self, input_ids: Tensor) -> Tensor:
        found = [F.embedding(ids, table) for ids, table in zip(self.made(input_ids), self.tables, strict=False)]
        return torch.stack(found).sum(0)


@pytest.mark.parametrize("made", [hashes, shifted, prompted, pairs], ids=lambda f: f.__name__)
def test_relevance_of_new_ids_is_that_of_the_ids_they_are_made_of(made: Callable[[Tensor], list[Tensor]]) -> None:
    model, mask = Computed(made).eval(), rand(2, 5, 4)
    found = dlbt.explain(model, IDS, target=dlbt.target.logits(mask), composite="attnlrp", audit=True)
    want = (model(IDS) * mask).sum(-1)
    absorbed = torch.zeros(2, dtype=torch.float64)
    if made is pairs:  # half to each of two; the first is paired with a constant
        want = want / 2 + F.pad(want[:, 1:], (0, 1)) / 2
    check_near(found.inputs["input_ids"], want, 1.0, made.__name__)
    check_near(sum(found.ledger.absorbed.values(), absorbed), found.score - want.sum(1), 1.0, "the constant's")
    check_books(found, made.__name__)


def test_masks_made_of_ids_have_no_part_in_it() -> None:
    model, mask = Computed(shifted).eval(), rand(2, 5, 4)
    found = dlbt.explain(
        lambda ids: model(ids) * (ids != 0).unsqueeze(-1), IDS, target=dlbt.target.logits(mask), composite="attnlrp"
    )  # fmt: skip
    want = (model(IDS) * mask).sum(-1) * (IDS != 0)
    check_near(found.inputs["ids"], want, 1.0, "masked")
    assert found.inputs["ids"][1, 3] == 0
