"""Recurrent layers, one sample, one step, one unit after another, on relevances. Arras et al. 2017."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from oracles.harness import Arriving, Case, Handed

__all__ = ["Layout", "gradient", "packed", "signal", "unpacked"]

Vector = list[float]
States = tuple[list[Vector], Vector, Vector]


@dataclass(frozen=True)
class Layout:
    """Which recurrent op it is, and how its tensors lie.

    Attributes
    ----------
    kind
        lstm, gru, rnn_tanh or rnn_relu.
    names
        Names of the tensors: x, h, c, sizes (of a packed sequence), then w0, w1, ...
    carry
        How many of them, from the first, are explained.
    whole
        Whether the last states are results of the model, too.
    """

    kind: str
    names: tuple[str, ...]
    carry: int = 1
    layers: int = 1
    directions: int = 1
    batch_first: bool = False
    biases: bool = True
    cell: bool = False
    whole: bool = True

    @property
    def packed(self) -> bool:
        return "sizes" in self.names

    def named(self, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        return dict(zip(self.names, tensors, strict=True))

    def call(self, *tensors: Tensor) -> Any:
        """The op."""
        given = self.named(tensors)
        x, params = given["x"], [t for name, t in given.items() if name[0] == "w"]
        lstm = self.kind == "lstm"
        if self.cell:
            states = [given["h"], given["c"]] if lstm else given["h"]
            return getattr(torch, f"{self.kind}_cell")(x, states, *params)
        if not self.packed:
            samples = x.shape[0 if self.batch_first else 1]  # one initial state may do for all
            alone = [name for name in "hc" if name in given and given[name].shape[1] != samples]
            given |= {name: given[name].expand(-1, samples, -1) for name in alone}
        states = [given["h"], given["c"]] if lstm else given["h"]
        options = (self.biases, self.layers, 0.0, False, self.directions == 2)
        op = getattr(torch, self.kind)
        if self.packed:
            out = op(x, given["sizes"], states, params, *options)
        else:
            out = op(x, states, params, *options, self.batch_first)
        return out if self.whole else out[0]

    def weights(self, given: dict[str, Tensor], layer: int, side: int) -> dict[str, Any]:
        """One layer's weights in one direction, by name, as lists of numbers."""
        params = [t for name, t in given.items() if name[0] == "w"]
        each = len(params) // (self.layers * self.directions)
        start = each * (layer * self.directions + side)
        own = [p.double().tolist() for p in params[start : start + each]]
        rows = len(own[0])
        biases = own[2:4] if self.biases and each > 2 else [[0.0] * rows, [0.0] * rows]
        project = own[-1] if each in (3, 5) else None
        return {"W": own[0], "U": own[1], "b": biases[0], "d": biases[1], "P": project}


# -- one sum ------------------------------------------------------------------------------------------------------------


@dataclass
class Sums:
    """Arras et al. 2017: R_i <- (z_ij + delta (eps sgn z_j + b_j) / N) / (z_j + eps sgn z_j) R_j, sgn 0 = +1."""

    epsilon: float
    delta: float
    kept: dict[str, float] = field(default_factory=lambda: {"bias": 0.0, "epsilon": 0.0, "constant": 0.0})

    def share(self, terms: list[Vector], biases: Vector, z: Vector, R: Vector) -> Vector:
        """`terms[i][j]` is what lower unit i gives to unit j."""
        n = len(terms)
        handed = [0.0] * n
        for j, total in enumerate(z):
            stabiliser = self.epsilon if total >= 0 else -self.epsilon
            below = total + stabiliser
            for i in range(n):
                part = terms[i][j] + self.delta * (stabiliser + biases[j]) / n
                handed[i] += part / below * R[j] if R[j] else 0.0
            self.kept["bias"] += (1 - self.delta) * biases[j] / below * R[j] if R[j] else 0.0
            self.kept["epsilon"] += (1 - self.delta) * stabiliser / below * R[j] if R[j] else 0.0
        return handed


# -- one direction of one layer, one sample -----------------------------------------------------------------------------


def sigmoid(v: float) -> float:
    return 1 / (1 + math.exp(-v))


def dot(row: Vector, v: Vector) -> float:
    return sum(a * b for a, b in zip(row, v, strict=True))


class Direction:
    """One layer in one direction on one sample: all steps, and back."""

    def __init__(self, kind: str, w: dict[str, Any], xs: list[Vector], h: Vector, c: Vector) -> None:
        self.kind, self.w, self.xs = kind, w, xs
        self.hs, self.cs, self.steps = [h], [c], []
        for x in xs:
            self.steps.append(self._step(x, self.hs[-1], self.cs[-1]))
            self.hs.append(self.steps[-1]["h"])
            self.cs.append(self.steps[-1]["c"])

    def _step(self, x: Vector, h: Vector, c: Vector) -> dict[str, Any]:
        w, kind = self.w, self.kind
        of_x = [dot(row, x) + b for row, b in zip(w["W"], w["b"], strict=True)]
        of_h = [dot(row, h) + d for row, d in zip(w["U"], w["d"], strict=True)]
        if kind == "lstm":
            n = len(of_x) // 4
            pre = [a + b for a, b in zip(of_x, of_h, strict=True)]
            i, f, z, o = pre[:n], pre[n : 2 * n], pre[2 * n : 3 * n], pre[3 * n :]
            i, f, o = [sigmoid(v) for v in i], [sigmoid(v) for v in f], [sigmoid(v) for v in o]
            new = [f[j] * c[j] + i[j] * math.tanh(z[j]) for j in range(n)]
            out = [o[j] * math.tanh(new[j]) for j in range(n)]
            full = out
            if w["P"] is not None:
                out = [dot(row, out) for row in w["P"]]
            return {"h": out, "c": new, "full": full, "z": z, "first": 2 * n, "r": [1.0] * n, "keep": f, "add": i}
        if kind == "gru":
            n = len(of_x) // 3
            r = [sigmoid(of_x[j] + of_h[j]) for j in range(n)]
            u = [sigmoid(of_x[n + j] + of_h[n + j]) for j in range(n)]
            z = [of_x[2 * n + j] + r[j] * of_h[2 * n + j] for j in range(n)]
            new = [(1 - u[j]) * math.tanh(z[j]) + u[j] * h[j] for j in range(n)]
            return {"h": new, "c": c, "z": z, "first": 2 * n, "r": r, "keep": u, "add": [1 - v for v in u]}
        n = len(of_x)
        z = [a + b for a, b in zip(of_x, of_h, strict=True)]
        new = [math.tanh(v) if kind == "rnn_tanh" else max(v, 0.0) for v in z]
        return {"h": new, "c": c, "z": z, "first": 0, "r": [1.0] * n}

    def back(self, R_h: list[Vector], last_h: Vector, last_c: Vector, sums: Sums) -> States:
        """Relevance of all x, of the first h and of the first c, from that of all h and of the last h and c."""
        w, of_h, of_c, of_x = self.w, list(last_h), list(last_c), []
        activation = (lambda v: max(v, 0.0)) if self.kind == "rnn_relu" else math.tanh
        for t in reversed(range(len(self.xs))):
            step, h, x = self.steps[t], self.hs[t], self.xs[t]
            n = len(step["z"])
            nothing = [0.0] * n
            of_h = [a + b for a, b in zip(of_h, R_h[t], strict=True)]
            state, before = (step["c"], self.cs[t]) if self.kind == "lstm" else (step["h"], h)
            if self.kind == "lstm":
                if w["P"] is not None:
                    terms = [[w["P"][j][i] * step["full"][i] for j in range(len(of_h))] for i in range(n)]
                    of_h = sums.share(terms, [0.0] * len(of_h), step["h"], of_h)
                of_state = [a + b for a, b in zip(of_c, of_h, strict=True)]
            else:
                of_state = of_h
            of_before = nothing
            if "keep" in step:
                terms = [[0.0] * n for _ in range(2 * n)]
                for j in range(n):
                    terms[j][j] = step["keep"][j] * before[j]
                    terms[n + j][j] = step["add"][j] * activation(step["z"][j])
                both = sums.share(terms, nothing, state, of_state)
                of_before, of_state = both[:n], both[n:]
            rows = range(step["first"], step["first"] + n)
            terms = [[w["W"][k][i] * x[i] for k in rows] for i in range(len(x))]
            terms += [[step["r"][j] * w["U"][k][i] * h[i] for j, k in enumerate(rows)] for i in range(len(h))]
            biases = [w["b"][k] + step["r"][j] * w["d"][k] for j, k in enumerate(rows)]
            handed = sums.share(terms, biases, step["z"], of_state)
            of_x.append(handed[: len(x)])
            of_h = handed[len(x) :]
            if self.kind == "lstm":
                of_c = of_before
            else:
                of_h = [a + b for a, b in zip(of_h, of_before, strict=True)]
        return of_x[::-1], of_h, of_c


# -- all layers, all samples --------------------------------------------------------------------------------------------


class Places:
    """Where the steps of one sample lie in the tensors of an op."""

    def __init__(self, layout: Layout, given: dict[str, Tensor]) -> None:
        self.layout = layout
        x = given["x"]
        if layout.packed:
            self.sizes = given["sizes"].tolist()
            self.samples = self.sizes[0]
        else:
            self.samples = x.shape[0] if layout.cell or layout.batch_first else x.shape[1]
            self.steps = 1 if layout.cell else x.shape[1 if layout.batch_first else 0]

    def of(self, b: int) -> list[Any]:
        """The index of each step of sample b."""
        if self.layout.cell:
            return [(b,)]
        if self.layout.packed:
            return [(sum(self.sizes[:t]) + b,) for t, size in enumerate(self.sizes) if b < size]
        return [(b, t) if self.layout.batch_first else (t, b) for t in range(self.steps)]


def signal(case: Case, arriving: Arriving, layout: Layout, epsilon: float = 0.0, delta: float = 0.0) -> Handed:
    """All relevance of gate x signal to the signal, every sum by `Sums`, from the last step of the last layer to the first."""
    given = layout.named([*case.arguments, *case.constants])
    places = Places(layout, given)
    handed = {name: torch.zeros(given[name].shape, dtype=torch.float64) for name in layout.names[: layout.carry]}
    kept: dict[str, list[float]] = {"bias": [], "epsilon": [], "constant": []}
    for b in range(places.samples):
        sums = Sums(epsilon, delta)
        _one_sample(layout, given, places.of(b), b, arriving, sums, handed)
        for name, amount in sums.kept.items():
            kept[name].append(amount)
    absorbed = {name: torch.tensor(v, dtype=torch.float64) for name, v in kept.items()}
    if delta == 1.0:
        absorbed = {"constant": absorbed["constant"]}
    return Handed(list(handed.values()), absorbed if case.batched else {k: v.sum() for k, v in absorbed.items()})


def _one_sample(
    layout: Layout, given: dict[str, Tensor], steps: list[Any], b: int, arriving: Arriving, sums: Sums, handed: Any
) -> None:
    outs = [R.double() for R in arriving.R]

    def state(name: str, place: int) -> Any:
        if layout.cell:
            return given[name][b]
        return given[name][place, b if given[name].shape[1] > 1 else 0]

    xs = [given["x"][at].tolist() for at in steps]
    runs: list[list[Direction]] = []
    for layer in range(layout.layers):
        found = []
        for side in range(layout.directions):
            place = layer * layout.directions + side
            c = state("c", place).tolist() if layout.kind == "lstm" else []
            w = layout.weights(given, layer, side)
            found.append(Direction(layout.kind, w, xs[::-1] if side else xs, state("h", place).tolist(), c))
        runs.append(found)
        sides = [run.hs[1:][::-1] if side else run.hs[1:] for side, run in enumerate(found)]
        xs = [[v for part in parts for v in part] for parts in zip(*sides, strict=True)]
    R_out = [[0.0] * len(x) for x in xs] if layout.cell else [outs[0][at].tolist() for at in steps]
    last = [outs[0], outs[1] if layout.kind == "lstm" else None] if layout.cell else [*outs[1:], None, None]
    for layer in reversed(range(layout.layers)):
        below = [[0.0] * len(x) for x in runs[layer][0].xs]
        size = len(R_out[0]) // layout.directions
        for side, run in enumerate(runs[layer]):
            place = layer * layout.directions + side

            def final(k: int, units: int, place: int = place) -> Vector:
                R = last[k]
                return [0.0] * units if R is None else (R[b] if layout.cell else R[place, b]).tolist()

            own = [R[side * size : (side + 1) * size] for R in R_out]
            of_x, of_h, of_c = run.back(own[::-1] if side else own, final(0, size), final(1, len(run.cs[0])), sums)
            for name, R in (("h", of_h), ("c", of_c)):
                if name in handed:
                    handed[name][b if layout.cell else (place, b)] += torch.tensor(R, dtype=torch.float64)
                else:
                    sums.kept["constant"] += sum(R)
            for t, R in enumerate(of_x[::-1] if side else of_x):
                below[t] = [p + q for p, q in zip(below[t], R, strict=True)]
        R_out = below
    for at, R in zip(steps, R_out, strict=True):
        if "x" in handed:
            handed["x"][at] += torch.tensor(R, dtype=torch.float64)
        else:
            sums.kept["constant"] += sum(R)


# -- the gradient, and packing ------------------------------------------------------------------------------------------


def gradient(case: Case, arriving: Arriving) -> Handed:
    """x_i sum_j dy_j/dx_i m_j by the fused op's own autograd; the rest is the recurrence's."""
    inputs = [x.double().clone().requires_grad_() for x in case.inputs]
    out = case.fn(*inputs, *case.constants)
    outs = [out] if isinstance(out, Tensor) else list(out)
    grads = torch.autograd.grad(outs, inputs, arriving.m, allow_unused=True)
    handed = [torch.zeros_like(x) if g is None else (x * g).detach() for x, g in zip(inputs, grads, strict=True)]
    if case.batched:
        rest = sum(R.reshape(len(R), -1).sum(1) for R in arriving.R) - sum(R.reshape(len(R), -1).sum(1) for R in handed)
    else:
        rest = sum(R.sum() for R in arriving.R) - sum(R.sum() for R in handed)
    return Handed(handed, {"recurrence": torch.as_tensor(rest)})


def packed(case: Case, arriving: Arriving, lengths: Sequence[int], batch_first: bool) -> Handed:
    """Rows go time by time, sample by sample, for as long as each lasts."""
    (x,), (R,) = case.inputs, arriving.R
    handed, row = torch.zeros(x.shape, dtype=torch.float64), 0
    for t in range(max(lengths)):
        for b, length in enumerate(lengths):
            if t < length:
                handed[(b, t) if batch_first else (t, b)] = R[row]
                row += 1
    return Handed([handed], {})


def unpacked(case: Case, arriving: Arriving, sizes: Sequence[int], batch_first: bool, value: float) -> Handed:
    """The same the other way; what lies on padding is a constant's."""
    (x,), (R,) = case.inputs, arriving.R
    handed, row, rest = torch.zeros(x.shape, dtype=torch.float64), 0, R.sum()
    for t, size in enumerate(sizes):
        for b in range(size):
            handed[row] = R[(b, t) if batch_first else (t, b)]
            rest = rest - handed[row].sum()
            row += 1
    return Handed([handed], {"constant": rest} if value else {})
