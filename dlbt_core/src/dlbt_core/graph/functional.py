"""In-place ops and writes through views, rewritten as ops that only make new values.

Every tensor the model holds is an `Alias`. Tensors that share memory form a tree: the root made the memory, each child
is a view op applied to its parent. A write to one of them makes a new value for it, hands that up to the root
(``slice_scatter`` and its like), and leaves the other views stale: they are derived again when they are next read.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from dlbt_core.errors import CaptureError
from dlbt_core.graph.ir import Ref

__all__ = ["AS_STRIDED", "Alias", "AliasTracker", "ViewStep", "any_layout", "covers", "storage_key", "window_of"]

Emit = Callable[[str, Mapping[str, Any], Any], int]
Constant = Callable[[torch.Tensor], int]

_SAME_ELEMENTS = {
    "view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "alias", "detach", "contiguous",
    "to", "view_as", "reshape_as", "lift_fresh", "type_as", "_reshape_alias", "positive",
    "resolve_conj", "resolve_neg", "dropout", "feature_dropout", "expand_as",
}  # fmt: skip


AS_STRIDED = "aten.as_strided.default"
_ANY_LAYOUT = {
    "aten.view.default": ("aten.reshape.default", {"size": "shape"}),
    "aten.view_as.default": ("aten.reshape_as.default", {}),
}  # fmt: skip
_INVERSE = {
    "view_as_real": "aten.view_as_complex.default", "view_as_complex": "aten.view_as_real.default",
    "_conj": "aten.conj_physical.default", "conj": "aten.conj_physical.default", "_neg_view": "aten.neg.default",
}  # fmt: skip



def any_layout(op: str, args: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """A view op that does not mind the strides of what it views: after a write, those of a replay may differ."""
    if op not in _ANY_LAYOUT:
        return op, dict(args)
    other, names = _ANY_LAYOUT[op]
    return other, {names.get(name, name): arg for name, arg in args.items()}


@dataclass(frozen=True, slots=True)
class ViewStep:
    """How a view comes from its parent: the op, its arguments, and which of its outputs it is."""

    op: str
    args: Mapping[str, Any]
    parent_arg: str
    output: int


class Alias:
    """One tensor of the running model and the value that is in it now."""

    __slots__ = (
        "dtype", "external", "parent", "root", "shape", "step", "storage", "strides", "tensor", "value", "version"
    )  # fmt: skip

    def __init__(
        self, tensor: torch.Tensor, value: int, parent: Alias | None, step: ViewStep | None, gone: Callable[[int], None]
    ) -> None:
        key = storage_key(tensor)
        self.tensor = weakref.ref(tensor, None if key is None else lambda _: gone(key))
        self.value = value
        self.parent = parent
        self.root: Alias = parent.root if parent is not None else self
        self.step = step
        self.version: int = self.root.version if parent is not None else 0
        self.shape = tuple(tensor.shape)
        self.dtype = tensor.dtype
        self.strides = (tuple(tensor.stride()), int(tensor.storage_offset()))
        self.storage = storage_key(tensor)
        self.external = False

    @property
    def window(self) -> tuple[int, int]:
        """See `window_of`."""
        return _extent(self.shape, *self.strides, self.dtype)


class AliasTracker:
    """Knows every live tensor of a recording by identity, and its memory by storage."""

    def __init__(self, emit: Emit, constant: Constant) -> None:
        self._emit = emit
        self._constant = constant
        self._by_id: dict[int, Alias] = {}
        self._roots: dict[int, list[tuple[StorageWeakRef, Alias]]] = {}
        self._going: set[int] = set()

    def known(self, tensor: torch.Tensor) -> Alias | None:
        """The alias of this very tensor object."""
        alias = self._by_id.get(id(tensor))
        same = alias is not None and alias.tensor() is tensor and alias.storage == storage_key(tensor)
        return alias if same else None

    def find(self, tensor: torch.Tensor) -> Alias | None:
        """The alias of this very tensor object, or of the memory it is a new window on."""
        alias = self.known(tensor)
        if alias is not None:
            return alias
        root = self.root_of(tensor)
        if root is None:
            return None
        if self._same_window(root, tensor):
            return self.bind(tensor, self.current(root), root, ViewStep("aten.alias.default", {}, "self", 0))
        return self.window(tensor, root)

    def window(self, tensor: torch.Tensor, root: Alias) -> Alias:
        """Let `tensor` be known as elements picked out of `root` by their places in memory."""
        alias = self.bind(tensor, self.current(root), root, ViewStep(AS_STRIDED, {}, "self", 0))
        alias.value = self._pick(alias, root, alias.value)
        return alias

    @staticmethod
    def _same_window(alias: Alias, tensor: torch.Tensor) -> bool:
        strides = (tuple(tensor.stride()), tensor.storage_offset())
        return alias.shape == tuple(tensor.shape) and alias.strides == strides and alias.dtype == tensor.dtype

    def root_of(self, tensor: torch.Tensor) -> Alias | None:
        """The root alias whose memory `tensor` is a window on, if there is one.

        Inputs, weights and constants may be pieces of one memory (slices of a batch, flattened weights): each is a root.
        """
        key = storage_key(tensor)
        if key is None:
            return None
        roots = [root for storage, root in self._roots.get(key, ()) if not storage.expired()]
        return next((root for root in roots if covers(root.window, window_of(tensor))), None)

    def _forget(self) -> None:
        """Let go of memory that is gone: weak references keep crumbs of it, between which nothing large would fit again."""
        while self._going:
            key = self._going.pop()
            living = [(storage, root) for storage, root in self._roots.pop(key, ()) if not storage.expired()]
            if living:
                self._roots[key] = living

    def clear(self) -> None:
        """Know no tensor any longer."""
        self._by_id.clear()
        self._roots.clear()

    def bind(
        self, tensor: torch.Tensor, value: int, parent: Alias | None = None, step: ViewStep | None = None
    ) -> Alias:
        """Let `tensor` be known as holding `value`; with a parent, as a view of it."""
        self._forget()
        alias = Alias(tensor, value, parent, step, self._going.add)
        self._by_id[id(tensor)] = alias
        if parent is None:
            key = storage_key(tensor)
            if key is not None:
                living = [(storage, root) for storage, root in self._roots.get(key, ()) if not storage.expired()]
                self._roots[key] = [*living, (StorageWeakRef(tensor.untyped_storage()), alias)]
        return alias

    def current(self, alias: Alias) -> int:
        """The value in `alias` now; derived again if its memory was written through another view."""
        if alias.version != alias.root.version:
            assert alias.parent is not None
            assert alias.step is not None
            alias.value = self._derive(alias, alias.step, alias.parent, self.current(alias.parent))
            alias.version = alias.root.version
        return alias.value

    def _derive(self, alias: Alias, step: ViewStep, parent: Alias, value: int) -> int:
        if step.op == AS_STRIDED:
            return self._pick(alias, parent, value)
        op, args = any_layout(step.op, step.args)
        return self._emit(op, {step.parent_arg: Ref(value), **args, "__output__": step.output}, alias)

    def _pick(self, child: Alias, parent: Alias, value: int) -> int:
        """The child's elements out of the parent's value, whose strides in a replay may be others than in the run."""
        flat = self._emit("aten.reshape.default", {"self": Ref(value), "shape": [-1]}, _flat(parent))
        places = Ref(self._constant(_places(child, parent)))
        picked = self._emit("aten.index.Tensor", {"self": Ref(flat), "indices": [places]}, _flat(child))
        return self._emit("aten.reshape.default", {"self": Ref(picked), "shape": list(child.shape)}, child)

    def _put(self, child: Alias, parent: Alias, old: int) -> int:
        """The parent's value with the child's elements put where they lie in memory."""
        places = Ref(self._constant(_places(child, parent)))
        flat = self._emit("aten.reshape.default", {"self": Ref(old), "shape": [-1]}, _flat(parent))
        new = self._emit("aten.reshape.default", {"self": Ref(child.value), "shape": [-1]}, _flat(child))
        args = {"self": Ref(flat), "indices": [places], "values": Ref(new)}
        both = self._emit("aten.index_put.default", args, _flat(parent))
        return self._emit("aten.reshape.default", {"self": Ref(both), "shape": list(parent.shape)}, parent)

    def write(self, alias: Alias, value: int) -> None:
        """`alias` was written: it holds `value` now, and so do, in their way, all that share its memory."""
        chain = [alias]
        while chain[-1].parent is not None:
            chain.append(chain[-1].parent)
        before = [self.current(link) for link in chain]
        version = alias.root.version + 1
        alias.value = value
        for child, parent, old in zip(chain, chain[1:], before[1:], strict=False):
            parent.value = self._put_back(child, parent, old)
        for link in chain:
            link.version = version

    def _put_back(self, child: Alias, parent: Alias, old: int) -> int:
        """The parent's new value: its old one with the child's elements replaced."""
        step = child.step
        assert step is not None
        name = step.op.split(".")[1]
        args = step.args
        new, base = Ref(child.value), Ref(old)
        if child.dtype != parent.dtype or name in ("_conj", "conj", "_neg_view"):
            return self._put_back_numbers(name, child, parent, old)
        if name in _SAME_ELEMENTS:
            if child.shape == parent.shape:
                return child.value
            return self._emit("aten.reshape.default", {"self": new, "shape": list(parent.shape)}, parent)
        if name in ("transpose", "swapaxes", "swapdims"):
            return self._emit("aten.transpose.int", {"self": new, **_dims(args)}, parent)
        if name in ("t", "numpy_T"):
            return self._emit("aten.permute.default", {"self": new, "dims": list(range(len(parent.shape)))[::-1]}, parent)
        if name == "permute":
            rank = len(parent.shape)
            dims = [d % rank for d in args["dims"]]
            return self._emit("aten.permute.default", {"self": new, "dims": [dims.index(d) for d in range(rank)]}, parent)
        if name == "select":
            where = {"dim": args["dim"], "index": args["index"]}
            return self._emit("aten.select_scatter.default", {"self": base, "src": new, **where}, parent)
        if name in ("slice", "narrow", "split", "split_with_sizes", "chunk", "unbind", "tensor_split"):
            where = _window(name, args, step.output, parent.shape, child.shape)
            if name == "unbind":
                return self._emit("aten.select_scatter.default", {"self": base, "src": new, **where}, parent)
            return self._emit("aten.slice_scatter.default", {"self": base, "src": new, **where}, parent)
        if name == "diagonal":
            return self._emit("aten.diagonal_scatter.default", {"self": base, "src": new, **args}, parent)
        return self._put(child, parent, old)

    def _put_back_numbers(self, name: str, child: Alias, parent: Alias, old: int) -> int:
        """The same for views that show the parent's memory as other numbers."""
        new = Ref(child.value)
        if name in ("real", "imag"):
            other = "imag" if name == "real" else "real"
            parts = {name: new, other: Ref(self._emit(f"aten.{other}.default", {"self": Ref(old)}, child))}
            return self._emit("aten.complex.default", parts, parent)
        if name == "view":
            return self._emit("aten.view.dtype", {"self": new, "dtype": parent.dtype}, parent)
        return self._emit(_INVERSE[name], {"self": new}, parent)


def _dims(args: Mapping[str, Any]) -> dict[str, Any]:
    first, second = (args[k] for k in (("dim0", "dim1") if "dim0" in args else ("axis0", "axis1")))
    return {"dim0": first, "dim1": second}


def _window(
    name: str, args: Mapping[str, Any], output: int, parent: tuple[int, ...], child: tuple[int, ...]
) -> dict[str, Any]:
    """The stretch of the parent that one piece of a slice, split, chunk or unbind covers."""
    dim = args.get("dim", 0) or 0
    if name == "slice":
        return {k: args[k] for k in ("dim", "start", "end", "step") if k in args}
    if name == "unbind":
        return {"dim": dim, "index": output}
    if name == "narrow":
        start = args["start"] % parent[dim]
    elif name == "split_with_sizes":
        start = sum(args["split_sizes"][:output])
    elif name == "split" and isinstance(args["split_size"], int):
        start = args["split_size"] * output
    elif name == "split":
        start = sum(args["split_size"][:output])
    elif name == "chunk":
        start = -(-parent[dim] // args["chunks"]) * output
    elif "indices" in args:
        start = slice(0, [0, *args["indices"]][output]).indices(parent[dim])[1]
    else:
        even, extra = divmod(parent[dim], args["sections"])
        start = even * output + min(output, extra)
    return {"dim": dim, "start": start, "end": start + child[dim]}


def _places(child: Alias, parent: Alias) -> torch.Tensor:
    """Where the child's elements, in order, stand among the parent's."""
    inside, outside = _addresses(parent), _addresses(child)
    order = torch.full((int(torch.cat([inside, outside]).max()) + 1,), -1)
    order[inside] = torch.arange(inside.numel())
    if bool((order[outside] < 0).any()):
        raise CaptureError("a window on memory outside of the tensor cannot be recorded.\n  fix  slice the tensor instead.")
    return order[outside]


def _addresses(alias: Alias) -> torch.Tensor:
    """The place in memory of each element, in order."""
    strides, offset = alias.strides
    found = torch.tensor([offset])
    for size, stride in zip(alias.shape, strides, strict=True):
        found = (found.unsqueeze(-1) + torch.arange(size) * stride).reshape(-1)
    return found


def _flat(alias: Alias) -> Any:
    """What the alias' elements look like in a row."""
    return torch.empty(math.prod(alias.shape), dtype=alias.dtype, device="meta")


def window_of(tensor: torch.Tensor) -> tuple[int, int]:
    """The first byte of its memory that a tensor covers, and the last."""
    return _extent(tuple(tensor.shape), tuple(tensor.stride()), int(tensor.storage_offset()), tensor.dtype)


def _extent(shape: tuple[int, ...], stride: tuple[int, ...], offset: int, dtype: torch.dtype) -> tuple[int, int]:
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True) if size)
    return offset * dtype.itemsize, (last + 1) * dtype.itemsize - 1


def covers(whole: tuple[int, int], part: tuple[int, int]) -> bool:
    """Whether one window lies in another."""
    return whole[0] <= part[0] and part[1] <= whole[1]


def storage_key(tensor: torch.Tensor) -> int | None:
    """Tells memories apart; None for a tensor without memory."""
    try:
        storage = tensor.untyped_storage()
        return int(storage._cdata) if storage.nbytes() else None
    except (RuntimeError, NotImplementedError):
        return None
