"""What the rest of dlbt asks the plugins for: simpler ops in place of one without a rule, passes, help with a missing rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from dlbt_core.errors import UnknownCompositeError
from dlbt_core.plugins.hints import bundled_home
from dlbt_core.plugins.loader import Plugins

__all__ = ["expansion", "graph_pass", "help_missing"]


def expansion(plugins: Plugins, op: Any) -> Callable[..., Any] | None:
    """A function of simpler ops to record in place of an op that no rule fits: a plugin's lowering, else torch's own."""
    name = str(op)
    if name.count(".") != 2:
        return None
    if op._schema.is_mutable:
        return _in_place(plugins, *name.split("."))
    if plugins.registry.knows(name):
        return None
    lowering = plugins.lowerings.find(name)
    if lowering is not None:
        return lowering
    if bundled_home(name) is not None or not _is_composite(op):
        return None
    decomposed: Callable[..., Any] = op.decompose
    return decomposed


def _in_place(plugins: Plugins, namespace: str, op: str, overload: str) -> Callable[..., Any] | None:
    """For ``op_``: the lowering of ``op``, written into the first argument."""
    functional = f"{namespace}.{op.removesuffix('_')}.{overload}"
    lowering = plugins.lowerings.find(functional) if op.endswith("_") and not op.endswith("__") else None
    if lowering is None or plugins.registry.knows(functional):
        return None

    def write(first: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return first.copy_(lowering(first, *args, **kwargs))

    return write


def _is_composite(op: Any) -> bool:
    """Whether torch itself runs the op as a function of other ops."""
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    views = any(a.alias_info is not None for a in op._schema.arguments)
    return (not views and key in op.py_kernels) or (not views and op.has_kernel_for_dispatch_key(key))


def graph_pass(plugins: Plugins, name: str) -> Callable[..., Any]:
    """The graph pass of that name.

    Raises
    ------
    UnknownCompositeError
        If no plugin brought it.
    """
    for found in plugins.passes:
        if found.name == name:
            return found.function
    known = ", ".join(p.name for p in plugins.passes) or "none"
    raise UnknownCompositeError(f"no graph pass {name!r}. There are: {known}.")


def help_missing(plugins: Plugins, op: str) -> str:
    """Lines for the error about a missing rule: who is in use, who is not, and which package would have it."""
    lines = [f"  plugins     {', '.join(map(str, plugins.loaded))}"]
    lines += [f"  not in use  {failure}" for failure in plugins.failures]
    home = bundled_home(op)
    if home is not None and all(p.distribution != home for p in plugins.loaded):
        lines.append(f"  package     {home} has a rule for it: pip install {home}")
    return "\n".join(lines)
