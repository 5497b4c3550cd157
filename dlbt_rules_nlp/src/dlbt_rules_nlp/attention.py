"""Attention: softmax, and the fused product of queries, keys and values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dlbt_core.rules.context import RuleContext, vanish_where_zero
from dlbt_core.rules.rule import RuleSet

__all__ = ["declare"]

_SOFTMAX = ("aten.softmax", "aten._softmax", "aten._safe_softmax")
_LOG_SOFTMAX = ("aten.log_softmax", "aten._log_softmax")
_SDPA = "aten.scaled_dot_product_attention"


def declare(add: RuleSet) -> None:
    """Declare the rules of this module."""

    @add.rule(*_SOFTMAX, variant="gradient", absorbs=("softmax",), reads=("pullback", "carrying", "output"))
    @add.rule(*_SOFTMAX, variant="taylor", absorbs=("softmax",), default=True, reads=("pullback", "carrying", "output"))
    def taylor(ctx: RuleContext, m: Tensor) -> dict[str, Any]:
        """R_i = x_i (R_i - s_i sum_j R_j).  Achtibat et al. 2024, prop. 3.1; the expansion's bias absorbs the rest.

        On multipliers this is the op's gradient, so it goes by both names.
        """
        (name,) = ctx.carries
        x, dim = ctx.args[name], ctx.args["dim"]
        ctx.absorb("softmax", m, _expansion_bias(x, _where_defined(x, ctx.output, dim), dim))
        return {name: _where_defined(x, ctx.vjp(m)[name], dim)}

    @add.rule(*_SOFTMAX, variant="detach", absorbs=("stopped",), reads=("output",))
    def stopped(ctx: RuleContext, m: Tensor) -> dict[str, Any]:
        """R_i = 0: what the softmax says is held constant, and its relevance ends there.  Ali et al. 2022."""
        ctx.absorb("stopped", m, ctx.output)
        return {}

    @add.rule(*_LOG_SOFTMAX, variant="gradient", absorbs=("softmax",), default=True,
              reads=("pullback", "carrying", "output"))  # fmt: skip
    def log_softmax(ctx: RuleContext, m: Tensor) -> dict[str, Any]:
        """m_i = m_i - s_i sum_j m_j: the op's gradient; the normaliser absorbs."""
        return ctx.gradient(m, "softmax")

    @add.rule(
        _SDPA,
        variant="attnlrp",
        absorbs=("softmax",),
        default=True,
        reads=("pullback", "query", "key", "attn_mask", "output"),
    )
    def attnlrp(ctx: RuleContext, m: Tensor) -> dict[str, Any]:
        """m_v = g_v / 2, m_q = g_q / 4, m_k = g_k / 4 with g the op's gradient: half to values, half through the softmax.

        Achtibat et al. 2024, prop. 3.1 and 3.3, as the fused kernel's gradient with q and k at a quarter and v at a half
        (Arras et al. 2025). Masks, causality, grouped heads and the scale are the kernel's own.
        """
        handed = ctx.vjp(m)
        logits: list[str] = [name for name in ("query", "key") if name in ctx.carries]
        through_softmax = bool(logits) or "attn_mask" in ctx.carries
        share = 1.0 / (through_softmax + ("value" in ctx.carries))
        weights: dict[str, float] = {"value": share, "attn_mask": share}
        weights.update(dict.fromkeys(logits, share / max(len(logits), 1)))
        result = {name: given * weights[name] for name, given in handed.items()}
        if through_softmax:
            _absorb_softmax(ctx, m, share, logits, result)
        return result

    @add.rule(_SDPA, variant="detach", absorbs=("constant",), reads=("pullback", "output"))
    def detach(ctx: RuleContext, m: Tensor) -> dict[str, Any]:
        """R_j = sum_i p_ij v_j / (sum_j' p_ij' v_j') R_i: the weights p are held constant.  Ali et al. 2022."""
        if "value" not in ctx.carries:
            ctx.absorb("constant", m, ctx.output)
            return {}
        return {"value": ctx.vjp(m)["value"]}

    @add.rule(_SDPA, variant="gradient", absorbs=("product",), reads=("pullback", "carrying", "output"))
    def sdpa_gradient(ctx: RuleContext, m: Tensor) -> dict[str, Any]:
        """m_i = sum_j dy_j/dx_i m_j: the op's gradient, which hands on more than it got."""
        return ctx.gradient(m, "product")


def _where_defined(x: Tensor, given: Tensor, dim: int) -> Tensor:
    """`given`, and 0 in rows of which all is masked: their softmax is not a number, which no score can come from."""
    return torch.where((x == -torch.inf).all(dim, keepdim=True), torch.zeros_like(given), given)


def _expansion_bias(x: Tensor, s: Tensor, dim: int) -> Tensor:
    """s - J x, the constant of the softmax's Taylor expansion at x: s_i (1 - x_i + sum_j s_j x_j)."""
    x = vanish_where_zero(s, x.to(s.dtype).expand_as(s))
    return s * (1 - x + (s * x).sum(dim, keepdim=True))


def _absorb_softmax(ctx: RuleContext, m: Tensor, share: float, logits: list[str], handed: dict[str, Any]) -> None:
    """Book what the softmax keeps: its share of the output, less what queries and keys get.

    Queries and keys get the same, so one of them tells both; the other's part is checked by the ledger.
    """
    ctx.absorb("softmax", m * share, ctx.output)
    for name in logits[:1]:
        ctx.absorb_at(name, "softmax", handed[name] * -float(len(logits)), ctx.args[name])
    if "attn_mask" in handed:
        ctx.absorb_at("attn_mask", "softmax", -handed["attn_mask"], ctx.args["attn_mask"])
