"""Bags of embeddings: the sum, mean or largest of the vectors of several tokens, each token with a weight of its own."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from dlbt_core.rules.context import RuleContext, multiply
from dlbt_core.rules.rule import RuleSet

__all__ = ["declare"]

_BAGS = ("aten.embedding_bag", "aten._embedding_bag", "aten._embedding_bag_forward_only")
_MEAN, _MAX = 1, 2


def declare(add: RuleSet) -> None:
    """Declare the rules of this module."""
    read = ("weight", "indices", "offsets", "per_sample_weights", "output")

    @add.rule(*_BAGS, variant="uniform", gives="relevance", default=True, reads=read)
    def uniform(ctx: RuleContext, m: Any) -> dict[str, Any]:
        """R_n = w_n sum_d e_nd m_bd / k for token n of bag b, and so for its weight w_n and its row of the table.

        Achtibat et al. 2024, prop. 3.2, eq. 7: the k factors that carry share evenly; tokens alone get all. A mean has
        w_n = 1 / N_b. The largest of a bag goes to the tokens that have it, evenly where they are several.
        """
        return _handed(ctx, m[0], len(ctx.carries))

    @add.rule(*_BAGS, variant="gradient", gives="relevance", absorbs=("product",), reads=read)
    def gradient(ctx: RuleContext, m: Any) -> dict[str, Any]:
        """R_n = w_n sum_d e_nd m_bd for each factor that carries: the op's gradient, which hands on k times what it got."""
        if len(ctx.carries) > 1:
            ctx.absorb("product", m[0] * (1.0 - len(ctx.carries)), ctx.output[0])
        return _handed(ctx, m[0], 1)


def _handed(ctx: RuleContext, m: Tensor, shares: int) -> dict[str, Any]:
    """Relevance of tokens, of their weights, and of the table."""
    bags = _bags(ctx)
    to_rows = m[bags.of] * bags.scale / shares
    handed: dict[str, Any] = {}
    if "indices" in ctx.carries:
        handed["indices"] = multiply(bags.rows, to_rows).sum(-1).reshape(ctx.shape("indices"))
    if "per_sample_weights" in ctx.carries:
        handed["per_sample_weights"] = multiply(bags.rows, to_rows).sum(-1)
    if "weight" in ctx.carries:
        zeros = m.new_zeros(ctx.shape("weight"))
        handed["weight"] = multiply(ctx.args["weight"], zeros.index_add(0, ctx.args["indices"].reshape(-1), to_rows))
    return handed


class _Bags(NamedTuple):
    """The tokens (N) of all bags: which bag each is in, its vector (N, D), and the factor of that vector."""

    of: Tensor
    rows: Tensor
    scale: Tensor


def _bags(ctx: RuleContext) -> _Bags:
    ids, offsets, out = ctx.args["indices"].reshape(-1), ctx.args["offsets"], ctx.output[0]
    rows = ctx.args["weight"][ids]
    places = torch.arange(len(ids), device=ids.device, dtype=offsets.dtype)
    of = (torch.searchsorted(offsets, places, right=True) - 1).clamp(max=len(out) - 1)
    kept = (ids != _padding(ctx)).to(rows.dtype)
    scale, given = kept[:, None], ctx.args.get("per_sample_weights")
    if given is not None:
        scale = scale * given[:, None]
    if ctx.args.get("mode", 0) == _MEAN:
        scale = scale / _per_bag(kept[:, None], of, out)[of].clamp(min=1)
    elif ctx.args.get("mode", 0) == _MAX:
        largest = (rows == out[of]).to(rows.dtype) * kept[:, None]
        scale = largest / _per_bag(largest, of, out)[of].clamp(min=1)
    return _Bags(of, rows, scale)


def _padding(ctx: RuleContext) -> int:
    """The id that is left out; -1 for none, which the public op does not have: there it counts from the end."""
    given = ctx.args.get("padding_idx")
    if given is None:
        return -1
    return int(given) % len(ctx.args["weight"]) if ctx.packet == _BAGS[0] else int(given)


def _per_bag(amounts: Tensor, of: Tensor, out: Tensor) -> Tensor:
    """The sum of the tokens' amounts (N, K) in each bag."""
    return amounts.new_zeros(len(out), amounts.shape[1]).index_add(0, of, amounts)
