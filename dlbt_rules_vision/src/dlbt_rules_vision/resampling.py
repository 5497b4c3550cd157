"""Resampling: images made larger, smaller or bent, as linear maps of their pixels; and copies of pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dlbt_core.graph.ops import COPIES_OF_PIXELS
from dlbt_core.rules.builtin.structural import declare_copies
from dlbt_core.rules.context import RuleContext
from dlbt_core.rules.rule import RuleSet
from dlbt_rules_vision.alone import pull_back_alone
from dlbt_rules_vision.looking import declare_maps

__all__ = ["declare"]

_INTERPOLATED = tuple(
    f"aten.{name}"
    for name in (
        "upsample_linear1d upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d "
        "_upsample_bilinear2d_aa _upsample_bicubic2d_aa col2im"
    ).split()
)
_INTERPOLATED_ALONE = ("aten._upsample_lanczos2d_aa",)
_SAMPLED = ("aten.grid_sampler", "aten.grid_sampler_2d", "aten.grid_sampler_3d")
_NEAREST_EXACT = frozenset(f"aten._upsample_nearest_exact{n}d" for n in (1, 2, 3))
_SHUFFLE = frozenset({"aten.native_channel_shuffle"})

MAPS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys((*_INTERPOLATED, *_INTERPOLATED_ALONE), ("self", "input")),
    **dict.fromkeys(_SAMPLED, ("input",)),
    "aten.affine_grid_generator": ("theta",),
}
"""Linear maps, by the argument they map. Others say where to look."""

ALONE = frozenset({*_INTERPOLATED_ALONE, "aten.affine_grid_generator"})
"""Those whose kernel takes one message at a time."""


def declare(add: RuleSet) -> None:
    """Declare the rules of this module."""
    declare_maps(add, MAPS, ALONE)
    declare_copies(add, COPIES_OF_PIXELS - _NEAREST_EXACT - _SHUFFLE)

    @add.rule(*sorted(_NEAREST_EXACT), variant="gradient", takes="either", default=True, reads=("pullback",))
    def nearest(ctx: RuleContext, m: Any) -> dict[str, Any]:
        """R_i = sum of R_j over the copies j of i: the adjoint of a copy. Exact in both forms of the message."""
        return pull_back_alone(ctx, m)

    @add.rule(*_SHUFFLE, variant="gradient", takes="either", default=True, reads=())
    def shuffled(ctx: RuleContext, m: Tensor) -> dict[str, Tensor]:
        """R_i = R_j where channel i went to j. Exact: of g groups of n channels back from n groups of g."""
        behind = len(ctx.shape("self")) - 1
        return {
            "self": m.unflatten(-behind, (-1, ctx.args["groups"]))
            .transpose(-behind, -behind - 1)
            .flatten(-behind - 1, -behind)
        }
