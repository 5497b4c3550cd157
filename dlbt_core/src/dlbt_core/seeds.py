"""Seeds: a target meets the model's outputs, and tells its score and where relevance enters the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dlbt_core.errors import TargetError
from dlbt_core.graph.sample_axis import SampleAxis
from dlbt_core.scheduler.ledger import Account
from dlbt_core.scheduler.plan import Plan
from dlbt_core.target import Target

__all__ = ["Met", "meet", "of_others", "refuse_function"]


@dataclass
class Met:
    """A target that has met the outputs.

    Attributes
    ----------
    score
        What is explained, shape (B,).
    streams
        For each stream of messages: value to the multiplier with which relevance enters there.
    picked
        What the target left open.
    ends
        The values at which relevance enters, each with the axis of the samples whose scores it is of.
    accounts, unassigned, plan
        Books and plan of a target function, which has been handed back to the outputs already.
    """

    score: Tensor
    streams: tuple[Mapping[int, Tensor], ...]
    picked: list[Any]
    ends: Mapping[int, SampleAxis]
    accounts: tuple[Account, ...] = ()
    unassigned: Mapping[str, Tensor] | None = None
    plan: Plan | None = None

    @property
    def entered(self) -> tuple[int, ...]:
        """The values at which relevance enters."""
        return tuple(self.streams[0])


def meet(target: Target, outputs: Mapping[str, Tensor], values: Mapping[str, int], streams: int) -> Met:
    """A linear target on these outputs; `values` are the outputs' places in the graph.

    Of two streams the first is for what the target names, the second for all it does not.
    """
    seed = target.seed(outputs)
    entering = [{values[path]: m for path, m in seed.multipliers.items()}]
    if streams == 2:
        entering.append({values[path]: of_others(outputs[path], m) for path, m in seed.multipliers.items()})
    batch = SampleAxis.batch(seed.score.shape[0])
    return Met(seed.score, tuple(entering), seed.picked, dict.fromkeys(entering[0], batch))


def of_others(out: Tensor, weights: Tensor) -> Tensor:
    """The multiplier that gives what `weights` does not name the same relevance in total, by size.

    Sankarapu et al. 2024, contrastive mode: relevance against a class starts at all other outputs. Where no other
    output can take any, both streams start at the same place.

    Parameters
    ----------
    out, weights
        Shape (B, ..., C); the others are looked for along the last dimension.
    """
    if out.dim() == 0 or out.shape[-1] == 1:
        return weights
    named = (weights != 0).any(-1, keepdim=True)
    others = torch.where(named & (weights == 0) & out.isfinite(), out, torch.zeros_like(out))
    size = others.abs().sum(-1, keepdim=True)
    total = (weights * torch.where(weights == 0, torch.zeros_like(out), out)).sum(-1, keepdim=True)
    share = total / torch.where(size == 0, torch.ones_like(size), size)
    return torch.where(size == 0, weights, others.sign() * share)


def refuse_function(composite: str) -> None:
    """A function of the outputs has no "others".

    Raises
    ------
    TargetError
        Always.
    """
    raise TargetError(
        f"composite {composite!r} contrasts what the target names with all other outputs; a function names none.\n"
        "  fix  target=3, dlbt.target.token(...), contrast(...) or output(...), or another composite."
    )
