"""Targets for text: what they pick and sum, on outputs made by hand."""

from __future__ import annotations

import pytest
import torch

import dlbt_core as dlbt
from dlbt_core.target import continuation, contrast, each, label, similarity, span, token

OUT = torch.arange(24.0).reshape(2, 3, 4)


def test_continuation() -> None:
    seed = continuation([1, 2]).seed({"logits": OUT})  # predicted by the positions before the last two
    assert seed.score.tolist() == [float(OUT[i, 0, 1] + OUT[i, 1, 2]) for i in range(2)]
    assert torch.equal((OUT * seed.multipliers["logits"]).sum((1, 2)), seed.score)
    several = continuation([[1, 2], [3]], start=[0, -1]).seed({"logits": OUT})
    assert several.score.tolist() == [float(OUT[0, 0, 1] + OUT[0, 1, 2]), float(OUT[1, 2, 3])]
    same = continuation(torch.tensor([1, 1]), start=0).seed({"logits": OUT})
    assert same.score[0] == OUT[0, 0, 1] + OUT[0, 1, 1]


def test_continuation_as_log_probability() -> None:
    out = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    found = continuation([[1, 2], [3]], start=[0, 2], measure="log_probability").fn({"logits": out})
    sure = out.log_softmax(-1)
    assert torch.allclose(found, torch.stack([sure[0, 0, 1] + sure[0, 1, 2], sure[1, 2, 3]]))


def test_span() -> None:
    outputs = {"start_logits": torch.tensor([[0.0, 5, 1, 9]]), "end_logits": torch.tensor([[7.0, 1, 2, 0]])}
    assert span().seed(outputs).picked == [(3, 3)]
    assert span(within=[0, 1, 2]).seed(outputs).picked == [(0, 0)]
    assert span(within=[1, 2]).seed(outputs).picked == [(1, 2)]
    assert span(1).seed(outputs).picked == [(1, 2)]
    assert span(end=1).seed(outputs).picked == [(1, 1)]
    assert span(longest=1, within=[1, 2]).seed(outputs).picked == [(1, 1)]
    assert span(0, 3).seed(outputs).score.tolist() == [0.0]
    assert span(1, 2).seed(outputs).score.tolist() == [7.0]
    start = span(1, 2, "start").seed(outputs)
    assert (start.score.tolist(), list(start.multipliers)) == ([5.0], ["start_logits"])
    assert [str(span()), str(span(1, 2, "end"))] == ["start and end of the best answer", "end of answer 1 to 2"]


def test_label() -> None:
    out = torch.tensor([[[5.0, 0, 0], [0, 1, 0], [0, 0, 2]]])
    assert label().seed({"logits": out}).picked == [(0, 0)]
    assert label(outside=0).seed({"logits": out}).picked == [(2, 2)]
    assert label(outside=0, within=[0, 1]).seed({"logits": out}).picked == [(1, 1)]
    assert label(outside=0, within=[0]).seed({"logits": out}).picked == [(0, 0)]
    assert label(label=1).seed({"logits": out}).picked == [(1, 1)]
    assert label(-1, 0).seed({"logits": out}).picked == [(2, 0)]
    assert label(1).seed({"logits": out}).score.tolist() == [1.0]
    assert [str(label()), str(label(2, 1))] == ["largest label of the surest token", "label 1 of the token at 2"]


def test_each() -> None:
    target = each([token(0, 1), contrast(token(1, 2), token(-1, 3))])
    seed = target.seed({"logits": OUT})
    assert seed.score.tolist() == [float(OUT[0, 0, 1]), float(OUT[1, 1, 2] - OUT[1, 2, 3])]
    assert seed.picked == [(0, 1), ((1, 2), (2, 3))]
    assert torch.equal((OUT * seed.multipliers["logits"]).sum((1, 2)), seed.score)
    assert str(each([token(0), token(0)])) == "most likely token at position 0"
    assert str(each([0, 1, 2, 3])) == "4 targets, one per sample: class 0, class 1, class 2, ..."
    # another output in which the batch is not the first dimension does no harm
    assert torch.equal(target.seed({"router": torch.ones(6, 2), "logits": OUT}).score, seed.score)


@pytest.mark.parametrize(("pooling", "expected"), [("mean", [2.0, 4.0]), ("first", [1.0, 4.0]), ("last", [3.0, 4.0])])
def test_similarity(pooling: str, expected: list[float]) -> None:
    states = torch.tensor([[[1.0, 0], [3, 0], [9, 9]], [[9, 9], [9, 9], [4, 0]]])
    mask = torch.tensor([[1, 1, 0], [0, 0, 1]])
    target = similarity(torch.tensor([1.0, 1.0]), mask, pooling)
    assert target.fn.pooled({"last_hidden_state": states})[:, 0].tolist() == expected  # type: ignore[attr-defined]
    assert torch.allclose(target.fn({"last_hidden_state": states}), torch.full((2,), 0.5**0.5))


def test_they_are_explained() -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = torch.nn.Embedding(9, 6), torch.nn.Linear(6, 9)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(torch.tanh(self.embedding(ids)))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Model().eval()
    ids = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    one, other = dlbt.explain(
        model, ids, targets=[continuation([3, 4]), continuation([3, 4], measure="log_probability")]
    )
    assert bool((one.relevance[:, [0, 3]] == 0).all())
    assert bool((one.relevance[:, 1:3] != 0).all())
    assert max(one.ledger.error, other.ledger.error) < 1e-5
    assert str(one.target) == "sum of the continuation's logits"
    assert str(other.target) == "log-probability of the continuation"
