"""Recurrent cells step by step: one table of what is gate and what is signal, and relevance back through time by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

from dlbt_core.rules.context import stabilise

__all__ = ["CELLS", "Cell", "Message", "Split", "Trace", "Weights", "hand_back", "unroll"]


# -- the cells ----------------------------------------------------------------------------------------------------------


class Gates(NamedTuple):
    """A step's signal before its activation, and the gates that scale it; None for a gate that the cell does not have.

    Attributes
    ----------
    z
        W x + inner * (U h), with the biases of both.
    inner
        Scales U h in it.
    keep, add
        The new state is ``keep * state + add * f(z)``; without them, f(z).
    out
        The new h is ``out * tanh(state)``; without it, the state itself.
    """

    z: Tensor
    inner: Tensor | None = None
    keep: Tensor | None = None
    add: Tensor | None = None
    out: Tensor | None = None


def _tanh_slope(z: Tensor) -> Tensor:
    """tanh(z) / z, and 1 at 0."""
    zero = z == 0
    return torch.where(zero, 1.0, torch.tanh(z) / torch.where(zero, 1.0, z)).to(z.dtype)


def _relu_slope(z: Tensor) -> Tensor:
    """relu(z) / z, and 0 at 0."""
    return (z > 0).to(z.dtype)


class Cell(NamedTuple):
    """One kind of recurrent layer.

    Attributes
    ----------
    blocks, signal
        Into how many blocks of rows the weights are divided, and which of them computes the signal.
    gates
        From the input's and the hidden state's part of all blocks.
    activation, slope
        f, and f(z) / z.
    """

    blocks: int
    signal: int
    gates: Callable[[Tensor, Tensor], Gates]
    activation: Callable[[Tensor], Tensor] = torch.tanh
    slope: Callable[[Tensor], Tensor] = _tanh_slope


def _lstm(of_x: Tensor, of_h: Tensor) -> Gates:
    """c = f c + i tanh(z), h = o tanh(c)."""
    i, f, z, o = (of_x + of_h).chunk(4, -1)
    return Gates(z, None, f.sigmoid(), i.sigmoid(), o.sigmoid())


def _gru(of_x: Tensor, of_h: Tensor) -> Gates:
    """h = u h + (1 - u) tanh(z), with z = W x + r (U h)."""
    (x_r, x_u, x_n), (h_r, h_u, h_n) = of_x.chunk(3, -1), of_h.chunk(3, -1)
    r, u = (x_r + h_r).sigmoid(), (x_u + h_u).sigmoid()
    return Gates(x_n + r * h_n, r, u, 1 - u)


def _rnn(of_x: Tensor, of_h: Tensor) -> Gates:
    """h = f(z)."""
    return Gates(of_x + of_h)


CELLS: Mapping[str, Cell] = {
    "lstm": Cell(4, 2, _lstm),
    "gru": Cell(3, 2, _gru),
    "rnn_tanh": Cell(1, 0, _rnn),
    "rnn_relu": Cell(1, 0, _rnn, torch.relu, _relu_slope),
}
"""The cells by the name of their op."""


class Weights(NamedTuple):
    """The weights of one layer in one direction; `project` maps h of an LSTM to fewer units."""

    of_x: Tensor
    of_h: Tensor
    bias_x: Tensor | None = None
    bias_h: Tensor | None = None
    project: Tensor | None = None

    def of_signal(self, cell: Cell) -> Weights:
        """The rows that compute the signal."""
        size = self.of_h.shape[0] // cell.blocks
        rows = slice(cell.signal * size, (cell.signal + 1) * size)
        bias_x, bias_h = (None if bias is None else bias[rows] for bias in (self.bias_x, self.bias_h))
        return Weights(self.of_x[rows], self.of_h[rows], bias_x, bias_h, self.project)


# -- forward ------------------------------------------------------------------------------------------------------------


class Trace(NamedTuple):
    """What the backward pass reads of the steps, by time: (time, samples, units) each.

    Attributes
    ----------
    order
        The times as they were gone through.
    gates
        Gates and signals.
    state, h
        After each step; h after the projection.
    """

    order: Sequence[int]
    gates: Gates
    state: Tensor
    h: Tensor

    def last(self) -> tuple[Tensor, Tensor]:
        """h and state at the end."""
        return self.h[self.order[-1]], self.state[self.order[-1]]


def unroll(
    cell: Cell, weights: Weights, x: Tensor, h: Tensor, state: Tensor | None, order: Sequence[int], mask: Tensor | None
) -> Trace:
    """The steps of one layer in one direction.

    Parameters
    ----------
    cell, weights
        What is computed.
    x
        (time, samples, features).
    h, state
        Initial ones; the state is None for cells whose state is h.
    order
        The times as they are gone through.
    mask
        (time, samples, 1), false where a sample has no such step: there all stays as it is. None if all have all.
    """
    of_x = linear(x, weights.of_x, weights.bias_x).unbind()
    state = h if state is None else state
    found: dict[int, tuple[Gates, Tensor, Tensor]] = {}
    for t in order:
        gates = cell.gates(of_x[t], linear(h, weights.of_h, weights.bias_h))
        a = cell.activation(gates.z)
        new = a if gates.keep is None or gates.add is None else gates.keep * state + gates.add * a
        out = new if gates.out is None else gates.out * torch.tanh(new)
        out = out if weights.project is None else linear(out, weights.project)
        state = new if mask is None else torch.where(mask[t], new, state)
        h = out if mask is None else torch.where(mask[t], out, h)
        found[t] = gates, state, h
    times = [found[t] for t in range(len(order))]
    gates_of, states, hs = zip(*times, strict=True)
    z, *gates_by_time = (None if part[0] is None else torch.stack(part) for part in zip(*gates_of, strict=True))
    assert z is not None
    return Trace(order, Gates(z, *gates_by_time), torch.stack(states), torch.stack(hs))


# -- backward -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Message:
    """Relevance ``a * m + extra`` of a value a: a multiplier, and relevance that is not proportional to the value.

    `extra` is None where there is none; its last dimension is 1 where it is the same for all units.
    """

    m: Tensor
    extra: Tensor | None = None

    def __add__(self, other: Message) -> Message:
        a, b = self.extra, other.extra
        return Message(self.m + other.m, b if a is None else a if b is None else a + b)

    def through(self, factor: Tensor) -> Message:
        """The message for x where ``a = factor * x`` and nothing else goes into a."""
        return Message(self.m * factor, self.extra)

    def where(self, mask: Tensor) -> Message:
        """0 where the mask is false."""
        kept = None if self.extra is None else torch.where(mask, self.extra, 0.0)
        return Message(torch.where(mask, self.m, 0.0), kept)

    def part(self, start: int, size: int) -> Message:
        """The message for some of the units."""
        e = self.extra
        return Message(
            self.m.narrow(-1, start, size), e if e is None or e.shape[-1] == 1 else e.narrow(-1, start, size)
        )

    def by_time(self) -> list[Message]:
        """The messages of all times."""
        extra = [None] * len(self.m) if self.extra is None else self.extra.unbind()
        return [Message(m, e) for m, e in zip(self.m.unbind(), extra, strict=True)]

    def relevance(self, a: Tensor) -> Tensor:
        """What the value gets in all."""
        return a * self.m if self.extra is None else a * self.m + self.extra


Parts = tuple[Tensor, Tensor | None]


@dataclass
class Split:
    """The epsilon rule of a sum ``a_j = sum_i a_ij + b_j``: ``R_i = sum_j a_ij q_j, q_j = R_j / (a_j + eps sgn a_j)``.

    What bias and stabiliser keep is booked, or spread evenly over the terms' units.

    Attributes
    ----------
    epsilon
        The stabiliser.
    spread
        Whether each of N lower units gets ``sum_j (b_j + eps sgn a_j) q_j / N`` on top.
    booked
        Name to the amounts per sample, (samples, 1).
    """

    epsilon: float
    spread: bool
    booked: dict[str, Tensor] = field(default_factory=dict)

    def __call__(self, message: Message, a: Tensor, units: int, bias: Tensor | None = None) -> Parts:
        """q, and what each of `units` lower units gets on top."""
        if self.epsilon == 0 and message.extra is None:
            q, rest = message.m, None
        elif message.extra is None:
            q = message.m / (1 + self.epsilon / a.abs())  # in this form also right where a is 0
            rest = a * (message.m - q)
        else:
            R, below = message.relevance(a), stabilise(a, self.epsilon)
            q = torch.where(below == 0, 0.0, R / torch.where(below == 0, 1.0, below))
            rest = R - a * q
        absorbed = None if bias is None else bias * q
        if not self.spread:
            self.book("epsilon", rest)
            self.book("bias", absorbed)
            return q, None
        rest = absorbed if rest is None else rest if absorbed is None else rest + absorbed
        return q, None if rest is None else rest.sum(-1, keepdim=True) / units

    def book(self, name: str, amount: Tensor | None) -> None:
        """Note an amount for each sample and unit, or for each time of them."""
        if amount is not None:
            total = amount.sum(-1, keepdim=True)
            total = total.sum(0) if total.dim() == 3 else total
            self.booked[name] = self.booked[name] + total if name in self.booked else total


def hand_back(
    cell: Cell,
    weights: Weights,
    trace: Trace,
    mask: Tensor | None,
    arriving: Message | None,
    h: Message,
    state: Message,
    split: Split,
) -> tuple[Message, Message, Message]:
    """Relevance back through the steps of one layer in one direction. Gates get nothing, their signals all.

    Parameters
    ----------
    cell, weights, trace, mask
        What was computed.
    arriving
        The message for h at all times, (time, samples, units).
    h, state
        The messages for the last ones; that for the state counts only where it is not h.
    split
        How sums share, and their books.

    Returns
    -------
    tuple of Message
        For x at all times, for the initial h, for the initial state.
    """
    own, size = weights.of_signal(cell), weights.of_h.shape[0] // cell.blocks
    lower = own.of_x.shape[1] + own.of_h.shape[1]
    gates, bias = trace.gates, _bias(own, trace.gates)
    slope = cell.slope(gates.z)
    into_signal = _by_time(slope if gates.add is None else gates.add * slope)
    into_state = None if gates.out is None else _by_time(gates.out * _tanh_slope(trace.state))
    z, states, hs, keep, inner = (_by_time(part) for part in (gates.z, trace.state, trace.h, gates.keep, gates.inner))
    steps = None if arriving is None else arriving.by_time()
    biases = _by_time(None if bias is None else bias.expand_as(gates.z))
    q_of: dict[int, Tensor] = {}
    extra_of: dict[int, Tensor | None] = {}
    for t in reversed(trace.order):
        if steps is not None:
            h = h + steps[t]
        idle = None if mask is None else (h.where(~mask[t]), state.where(~mask[t]))
        if mask is not None:
            h, state = h.where(mask[t]), state.where(mask[t])
        if into_state is None:
            state = h
        else:
            if own.project is not None:
                q, extra = split(h, hs[t], size)
                h = Message(q @ own.project, extra)
            state = state + h.through(into_state[t])
        kept = None
        if keep is not None:
            q, extra = split(state, states[t], 2 * size)
            state, kept = Message(q, extra), Message(q * keep[t], extra)
        signal = state.through(into_signal[t])
        q_of[t], extra_of[t] = q, extra = split(signal, z[t], lower, biases[t] if biases and split.spread else None)
        h = Message((q if inner is None else q * inner[t]) @ own.of_h, extra)
        if kept is not None:
            h, state = (h + kept, state) if into_state is None else (h, kept)
        if idle is not None:
            h, state = h + idle[0], state + idle[1]
    times = range(len(trace.order))
    every = torch.stack([q_of[t] for t in times])
    if bias is not None and not split.spread:
        split.book("bias", every * bias)
    extras = [e for t in times if (e := extra_of[t]) is not None]
    return Message(every @ own.of_x, torch.stack(extras) if extras else None), h, state


def _by_time(part: Tensor | None) -> Any:
    """One tensor per time; None for what is not there."""
    return None if part is None else part.unbind()


def _bias(own: Weights, gates: Gates) -> Tensor | None:
    """The constant in z: b_x + inner * b_h."""
    if own.bias_x is None or own.bias_h is None:
        return None
    return own.bias_x + (own.bias_h if gates.inner is None else gates.inner * own.bias_h)
