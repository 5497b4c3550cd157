"""``torch.export`` as the second way in: the program's ops are played to the tape, so that both ways give the same IR."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch.fx import Interpreter, Node

from dlbt_core.graph.ir import Site
from dlbt_core.graph.record import Recording, record
from dlbt_core.graph.source import is_models
from dlbt_core.graph.tape import Expand, Tape

__all__ = ["ExportedModel", "record_exported"]

_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_CALL = re.compile(r"@(\d+)$")
_INLINED = ("wrap_with_set_grad_enabled", "wrap_with_autocast")


class ExportedModel:
    """An exported program as something that can be called, recorded and asked for its weights.

    Parameters
    ----------
    program
        What ``torch.export.export`` returned.
    """

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        self.program = program
        self.module = program.module()
        wanted = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
        names = map(str, program.graph_signature.user_inputs)
        self._sizes = {name: tuple(getattr(wanted.get(name), "shape", ())) for name in names}

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The call's arguments by the names the exported model's had.

        Raises
        ------
        TypeError
            If the call has another structure than the one that was exported.
        """
        from torch.utils import _pytree as pytree

        names = self.argument_names
        bound = dict(zip(names, args, strict=False)) | dict(kwargs)
        if len(args) > len(names) or set(bound) != set(names):
            raise TypeError(f"the program takes ({', '.join(names)})")
        given, wanted = pytree.tree_structure([bound[name] for name in names]), self.program.call_spec.in_spec
        if wanted is not None and given.num_leaves != wanted.num_leaves:
            raise TypeError(f"the program takes {wanted.num_leaves} tensors or numbers, not {given.num_leaves}")
        self._check_sizes(pytree.tree_leaves([bound[name] for name in names]))
        return {name: bound[name] for name in names}

    def _check_sizes(self, leaves: list[Any]) -> None:
        """A size that is not dynamic is burnt into the program: another one would give nonsense, or an error inside."""
        for leaf, (name, sizes) in zip(leaves, self._sizes.items(), strict=False):
            given = tuple(leaf.shape) if isinstance(leaf, torch.Tensor) else ()
            if isinstance(leaf, torch.Tensor) and len(given) != len(sizes):
                raise TypeError(f"{name} has {len(given)} dimensions; the program was exported for {len(sizes)}")
            if any(isinstance(size, int) and size != g for g, size in zip(given, sizes, strict=False)):
                wanted = ", ".join(str(size) if isinstance(size, int) else "any" for size in sizes)
                raise TypeError(
                    f"{name} has shape {given}; the program was exported for ({wanted}): for other sizes export it with "
                    "dynamic_shapes"
                )

    @property
    def argument_names(self) -> list[str]:
        """The names of the exported model's arguments, in the order in which the program takes them."""
        signature = self.program.module_call_graph[0].signature
        names = signature.forward_arg_names if signature is not None else None
        return list(names or self.program.graph_signature.user_inputs)

    def get_submodule(self, path: str) -> Any:
        """The module that owns the weights under `path`."""
        return self.module.get_submodule(path)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the program gives."""
        return self.module(*args, **kwargs)


def record_exported(
    model: ExportedModel, inputs: Mapping[str, torch.Tensor], args: Any, kwargs: Any, expand: Expand | None = None
) -> Recording:
    """Play an exported program to the tape.

    Parameters
    ----------
    model
        The program.
    inputs
        Path to input tensor.
    args, kwargs
        The call.
    expand
        See `dlbt_core.graph.tape.record`.
    """
    from torch.utils import _pytree as pytree

    spec = model.program.call_spec
    flat = pytree.tree_leaves(list(model.bind(args, kwargs).values()))

    def run(tape: Tape) -> Any:
        outputs = _Player(model.module, tape).run(*flat, enable_io_processing=False)
        return pytree.tree_unflatten(list(outputs), spec.out_spec) if spec.out_spec is not None else outputs

    return record(model.module, inputs, run, expand=expand, own_sites=True)


class _Player(Interpreter):
    """Runs a program's nodes one by one, telling the tape in which module each stood."""

    def __init__(self, module: Any, tape: Tape) -> None:
        super().__init__(module)
        self._tape = tape

    def run_node(self, n: Node) -> Any:
        """Run a node of the program."""
        if n.op == "call_function":
            self._tape.running.stand_in(_path_of(n))
        result = super().run_node(n)
        if n.op == "call_function":
            self._tape.running.saw_output(_path_of(n), result)
        return result

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        name = getattr(target, "__name__", str(target))
        if name in _INLINED:
            return self._inline(name, args)
        if name in ("_assert_tensor_metadata", "_guards_fn") or "_assert" in str(target):
            return None
        return super().call_function(target, args, kwargs)

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        return None if "_guards_fn" in str(target) else super().call_module(target, args, kwargs)

    def _inline(self, name: str, args: Any) -> Any:
        """A block that export wrapped: played in place. Grad mode does not matter here; autocast does."""
        if name == "wrap_with_autocast":
            device, dtype, enabled, cache, inner, *operands = args
            with torch.autocast(device, dtype, enabled, cache):
                return _Player(inner, self._tape).run(*operands, enable_io_processing=False)
        _, inner, *operands = args
        return _Player(inner, self._tape).run(*operands, enable_io_processing=False)


def _path_of(node: Node) -> list[Site]:
    """The modules the node stood in, outermost first. Export tells a further call by ``@`` and its number."""
    found = []
    for key, (path, kind) in (node.meta.get("nn_module_stack") or {}).items():
        name = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
        call = _CALL.search(key)
        found.append(Site(_CALL.sub("", path), name, int(call[1]) if call else 0, _line_of(node)))
    return found or [Site(line=_line_of(node))]


def _line_of(node: Node) -> str:
    frames = [frame for frame in _FRAME.findall(node.meta.get("stack_trace") or "") if is_models(frame[0])]
    return f"{frames[-1][0]}:{frames[-1][1]}" if frames else ""
