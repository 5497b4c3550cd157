"""Recording a run: the tape is laid, the model runs, and everything is as before."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from dlbt_core.errors import CaptureError
from dlbt_core.graph.ir import Graph
from dlbt_core.graph.structure import leaves, rebuilder
from dlbt_core.graph.tape import Expand, Tape

__all__ = ["Recording", "record"]

_LOCK = threading.RLock()


@dataclass(frozen=True)
class Recording:
    """A recorded run: the graph and what the model returned."""

    graph: Graph
    result: Any


def record(
    model: Callable[..., Any],
    inputs: Mapping[str, torch.Tensor],
    run: Callable[[Tape], Any],
    *,
    expand: Expand | None = None,
    own_sites: bool = False,
) -> Recording:
    """Run `run` and record what it does.

    Parameters
    ----------
    model
        Whose parameters, buffers and module names are to be known. Any callable; a `torch.nn.Module` has more to say.
    inputs
        Path to input tensor, the very objects that `run` will hand to the model.
    run
        Calls the model; is given the tape.
    expand
        Asked for each op; may return a function of simpler ops to record in its place.
    own_sites
        Whether `run` tells the tape itself in which module it is, instead of module hooks.

    Raises
    ------
    CaptureError
        If the run does something that cannot be recorded.
    """
    tape = Tape(model, inputs, expand)
    following = nullcontext() if own_sites else tape.running.follow()
    with _LOCK, _untouched_globals(), following:
        try:
            with tape:
                result = run(tape)
                returned = {path: leaf for path, leaf in leaves(result) if isinstance(leaf, torch.Tensor)}
                outputs = {path: tape.value_of(leaf) for path, leaf in returned.items()}
            if tape.wrote_external:
                result = rebuilder(result)({path: leaf.clone() for path, leaf in returned.items()})
        except NotImplementedError as error:
            if "higher order" not in str(error).lower() and "higherorder" not in str(error).lower():
                raise
            name = re.search(r"HigherOrderOperator (\w+)", str(error))
            raise CaptureError(
                f"the higher-order op {name[1] if name else ''!r} in {tape.running.site_of(error)} cannot be recorded.\n"
                "  fix  run the model with the plain (eager) implementation of that part, e.g. attn_implementation='sdpa'."
            ) from error
        except RuntimeError as error:
            if "does not require grad" not in str(error):
                raise
            raise CaptureError(
                f"the model calls autograd inside its forward pass, in {tape.running.site_of(error)}; "
                "that cannot be recorded.\n"
                "  fix  explain the part of the model that does not, or hand over a torch.export program."
            ) from error
        finally:
            tape.restore_writes()
    return Recording(tape.finish(outputs), result)


@contextmanager
def _untouched_globals() -> Iterator[None]:
    """No grad, below autograd, no fused encoder path; everything as before afterwards, random state included."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=devices))
        stack.enter_context(torch.no_grad())
        stack.callback(torch.backends.mha.set_fastpath_enabled, fastpath)
        torch.backends.mha.set_fastpath_enabled(False)
        stack.enter_context(torch._C._AutoDispatchBelowAutograd())
        yield
