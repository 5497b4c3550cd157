"""Record a model on one input, replay the recording on another, and compare with the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dlbt_core.graph.ir import Graph, Node
from dlbt_core.graph.ops import packet
from dlbt_core.graph.structure import bind_arguments, leaves
from dlbt_core.scheduler.capture import Capture, capture
from dlbt_core.scheduler.forward import ForwardProgram


def recorded(model: Any, *args: Any, **kwargs: Any) -> Capture:
    """The capture of one call; its replay on the same inputs has been checked."""
    function = model.forward if isinstance(model, nn.Module) else model
    return capture(model, bind_arguments(function, args, kwargs), (args, kwargs))


def replayed(found: Capture, model: Any, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
    """What the recording gives on new inputs, by output path."""
    function = model.forward if isinstance(model, nn.Module) else model
    bound = bind_arguments(function, args, kwargs)
    inputs = {path: leaf.clone() for path, leaf in leaves(bound) if isinstance(leaf, Tensor)}
    run = ForwardProgram(found.graph).run(inputs, found.state)
    return {path: run.values[value] for path, value in found.graph.outputs.items()}


def same(found: Mapping[str, Tensor], result: Any, tolerance: float = 0.0) -> None:
    """Assert that the outputs are the model's, dtypes included."""
    expected = {path: leaf for path, leaf in leaves(result) if isinstance(leaf, Tensor)}
    assert list(found) == list(expected)
    for path, tensor in expected.items():
        torch.testing.assert_close(found[path], tensor.detach(), rtol=tolerance, atol=tolerance, equal_nan=True)


def holds_on(model: Any, first: tuple[Any, ...], second: tuple[Any, ...], tolerance: float = 0.0) -> Graph:
    """Record on the first inputs, replay on the second, compare with the model run on copies of them."""
    found = recorded(model, *first)
    with torch.no_grad():
        expected = model(*_copies(second))
    same(replayed(found, model, *second), expected, tolerance)
    return found.graph


def _copies(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(arg.clone() if isinstance(arg, Tensor) else arg for arg in args)


def node_of(graph: Graph, op: str, which: int = 0) -> Node:
    """The n-th node of an op, named without overload."""
    return [node for node in graph.nodes if packet(node.op) == op][which]


def ops_of(graph: Graph) -> list[str]:
    """The ops in order, without overloads."""
    return [packet(node.op) for node in graph.nodes]


class Lambda(nn.Module):
    """A module out of a function of it and its inputs."""

    def __init__(self, function: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self, *args, **kwargs)
