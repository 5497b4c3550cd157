"""Sums of products: how the arguments of an op enter, and one of its factors seen alone, the others as its weights."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dlbt_core.rules.context import RuleContext

__all__ = ["FAMILY", "Part", "Product", "Side"]

Weights = tuple[Tensor, ...]


class Product(NamedTuple):
    """The parts of an op that is a sum of products plus an offset.

    Attributes
    ----------
    factors
        Arguments whose product is taken. The relevance of a product is shared evenly between those that carry. One
        factor alone stands for a linear map with fixed coefficients that are not negative: a mean, say.
    offset
        Argument that is added, or a function of the context that gives it. It takes its own part.
    channel
        The dimension of the channels: from the right if negative, as a one-dimensional offset lies.
    inverse
        Factors that are divided by: their derivative has the opposite sign of their share.
    weights, apply
        For ops whose coefficients are computed from their arguments: gives them; applies the op to a factor and them.
    """

    factors: tuple[str, ...]
    offset: str | Callable[[RuleContext], Tensor | None] = ""
    channel: int = -1
    inverse: tuple[str, ...] = ()
    weights: Callable[[RuleContext], Weights] | None = None
    apply: Callable[[RuleContext, Tensor, Weights], Tensor] | None = None

    # -- the offset -----------------------------------------------------------------------------------------------------

    def added(self, ctx: RuleContext) -> Tensor | None:
        """The constant that the op adds, shaped to broadcast against its output; None if it carries relevance itself."""
        return None if self.offset in ctx.carries else self.summand(ctx)

    def summand(self, ctx: RuleContext) -> Tensor | None:
        """What the op adds, constant or not."""
        found = self.offset(ctx) if callable(self.offset) else ctx.args.get(self.offset) if self.offset else None
        if found is None or ctx.args.get("beta", 1) == 0:  # what is not added may be memory that was never written
            return None
        found = found * ctx.args["beta"] if ctx.args.get("beta", 1) != 1 else found
        return self.along_channel(found, 0) if found.dim() == 1 and self.channel < 0 else found

    def along_channel(self, vector: Tensor, rank: int) -> Tensor:
        """One number per channel, shaped to broadcast against a tensor of that rank."""
        behind = -self.channel if self.channel < 0 else rank - self.channel
        return vector.view(-1, *[1] * (behind - 1))

    def settle(self, ctx: RuleContext, handed: dict[str, Any], c: Tensor, part: Tensor, of: Tensor | None) -> None:
        """Give the offset what is its own, ``c * part``: a constant absorbs it, one that carries is handed it.

        Parameters
        ----------
        c
            Relevance per unit of the denominator.
        part
            How the offset enters the denominator.
        of
            The offset, to hand its part on as a multiplier; None to hand it on as relevance.
        """
        if self.offset not in ctx.carries:
            ctx.absorb("bias", c, part)
            return
        assert isinstance(self.offset, str)
        if of is not None:
            part = torch.where(of == 0, torch.zeros_like(part), part / torch.where(of == 0, torch.ones_like(of), of))
            part = part * ctx.args.get("beta", 1)
        found = _folded(c * part, ctx.shape(self.offset), self.channel)
        handed[self.offset] = handed[self.offset] + found if self.offset in handed else found

    # -- the factors ----------------------------------------------------------------------------------------------------

    def surplus(self, handed: Mapping[str, Any]) -> int:
        """How many times more than it got the op's gradient hands on through its factors."""
        counts = ((-1 if name in self.inverse else 1) * count(handed[name]) for name in self.factors if name in handed)
        return sum(counts) - 1

    def sides(self, ctx: RuleContext) -> list[Side]:
        """The carrying factors, each with the others as its weights.

        If none carries, the product is a constant: one side that books what it would hand on.
        """
        carrying = [Side(ctx, self, name, item) for name, item in ctx.places() if name in self.factors]
        return carrying or [Side(ctx, self, self.factors[0], None, constant=True)]


def _folded(amount: Tensor, shape: tuple[int, ...], channel: int) -> Tensor:
    """Sum `amount` to the shape of an offset that was broadcast, or lies along a channel."""
    return (
        amount.sum_to_size(*shape, *[1] * (-channel - 1)).reshape(shape)
        if len(shape) == 1
        else amount.sum_to_size(shape)
    )


def count(given: Any) -> int:
    """Of how many factors an argument consists."""
    return sum(x is not None for x in given) if isinstance(given, list) else 1


class Part(NamedTuple):
    """A part of the products, summed up: its value, and its transpose on multipliers."""

    z: Tensor
    back: Callable[[Tensor], Tensor]


class Side:
    """One carrying factor of a product: a linear map of that factor, with all the others as its weights.

    Attributes
    ----------
    x : Tensor
        The factor.
    constant
        Whether it carries no relevance itself.
    """

    def __init__(
        self, ctx: RuleContext, product: Product, name: str, item: int | None, constant: bool = False
    ) -> None:
        self.ctx, self.product, self.name, self.item, self.constant = ctx, product, name, item, constant
        self.x: Tensor = ctx.args[name] if item is None else ctx.args[name][item]
        self._nonnegative = item is None and "nonnegative" in ctx.facts.get(name, ())

    def place(self, handed: dict[str, Any], message: Tensor) -> None:
        """Enter a message for this factor."""
        if self.constant:
            return
        if self.item is None:
            handed[self.name] = message
        else:
            handed.setdefault(self.name, [None] * len(self.ctx.args[self.name]))[self.item] = message

    # -- the map --------------------------------------------------------------------------------------------------------

    def transposed(self, c: Tensor) -> Tensor:
        """The transpose of the op itself; needs its pullback, and the output."""
        if self.constant:
            summand, output = self.product.summand(self.ctx), self.ctx.output
            return self._booked(c, output if summand is None else output - summand)
        found: Any = self.ctx.vjp(c, self.name)[self.name]
        message: Tensor = found if self.item is None else found[self.item]
        return message

    def map(self, x: Tensor, weights: Sequence[Weights]) -> Part:
        """The sum of the op, without its offset, on `x` with each of some sets of weights."""
        if not weights:
            return Part(torch.zeros((), dtype=x.dtype, device=x.device), lambda c: torch.zeros_like(x))
        if self.constant:
            z = reduce(torch.add, (self._run(x, w) for w in weights))
            return Part(z, lambda c: self._booked(c, z))
        return _linear(lambda entry: reduce(torch.add, (self._run(entry, w) for w in weights)), x)

    def _booked(self, c: Tensor, z: Tensor) -> Tensor:
        """What a constant takes; nothing is handed on."""
        self.ctx.absorb("constant", c * z)
        return torch.zeros((), dtype=c.dtype, device=c.device)

    def _run(self, x: Tensor, weights: Weights) -> Tensor:
        """The op without its offset and scale."""
        ctx, product = self.ctx, self.product
        if product.apply is not None:
            return product.apply(ctx, x, weights)
        replaced: dict[str, Any] = {self.name: x} if self.item is None else {}
        others = iter(weights)
        for name, item in self._others():
            if item is None:
                replaced[name] = next(others)
        for name in product.factors:
            if isinstance(ctx.args[name], (list, tuple)):
                replaced[name] = [
                    x if (name, i) == (self.name, self.item) else next(others) for i in range(len(ctx.args[name]))
                ]
        if "alpha" in ctx.args:
            replaced["alpha"] = 1
        if "beta" in ctx.args:
            replaced["beta"] = 0
        elif isinstance(product.offset, str) and product.offset:
            replaced[product.offset] = None
        result: Tensor = ctx.call(**replaced)
        return result

    def _others(self) -> Iterator[tuple[str, int | None]]:
        """The other factors: those that are arguments of their own, then those in a list."""
        args = self.ctx.args
        for name in self.product.factors:
            if not isinstance(args[name], (list, tuple)) and name != self.name:
                yield name, None
        for name in self.product.factors:
            if isinstance(args[name], (list, tuple)):
                yield from ((name, i) for i in range(len(args[name])) if (name, i) != (self.name, self.item))

    # -- its weights ----------------------------------------------------------------------------------------------------

    def _weights(self) -> Weights:
        ctx = self.ctx
        if self.product.weights is not None:
            return self.product.weights(ctx)
        found = [ctx.args[name] if item is None else ctx.args[name][item] for name, item in self._others()]
        if found and ctx.args.get("alpha", 1) != 1:
            found[0] = found[0] * ctx.args["alpha"]
        return tuple(found)

    def derived(self, key: str, make: Callable[[Weights], list[Weights]]) -> list[Weights]:
        """Something made of the weights; kept if they are parameters."""
        names = (
            {name for name, _ in self._others()} if self.product.weights is None else set(self.ctx.args) - {self.name}
        )
        found: list[Weights] = self.ctx.cached(
            (key, self.name, self.item), lambda: make(self._weights()), *sorted(names)
        )
        return found

    def signed(self, sign: int) -> list[Weights]:
        """Sets of weights whose products are the positive, or negative, coefficients. The sign is each single term's."""
        return self.derived(f"sign {sign:+d}", lambda weights: _of_sign(weights, sign))

    # -- its parts ------------------------------------------------------------------------------------------------------

    def part(self, sign: int) -> Part:
        """The sum of all positive, or negative, products ``x_i w_ji``; its transpose gives multipliers of x."""
        x = self.x
        if self._nonnegative:
            return self.map(x, self.signed(sign))
        up, down = self.map(x.clamp(min=0), self.signed(sign)), self.map(x.clamp(max=0), self.signed(-sign))
        return Part(up.z + down.z, lambda c: torch.where(x >= 0, up.back(c), down.back(c)))


def _of_sign(weights: Weights, sign: int) -> list[Weights]:
    parts = [(w.clamp(min=0), w.clamp(max=0)) for w in weights]
    return [
        tuple(part[k] for part, k in zip(parts, picked, strict=True))
        for picked in itertools.product((0, 1), repeat=len(weights))
        if (-1) ** sum(picked) == sign
    ]


with torch.inference_mode(False):
    _SEED = torch.zeros((), requires_grad=True)  # makes a tensor enter autograd where requires_grad_() is refused


def _linear(run: Callable[[Tensor], Any], x: Tensor) -> Part:
    """A linear map at x, run once with autograd on, and its transpose. As fit for vmap as a map of its messages is."""
    with torch.enable_grad():
        entry = x + _SEED
        z = run(entry)
    return Part(z.detach(), lambda c: torch.autograd.grad(z, entry, c.expand(z.shape), retain_graph=True)[0])


FAMILY: Mapping[str, Product] = {
    "aten.linear": Product(("input", "weight"), "bias"),
    "aten.addmm": Product(("mat1", "mat2"), "self"),
    "aten.addmv": Product(("mat", "vec"), "self"),
    "aten.addbmm": Product(("batch1", "batch2"), "self"),
    "aten.baddbmm": Product(("batch1", "batch2"), "self"),
    "aten.mm": Product(("self", "mat2")),
    "aten.mv": Product(("self", "vec")),
    "aten.bmm": Product(("self", "mat2")),
    "aten.dot": Product(("self", "tensor")),
    "aten.outer": Product(("self", "vec2")),
    "aten.matmul": Product(("self", "other")),
    "aten.einsum": Product(("tensors",)),
    "aten.bilinear": Product(("input1", "input2", "weight"), "bias"),
}
"""Ops of the family in the built-in plugin, and how their arguments enter."""
