"""What a rule sees of its node: arguments, output, vector-Jacobian products, and the books."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from dlbt_core.errors import RuleContractError
from dlbt_core.graph.ir import Node, Value
from dlbt_core.graph.ops import arguments, packet, resolve_op
from dlbt_core.rules.pullback import Pullback, in_memory_order, memory_order

__all__ = [
    "Books",
    "RuleContext",
    "bind_call",
    "multiply",
    "paired",
    "share_of_epsilon",
    "stabilise",
    "vanish_where_zero",
]


def stabilise(z: Tensor, epsilon: float | Tensor) -> Tensor:
    """``z + epsilon * sgn(z)`` with ``sgn(0) = +1``: safe to divide by if `epsilon` is positive."""
    if not isinstance(epsilon, Tensor):
        epsilon = _visible(epsilon, z.dtype)
    if z.is_complex():
        return z + epsilon * torch.where(z == 0, torch.ones((), dtype=z.dtype, device=z.device), torch.sgn(z))
    sign = torch.where(z < 0, -1.0, 1.0).to(z.dtype)
    return z + epsilon * sign if isinstance(epsilon, Tensor) else torch.add(z, sign, alpha=epsilon)


def share_of_epsilon(z: Tensor, epsilon: float) -> Tensor:
    """``epsilon / (|z| + epsilon)``: the part of a relevance that is lost when it is divided by ``stabilise(z, epsilon)``."""
    epsilon = _visible(epsilon, z.dtype)
    return epsilon / (z.abs() + epsilon)


def _visible(epsilon: float, dtype: torch.dtype) -> float:
    """`epsilon`, but no less than the smallest normal number of a precision: 1e-12 is 0 in float16."""
    return epsilon and max(epsilon, torch.finfo(dtype).smallest_normal)


def multiply(a: Tensor, m: Tensor) -> Tensor:
    """``a * m``: relevance from a multiplier. Exactly 0 where `m` is, also where `a` is infinite (masked logits)."""
    return vanish_where_zero(m, paired(a, m))


def paired(a: Tensor, m: Tensor) -> Tensor:
    """``a * m``, and for complex numbers ``Re(conj(a) m)``: the sum over real and imaginary part, real itself."""
    if not (a.is_complex() and m.is_complex()):
        return a * m if not (a.is_complex() or m.is_complex()) else a.real * m.real
    return (torch.view_as_real(a.resolve_conj()) * torch.view_as_real(m.resolve_conj())).sum(-1)


def vanish_where_zero(m: Tensor, product: Tensor) -> Tensor:
    """`product`, and 0 where `m` is 0."""
    return torch.where(m == 0, torch.zeros((), dtype=product.dtype, device=product.device), product)


class Books(Protocol):
    """Where absorbed relevance is booked."""

    def absorb(self, node: Node, name: str, amount: Tensor, times: Tensor | None, like: int | None) -> None:
        """Book the sum of ``amount * times`` under `name`; `like` is a value whose layout `amount` has."""


class RuleContext:
    """What a rule sees of its node.

    Attributes
    ----------
    node : Node
        The op, where it ran, and the source line.
    args : mapping
        Arguments by schema name, defaults filled in, tensors as they were in the forward pass. Only what the rule
        declared in ``reads`` is there of the values that were computed on the way.
    output : Tensor or tuple of Tensor
        The op's result.
    carries : frozenset of str
        Names of the arguments through which relevance can flow on.
    facts : mapping of str to frozenset of str
        Argument name to the facts of its value, e.g. ``{"other": {"statistic"}}``.
    form : {"multiplier", "relevance"}
        The form of the message this time, for rules that take either.
    """

    def __init__(
        self,
        node: Node,
        args: Mapping[str, Any],
        output: Any,
        carries: frozenset[str],
        values: Mapping[tuple[str, int | None], Value],
        facts: Mapping[str, frozenset[str]],
        books: Books,
        pullback: Pullback | None = None,
        cache: Callable[[Any, Callable[[], Any], Sequence[str]], Any] | None = None,
        rule: str = "",
        form: str = "multiplier",
    ) -> None:
        self.node = node
        self.args = args
        self.carries = carries
        self.facts = facts
        self.form = form
        self._output = output
        self._values = values
        self._items: dict[str, tuple[int, ...]] = {}
        for name, item in values:
            if item is not None:
                self._items[name] = (*self._items.get(name, ()), item)
        self._books = books
        self._pullback = pullback
        self._cache = cache
        self._rule = rule

    def elsewhere(self, args: Mapping[str, Any], output: Any, books: Books) -> RuleContext:
        """The same node with other tensors and books, without what was kept for the ones it had; for tracing a rule."""
        return RuleContext(
            self.node, args, output, self.carries, self._values, self.facts, books, rule=self._rule, form=self.form
        )

    @property
    def output(self) -> Any:
        """The op's result."""
        if self._output is None:
            raise RuleContractError(
                f"{self._rule} uses ctx.output, which it did not declare.\n"
                "  fix  reads=(..., 'output') in its declaration, or no reads at all."
            )
        return self._output

    @property
    def packet(self) -> str:
        """The op's name without overload, e.g. ``"aten.add"``."""
        return packet(self.node.op)

    def places(self) -> tuple[tuple[str, int | None], ...]:
        """Where relevance can flow on: argument, and position in it if it is a list."""
        return tuple(self._values)

    def constants(self) -> dict[str, Tensor]:
        """Tensor arguments that carry no relevance, by name."""
        others = {name: self.args[name] for name in self.args if name not in self.carries}
        return {name: arg for name, arg in others.items() if isinstance(arg, Tensor)}

    def call(self, /, **replace: Any) -> Any:
        """Redo the op with some arguments replaced."""
        args, kwargs = bind_call(self.node.op, self._with(replace))
        return resolve_op(self.node.op)(*args, **kwargs)

    def _with(self, replace: Mapping[str, Any]) -> dict[str, Any]:
        return {name: replace[name] if name in replace else self.args[name] for name in self.args}

    def vjp(self, cotangent: Any, /, *names: str, **replace: Any) -> dict[str, Any]:
        """The op's vector-Jacobian product.

        Parameters
        ----------
        cotangent
            Shaped like the output; a sequence with None for unused results if the op has several.
        *names
            For which arguments; all carrying ones unless said.
        **replace
            Arguments to replace first (weights by their positive part, say). Costs a forward pass of the op.

        Returns
        -------
        dict
            Argument name to product; a list with None where nothing is carried for a list argument.
        """
        wanted = names or tuple(self.carries)
        cotangents = list(cotangent) if self.node.many else [cotangent]
        if replace or self._pullback is None or not set(wanted) <= self.carries:
            found = self._fresh_vjp(cotangents, wanted, replace)
        else:
            found = self._pullback(cotangents)
        result: dict[str, Any] = {}
        for name in wanted:
            if (name, None) in found:
                if found[name, None] is not None:
                    result[name] = found[name, None]
                continue
            given = self.args.get(name)
            size = len(given) if given is not None else 1 + max(i for n, i in found if n == name and i is not None)
            items = [found.get((name, i)) for i in range(size)]
            if any(item is not None for item in items):
                result[name] = items
        return result

    def _fresh_vjp(self, cotangents: list[Tensor | None], wanted: Sequence[str], replace: Mapping[str, Any]) -> Any:
        """Run the op again under `torch.func.vjp`: pure, so it holds under vmap and tracing."""
        args = self._with(replace)
        keys: list[tuple[str, int | None]] = []
        for name in wanted:
            items = self._items.get(name)
            if items is None and isinstance(args[name], (list, tuple)):
                items = tuple(i for i, item in enumerate(args[name]) if isinstance(item, Tensor))
            keys += [(name, None)] if items is None else [(name, i) for i in items]

        def run(*tensors: Tensor) -> tuple[Tensor, ...]:
            full = dict(args)
            for (name, item), tensor in zip(keys, tensors, strict=True):
                if item is None:
                    full[name] = tensor
                else:
                    full[name] = [*full[name][:item], tensor, *full[name][item + 1 :]]
            positional, keywords = bind_call(self.node.op, full)
            out = resolve_op(self.node.op)(*positional, **keywords)
            outs = list(out) if self.node.many else [out]
            return tuple(o for o, c in zip(outs, cotangents, strict=True) if c is not None)

        primals = [args[name] if item is None else args[name][item] for name, item in keys]
        pull = torch.func.vjp(run, *primals)[1]
        order = memory_order(self.node.op, primals[0])
        laid = tuple(in_memory_order(c, order) for c in cotangents if c is not None)
        return dict(zip(keys, pull(laid), strict=True))

    def damp(self, m: Tensor, epsilon: float | Tensor) -> Tensor:
        """``m * |z| / (|z| + epsilon)``: the epsilon rule's denominator on a multiplier; books what it takes."""
        if isinstance(epsilon, Tensor):
            below = self.output.abs() + epsilon
            damped = torch.where(below == 0, m, m * self.output.abs() / below)
        elif epsilon == 0:
            return m
        else:
            damped = m / (1 + epsilon / self.output.abs())  # in this form also right where z is 0 or infinite
        self.absorb("epsilon", multiply(self.output, m - damped))
        return damped

    @staticmethod
    def stabilise(z: Tensor, epsilon: float) -> Tensor:
        """``z + epsilon * sgn(z)`` with ``sgn(0) = +1``."""
        return stabilise(z, epsilon)

    def absorb(self, name: str, amount: Tensor, times: Tensor | None = None, result: int = 0) -> None:
        """Book what is not handed on: the sum of ``amount * times`` over each sample.

        Parameters
        ----------
        name
            What absorbed it; one of the names the rule declared.
        amount
            Shaped like the node's output.
        times
            A finite factor of any shape that broadcasts against `amount`.
        result
            Which output `amount` is shaped like, if there are several.
        """
        self._books.absorb(self.node, name, amount, times, self.node.outputs[result])

    def absorb_at(self, argument: str, name: str, amount: Tensor, times: Tensor | None = None) -> None:
        """Book an amount shaped like a carrying argument instead of the output."""
        self._books.absorb(self.node, name, amount, times, self._values[argument, None].index)

    def shape(self, argument: str) -> tuple[int, ...]:
        """Shape of a carrying argument, also where its numbers were not kept."""
        return self._values[argument, None].shape

    def absorb_rest(self, name: str, message: Any, handed: Mapping[str, Any]) -> None:
        """Book the difference between what came in and what is handed on.

        For ops whose remainder has no form of its own. Needs the op's output and its carrying arguments.
        """
        outputs = self.output if self.node.many else [self.output]
        messages = message if self.node.many else [message]
        for index, out, m in zip(self.node.outputs, outputs, messages, strict=True):
            if m is not None:
                self._books.absorb(self.node, name, multiply(out, m), None, index)
        for (argument, item), value in self._values.items():
            given = handed.get(argument)
            m = given if item is None or given is None else given[item]
            if m is not None:
                a = self.args[argument] if item is None else self.args[argument][item]
                self._books.absorb(self.node, name, -multiply(a, m), None, value.index)

    def gradient(self, message: Any, rest: str) -> dict[str, Any]:
        """What the op's own gradient hands on; what that has more or less than came in is booked under `rest`."""
        handed = self.vjp(message)
        self.absorb_rest(rest, message, handed)
        return handed

    def absorb_offset(self, name: str, message: Any) -> None:
        """Book what the op's constant part takes: the part of the message that lies on results not made of arguments.

        On multipliers that is the message times the op with its carrying arguments at zero. A copying op may also be
        given relevance: then it is the relevance of the elements that are the same whatever the arguments are.
        """
        offset = self.call(**self._filled(0.0, message))
        other = self.call(**self._filled(1.0, message)) if self.form == "relevance" else offset
        results = enumerate(zip(message, offset, other, strict=True) if self.node.many else [(message, offset, other)])
        for index, (part, constant, changed) in results:
            if part is None:
                continue
            if self.form == "relevance":
                self.absorb(name, torch.where(constant == changed, part, torch.zeros_like(part)), result=index)
            else:
                self.absorb(name, multiply(constant, part), result=index)

    def _filled(self, value: float, message: Any) -> dict[str, Any]:
        """The carrying arguments, filled with a number."""
        like = next(x for x in (message if self.node.many else [message]) if x is not None)
        filled: dict[str, Any] = {}
        for (argument, item), known in self._values.items():
            dtype = known.dtype if known.is_floating else like.dtype
            full = torch.full(known.shape, value, dtype=dtype, device=like.device)
            if item is None:
                filled[argument] = full
            else:
                items = filled.setdefault(argument, list(self.args[argument]))
                items[item] = full
        return filled

    def cached(self, key: Any, make: Callable[[], Any], *arguments: str) -> Any:
        """A value derived from weights, kept from call to call until one of them changes.

        Parameters
        ----------
        key
            What it is called, among all that is kept for the node.
        make
            Computes it.
        *arguments
            The arguments it is made from; all but the carrying ones unless said. If one of them depends on the model's
            inputs, nothing is kept.
        """
        names = arguments or tuple(name for name in self.args if name not in self.carries)
        return make() if self._cache is None else self._cache(key, make, names)


def bind_call(op: str, args: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Arguments by schema name as positional and keyword arguments of the op."""
    positional: list[Any] = []
    keywords: dict[str, Any] = {}
    for argument in arguments(op):
        value = args.get(argument.name, argument.default)
        if argument.keyword_only:
            if argument.name in args:
                keywords[argument.name] = value
        else:
            positional.append(value)
    return positional, keywords
