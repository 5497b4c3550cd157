"""Recurrent layers: LSTM, GRU and plain ones, back through time, all of a gated product to its signal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dlbt_core.rules.context import RuleContext
from dlbt_core.rules.parameter import NotNegative
from dlbt_core.rules.rule import RuleSet
from dlbt_rules_nlp.recurrent_packing import Packing
from dlbt_rules_nlp.recurrent_steps import CELLS, Cell, Message, Split, Trace, Weights, hand_back, unroll

__all__ = ["RECURRENT", "declare"]

RECURRENT = tuple(f"aten.{name}{end}" for end in ("", "_cell") for name in CELLS)
"""Whole layers (several of them, in one or two directions), and single steps."""


def declare(add: RuleSet) -> None:
    """Declare the rules of this module."""

    @add.rule(*RECURRENT, variant="signal", absorbs=("bias", "epsilon", "constant"), default=True,
              reads=("carrying", "constants"))  # fmt: skip
    def signal(ctx: RuleContext, m: Any, *, epsilon: NotNegative = 0.0) -> dict[str, Any]:
        """R_signal = R, R_gate = 0 for gate x signal; sums by epsilon.  Arras et al. 2017.

        LSTM: c_t = f c_{t-1} + i g is split over the two terms, the pre-activation of g over x_t, h_{t-1} and the bias, and
        a tanh passes all. GRU: h_t = u h_{t-1} + (1 - u) n and the pre-activation W x_t + r (U h_{t-1}) + b of n likewise.
        With epsilon = 0, the default here, the bias takes its share and nothing else is lost; the paper's code has 0.001.
        Weights that carry get nothing.
        """
        return _through_time(ctx, m, Split(epsilon, spread=False))

    @add.rule(*RECURRENT, variant="signal_spread", takes="relevance", absorbs=("constant",),
              reads=("carrying", "constants"))  # fmt: skip
    def signal_spread(ctx: RuleContext, R: Any, *, epsilon: NotNegative = 1e-3) -> dict[str, Any]:
        """R_i = sum_j (x_i w_ji + (b_j + eps sgn z_j) / N) / (z_j + eps sgn z_j) R_j: `signal` with bias factor 1.

        Arras et al. 2017, and `bias_factor` of their code: the bias is spread over the N lower units, so that
        none is lost. It gives relevance to units that are 0; what an initial state that is not explained gets is booked as
        a constant.
        """
        return _through_time(ctx, R, Split(epsilon, spread=True))

    @add.rule(*RECURRENT, variant="gradient", absorbs=("recurrence",), reads=("carrying", "constants", "output"))
    def gradient(ctx: RuleContext, m: Any) -> dict[str, Any]:
        """m_i = sum_j dy_j/dx_i m_j: the op's gradient, back through time and gates."""
        handed = _gradient(ctx, m)
        ctx.absorb_rest("recurrence", m, handed)
        return handed


# -- the op's arguments -------------------------------------------------------------------------------------------------


class _Call(NamedTuple):
    """A call of one of the ops in one layout.

    Attributes
    ----------
    cell
        Its kind.
    x
        (time, samples, features).
    h, c
        Initial states, (layers * directions, samples, units); c for an LSTM alone.
    layers
        Weights by layer and direction.
    packing
        For packed sequences.
    """

    cell: Cell
    x: Tensor
    h: Tensor
    c: Tensor | None
    layers: list[list[Weights]]
    packing: Packing | None

    @property
    def mask(self) -> Tensor | None:
        """See `unroll`."""
        return None if self.packing is None else self.packing.mask


def _single(ctx: RuleContext) -> bool:
    return ctx.packet.endswith("_cell")


def _call(ctx: RuleContext, args: Any) -> _Call:
    """The call with these arguments by schema name."""
    states = args["hx"] if isinstance(args["hx"], (list, tuple)) else [args["hx"]]
    if _single(ctx):
        h, c = ([*(s[None] for s in states), None])[:2]
        assert h is not None
        weights = Weights(*(args[name] for name in ("w_ih", "w_hh", "b_ih", "b_hh")))
        return _Call(CELLS[_kind(ctx)], args["input"][None], h, c, [[weights]], None)
    h, c = ([*states, None])[:2]
    directions = 2 if args["bidirectional"] else 1
    layers = _layers(args["params"], args["num_layers"], directions, args["has_biases"])
    packing = None
    x = args["data"] if "batch_sizes" in args else args["input"]
    if "batch_sizes" in args:
        packing = Packing.of(args["batch_sizes"], len(x), h.shape[1], x.device)
    return _Call(CELLS[_kind(ctx)], _by_time(ctx, x, packing), h, c, layers, packing)


def _kind(ctx: RuleContext) -> str:
    return ctx.packet.removeprefix("aten.").removesuffix("_cell")


def _layers(params: Sequence[Tensor], layers: int, directions: int, biases: bool) -> list[list[Weights]]:
    each = len(params) // (layers * directions)
    found = []
    for start in range(0, len(params), each):
        own = params[start : start + each]
        bias_x, bias_h = own[2:4] if biases else (None, None)
        found.append(Weights(own[0], own[1], bias_x, bias_h, own[-1] if each % 2 else None))
    return [found[i : i + directions] for i in range(0, len(found), directions)]


def _by_time(ctx: RuleContext, x: Tensor, packing: Packing | None) -> Tensor:
    """The sequence, or a message for it, as (time, samples, units)."""
    if packing is not None:
        return packing.pad(x)
    return x.transpose(0, 1) if ctx.args.get("batch_first") else x


def _as_given(ctx: RuleContext, x: Tensor, packing: Packing | None) -> Tensor:
    """The other way."""
    if _single(ctx):
        return x[0]
    if packing is not None:
        return packing.pack(x)
    return x.transpose(0, 1) if ctx.args.get("batch_first") else x


# -- forward ------------------------------------------------------------------------------------------------------------


def _forward(call: _Call) -> list[list[Trace]]:
    """The steps of each layer and direction."""
    x, found = call.x, []
    for depth, layer in enumerate(call.layers):
        traces = []
        for side, weights in enumerate(layer):
            place = depth * len(layer) + side
            state = None if call.c is None else call.c[place]
            traces.append(unroll(call.cell, weights, x, call.h[place], state, _order(call, side), call.mask))
        found.append(traces)
        x = _output(traces)
    return found


def _output(traces: Sequence[Trace]) -> Tensor:
    """A layer's h at all times, those of its directions side by side."""
    return torch.cat([trace.h for trace in traces], -1) if len(traces) > 1 else traces[0].h


def _order(call: _Call, side: int) -> range:
    times = range(len(call.x))
    return times[::-1] if side else times


# -- the rule -----------------------------------------------------------------------------------------------------------


def _through_time(ctx: RuleContext, message: Any, split: Split) -> dict[str, Any]:
    """Hand back through all layers, the last one first, each direction against its time."""
    call = _call(ctx, ctx.args)
    steps = _forward(call)
    arriving, last_h, last_c = _arriving(ctx, call, message, split)
    initial: dict[str, dict[int, Message]] = {"h": {}, "c": {}}
    for depth in reversed(range(len(call.layers))):
        layer, below = call.layers[depth], []
        size = steps[depth][0].h.shape[-1]
        for side, weights in enumerate(layer):
            place = depth * len(layer) + side
            own = None if arriving is None else arriving.part(side * size, size)
            of_x, initial["h"][place], initial["c"][place] = hand_back(
                call.cell, weights, steps[depth][side], call.mask, own,
                last_h[place], last_c[place], split,
            )  # fmt: skip
            below.append(of_x)
        arriving = below[0] if len(below) == 1 else below[0] + below[1]
    assert arriving is not None
    handed = _handed(ctx, call, arriving, initial, split)
    for name, amount in split.booked.items():
        ctx.absorb(name, _as_booked(ctx, call, amount))
    return handed


def _arriving(
    ctx: RuleContext, call: _Call, message: Any, split: Split
) -> tuple[Message | None, list[Message], list[Message]]:
    """The messages for the last layer's output, and for the last h and c of each layer and direction."""
    given = list(message) if ctx.node.many else [message]
    out = None if _single(ctx) else given.pop(0)
    given = [None if g is None else g[None] for g in given] if _single(ctx) else given
    h, c = [*given, None][:2]

    def as_message(x: Tensor) -> Message:
        return Message(torch.zeros_like(x), x) if split.spread else Message(x)

    def each(x: Tensor | None, units: int) -> list[Message]:
        if x is None:
            shape = (call.x.shape[1], units)
            x = call.x.new_zeros(call.h.shape[0], *shape)
        return [as_message(part) for part in x]

    own = None if out is None else as_message(_by_time(ctx, out, call.packing))
    units = call.h.shape[-1] if call.c is None else call.c.shape[-1]
    return own, each(h, call.h.shape[-1]), each(c, units)


def _handed(
    ctx: RuleContext, call: _Call, of_x: Message, initial: dict[str, dict[int, Message]], split: Split
) -> dict[str, Any]:
    """The messages for the arguments that carry; what the others get is booked as a constant."""
    places = set(ctx.places())
    name = "data" if "data" in ctx.args else "input"
    handed: dict[str, Any] = {}

    def give(message: Message, a: Tensor, carries: bool) -> Tensor | None:
        if not carries:
            R = message.relevance(a)
            split.book("constant", R.expand(torch.broadcast_shapes(R.shape, a.shape)))
            return None
        return message.relevance(a) if split.spread else message.m

    found = give(of_x, call.x, (name, None) in places)
    if found is not None:
        handed[name] = _as_given(ctx, found, call.packing)
    listed = isinstance(ctx.args["hx"], (list, tuple))
    states: list[Tensor | None] = []
    for item, (key, value) in enumerate((("h", call.h), ("c", call.c))):
        if value is None:
            continue
        parts = [give(initial[key][i], value[i], ("hx", item if listed else None) in places) for i in range(len(value))]
        kept = [part for part in parts if part is not None]
        states.append(None if not kept else kept[0] if _single(ctx) else torch.stack(kept))
    if any(state is not None for state in states):
        handed["hx"] = states if listed else states[0]
    return handed


def _as_booked(ctx: RuleContext, call: _Call, amount: Tensor) -> Tensor:
    """An amount (samples, 1) as the op's result lies."""
    if _single(ctx) or call.packing is not None:
        return amount
    return amount[:, None] if ctx.args["batch_first"] else amount[None]


# -- the gradient -------------------------------------------------------------------------------------------------------


def _gradient(ctx: RuleContext, message: Any) -> dict[str, Any]:
    """The vector-Jacobian product of the steps; a fused kernel has it only in training, and not mapped over messages."""
    cotangents = list(message) if ctx.node.many else [message]
    places = ctx.places()

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        args = dict(ctx.args)
        for (name, item), tensor in zip(places, tensors, strict=True):
            args[name] = tensor if item is None else [*args[name][:item], tensor, *args[name][item + 1 :]]
        call = _call(ctx, args)
        steps = _forward(call)
        h, c = (torch.stack(ends) for ends in zip(*(trace.last() for layer in steps for trace in layer), strict=True))
        found = [h[0], c[0]] if _single(ctx) else [_as_given(ctx, _output(steps[-1]), call.packing), h, c]
        return tuple(z for z, m in zip(found, cotangents, strict=False) if m is not None)

    primals = [ctx.args[name] if item is None else ctx.args[name][item] for name, item in places]
    pulled = torch.func.vjp(run, *primals)[1](tuple(m for m in cotangents if m is not None))
    handed: dict[str, Any] = {}
    for (name, item), found in zip(places, pulled, strict=True):
        if item is None:
            handed[name] = found
        else:
            handed.setdefault(name, [None] * len(ctx.args[name]))[item] = found
    return handed
