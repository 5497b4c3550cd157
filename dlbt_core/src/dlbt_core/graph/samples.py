"""The samples of a batch: which sample each element of a value belongs to.

Followed from the explained inputs through each op, so that what a rule absorbs can be booked per sample also where a model
folds the batch into another dimension, sorts its rows, or packs them. What cannot be followed, or in which samples meet, is
told apart no further: neither there, nor in what flows into it, since relevance of several scores comes back through it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dlbt_core.graph.facts import carriers, receivers
from dlbt_core.graph.ir import Graph, Node, refs_in
from dlbt_core.graph.ops import packet
from dlbt_core.graph.sample_axis import LOST, SampleAxis, join
from dlbt_core.graph.sample_copies import INDEXED, Copied, copying
from dlbt_core.graph.sample_moves import Move, moved

__all__ = ["Axes", "Follower", "Samples", "per_sample", "positions"]

Axes = dict[int, SampleAxis]
Path = Sequence[tuple[Node, Sequence[int]]]

_WRITES = frozenset(
    f"aten.{name}"
    for name in "index_add index_reduce index_copy index_put scatter scatter_add scatter_reduce".split()
)
"""Ops that write to some places of what belongs to no sample yet; other samples may be written to the others."""


@dataclass(frozen=True)
class Samples:
    """Where the samples of one run lie.

    Attributes
    ----------
    count
        Number of samples B.
    axes
        Value to the axis of its samples; none for values whose samples cannot be told apart.
    lost
        Where samples meet, or cannot be followed any further: the first node on each way, by name.
    """

    count: int
    axes: Mapping[int, SampleAxis]
    lost: tuple[str, ...] = ()


class Follower:
    """Follows the samples through a recorded run.

    Where the way hangs on the numbers of an index (which rows went to an expert), it is found anew for each run; all else
    is remembered.

    Parameters
    ----------
    graph
        The recorded run.
    starts
        The values at which samples enter: those of the explained inputs, say.
    """

    def __init__(self, graph: Graph, starts: Iterable[int]) -> None:
        self.graph = graph
        self._starts = tuple(starts)
        carries = carriers(graph, self._starts)
        reached = [node for node in graph.nodes if carries.intersection(node.outputs)]
        self._sources = {node.index: receivers(node, carries, graph) for node in reached}
        self._nodes = [graph.nodes[index] for index, sources in self._sources.items() if sources]
        self._carries = carries
        self._read = {node.index for node in self._nodes if positions(graph, [node])}
        self._entered: dict[int, Axes] = {}
        self._known: dict[int, tuple[tuple[Any, ...], tuple[SampleAxis | None, ...]]] = {}

    @property
    def reads(self) -> set[int]:
        """The values whose numbers say which rows go where. A batch of one needs none."""
        several = any(self.graph.values[start].shape[:1] != (1,) for start in self._starts)
        return positions(self.graph, self._nodes) if several else set()

    def enter(self, count: int) -> dict[int, SampleAxis]:
        """The axes of the values at which samples enter: their first dimension, or each of as many tensors one sample."""
        if count not in self._entered:
            names = {value: name for name, value in self.graph.inputs.items()}
            lists = Counter(names[start].rpartition(".")[0] for start in self._starts if start in names)
            batch = SampleAxis.batch(count)
            found = {start: batch for start in self._starts if self.graph.values[start].shape[:1] == (count,)}
            for start in self._starts:
                above, _, item = names.get(start, "").rpartition(".")
                if start not in found and item.isdecimal() and int(item) < count == lists[above]:
                    found[start] = SampleAxis(None, torch.tensor([int(item)]))
            self._entered[count] = found
        return self._entered[count]

    def forward(self, count: int, values: Sequence[Any], starts: Mapping[int, SampleAxis] | None = None) -> Axes:
        """The axis of each value that depends on a sample; `LOST` where it cannot be told.

        Parameters
        ----------
        count
            Number of samples B.
        values
            The values of the run, by index; read are those of `reads` only.
        starts
            The axes of the values at which samples enter, if they are known better than by `enter`.
        """
        if count == 1:
            return {}
        axes: Axes = dict(self.enter(count) if starts is None else starts)
        for node in self._nodes:
            sources = {i: axes[i] for i in self._sources[node.index] if i in axes}
            if not sources:
                continue
            for output, axis in zip(node.outputs, self._through(node, sources, values), strict=True):
                if output is not None and axis is not None and output in self._carries:
                    axes[output] = axis
        return axes

    def _through(
        self, node: Node, sources: Mapping[int, SampleAxis], values: Sequence[Any]
    ) -> tuple[SampleAxis | None, ...]:
        """The axes of a node's results; those of the last run if nothing they depend on has changed."""
        came = tuple(sources.items())
        before, found = self._known.get(node.index, ((), ()))
        if came == before and node.index not in self._read:
            return found
        now = tuple(self._out(node, sources, values, place) for place in range(len(node.outputs)))
        if found and all(
            a is b or (a is not None and b is not None and a.same(b)) for a, b in zip(now, found, strict=True)
        ):
            now = found  # the same objects, so that what follows is known too
        self._known[node.index] = (came, now)
        return now

    def _out(
        self, node: Node, sources: Mapping[int, SampleAxis], values: Sequence[Any], place: int
    ) -> SampleAxis | None:
        output = node.outputs[place]
        if output is None:
            return None
        if any(axis.lost for axis in sources.values()):
            return LOST
        first = next(iter(sources.values()))
        if all(axis.whole and axis.same(first) for axis in sources.values()) and packet(node.op) not in _WRITES:
            return first
        after = self.graph.values[output].shape
        copy = copying(node)
        if copy is not None:
            return copy(Copied(self.graph, node, sources, values, after, place))
        places = [(name, item, ref) for name, arg in node.args.items() for item, ref in enumerate(refs_in(arg))]
        return join(
            self._moved(node, name, item, ref.index, sources[ref.index], after, place)
            for name, item, ref in places
            if ref.index in sources
        )

    def _moved(
        self, node: Node, name: str, item: int, value: int, axis: SampleAxis, after: tuple[int, ...], place: int
    ) -> SampleAxis:
        if axis.axis is None:
            return axis
        to = moved(Move(self.graph, node, name, item, self.graph.values[value].shape, axis.axis, after, place))
        return LOST if to is None else axis.at(to)

    def samples(self, count: int, found: Axes, path: Path, ends: Axes) -> Samples:
        """The axes that hold for the books, where relevance comes back.

        Parameters
        ----------
        count
            Number of samples B.
        found
            From `forward`.
        path
            Nodes through which relevance comes back, in the order of execution, each with the values it is handed on to.
        ends
            The values at which relevance enters, each with the axis of the samples whose scores it is of.
        """
        if count == 1:
            return Samples(1, {})
        lost = {value for value, axis in found.items() if axis.lost}
        loose = lost | {value for value, axis in ends.items() if axis.lost or not found.get(value, LOST).same(axis)}
        first = [] if loose <= lost else ["what is explained"]
        reached = set(ends)
        for node, handed in reversed(path):
            outputs = reached.intersection(o for o in node.outputs if o is not None)
            if not outputs:
                continue
            reached.update(handed)
            if outputs & loose:
                loose.update(handed)
                if outputs & lost and not lost.intersection(handed):
                    first.append(node.name)
        return Samples(count, {v: axis for v, axis in found.items() if v not in loose}, tuple(first[::-1]))


def positions(graph: Graph, nodes: Iterable[Node]) -> set[int]:
    """The values of a run that tell which rows go where: the indices of these nodes."""
    return {
        ref.index
        for node in nodes
        for name in INDEXED.get(packet(node.op), ())
        for ref in refs_in(node.args.get(name))
        if not graph.values[ref.index].is_floating and graph.values[ref.index].kind != "constant"
    }


def per_sample(amount: Tensor, axis: SampleAxis | None, samples: int) -> tuple[Tensor | None, Tensor | None]:
    """The sum of `amount` for each sample, shape (samples,), and of what belongs to none, shape ().

    The first is None if the elements cannot be told apart, the second if nothing is left over. Sums are taken in float32
    at least: those of half precision would be off by more than what they are there to check.
    """
    exact = torch.promote_types(amount.dtype, torch.float32)
    if samples == 1:
        return amount.sum(dtype=exact).reshape(1), None
    if not amount.numel():
        return amount.new_zeros(samples, dtype=exact), None
    if axis is None or axis.lost:
        return None, amount.sum(dtype=exact)
    if axis.axis is None:
        total = amount.sum(dtype=exact).reshape(1)
    elif amount.dim() <= axis.axis or amount.shape[axis.axis] != len(axis.ids):
        return None, amount.sum(dtype=exact)
    else:
        total = (
            amount.sum([d for d in range(amount.dim()) if d != axis.axis], dtype=exact) if amount.dim() > 1 else amount
        )
        if axis.in_order(samples):
            return total.to(exact), None
    if exact != torch.float64 and amount.device.type != "mps":
        total = total.double()
    ids = axis.ids.to(amount.device)
    place = torch.where(ids < 0, samples, ids)
    sums = torch.zeros(samples + 1, dtype=total.dtype, device=amount.device).index_add(0, place, total)
    return sums[:samples], sums[samples] if axis.partial else None
