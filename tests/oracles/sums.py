"""Sums and products: what each input contributes to each output, and the share it gets for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from oracles.harness import Arriving, Case, Handed


class Hashed:
    """Lets a case be a key; holds it, so that its identity is not given to another."""

    def __init__(self, case: Case) -> None:
        self.case = case

    def __hash__(self) -> int:
        return id(self.case)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hashed) and self.case is other.case


def stabilised(z: Tensor, epsilon: float) -> Tensor:
    """z + eps sgn(z), sgn(0) = +1."""
    return z + epsilon * torch.where(z < 0, -1.0, 1.0).to(z.dtype)


def contributions(call: Callable[..., Tensor], slots: Sequence[Tensor], which: int, additive: Sequence[int]) -> Tensor:
    """x_i w_ji for all outputs j and elements i of one slot: the op applied to unit vectors, shape (outputs, elements).

    The other factors stay as they are; terms that are added are 0, and so is every factor while a term is looked at.
    """
    x = slots[which]
    rest = [torch.zeros_like(s) if k in additive or which in additive else s for k, s in enumerate(slots)]
    columns = []
    rest[which] = torch.zeros_like(x)
    at_zero = call(*rest)
    for i in range(x.numel()):
        unit = torch.zeros(x.numel(), dtype=x.dtype)
        unit[i] = 1.0
        rest[which] = unit.reshape(x.shape)
        columns.append((call(*rest) - at_zero).reshape(-1) * x.reshape(-1)[i])
    return torch.stack(columns, 1) if columns else torch.zeros(at_zero.numel(), 0, dtype=x.dtype)


@lru_cache(maxsize=64)
def _remembered(case: Hashed, which: int, additive: tuple[int, ...]) -> Tensor:
    return contributions(case.case.call, case.case.arguments, which, additive)


def _contributions_of(case: Case, which: int, additive: tuple[int, ...]) -> Tensor:
    """The same for all variants of a rule, so kept from one to the next."""
    return _remembered(Hashed(case), which, additive)


def sum_of_products(
    case: Case, arriving: Arriving, *, epsilon: float = 0.0, uniform: bool = True, additive: Sequence[int] = (),
    offset_name: str = "bias", bias_dropped: bool = False, signal: int | None = None,
) -> Handed:  # fmt: skip
    """R_i = sum_j x_i w_ji / (z_j + eps sgn z_j) R_j; b_j / (...) R_j to the offset, the rest to epsilon.

    Bach et al. 2015, eq. 58; Montavon et al. 2019, sec. 10.2.1. Of the n factors of a product that carry each gets
    1 / n: Achtibat et al. 2024, prop. 3.2 and 3.3. With `uniform` off each gets all of it (input times gradient), which
    is n - 1 times too much, and that is booked. A bias that is dropped is no part of z_j: Montavon et al. 2017, sec. 5.1.
    With a `signal`, that factor gets all of it and the others nothing: Arras et al. 2017.
    """
    slots = case.arguments
    (R,), (z,) = arriving.R, arriving.z
    b = case.call(*[torch.zeros_like(x) for x in slots])
    if bias_dropped:
        z = z - b
    quotient = (R / stabilised(z, epsilon)).reshape(-1)
    factors = [k for k in range(len(slots)) if k not in additive]
    share = 1.0 / len(factors) if uniform and factors else 1.0
    handed = []
    product = torch.zeros(z.numel(), dtype=z.dtype)
    for k, x in enumerate(slots):
        C = _contributions_of(case, k, tuple(additive))
        if k in factors:
            product = C.sum(1)
        own = share if signal is None else float(k == signal)
        handed.append((C * quotient[:, None]).sum(0).reshape(x.shape) * (own if k in factors else 1.0))
    if not factors:
        offset_name = "constant"
    absorbed = {} if bias_dropped else {offset_name: (b.reshape(-1) * quotient).reshape(z.shape)}
    if epsilon:
        absorbed["epsilon"] = (quotient * (stabilised(z, epsilon) - z).reshape(-1)).reshape(z.shape)
    if not uniform and len(factors) > 1:
        absorbed["product"] = (-(len(factors) - 1) * product * quotient).reshape(z.shape)
    return Handed(case.per_input(handed), absorbed)


def summed_to(amount: Tensor, shape: Sequence[int]) -> Tensor:
    """What each element of a tensor of `shape` gets, if it was broadcast to the shape of `amount`: index by index."""
    total = torch.zeros(int(torch.Size(shape).numel()), dtype=amount.dtype)
    index = torch.arange(total.numel()).reshape(shape).expand(amount.shape).reshape(-1)
    for i, r in zip(index.tolist(), amount.reshape(-1), strict=True):
        total[i] += r
    return total.reshape(shape)


def elementwise_product(
    case: Case, arriving: Arriving, *, inverse: Sequence[int] = (), uniform: bool = True, epsilon: float = 0.0
) -> Handed:
    """R / n to each of the n carrying factors: Achtibat et al. 2024, prop. 3.2, eq. 7. Also for those divided by.

    Input times gradient gives R to a factor and -R to a divisor, x dz/dx = +-z, and books the difference. With an epsilon
    R is z / (z + eps sgn z) of what arrives.
    """
    (whole,), (z,) = arriving.R, arriving.z
    R = whole * z / stabilised(z, epsilon) if epsilon else whole
    slots = case.arguments
    signs = [-1.0 if k in inverse else 1.0 for k in range(len(slots))]
    parts = [summed_to(R / len(slots) if uniform else sign * R, x.shape) for sign, x in zip(signs, slots, strict=True)]
    absorbed = {"epsilon": whole - R} if epsilon else {}
    return Handed(case.per_input(parts), absorbed if uniform else {"product": R * (1.0 - sum(signs))})


def elementwise_sum(
    case: Case, arriving: Arriving, terms: Callable[..., Sequence[Tensor]], epsilon: float = 0.0
) -> Handed:
    """R_k = x_k / (z + eps sgn z) R for each term x_k of a sum z; a constant term keeps its own part.

    Bach et al. 2015, eq. 58, with weights 1. `terms` gives the terms with their signs, slots first.
    """
    (R,), (z,) = arriving.R, arriving.z
    quotient = R / stabilised(z, epsilon)
    found = [t.expand(z.shape) * quotient for t in terms(*case.arguments, *case.constants)]
    count = len(case.arguments)
    parts = [summed_to(p, x.shape) for p, x in zip(found, case.arguments, strict=False)]
    absorbed = {"constant": sum(found[count:], torch.zeros_like(z))}
    if epsilon:
        absorbed["epsilon"] = quotient * (stabilised(z, epsilon) - z)
    return Handed(case.per_input(parts), absorbed)


def all_to_one(case: Case, arriving: Arriving, *, signal: int) -> Handed:
    """R_signal = R, nothing to the other factor: Arras et al. 2017. A factor that carries alone gets it anyway."""
    (R,) = arriving.R
    slots = case.arguments
    chosen = signal if len(slots) > 1 else 0
    parts = [summed_to(R if k == chosen else torch.zeros_like(R), x.shape) for k, x in enumerate(slots)]
    return Handed(case.per_input(parts))
