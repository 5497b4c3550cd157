"""The tape: a model's own forward pass, recorded below autograd, where composite ops are still whole."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dlbt_core.errors import CaptureError
from dlbt_core.graph.functional import (
    AS_STRIDED,
    Alias,
    AliasTracker,
    ViewStep,
    any_layout,
    covers,
    storage_key,
    window_of,
)
from dlbt_core.graph.guards import advanced, guard_of, random_state
from dlbt_core.graph.ir import Graph, Namer, Node, Ref, Value, refs_in
from dlbt_core.graph.ops import packet, returns_many
from dlbt_core.graph.running import Running
from dlbt_core.graph.structure import leaves
from dlbt_core.graph.writes import METADATA_ONLY, TRUTH, WHOLE, Functional, functional_form, plain_name

__all__ = ["Expand", "Tape"]

Expand = Callable[[Any], Callable[..., Any] | None]


class Tape(TorchDispatchMode):
    """Takes down every op while it is the active dispatch mode."""

    def __init__(self, model: Any, inputs: Mapping[str, torch.Tensor], expand: Expand | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.values: list[Value] = []
        self.nodes: list[Node] = []
        self.constants: dict[int, torch.Tensor] = {}
        self.state_values: dict[str, int] = {}
        self.input_values: dict[str, int] = {}
        self.random: list[str] = []
        self.running = Running(model, lambda output: tuple(self._known(output)))
        self.tracker = AliasTracker(self._emit_single, self._constant)
        self._namer = Namer()
        self._expand = expand
        self._thread = threading.get_ident()
        self._undo: list[Callable[[], Any]] = []
        self._keep: list[torch.Tensor] = []
        self._states: dict[int, tuple[str, str, torch.Tensor]] = {}
        self._registered: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._state_storages: dict[int, list[str]] = {}
        self._expanding = False
        if isinstance(model, torch.nn.Module):
            self._know_states(model)
        for path, tensor in inputs.items():
            owner = self._owner_of(tensor)
            if owner is not None:
                raise CaptureError(
                    f"input {path!r} shares its memory with the model's own {self._states[id(owner)][0]!r}.\n"
                    "  fix  pass a copy of it: .clone()."
                )
            self.input_values[path] = self._external(tensor, "input", path)

    # -- values -----------------------------------------------------------------------------------------------------

    def _know_states(self, model: torch.nn.Module) -> None:
        for module in model.modules():
            self._registered += [
                (held, dict(held)) for held in (module._parameters, module._buffers) if type(held) is dict
            ]
        for kind, items in (("parameter", model.named_parameters()), ("buffer", model.named_buffers())):
            for name, tensor in items:
                self._states[id(tensor)] = (name, kind, tensor)
                key = storage_key(tensor) if tensor.layout == torch.strided else None
                if key is not None:
                    self._state_storages.setdefault(key, []).append(name)
        self._states_by_name = {name: (kind, tensor) for name, kind, tensor in self._states.values()}

    def _new_value(self, kind: Any, name: str, like: Any, node: int | None = None) -> int:
        if getattr(like, "is_nested", False):
            raise CaptureError(
                f"a nested tensor in {self.running.site()} cannot be recorded.\n  fix  use padded tensors there."
            )
        index = len(self.values)
        self.values.append(Value(index, kind, name, tuple(like.shape), like.dtype, node))
        return index

    def _external(self, tensor: torch.Tensor, kind: Any, name: str) -> int:
        known = self.tracker.known(tensor)
        if known is not None:
            return self.tracker.current(known)
        value = self._new_value(kind, name, tensor)
        self.tracker.bind(tensor, value).external = True
        self._keep.append(tensor)
        return value

    def value_of(self, tensor: torch.Tensor) -> int:
        """The value that `tensor` holds now; a tensor never seen before is a weight or a constant."""
        alias = self.tracker.known(tensor)
        if alias is None and id(tensor) in self._states:
            name, kind, _ = self._states[id(tensor)]
            value = self._external(tensor, kind, name)
            self.state_values[name] = value
            return value
        owner = self._owner_of(tensor) if alias is None else None
        if owner is not None:
            self.value_of(owner)
        alias = alias or self.tracker.find(tensor)
        if alias is not None:
            return self.tracker.current(alias)
        if tensor.layout != torch.strided:
            raise CaptureError(
                f"a {tensor.layout} tensor in {self.running.site()} cannot be recorded.\n  fix  use dense tensors there."
            )
        value = self._external(tensor, "constant", f"constant_{len(self.constants)}")
        self.constants[value] = tensor
        return value

    def _constant(self, tensor: torch.Tensor) -> int:
        """A tensor of the recording's own, as a value."""
        value = self._new_value("constant", f"constant_{len(self.constants)}", tensor)
        self.constants[value] = tensor
        return value

    def _owner_of(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """The parameter or buffer whose memory `tensor` shares, e.g. as its ``.data``."""
        key = storage_key(tensor) if tensor.layout == torch.strided else None
        owners = (
            [self._states_by_name[name][1] for name in self._state_storages.get(key, ())] if key is not None else []
        )
        owner = next((o for o in owners if covers(window_of(o), window_of(tensor))), None)
        return None if owner is None or self.tracker.known(owner) is not None else owner

    # -- ops --------------------------------------------------------------------------------------------------------

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if threading.get_ident() != self._thread:
            return func(*args, **kwargs)
        instead = None if self._expand is None or self._expanding else self._expand(func)
        if instead is not None and any(_is_floating(leaf) for _, leaf in leaves(args)):
            self._expanding, outer = True, self._expanding
            try:
                with self:
                    return instead(*args, **kwargs)
            finally:
                self._expanding = outer
        schema = func._schema
        given = self._by_name(schema, args, kwargs)
        written = [a.name for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write]
        if written and func._opname not in METADATA_ONLY:
            return self._write(func, given, written, args, kwargs)
        refs = {name: self._refer(arg) for name, arg in given.items()}
        seed = random_state(func)
        if written:
            self._will_turn(given["self"])
        result = func(*args, **kwargs)
        self._note(plain_name(func), func, given, refs, result, drew=seed is not None and advanced(seed))
        return result

    def _will_turn(self, tensor: torch.Tensor) -> None:
        """A tensor is about to look at its memory in another way; an input or a weight will be turned back."""
        if self._alias_of(tensor).root.external:
            self._undo.append(partial(tensor.as_strided_, tensor.shape, tensor.stride(), tensor.storage_offset()))

    @staticmethod
    def _by_name(schema: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        return {a.name: value for a, value in zip(schema.arguments, args, strict=False)} | dict(kwargs)

    def _refer(self, arg: Any) -> Any:
        """The argument with references in place of tensors."""
        if isinstance(arg, torch.Tensor):
            return Ref(self.value_of(arg))
        if isinstance(arg, (list, tuple)):
            return [Ref(self.value_of(a)) if isinstance(a, torch.Tensor) else a for a in arg]
        return arg

    def _note(
        self, op: str, func: Any, given: Mapping[str, Any], refs: dict[str, Any], result: Any, drew: bool
    ) -> None:
        many = isinstance(result, (list, tuple))
        items = list(result) if many else [result]
        tensors = [item if isinstance(item, torch.Tensor) else None for item in items]
        if drew:
            self._note_random(func, tensors)
            return
        viewed = next((parent for item in tensors if item is not None for _, parent in self._viewed(given, item)), None)
        if viewed is not None and viewed.root.version:
            if op == AS_STRIDED:
                self.tracker.window(result, viewed.root)
                return
            op, refs = any_layout(op, refs)
        guard = guard_of(func, given, items)
        name, index = self._namer(op), len(self.nodes)
        outputs: list[int | None] = []
        for position, tensor in enumerate(tensors):
            if tensor is None:
                outputs.append(None)
                continue
            value = self._new_value("result", f"{name}.{position}" if many else name, tensor, index)
            outputs.append(value)
            self._bind_result(op, given, refs, tensor, value, position)
        args = MappingProxyType(refs)
        self.nodes.append(Node(index, name, op, args, tuple(outputs), many, self.running.site(), guard))

    def _bind_result(
        self, op: str, given: Mapping[str, Any], refs: Mapping[str, Any], tensor: torch.Tensor, value: int, out: int
    ) -> None:
        """Let the tensor be known, as a view of the argument whose memory it shares, if there is one."""
        for name, parent in self._viewed(given, tensor):
            parent = parent.root if op == AS_STRIDED else parent
            others = {k: v for k, v in refs.items() if k != name}
            self.tracker.bind(tensor, value, parent, ViewStep(op, others, name, out))
            return
        self.tracker.bind(tensor, value)

    def _viewed(self, given: Mapping[str, Any], result: torch.Tensor) -> Iterator[tuple[str, Alias]]:
        """The arguments whose memory a result shares, by name."""
        key = storage_key(result)
        for name, arg in given.items() if key is not None else ():
            parent = self.tracker.find(arg) if isinstance(arg, torch.Tensor) else None
            if parent is not None and parent.storage == key:
                yield name, parent

    def _note_random(self, func: Any, tensors: list[torch.Tensor | None]) -> None:
        """Random numbers are kept: replaying the graph must give the same numbers."""
        self.random.append(f"{func} in {self.running.site()}")
        for tensor in tensors:
            if tensor is not None:
                value = self._new_value("constant", f"random_{len(self.constants)}", tensor)
                self.constants[value] = tensor.clone()
                self.tracker.bind(tensor, value)

    def _write(self, func: Any, given: dict[str, Any], written: list[str], args: Any, kwargs: Any) -> Any:
        """An in-place or out= op: recorded as the op that makes new values."""
        functional = functional_form(func)
        formless = functional is None and func._opname not in WHOLE
        if formless and func.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd):
            with self:
                return func.decompose(*args, **kwargs)
        refs = {name: self._refer(arg) for name, arg in given.items()}
        lists = [given[name] if isinstance(given[name], (list, tuple)) else [given[name]] for name in written]
        targets = [target for found in lists for target in found]
        aliases = [self._alias_of(target) for target in targets]
        seed = random_state(func)
        for target, alias in zip(targets, aliases, strict=True):
            if alias.root.external:
                self._undo.append(partial(target.copy_, target.clone()))
        result = func(*args, **kwargs)
        if seed is not None and advanced(seed):
            self.random.append(f"{func} in {self.running.site()}")
            values = [self._constant(target.clone()) for target in targets]
        elif formless:
            raise CaptureError(
                f"{func} in {self.running.site()} writes into a tensor and has no functional form.\n"
                "  fix  use an op that returns a new tensor there."
            )
        elif len(targets) > 1 and functional is not None:
            values = self._emit_many(functional, refs, targets)
        else:
            values = [self._emit_write(func, functional, refs, targets[0])]
        for target, alias, value in zip(targets, aliases, values, strict=True):
            if alias.shape == tuple(target.shape):
                self.tracker.write(alias, value)
            elif math.prod(alias.shape) or alias.root.external or functional is None:
                raise CaptureError(
                    f"{func} in {self.running.site()} resizes a tensor; that cannot be recorded.\n"
                    "  fix  make a new tensor there."
                )
            else:
                self.tracker.bind(target, value)
        return result

    def _alias_of(self, tensor: torch.Tensor) -> Alias:
        self.value_of(tensor)
        alias = self.tracker.find(tensor)
        assert alias is not None
        return alias

    def _emit_many(self, functional: Functional, refs: Mapping[str, Any], targets: list[torch.Tensor]) -> list[int]:
        """The values that an op leaves in several tensors at once."""
        name, index = self._namer(functional.op), len(self.nodes)
        values = [self._new_value("result", f"{name}.{i}", target, index) for i, target in enumerate(targets)]
        args = MappingProxyType(functional.take(refs))
        self.nodes.append(Node(index, name, functional.op, args, tuple(values), True, self.running.site()))
        return values

    def _emit_write(self, func: Any, functional: Functional | None, refs: dict[str, Any], target: torch.Tensor) -> int:
        """The value that an in-place op leaves in `target`."""
        source = refs.get("src") if func._opname == "copy_" else refs.get("value") if func._opname == "fill_" else None
        if isinstance(source, Ref):
            value = source.index
            if self.values[value].shape != tuple(target.shape):
                args = {"self": source, "size": list(target.shape)}
                value = self._emit_single("aten.expand.default", args, _meta(target, self.values[value].dtype))
            return self._cast(value, target) if self.values[value].dtype != target.dtype else value
        if functional is None or func._opname in WHOLE:
            args = {"self": refs["self"], "fill_value": refs.get("value", 0)}
            return self._emit_single("aten.full_like.default", args, target)
        taken = functional.take(refs)
        if packet(functional.op) in TRUTH and target.dtype != torch.bool:
            return self._cast(self._emit_single(functional.op, taken, _meta(target, torch.bool)), target)
        value = self._emit_single(functional.op, taken, target)
        read = {self.values[ref.index].dtype for arg in taken.values() for ref in refs_in(arg)} - {target.dtype}
        strict = "out" in refs or not target.is_floating_point()
        return self._cast(value, target) if any(strict or dtype.is_floating_point for dtype in read) else value

    def _cast(self, value: int, target: torch.Tensor) -> int:
        return self._emit_single("aten.to.dtype", {"self": Ref(value), "dtype": target.dtype}, target)

    def _emit_single(self, op: str, args: Mapping[str, Any], like: Any) -> int:
        """Add a node of one result (or of which one result counts) and give its value."""
        args = dict(args)
        output = args.pop("__output__", 0)
        name, index = self._namer(op), len(self.nodes)
        value = self._new_value("result", name, like, index)
        many = returns_many(op)
        outputs = tuple([None] * output + [value]) if many else (value,)
        self.nodes.append(Node(index, name, op, MappingProxyType(args), outputs, many, self.running.site()))
        return value

    # -- modules and the end -------------------------------------------------------------------------------------------

    def _known(self, output: Any) -> Iterator[tuple[str, int]]:
        for path, leaf in leaves(output):
            if isinstance(leaf, torch.Tensor):
                alias: Alias | None = self.tracker.find(leaf)
                if alias is not None:
                    yield path, self.tracker.current(alias)

    @property
    def wrote_external(self) -> bool:
        """Whether the model wrote to an input, a weight or a buffer."""
        return bool(self._undo)

    def restore_writes(self) -> None:
        """Inputs, weights and buffers the model wrote to are given their contents back, and modules their tensors."""
        for held, before in self._registered:
            held.update(before)
        while self._undo:
            self._undo.pop()()

    def finish(self, outputs: Mapping[str, int]) -> Graph:
        """The graph of all that was taken down; of the run itself nothing is held any longer."""
        self.tracker.clear()
        self._keep.clear()
        return Graph(
            values=tuple(self.values),
            nodes=tuple(self.nodes),
            inputs=MappingProxyType(self.input_values),
            outputs=MappingProxyType(dict(outputs)),
            states=MappingProxyType(self.state_values),
            constants=MappingProxyType(self.constants),
            modules=tuple(self.running.calls()),
            random=tuple(self.random),
        )


def _is_floating(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.dtype.is_floating_point


def _meta(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What a tensor of that shape and another dtype looks like."""
    return torch.empty(tensor.shape, dtype=dtype, device="meta")
