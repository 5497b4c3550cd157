"""Ops of torchvision: regions of an image, and convolutions that look beside their place. Known by name, not imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dlbt_core.rules.context import RuleContext
from dlbt_core.rules.parameter import NotNegative
from dlbt_core.rules.rule import Asked, RuleSet
from dlbt_rules_vision.alone import main, pull_back_alone
from dlbt_rules_vision.looking import declare_maps

__all__ = ["declare"]

_SEEN = ("input",)
REGIONS: Mapping[str, tuple[str, ...]] = {"torchvision.roi_align": _SEEN, "torchvision.ps_roi_align": _SEEN}
"""Means over regions of the input. The regions say where to look."""

ROUNDED: Mapping[str, tuple[str, ...]] = {"torchvision.ps_roi_pool": _SEEN}
"""The same; but torchvision's backward kernel counts the last row and column of an image, its forward kernel does not."""

_FACTORS = ("input", "weight", "mask")


def declare(add: RuleSet) -> None:
    """Declare the rules of this module."""
    declare_maps(add, REGIONS, frozenset(REGIONS))
    declare_maps(add, ROUNDED, frozenset(ROUNDED), exact=False)

    @add.rule("torchvision.roi_pool", variant="gradient", takes="either", absorbs=("constant",), default=True,
              reads=_reads_of_region)  # fmt: skip
    def winner(ctx: RuleContext, m: Any) -> dict[str, Any]:
        """R_i = R for the largest element i of a part of a region, else 0.  Bach et al. 2015. None to the region."""
        if "input" in ctx.carries:
            return pull_back_alone(ctx, main(ctx, m), "input")
        ctx.absorb("constant", main(ctx, m), None if ctx.form == "relevance" else main(ctx, ctx.output))
        return {}

    @add.rule("torchvision.deform_conv2d", variant="epsilon", absorbs=("bias", "epsilon", "constant"), default=True,
              reads=_reads_of_deformed)  # fmt: skip
    def deformed(ctx: RuleContext, m: Tensor, *, epsilon: NotNegative = 0.0) -> dict[str, Any]:
        """R_i = sum_j x_i w_ji / (z_j + eps sgn z_j) R_j, with x at the bent places.  Bach et al. 2015, eq. 58.

        A mask is a factor of each product and shares evenly with the input.  Achtibat et al. 2024, prop. 3.2. The offsets
        say where to look and get nothing.
        """
        m = ctx.damp(m, epsilon)
        bias = ctx.args["bias"]
        parts = [name for name in _FACTORS if name in ctx.carries]
        if "bias" not in ctx.carries:
            ctx.absorb("bias", m, bias.view(-1, 1, 1))
        if not parts:
            ctx.absorb("constant", m, ctx.output - bias.view(-1, 1, 1))
        wanted = [*parts, *(["bias"] if "bias" in ctx.carries else [])]
        handed = pull_back_alone(ctx, m, *wanted) if wanted else {}
        return {name: given / len(parts) if name in parts else given for name, given in handed.items()}

    @add.rule("torchvision.deform_conv2d", variant="gradient", absorbs=("bias", "product"),
              reads=("pullback", "constants", "carrying", "output"))  # fmt: skip
    def deformed_gradient(ctx: RuleContext, m: Tensor) -> dict[str, Any]:
        """m_i = sum_j w_ji m_j for the input, and likewise for mask and offsets: the op's gradient."""
        handed = pull_back_alone(ctx, m)
        ctx.absorb_rest("product", m, handed)
        if "bias" not in ctx.carries:
            bias = ctx.args["bias"].view(-1, 1, 1)
            ctx.absorb("bias", m, bias)
            ctx.absorb("product", m, -bias)
        return handed


def _reads_of_region(asked: Asked) -> tuple[str, ...]:
    return ("pullback",) if "input" in asked.carries else ("output",)


def _reads_of_deformed(asked: Asked) -> tuple[str, ...]:
    output = asked.parameters["epsilon"] or not asked.carries & set(_FACTORS)
    return ("pullback", "constants", "output") if output else ("pullback", "constants")
