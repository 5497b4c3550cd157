"""The samples of what an op copies: the number of its sample goes with each element, the way the element went."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dlbt_core.graph.ir import Graph, Node, Ref, refs_in, substitute
from dlbt_core.graph.ops import COPIES, arguments, packet, resolve_op
from dlbt_core.graph.sample_axis import LOST, SampleAxis, compress, join, labels
from dlbt_core.graph.sample_moves import knows

__all__ = ["INDEXED", "Copied", "copying"]

Shape = tuple[int, ...]

INDEXED: Mapping[str, tuple[str, ...]] = {
    "aten.index": ("indices",),
    "aten.index_put": ("indices",),
    "aten.take_along_dim": ("indices",),
    "aten.masked_select": ("mask",),
    "aten.masked_scatter": ("mask",),
    "aten.repeat_interleave": ("repeats",),
    "aten._pack_padded_sequence": ("lengths",),
    "aten._pad_packed_sequence": ("batch_sizes",),
    "aten.lstm": ("batch_sizes",),
    "aten.gru": ("batch_sizes",),
    "aten.rnn_tanh": ("batch_sizes",),
    "aten.rnn_relu": ("batch_sizes",),
} | dict.fromkeys(
    (
        f"aten.{name}"
        for name in """index_select index_add index_reduce index_copy index_fill gather scatter scatter_add
        scatter_reduce""".split()
    ),
    ("index",),
)
"""Arguments whose numbers say which element goes where."""


class Copied(NamedTuple):
    """A node that copies, and one of its results.

    Attributes
    ----------
    sources
        Value to axis, of those arguments that depend on samples.
    values
        The values of the run; of them the indices are read.
    after, place
        The result's shape, and which of several it is.
    """

    graph: Graph
    node: Node
    sources: Mapping[int, SampleAxis]
    values: Sequence[Any]
    after: Shape
    place: int

    def shape(self, ref: Ref) -> Shape:
        """Shape of an argument."""
        return self.graph.values[ref.index].shape

    @property
    def base(self) -> tuple[Shape, SampleAxis | None]:
        """Shape and axis of what is copied, where that is one argument."""
        (ref,) = refs_in(self.node.args["self"])
        return self.shape(ref), self.sources.get(ref.index)

    @property
    def rank(self) -> int:
        """Number of dimensions of what is copied."""
        name = next(n for n in ("self", "input", "tensors") if n in self.node.args)
        return max(len(self.shape(ref)) for ref in refs_in(self.node.args[name]))

    def number(self, ref: Ref) -> Tensor | None:
        """The numbers of an index."""
        known = self.graph.constants.get(ref.index, self.values[ref.index])
        return known.cpu() if isinstance(known, Tensor) else None

    def arg(self, name: str) -> Any:
        """An argument, or its schema's default."""
        return self.node.args.get(name, next((a.default for a in arguments(self.node.op) if a.name == name), None))


def copying(node: Node) -> Callable[[Copied], SampleAxis | None] | None:
    """What finds the samples of a node's results; None if it does not copy, or only moves dimensions (`sample_moves`)."""
    name = packet(node.op)
    if name in _PACKED:
        return _recurrent_rows if "batch_sizes" in node.args else None
    return _HOW.get(name, _by_labels if name in COPIES and not knows(name) else None)


# -- the order of elements stays ----------------------------------------------------------------------------------------


def _reshaped(copy: Copied) -> SampleAxis | None:
    """Look for the dimension along which the number of the sample changes as it does in the order of all elements."""
    (before, axis), after = copy.base, copy.after
    if axis is None or axis.axis is None:
        return axis
    if 0 in before or 0 in after or math.prod(before) != math.prod(after):
        return LOST
    step = math.prod(before[axis.axis + 1 :])
    run, period = _rhythm(axis.ids)
    for place, size in enumerate(after):
        below = math.prod(after[place + 1 :])
        if (step * run) % below == 0 and (below * size) % (step * period) == 0:
            there = torch.arange(size) * below // step % len(axis.ids)
            return SampleAxis.of(place, axis.ids[there])
    return LOST


def _rhythm(ids: Tensor) -> tuple[int, int]:
    """The longest run of equal numbers of which all are made, and after how many places they begin anew."""
    changes = (ids[1:] != ids[:-1]).nonzero().flatten() + 1
    run = reduce(math.gcd, changes.unique_consecutive().tolist(), len(ids))
    heads = ids[::run]
    period = next(p for p in range(1, len(heads) + 1) if len(heads) % p == 0 and torch.equal(heads[p:], heads[:-p]))
    return run, period * run


def _permuted(copy: Copied) -> SampleAxis | None:
    """Strides of a tensor without memory tell which dimension went where."""
    before, axis = copy.base
    if axis is None or axis.axis is None:
        return axis
    probe = torch.empty_strided([2] * len(before), [3**d for d in range(len(before))], device="meta")
    return axis.at(_call(copy, {"self": probe}).stride().index(3**axis.axis))


# -- along one dimension ------------------------------------------------------------------------------------------------


def _along_one(copy: Copied) -> SampleAxis | None:
    """Ops along one dimension: where that is the samples', their numbers go along it too; others stay apart."""
    dim = _dimension(copy)
    if dim is None:
        return _by_labels(copy)
    placed = [_aligned(copy, value, axis, dim) for value, axis in copy.sources.items()]
    if all(axis.axis in (None, dim) for axis in placed):
        return _along(copy, dim)
    return LOST if any(axis.axis == dim for axis in placed) else join(_apart(copy, axis, dim) for axis in placed)


def _dimension(copy: Copied) -> int | None:
    """The one dimension an op works along, counted from the left; None if there are several."""
    if packet(copy.node.op) in ("aten.index", "aten.index_put"):
        given = copy.node.args["indices"]
        used = [place for place, index in enumerate(given) if index is not None]
        return used[0] if len(used) == 1 and len(copy.shape(given[used[0]])) == 1 else None
    dim = copy.arg("dims") if "dims" in copy.node.args else copy.arg("dim")
    if isinstance(dim, (list, tuple)):
        dim = dim[0] if len(dim) == 1 else None
    return None if dim is None else int(dim) % copy.rank


def _aligned(copy: Copied, value: int, axis: SampleAxis, dim: int) -> SampleAxis:
    """The axis of an argument among the dimensions of the whole, if it is a slice of it or is broadcast."""
    shape = copy.graph.values[value].shape
    if axis.axis is None or len(shape) == copy.rank:
        return axis
    sliced = packet(copy.node.op) == "aten.select_scatter"
    return axis.at(axis.axis + (axis.axis >= dim if sliced else copy.rank - len(shape)))


def _apart(copy: Copied, axis: SampleAxis, dim: int) -> SampleAxis:
    """Another dimension than the op's own stays, one place to the left behind one that is taken away."""
    if axis.axis is None:
        return axis
    place = axis.axis - (axis.axis > dim and len(copy.after) < copy.rank)
    return axis.at(place) if copy.after[place] == len(axis.ids) else LOST


def _along(copy: Copied, dim: int) -> SampleAxis | None:
    """Let the op act on the numbers of the samples along its own dimension alone."""

    def vector(ref: Ref) -> Any:
        value, axis = copy.graph.values[ref.index], copy.sources.get(ref.index)
        if axis is None and not value.is_floating:
            return copy.number(ref)
        size = value.shape[dim : dim + 1] if len(value.shape) == copy.rank else ()
        return labels(axis.at(0) if axis is not None else None, size)

    args = _substituted(copy, vector)
    if args is None or any(len(copy.shape(r)) < copy.rank for r in refs_in(copy.node.args.get("values"))):
        return _by_labels(copy)
    for name in ("dim", "dims"):
        if copy.arg(name) is not None:
            args[name] = [0] if isinstance(copy.arg(name), (list, tuple)) else 0
    if "indices" in args:
        args["indices"] = [index for index in args["indices"] if index is not None]
    found = _numbers(copy, args)
    return found if found is None or found.axis is None else found.at(dim)


def _stacked(copy: Copied) -> SampleAxis | None:
    """Values in a row along a new dimension."""
    dim = int(copy.arg("dim")) % len(copy.after)
    refs = list(refs_in(copy.node.args["tensors"]))
    axes = [copy.sources.get(ref.index) for ref in refs]
    if all(axis is None or axis.axis is None for axis in axes):
        ids = torch.tensor([-1 if axis is None else int(axis.ids[0]) for axis in axes])
        return SampleAxis.of(dim, ids)
    return join(a if a.axis is None else a.at(a.axis + (a.axis >= dim)) for a in axes if a is not None)


def _indexed(copy: Copied) -> SampleAxis | None:
    """``x[..., index, ...]``: with one index the dimensions before it stay, and those behind make room for its own."""
    given = copy.node.args["indices"]
    used = [place for place, index in enumerate(given) if index is not None]
    _, axis = copy.base
    several = len(used) > 1 or copy.graph.values[given[used[0]].index].dtype == torch.bool
    if axis is not None and axis.axis is not None and not several and axis.axis != used[0]:
        return axis.at(axis.axis + (len(copy.shape(given[used[0]])) - 1) * (axis.axis > used[0]))
    return _by_labels(copy) if several else _along_one(copy)


def _gathered(copy: Copied) -> SampleAxis | None:
    """Along a dimension, at each place of the others: if they are not the samples', places stay."""
    (ref,) = refs_in(copy.node.args["index" if "index" in copy.node.args else "indices"])
    index, dim = copy.shape(ref), copy.arg("dim")
    for axis in copy.sources.values():
        place = axis.axis
        if place is not None and (
            dim is None or dim % copy.rank == place or not len(axis.ids) == index[place] == copy.after[place]
        ):
            return LOST if "reduce" in copy.node.args else _by_labels(copy)
    return join(copy.sources.values())


def _padded(copy: Copied) -> SampleAxis | None:
    """Room at the ends of the last dimensions: those before them stay."""
    _, axis = copy.base
    behind = len(copy.node.args["pad"]) // 2
    apart = axis is not None and axis.axis is not None and axis.axis < copy.rank - behind
    return axis if apart else _by_labels(copy)


# -- anywhere -----------------------------------------------------------------------------------------------------------


def _by_labels(copy: Copied) -> SampleAxis | None:
    """Let the op act on the numbers of the samples of all elements."""

    def full(ref: Ref) -> Any:
        value, axis = copy.graph.values[ref.index], copy.sources.get(ref.index)
        known = axis is not None or value.is_floating
        return labels(axis, value.shape).contiguous() if known else copy.number(ref)

    args = _substituted(copy, full)
    return LOST if args is None else _numbers(copy, args)


def _substituted(copy: Copied, numbers: Callable[[Ref], Any]) -> dict[str, Any] | None:
    """The arguments with numbers of samples in place of tensors; None if those of an index were not kept."""
    if any(numbers(ref) is None for arg in copy.node.args.values() for ref in refs_in(arg)):
        return None
    args = {name: substitute(arg, numbers) for name, arg in copy.node.args.items()}
    return args | {name: 0 for name in ("value", "padding_value") if isinstance(args.get(name), (int, float))}


def _numbers(copy: Copied, args: dict[str, Any]) -> SampleAxis | None:
    found = _accumulated(copy, args) if _adds(copy) else _call(copy, args)
    if found is None:
        return LOST
    return compress(found[copy.place] if copy.node.many else found)


_ADDING = frozenset(f"aten.{name}" for name in "index_add index_reduce scatter_add scatter_reduce".split())


def _adds(copy: Copied) -> bool:
    """Whether what is written is added to what is there already."""
    return packet(copy.node.op) in _ADDING or bool(copy.node.args.get("accumulate"))


def _accumulated(copy: Copied, args: dict[str, Any]) -> Tensor | None:
    """Write the numbers, and read them again: where another one is found, samples have met."""
    there = args["self"].contiguous()
    empty, name = torch.zeros_like(there), packet(copy.node.op)
    if name == "aten.index_put":
        added = args["values"]
        written = torch.ops.aten.index_put(empty, args["indices"], added)
        again = torch.ops.aten.index(written, args["indices"])
    else:
        dim, index = args["dim"], args["index"]
        if name in ("aten.index_add", "aten.index_reduce"):
            added = args["source"]
            index = index.view([-1 if d == dim % added.dim() else 1 for d in range(added.dim())]).expand_as(added)
        else:
            added = args["src"][tuple(slice(n) for n in index.shape)]
        written = empty.scatter_reduce(dim, index, added, "amax")
        again = written.gather(dim, index)
    met = (again != added) & (added > 0)
    met_there = (written != there) & (written > 0) & (there > 0)
    return None if bool(met.any()) or bool(met_there.any()) else torch.maximum(written, there)


def _call(copy: Copied, args: Mapping[str, Any]) -> Any:
    """The op with some of its arguments replaced."""
    full = {**copy.node.args, **args}
    positional, keywords = [], {}
    for argument in arguments(copy.node.op):
        if argument.keyword_only:
            if argument.name in full and argument.name not in ("dtype", "device", "layout", "pin_memory"):
                keywords[argument.name] = full[argument.name]
        else:
            positional.append(full.get(argument.name, argument.default))
    return resolve_op(copy.node.op)(*positional, **keywords)


def _overwritten(copy: Copied) -> SampleAxis | None:
    """Of what was there nothing is left; the source is broadcast."""
    (ref,) = refs_in(copy.node.args["src"])
    axis, shape = copy.sources.get(ref.index), copy.shape(ref)
    return axis if axis is None or axis.axis is None else axis.at(axis.axis + len(copy.after) - len(shape))


def _recurrent_rows(copy: Copied) -> SampleAxis | None:
    """Recurrent layers on packed rows: the rows of each time are those of the first one, as far as they go."""
    sizes = copy.number(copy.node.args["batch_sizes"])
    data = copy.sources.get(copy.node.args["data"].index)
    if sizes is None or data is None or data.axis != 0 or len(copy.sources) > 1:
        return LOST
    first = data.ids[: int(sizes[0])]
    if not torch.equal(data.ids, torch.cat([first[:size] for size in sizes.tolist()])):
        return LOST
    return data if copy.place == 0 else SampleAxis.of(1, first)


def _each(how: Callable[[Copied], SampleAxis | None], names: str) -> dict[str, Callable[[Copied], SampleAxis | None]]:
    return {f"aten.{name}": how for name in names.split()}


_HOW: Mapping[str, Callable[[Copied], SampleAxis | None]] = {
    **_each(_reshaped, "view reshape _unsafe_view _reshape_alias flatten unflatten squeeze unsqueeze view_as reshape_as"),
    **_each(_permuted, "permute transpose swapaxes swapdims t numpy_T mT mH matrix_H adjoint movedim moveaxis"),
    **_each(_along_one, """slice narrow select unbind split split_with_sizes chunk tensor_split unsafe_split unsafe_chunk
                           flip roll repeat_interleave index_select index_add index_reduce index_copy index_fill cat
                           concat concatenate slice_scatter select_scatter"""),
    **_each(_stacked, "stack"),
    **_each(_indexed, "index"),
    **_each(_along_one, "index_put"),
    **_each(_gathered, "gather take_along_dim scatter scatter_add scatter_reduce"),
    **_each(_overwritten, "copy"),
    **_each(_padded, "constant_pad_nd pad"),
}  # fmt: skip
_PACKED = frozenset({"aten.lstm", "aten.gru", "aten.rnn_tanh", "aten.rnn_relu"})
