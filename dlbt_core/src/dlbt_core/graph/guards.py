"""What a replay must find as the recording did: what Python has read of tensors, and random numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from dlbt_core.graph.ir import Guard

__all__ = ["advanced", "guard_of", "random_state"]

_ESCAPES = {"resolve_conj", "resolve_neg"}
_SHAPED_BY_CONTENT = {"_pack_padded_sequence"}  # torch does not tag it


def guard_of(func: Any, given: Mapping[str, Any], items: list[Any]) -> Guard | None:
    """What Python learns from this op, so that a replay can tell whether the run would have gone another way."""
    if any(isinstance(item, (bool, int, float, complex)) for item in items):
        return Guard("result", items[0] if len(items) == 1 else tuple(items))
    if func._opname in _ESCAPES:
        return Guard("content", items[0].clone())
    dynamic = torch.Tag.dynamic_output_shape in func.tags or func._opname in _SHAPED_BY_CONTENT
    if dynamic or _indexes_by_mask(func, given):
        return Guard("shape", tuple(tuple(item.shape) for item in items if isinstance(item, torch.Tensor)))
    return None


def _indexes_by_mask(func: Any, given: Mapping[str, Any]) -> bool:
    indices = given.get("indices") if func._opname == "index" else None
    return isinstance(indices, (list, tuple)) and any(
        isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8) for index in indices
    )


def random_state(func: Any) -> list[Any] | None:
    """The generators' states before an op that may draw from them."""
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return None
    return _states()


def _states() -> list[Any]:
    found = [torch.get_rng_state()]
    if torch.cuda.is_initialized():
        found += torch.cuda.get_rng_state_all()
    return found


def advanced(before: list[Any]) -> bool:
    """Whether a generator has moved on from the states of `random_state`."""
    return not all(torch.equal(a, b) for a, b in zip(before, _states(), strict=True))
