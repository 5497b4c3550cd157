"""Which module of the model runs while it is recorded, and what it returned."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from dlbt_core.graph.ir import ModuleCall, Site
from dlbt_core.graph.source import line_of_error, line_running

__all__ = ["Running"]

Known = tuple[tuple[str, int], ...]
"""(path in an output, value) of what is on the tape."""


class Running:
    """Follows the modules of one run: by hooks, or told by who plays a program.

    Parameters
    ----------
    model
        The model.
    known
        Which values of the tape a module's output holds.
    """

    def __init__(self, model: Any, known: Callable[[Any], Known]) -> None:
        named = model.named_modules() if isinstance(model, torch.nn.Module) else ()
        self._paths = {id(module): path for path, module in named}
        self._known = known
        self._thread = threading.get_ident()
        self._stack = [Site("", _type_name(model))]
        self._told = False
        self._counts: dict[str, int] = {}
        self._left: list[ModuleCall] = []
        self._seen: dict[tuple[str, int], Known] = {}

    def site(self) -> Site:
        """The module that is running and the model's source line."""
        top = self._stack[-1]
        if self._told:
            return top
        line = line_running()
        return top if line is None else Site(top.module, top.module_type, top.call, line)

    def site_of(self, error: BaseException) -> Site:
        """The module and the model's source line that an error comes from."""
        site: Site = getattr(error, "dlbt_site", self._stack[-1])
        return replace(site, line=line_of_error(error) or site.line)

    @contextmanager
    def follow(self) -> Iterator[None]:
        """Know which module runs, by hooks that are there only while recording."""
        before = register_module_forward_pre_hook(self._enter)
        after = register_module_forward_hook(self._leave, always_call=True)
        try:
            yield
        finally:
            before.remove()
            after.remove()

    def _enter(self, module: torch.nn.Module, _args: Any) -> None:
        if threading.get_ident() != self._thread:
            return
        path = self._paths.get(id(module), self._stack[-1].module)
        call = self._counts.get(path, 0)
        if id(module) in self._paths:
            self._counts[path] = call + 1
        self._stack.append(Site(path, _type_name(module), call))

    def _leave(self, module: torch.nn.Module, _args: Any, output: Any) -> None:
        if threading.get_ident() != self._thread or len(self._stack) == 1:
            return
        site = self._stack.pop()
        error = sys.exc_info()[1]
        if error is not None:
            if not hasattr(error, "dlbt_site"):
                error.dlbt_site = site  # type: ignore[attr-defined]
        elif id(module) in self._paths:
            self._left.append(ModuleCall(site.module, site.call, self._known(output)))

    def stand_in(self, stack: list[Site]) -> None:
        """Told by who plays a program: the modules of the next ops, outermost first."""
        self._stack = stack
        self._told = True

    def saw_output(self, stack: list[Site], output: Any) -> None:
        """Told by who plays a program: the last result inside each of these modules so far."""
        for site in reversed(stack):
            self._seen.pop((site.module, site.call), None)
            self._seen[site.module, site.call] = self._known(output)

    def calls(self) -> Iterator[ModuleCall]:
        """The calls of modules that came to an end, with their outputs."""
        yield from self._left
        yield from (ModuleCall(*which, outputs) for which, outputs in self._seen.items() if outputs)


def _type_name(module: Any) -> str:
    kind = type(module)
    return f"{kind.__module__}.{kind.__qualname__}"
