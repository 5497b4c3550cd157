"""How many bytes of tensors are alive at once: counted from the storages that ops make, so the same on every run."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts while it is entered; the scratch memory inside a kernel is not seen.

    Parameters
    ----------
    before
        Tensors that are there already, and not counted.

    Attributes
    ----------
    now, peak
        Bytes alive now, and the most there were.
    """

    def __init__(self, before: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: dict[int, weakref.ref[UntypedStorage]] = {}
        for tensor in before:
            self._watch(tensor.untyped_storage(), 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if id(storage) not in self._alive:
                    self._watch(storage, storage.nbytes())
        return out

    def _watch(self, storage: UntypedStorage, size: int) -> None:
        key = id(storage)

        def gone(_: Any) -> None:
            self.now -= size
            self._alive.pop(key, None)

        self._alive[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


def peak_bytes(function: Callable[[], Any], before: Iterable[Tensor] = ()) -> int:
    """The most bytes of tensors alive at once while a function runs, those of `before` left out."""
    with LiveBytes(before) as counted:
        kept = function()
    del kept
    return counted.peak
