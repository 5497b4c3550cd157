"""The named composites that need no other package."""

from __future__ import annotations

from dataclasses import replace

from dlbt_core.composites.composite import Composite, CompositeSet
from dlbt_core.composites.select import Select, Use
from dlbt_core.graph.facts import Facts
from dlbt_core.graph.ir import Graph
from dlbt_core.graph.ops import packet

__all__ = ["ATTNLRP", "EPSILON", "GRADIENT_TIMES_INPUT", "HELD", "ROUTED", "declare"]

HELD = (
    (Select(fact="statistic"), Use("constant")),
    (Select(fact="self_gate"), Use("constant")),
    (Select(fact="gated", has="signal"), Use("signal")),
    (Select(fact="softmax_step", has="gradient"), Use("gradient")),
)
"""What stays as it is while relevance is handed back: the scale of a normalisation, the slope of an activation, a gate.

The steps of a softmax that is spelled out hand on their gradients, which is what a softmax in one op does.

A sigmoid's relevance over its input has no bound near 0, so that gates hand nothing on unless they are asked to.
"""

ROUTED = (
    (Select(fact="router", has="taylor"), Use("taylor")),
    (Select(fact="expert", has="uniform"), Use("uniform")),
)
"""Mixtures of experts: half to the expert and half to its weight, which a softmax or sigmoid hands on by its expansion.

Achtibat et al. 2024, prop. 3.1 and 3.2. The sum by which the weights of the chosen are divided is a `statistic`, held as above.
"""


def epsilon(epsilon: float = 1e-6) -> Composite:
    """LRP-epsilon everywhere (Bach et al. 2015); 0 gives LRP-0"""
    return Composite("epsilon", (*ROUTED, *HELD, (Select(has="epsilon"), Use("epsilon", epsilon=epsilon))))


EPSILON = epsilon()
"""LRP-epsilon on every sum of products; activations and norms by the identity rule; products evenly."""

GRADIENT_TIMES_INPUT = Composite("gradient_times_input", ((Select(), Use("gradient")),))
"""Input times gradient: every op by its own gradient, as autograd has it."""

ATTNLRP = Composite("attnlrp", (*ROUTED, *HELD))
"""AttnLRP, Achtibat et al. 2024, in the form without denominators (Arras et al. 2025): every op's default rule."""

_ATTENTION_OPS = {"aten.scaled_dot_product_attention"}


def declare(add: CompositeSet) -> None:
    """Declare them."""
    add.recipe("epsilon", plugin="core")(epsilon)
    add.add(GRADIENT_TIMES_INPUT, "input times gradient, as autograd has it (Shrikumar et al. 2016)", "core")
    add.add(ATTNLRP, "AttnLRP (Achtibat et al. 2024)", "core")

    @add.factory("auto", "chosen from what the recorded model does", "core")
    def auto(graph: Graph, facts: Facts) -> Composite:
        attention = bool(facts.named.get("attention_weights")) or any(
            packet(n.op) in _ATTENTION_OPS for n in graph.nodes
        )
        chosen = replace(ATTNLRP, name="auto -> attnlrp", note="the model has attention")
        if not attention:
            why = "the model has no attention; epsilon = 0, i.e. LRP-0"
            chosen = replace(epsilon(0.0), name="auto -> epsilon", note=why)
        if not facts.named.get("selective"):
            return chosen
        held = chosen.but((Select(fact="selective"), Use("constant")))
        return replace(held, name="auto -> mamba_lrp", note="the model has a selective scan")
