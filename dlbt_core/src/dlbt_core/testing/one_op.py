"""A model of one op, explained by the rule under test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dlbt_core import target as targets
from dlbt_core.composites.select import Select, Use
from dlbt_core.explainer import Explainer
from dlbt_core.testing.samples import NAMES, Arriving, Case, Check, floating, source
from dlbt_core.testing.streams import decreed, plugins_with_decree, with_decree

__all__ = ["OneOp", "arriving", "explainer_of", "masks_for", "run", "target_of"]


class OneOp(nn.Module):
    """The model: the op alone, or behind ``2 * (x / 2)`` so that its arguments are values computed on the way.

    Before two streams there is a copy of its output, one row per sample, on which their relevance is decreed.

    Parameters
    ----------
    case
        The op and its tensors.
    behind
        Whether other ops come before it.
    streams
        Whether two streams of messages are to arrive.
    """

    def __init__(self, case: Case, behind: bool = False, streams: bool = False) -> None:
        super().__init__()
        self.rows = case.rows_of if streams else None
        self.fn, self.places, self.behind, self.count = case.fn, case.places, behind, len(case.constants)
        self.rectified = case.rectified
        for i, constant in enumerate(case.constants):
            self.register_buffer(f"constant_{i}", constant)

    def forward(self, a: Tensor, b: Tensor | None = None, c: Tensor | None = None, d: Tensor | None = None) -> Any:
        """The op's floating-point results."""
        inputs = [t for t in (a, b, c, d) if t is not None]
        constants = [getattr(self, f"constant_{i}") for i in range(self.count)]
        if self.behind:
            inputs = [_again(t) for t in inputs]
            constants = [_again(t) for t in constants]
        if self.rectified:
            inputs = [torch.relu(t) for t in inputs]
        out = floating(self.fn(*[inputs[i] for i in self.places], *constants))
        if self.rows is not None:
            return self.rows(out[0]).clone()
        return out[0] if len(out) == 1 else tuple(z.clone() for z in out)


def _again(tensor: Tensor) -> Tensor:
    """The same numbers, as a value computed on the way. Exact: halving and doubling lose nothing."""
    return (tensor * 0.5) * 2.0 if tensor.is_floating_point() else tensor.clone()


def masks_for(outputs: Sequence[Tensor], seed: int = 0) -> list[Tensor]:
    """Random multipliers for all outputs, exact in float32 too; 0 where an output is infinite."""
    rand = source(1000 + seed)
    return [torch.where(torch.isfinite(z), (rand(*z.shape) * 64).round() / 64, 0.0) for z in outputs]


def target_of(check: Check, masks: Sequence[Tensor | None]) -> Any:
    """The outputs, weighted by masks and summed: per sample if the case has samples, else in all. None leaves one out."""
    if check.streams:
        return _target_of_streams(check.case, masks)
    if len(masks) == 1 and masks[0] is not None and check.case.batched and masks[0].dim() > 1:
        return targets.logits(masks[0])

    def weighted(out: Any) -> Tensor:
        parts = []
        for z, mask in zip(floating(out), masks, strict=True):
            if mask is None:
                continue
            product = z * mask.to(z)
            parts.append(product.reshape(z.shape[0], -1).sum(1) if check.case.batched else product.sum())
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    return targets.function(weighted)


def _target_of_streams(case: Case, masks: Sequence[Tensor | None]) -> Any:
    """The same, but for the last output of each sample, at which the other stream starts."""
    (mask,) = masks
    assert mask is not None
    weights = case.rows_of(mask).clone()
    if weights.shape[1] > 1:
        weights[:, -1] = 0.0
    return targets.logits(weights)


def arriving(check: Check, masks: Sequence[Tensor | None]) -> Arriving:
    """What then arrives at the op."""
    z = check.case.outputs()
    if check.streams:
        (out,) = z
        weights = target_of(check, masks).mask
        both = decreed(check.case.rows_of(out.double()) * weights)
        return Arriving([], [both.reshape(2, *out.shape)], z)
    whole = [torch.zeros_like(out) if m is None else m for m, out in zip(masks, z, strict=True)]
    return Arriving(whole, [torch.where(m == 0, 0.0, m * out.double()) for m, out in zip(whole, z, strict=True)], z)


def explainer_of(
    check: Check, *, audit: bool = True, behind: bool = False, explained: Sequence[str] | None = None
) -> Explainer:
    """What explains a one-op model by one rule.

    Parameters
    ----------
    check
        The op and the rule.
    audit, behind
        See `Explainer` and `OneOp`.
    explained
        Names of the inputs through which relevance flows; all of them unless given.
    """
    case = check.case
    return Explainer(
        OneOp(case, behind, check.streams).eval(),
        with_decree(check.composite) if check.streams else check.composite,
        rules=[(Select(op=case.op), Use(check.variant, **check.parameters))],
        explain_inputs=list(NAMES[: len(case.inputs)] if explained is None else explained),
        layers="none",
        audit=audit,
        plugins=plugins_with_decree(check.plugins) if check.streams else check.plugins,
    )


def run(check: Check, masks: Sequence[Tensor | None], *, targets: Sequence[Any] | None = None, **options: Any) -> Any:
    """The explanation of a one-op model by one rule.

    Parameters
    ----------
    check
        The op and the rule.
    masks
        Multipliers of the outputs.
    targets
        In place of the one that the masks say.
    **options
        See `explainer_of`.
    """
    explain = explainer_of(check, **options)
    if targets is not None:
        return explain(*check.case.inputs, targets=targets)
    return explain(*check.case.inputs, target=target_of(check, masks))
