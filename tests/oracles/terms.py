"""The single product terms of a sum of products: the weights that each element of a carrying factor is multiplied by."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from oracles.harness import Arriving, Case, Handed
from oracles.sums import Hashed

MANY_TERMS = ("aten.einsum", "aten.bilinear")
"""Ops that may multiply an element by several constants, or by sums of them, on its way to one output."""


class Factor(NamedTuple):
    """A carrying factor x of z_j = sum_i sum_t x_i w_jit + b_j, and its part of the relevance.

    Attributes
    ----------
    x
        Its elements, (I,).
    w
        The weights, (J, I, T): for each output and element one per product term.
    ones
        How many terms lead from an element to an output, (J, I): what the op makes of ones.
    b, z, R
        What is added, the output, and the factor's part of the relevance, (J,).
    shape, of
        The shape of the output and that of the factor.
    """

    x: Tensor
    w: Tensor
    ones: Tensor
    b: Tensor
    z: Tensor
    R: Tensor
    shape: torch.Size
    of: torch.Size

    @property
    def terms(self) -> Tensor:
        """x_i w_jit."""
        return self.x[None, :, None] * self.w


class Shared(NamedTuple):
    """What a formula hands to the elements of a factor, (I,), and books by name, (J,)."""

    handed: Tensor
    booked: Mapping[str, Tensor]


Formula = Callable[[Factor], Shared]


def positive(t: Tensor) -> Tensor:
    """max(0, t)."""
    return torch.where(t > 0, t, 0.0)


def negative(t: Tensor) -> Tensor:
    """min(0, t)."""
    return torch.where(t < 0, t, 0.0)


def shares(case: Case, arriving: Arriving, formula: Formula, additive: Sequence[int] = ()) -> Handed:
    """The formula for each of the n factors that carry, with the others as its weights, on R / n.

    A term that is added and carries gets what a bias would have absorbed. If nothing but that carries, the first
    constant factor is looked at in place of a carrying one, and what it would get is the constants'.
    """
    slots = case.arguments
    factors = [k for k in range(len(slots)) if k not in additive]
    of_constants = not factors
    looked_at = [len(slots)] if of_constants else factors
    values = [*slots, *case.constants]
    (R,), (z,) = arriving.R, arriving.z
    b = case.fn(*[torch.zeros_like(v) if k in looked_at else v for k, v in enumerate(values)])
    handed = [torch.zeros_like(x) for x in slots]
    booked: dict[str, Tensor] = {}
    for k in looked_at:
        factor = Factor(
            values[k].reshape(-1), _weights(Hashed(case), k, tuple(additive)), _ones(Hashed(case), k, tuple(additive)),
            b.reshape(-1), z.reshape(-1), R.reshape(-1) / len(looked_at), z.shape, values[k].shape,
        )  # fmt: skip
        share = formula(factor)
        for name, amount in share.booked.items():
            booked[name] = booked.get(name, torch.zeros_like(z)) + amount.reshape(z.shape)
        if of_constants:
            booked["constant"] = share.handed.sum()
        else:
            handed[k] = share.handed.reshape(values[k].shape)
    for k in additive:
        leads_to = _weights(Hashed(case), k, tuple(additive)).sum(2) != 0
        handed[k] = (booked.pop("bias").reshape(-1)[:, None] * leads_to).sum(0).reshape(slots[k].shape)
    return Handed(case.per_input(handed), booked)


def unit_responses(case: Case, values: Sequence[Tensor], which: int, additive: Sequence[int]) -> Tensor:
    """What the op makes of unit vectors in the place of one value, (J, I). Of an added term all else is 0."""
    x = values[which]
    rest = [torch.zeros_like(v) if which in additive or k in additive else v for k, v in enumerate(values)]
    rest[which] = torch.zeros_like(x)
    at_zero = case.fn(*rest)
    columns = []
    for i in range(x.numel()):
        unit = torch.zeros(x.numel(), dtype=x.dtype)
        unit[i] = 1.0
        rest[which] = unit.reshape(x.shape)
        columns.append((case.fn(*rest) - at_zero).reshape(-1))
    return torch.stack(columns, 1) if columns else torch.zeros(at_zero.numel(), 0, dtype=x.dtype)


@lru_cache(maxsize=64)
def _weights(case: Hashed, which: int, additive: tuple[int, ...]) -> Tensor:
    """All weights of one factor, (J, I, T): for ops with many terms each product of single elements for itself."""
    one = case.case
    values = [*one.arguments, *one.constants]
    if one.op not in MANY_TERMS or which in additive:
        return unit_responses(one, values, which, additive)[:, :, None]
    others = [k for k in range(len(values)) if k != which and k not in additive and _multiplies(one, values, which, k)]
    found = []
    for picked in itertools.product(*(range(values[k].numel()) for k in others)):
        single = list(values)
        for k, i in zip(others, picked, strict=True):
            single[k] = torch.zeros_like(values[k])
            single[k].view(-1)[i] = values[k].reshape(-1)[i]
        response = unit_responses(one, single, which, additive)
        if bool((response != 0).any()):
            found.append(response)
    return torch.stack(found, 2)


def _multiplies(case: Case, values: Sequence[Tensor], which: int, other: int) -> bool:
    """Whether a value is multiplied with another one, rather than added to the product."""
    rest = [torch.zeros_like(v) if k == other else v for k, v in enumerate(values)]
    full = [torch.ones_like(v) if k == which else v for k, v in enumerate(rest)]
    none = [torch.zeros_like(v) if k == which else v for k, v in enumerate(rest)]
    return torch.equal(case.fn(*full), case.fn(*none))


@lru_cache(maxsize=64)
def _ones(case: Hashed, which: int, additive: tuple[int, ...]) -> Tensor:
    """The number of terms from each element to each output, (J, I), whatever the op scales them by."""
    one = case.case
    values = [torch.ones_like(v) for v in (*one.arguments, *one.constants)]
    response = unit_responses(one, values, which, additive)
    return response if one.op in MANY_TERMS else (response != 0).to(response.dtype)
