"""Named composites for language models."""

from __future__ import annotations

from dlbt_core.composites.composite import Composite, CompositeSet
from dlbt_core.composites.presets import HELD, ROUTED
from dlbt_core.composites.select import Select, Use

__all__ = ["CP_LRP", "declare", "mamba_lrp"]

CP_LRP = Composite(
    "cp_lrp",
    (
        (Select(fact="attention_weights"), Use("constant")),
        (Select(op="aten.scaled_dot_product_attention", has="detach"), Use("detach")),
        (Select(fact="activated_gate"), Use("constant")),
        (Select(fact="router"), Use("constant")),
        *HELD,
    ),
)
"""Attention weights, gates, routers and the denominators of norms held constant: what is left is linear, and conserves.

Ali et al. 2022; gates as in LXT, where all relevance of a gated MLP goes through its other branch.
"""


def mamba_lrp(gamma: float = 0.0) -> Composite:
    """MambaLRP: a scan's steps, decays, B and C held constant, gates by the half rule (Jafari et al. 2024)"""
    convolutions = ((Select(op=("aten.conv1d", "aten.linear")), Use("gamma", gamma=gamma)),) if gamma else ()
    return Composite("mamba_lrp", ((Select(fact="selective"), Use("constant")), *ROUTED, *HELD, *convolutions))


def declare(add: CompositeSet) -> None:
    """Declare them."""
    add.add(CP_LRP, "attention weights, gates, routers and norms held constant (CP-LRP, Ali et al. 2022)", "nlp")
    add.recipe("mamba_lrp", plugin="nlp")(mamba_lrp)
