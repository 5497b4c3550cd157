"""Ops that move, pick and mix elements, inside small models under ``auto``: R = x J^T m, J dense and found by torch itself.

Each is linear where it is recorded (copies, picks, sums), so that the rule is the transpose; constants absorb their part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dlbt_core as dlbt
from oracles.harness import check_books, source

rand = source(400)
IN, OUT = rand(6, 6), rand(4, 6)
X = rand(2, 5, 6)
M = rand(2, 5, 6)
ROWS = torch.tensor([3, 0, 3])
PLACES = torch.tensor([[0, 2, 2, 4, 1], [4, 4, 0, 1, 3]])
TRUTH = rand(2, 5, 6) > 0
BASE = rand(2, 5, 6)
WEIGHT = rand(6, 1, 3)


def _windows(h: Tensor) -> Tensor:
    """Each token with the one before, as a mean."""
    return F.pad(h, (0, 0, 1, 0)).unfold(1, 2, 1).mean(-1)


def _one_hot(h: Tensor) -> Tensor:
    """Tokens picked by a product with one-hot rows."""
    return F.one_hot(PLACES, 5).to(h.dtype) @ h


def _one_hot_weights(h: Tensor) -> Tensor:
    return h @ F.one_hot(torch.tensor([1, 3, 3, 0, 5, 2]), 6).to(h.dtype)


def _causal_conv(h: Tensor) -> Tensor:
    return F.conv1d(F.pad(h.mT, (2, 0)), WEIGHT, groups=6).mT


def _causal_conv_cut(h: Tensor) -> Tensor:
    """As in Mamba: padded on both sides, and cut."""
    return F.conv1d(h.mT, WEIGHT, padding=2, groups=6)[..., : h.shape[1]].mT


def _causal_conv_dilated(h: Tensor) -> Tensor:
    return F.conv1d(F.pad(h.mT, (4, 0)), WEIGHT.expand(6, 6, 3), dilation=2).mT


def _shifted(h: Tensor) -> Tensor:
    """As in RWKV: half of a token is the one before."""
    return torch.cat([F.pad(h, (0, 0, 1, -1))[..., :3], h[..., 3:]], -1)


def _written(h: Tensor) -> Tensor:
    out = torch.zeros_like(h)
    out[:, ::2] = h[:, :3]
    out[:, 1] += 2 * h[:, 4]
    out[0, 3, 1:4] = h[1, 0, :3]
    return out


def _routed(h: Tensor) -> Tensor:
    """Tokens sorted by where they go, doubled, and brought back."""
    order = PLACES[0].argsort()
    return torch.empty_like(h).index_copy(1, order, 2 * h[:, order])


ANGLES = torch.arange(5.0).double()[:, None] * torch.tensor([1.0, 0.3, 0.1]).double()
COS, SIN = ANGLES.cos(), ANGLES.sin()


def _rotary_halves(h: Tensor) -> Tensor:
    """As in Llama: elements i and i + d / 2 are a pair."""
    a, b = h.chunk(2, -1)
    cos, sin = COS.repeat(1, 2), SIN.repeat(1, 2)
    return h * cos + torch.cat([-b, a], -1) * sin


def _rotary_pairs(h: Tensor) -> Tensor:
    """As in GPT-J: neighbours are a pair."""
    turned = torch.stack([-h[..., 1::2], h[..., ::2]], -1).flatten(-2)
    return h * COS.repeat_interleave(2, -1) + turned * SIN.repeat_interleave(2, -1)


def _rotary_matrices(h: Tensor) -> Tensor:
    turn = torch.stack([torch.stack([COS, -SIN], -1), torch.stack([SIN, COS], -1)], -2)
    return torch.einsum("tpij,btpj->btpi", turn, h.unflatten(-1, (3, 2))).flatten(-2)


def _rotary_complex(h: Tensor) -> Tensor:
    turned = torch.view_as_complex(h.unflatten(-1, (3, 2))) * torch.polar(torch.ones_like(ANGLES), ANGLES)
    return torch.view_as_real(turned).flatten(-2)


def _rotary_of_a_part(h: Tensor) -> Tensor:
    rest, part = h.split([4, 2], -1)
    a, b = part.unbind(-1)
    cos, sin = COS[:, 1], SIN[:, 1]
    return torch.cat([rest, torch.stack([a * cos - b * sin, a * sin + b * cos], -1)], -1)


OPS: dict[str, Callable[[Tensor], Tensor]] = {
    "gather": lambda h: h.gather(1, PLACES[..., None].expand(-1, -1, 6)),
    "take_along_dim": lambda h: torch.take_along_dim(h, PLACES[..., None], 1),
    "scatter": lambda h: torch.zeros_like(h).scatter(1, PLACES[:, :3, None].expand(-1, -1, 6).sort(1).values[:, :1], h[:, :1]),
    "scatter into constants": lambda h: BASE.scatter(2, torch.tensor([[[1, 4]]]).expand(2, 5, -1), h[..., :2]),
    "scatter_add": lambda h: torch.zeros_like(h).scatter_add(1, PLACES[..., None].expand(-1, -1, 6), h),
    "scatter_add to constants": lambda h: BASE.scatter_add(1, PLACES[..., None].expand(-1, -1, 6), h),
    "index": lambda h: h[:, ROWS],
    "index, pairs": lambda h: h[torch.arange(2)[:, None], PLACES],
    "index, truth": lambda h: h[:, torch.tensor([True, False, True, True, False])],
    "index_select": lambda h: h.index_select(2, torch.tensor([5, 5, 0, 1])),
    "index_put": lambda h: BASE.index_put((torch.tensor([0, 1]), torch.tensor([4, 2])), h[:, 0]),
    "index_put, accumulated": lambda h: h.index_put((torch.tensor([1, 1]), torch.tensor([2, 2])), 3 * h[:, 0], accumulate=True),
    "index_put, accumulated to constants": lambda h: BASE.index_put(
        (torch.tensor([1, 1, 0]), torch.tensor([2, 2, 1])), torch.cat([h[:, 0], h[:1, 3]]), accumulate=True),
    "index_add": lambda h: torch.zeros_like(h).index_add(1, ROWS, h[:, :3], alpha=0.5),
    "index_copy": lambda h: BASE.index_copy(1, torch.tensor([4, 1]), h[:, :2]),
    "index_fill": lambda h: h.index_fill(2, torch.tensor([0, 3]), 0.7),
    "topk": lambda h: h.topk(3, -1).values,
    "topk, smallest": lambda h: h.topk(2, 1, largest=False).values,
    "sort": lambda h: h.sort(-1, descending=True).values,
    "sorted by argsort": lambda h: h.gather(1, h.argsort(1)),
    "max": lambda h: h.max(1).values,
    "amax": lambda h: h.amax((1, 2), keepdim=True),
    "where": lambda h: torch.where(TRUTH, h, 2 * h.flip(1)),
    "where, constant": lambda h: torch.where(TRUTH, h, torch.tensor(0.3, dtype=h.dtype)),
    "where, by its own sign": lambda h: torch.where(h > 0, h, 0.1 * h),
    "masked_fill": lambda h: h.masked_fill(TRUTH, -0.4),
    "masked_scatter": lambda h: h.masked_scatter(TRUTH, h.flip(2)),
    "cumsum": lambda h: h.cumsum(1),
    "cumsum backwards": lambda h: h.flip(1).cumsum(1).flip(1),
    "roll": lambda h: h.roll((1, -2), (1, 2)),
    "pad": lambda h: F.pad(h, (1, 0, 2, 1)),
    "pad with a number": lambda h: F.pad(h, (0, 0, 1, 1), value=0.5),
    "pad, cut": lambda h: F.pad(h, (0, 0, 1, -1)),
    "stack": lambda h: torch.stack([h, 2 * h, BASE], 1),
    "chunk": lambda h: torch.cat(h.chunk(3, -1)[::-1], -1),
    "split": lambda h: torch.cat(h.split([1, 4], 1)[1:], 1) if h.shape[1] == 5 else h,
    "unbind": lambda h: sum(part * (i + 1) for i, part in enumerate(h.unbind(1))),
    "repeat_interleave": lambda h: h.repeat_interleave(2, 1),
    "repeat_interleave by counts": lambda h: h.repeat_interleave(torch.tensor([0, 2, 1, 3, 0]), 1),
    "repeat": lambda h: h.repeat(1, 2, 1),
    "unfold": _windows,
    "one_hot of tokens": _one_hot,
    "one_hot of features": _one_hot_weights,
    "causal conv1d": _causal_conv,
    "causal conv1d, cut": _causal_conv_cut,
    "causal conv1d, dilated": _causal_conv_dilated,
    "token shift": _shifted,
    "slices written": _written,
    "routed": _routed,
    "tril": lambda h: h.tril(1) @ h.new_ones(6, 2).cumsum(0),
    "flip": lambda h: h.flip((1, 2)),
    "diagonal": lambda h: h.diagonal(0, 1, 2),
    "einsum view": lambda h: torch.einsum("btd->bdt", h),
    "nan_to_num": lambda h: torch.nan_to_num(h.masked_fill(TRUTH, torch.inf).masked_fill(BASE > 1, torch.nan), 0.2, 0.5),
    "rotary, halves": _rotary_halves,
    "rotary, pairs": _rotary_pairs,
    "rotary, matrices": _rotary_matrices,
    "rotary, complex": _rotary_complex,
    "rotary, a part": _rotary_of_a_part,
    "positions added": lambda h: h + F.embedding(torch.arange(5), BASE[0]),
    "waves added": lambda h: h + torch.cat([SIN, COS], -1),
    "lerp": lambda h: torch.lerp(h, BASE, 0.3),
    "addcmul": lambda h: torch.addcmul(BASE, h, M, value=0.5),
    "addcdiv": lambda h: torch.addcdiv(h, h.flip(1), 2 + M.abs(), value=-1),
}  # fmt: skip
OPS |= {
    "lerp in place": lambda h: h.clone().lerp_(BASE, 0.3),
    "addcmul in place": lambda h: (2 * h).addcmul_(h, M, value=0.5),
    "addcdiv in place": lambda h: h.clone().addcdiv_(h.flip(1), 2 + M.abs()),
}
CAUSAL = ("causal conv1d", "causal conv1d, cut", "causal conv1d, dilated", "token shift", "cumsum", "unfold")


@pytest.mark.parametrize("name", OPS)
def test_an_op_inside_a_model(name: str) -> None:
    """Behind a linear map, and before the sum of its outputs weighed by random numbers."""
    fn = OPS[name]
    h = X @ IN
    out = fn(h)
    m = source(401)(*out.shape)

    def model(x: Tensor) -> Tensor:
        return (fn(x @ IN) * m).sum()[None]

    J = torch.autograd.functional.jacobian(fn, h)  # (out..., h...)
    back = torch.where(J == 0, 0.0, torch.nan_to_num(J)).reshape(out.numel(), h.numel()).T @ m.reshape(-1)
    expected = X * (back.reshape(h.shape) @ IN.T)
    found = dlbt.explain(model, X, layers="none", audit=True)
    assert float((found.relevance - expected).abs().max() / expected.abs().max()) <= 1e-12
    check_books(found, name, tolerance=1e-12)


@pytest.mark.parametrize("name", CAUSAL)
def test_later_tokens_get_exactly_0(name: str) -> None:
    fn = OPS[name]
    for position in (0, 2):
        found = dlbt.explain(lambda x, t=position: fn(x @ IN)[:, t] @ OUT.T, X, target=1, layers="none").relevance
        assert (found[:, position + 1 :] == 0).all()
        assert (found[:, position] != 0).any()


# -- bags of embeddings ---------------------------------------------------------------------------------------------------

IDS = torch.tensor([[1, 4, 4, 0], [6, 2, 5, 2]])
FLAT = torch.tensor([3, 1, 1, 0, 6, 2, 2])
OFFSETS = torch.tensor([0, 3, 3])
TABLE, FACTORS = rand(7, 6), rand(2, 4)


class Bags(nn.Module):
    """A bag of embeddings and a linear classifier."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def forward(self, ids: Tensor, offsets: Tensor | None = None, factors: Tensor | None = None) -> Tensor:
        return F.embedding_bag(ids, TABLE, offsets, per_sample_weights=factors, **self.options) @ OUT.T


def shares(rows: Tensor, mode: str, kept: Tensor) -> Tensor:
    """(N, D): how much of the bag's value each token of one bag has, where `kept`."""
    if mode == "mean":
        return rows * kept[:, None] / kept.sum()
    if mode == "max":
        open_rows = rows.masked_fill(~kept[:, None], -torch.inf)
        best = open_rows == open_rows.max(0).values
        return torch.where(best, rows, 0.0) / best.sum(0)
    return rows * kept[:, None]


@pytest.mark.parametrize("padding", [None, 2])
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_a_bag_of_embeddings(mode: str, padding: int | None) -> None:
    """R_n = sum_d (share of token n in the bag)_d m_d; ids that are padding get exactly 0."""
    found = dlbt.explain(Bags(mode=mode, padding_idx=padding), IDS, target=1, layers="none", audit=True)
    kept = torch.ones_like(IDS).bool() if padding is None else padding != IDS
    parts = [shares(TABLE[ids], mode, k) for ids, k in zip(IDS, kept, strict=True)]
    expected = torch.stack([(part * OUT[1]).sum(-1) for part in parts])
    torch.testing.assert_close(found.inputs["ids"], expected, rtol=0, atol=1e-12)
    assert (found.inputs["ids"][~kept] == 0).all()
    check_books(found, mode, tolerance=1e-12)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_by_offsets(mode: str, last: bool) -> None:
    """One of three bags is empty; with `last`, the offsets say where the last one ends."""
    offsets = torch.cat([OFFSETS, torch.tensor([7])]) if last else OFFSETS
    model = Bags(mode=mode, include_last_offset=last)
    found = dlbt.explain(
        model, FLAT, offsets, target=dlbt.target.function(lambda out: out[:, 1].sum()[None]), layers="none"
    )
    expected = torch.cat([(shares(TABLE[ids], mode, ids >= 0) * OUT[1]).sum(-1) for ids in (FLAT[:3], FLAT[3:])])
    assert list(found.inputs) == ["ids"]
    torch.testing.assert_close(found.inputs["ids"], expected, rtol=0, atol=1e-12)
    check_books(found, mode, audit=False, tolerance=1e-12)


def test_weights_of_the_tokens_in_a_bag() -> None:
    """Constant weights scale; weights that are explained, too, are the other factor of a product and get half."""
    products = (TABLE[IDS] * FACTORS[..., None] * OUT[1]).sum(-1)
    constant = dlbt.explain(lambda ids: Bags(mode="sum")(ids, factors=FACTORS), IDS, target=1, layers="none")
    torch.testing.assert_close(constant.inputs["ids"], products, rtol=0, atol=1e-12)
    both = dlbt.explain(Bags(mode="sum"), IDS, factors=FACTORS, target=1, layers="none", audit=True)
    for name in ("ids", "factors"):
        torch.testing.assert_close(both.inputs[name], products / 2, rtol=0, atol=1e-12)
    check_books(both, "weights", tolerance=1e-12)


def test_a_module_with_bags() -> None:
    """``nn.EmbeddingBag`` behind ids of shape (B, T), as text classifiers have it."""
    bag = nn.EmbeddingBag.from_pretrained(TABLE.clone(), mode="mean")
    head = nn.Linear(6, 4, bias=False).double()
    model = nn.Sequential(bag, head).eval().requires_grad_(False)
    found = dlbt.explain(model, IDS, target=2)
    expected = (TABLE[IDS] / 4 * head.weight[2]).sum(-1)
    torch.testing.assert_close(found.relevance, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.relevance.sum(1), found.score)
