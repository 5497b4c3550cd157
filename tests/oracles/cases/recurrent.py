"""Recurrent layers in all their layouts, single cells, packing."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from oracles import recurrent as R
from oracles.harness import Case, Check, source

__all__ = ["CHECKS", "EPSILON", "KINDS", "UNBATCHED"]

rand = source(21)
KINDS = ("lstm", "gru", "rnn_tanh", "rnn_relu")
UNBATCHED = frozenset({"aten._pack_padded_sequence", "aten._pad_packed_sequence"})
"""Rows of packed data are those of no one sample."""

EPSILON = 0.01
_BLOCKS = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
_FEATURES, _UNITS, _SAMPLES, _STEPS = 3, 4, 2, 4
_SIZES = (2, 2, 1)
"""Of a packed sequence: two samples of three and two steps."""


def _params(kind: str, layers: int, directions: int, biases: bool, project: int) -> list[Tensor]:
    found, out = [], project or _UNITS
    for layer in range(layers):
        for _ in range(directions):
            rows, below = _BLOCKS[kind] * _UNITS, _FEATURES if layer == 0 else directions * out
            found += [rand(rows, below), rand(rows, out)]
            found += [rand(rows), rand(rows)] if biases else []
            found += [rand(project, _UNITS)] if project else []
    return [0.5 * w for w in found]


def _case(
    kind: str,
    name: str,
    carry: str = "x",
    *,
    layers: int = 1,
    directions: int = 1,
    batch_first: bool = False,
    biases: bool = True,
    project: int = 0,
    cell: bool = False,
    packed: bool = False,
    start: bool = True,
    whole: bool = True,
) -> tuple[Case, R.Layout]:
    batched = cell or (batch_first and not whole and carry == "x")
    count = layers * directions
    rows = [_SAMPLES] if cell else [sum(_SIZES)] if packed else [_STEPS, _SAMPLES]
    x = rand(*(rows[::-1] if batch_first else rows), _FEATURES)
    lead = [_SAMPLES] if cell else [count, 1 if batched else _SAMPLES]
    made = {"x": x, "h": rand(*lead, project or _UNITS), "c": rand(*lead, _UNITS)}
    made = made if start else {"x": x, "h": 0 * made["h"], "c": 0 * made["c"]}
    made = made if kind == "lstm" else {name: made[name] for name in "xh"}
    order = [*(n for n in made if n in carry), *(n for n in made if n not in carry)]
    tensors = [made[n] for n in order]
    carried = sum(n in carry for n in made)
    if packed:
        order.append("sizes")
        tensors.append(torch.tensor(_SIZES))
    params = _params(kind, layers, directions, biases, project)
    names = (*order, *(f"w{i}" for i in range(len(params))))
    layout = R.Layout(kind, names, carried, layers, directions, batch_first, biases, cell, whole)
    op = f"aten.{kind}_cell" if cell else f"aten.{kind}"
    per_sample = tuple(k for k, n in enumerate(order[carried:]) if cell and n in "hc")
    case = Case(
        op, name, layout.call, tuple(tensors[:carried]), (*tensors[carried:], *params), batched=batched,
        per_sample=per_sample,
    )  # fmt: skip
    return case, layout


LAYOUTS: dict[str, dict[str, Any]] = {
    "batch-first": {"batch_first": True, "whole": False},
    "from-zero": {"batch_first": True, "whole": False, "start": False},
    "time-first": {"carry": "xhc"},
    "no-bias": {"biases": False, "carry": "xh"},
    "bidirectional": {"directions": 2, "carry": "xhc", "batch_first": True},
    "two-layers": {"layers": 2},
    "two-layers-bidirectional": {"layers": 2, "directions": 2, "carry": "xhc"},
    "packed": {"packed": True},
    "packed-bidirectional": {"packed": True, "layers": 2, "directions": 2, "carry": "xhc"},
    "states-alone": {"carry": "h"},
    "projected": {"project": 2, "carry": "xhc"},
    "projected-two-ways": {"project": 2, "layers": 2, "directions": 2, "biases": False, "batch_first": True},
    "projected-packed": {"project": 2, "packed": True, "directions": 2},
}


def _checks() -> list[Check]:
    found: list[Check] = []

    def add(case: Case, layout: R.Layout) -> None:
        small = partial(R.signal, layout=layout, epsilon=EPSILON)
        found.append(Check(case, "signal", partial(R.signal, layout=layout)))
        found.append(Check(case, "signal", small, {"epsilon": EPSILON}))
        found.append(Check(case, "signal_spread", partial(small, delta=1.0), {"epsilon": EPSILON}))
        found.append(Check(case, "gradient", R.gradient))

    for kind in KINDS:
        for name, options in LAYOUTS.items():
            if kind == "lstm" or "project" not in options:
                add(*_case(kind, name, **options))
        add(*_case(kind, "one-step", "x", cell=True))
        add(*_case(kind, "one-step-no-bias", "xhc", cell=True, biases=False))
    for batch_first in (False, True):
        found += _packing(batch_first)
    return found


def _packing(batch_first: bool) -> list[Check]:
    label = "batch-first" if batch_first else "time-first"
    lengths = torch.tensor([4, 2, 1])
    x = rand(3, 5, 2) if batch_first else rand(5, 3, 2)
    pack = Case(
        "aten._pack_padded_sequence", label, lambda a, n: torch._VF._pack_padded_sequence(a, n, batch_first)[0],
        (x,), (lengths,),
    )  # fmt: skip
    found = [Check(pack, "gradient", partial(R.packed, lengths=lengths.tolist(), batch_first=batch_first))]
    sizes = torch.tensor([3, 2, 1, 1])
    for value in (0.0, 1.5):

        def pad(a: Tensor, n: Tensor, value: float = value) -> Tensor:
            return torch._VF._pad_packed_sequence(a, n, batch_first, value, 6)[0]  # type: ignore[no-any-return]

        case = Case("aten._pad_packed_sequence", f"{label}-{value}", pad, (rand(7, 2),), (sizes,))
        oracle = partial(R.unpacked, sizes=sizes.tolist(), batch_first=batch_first, value=value)
        found.append(Check(case, "gradient", oracle))
    return found


CHECKS = _checks()
