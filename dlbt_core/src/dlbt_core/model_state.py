"""What in a model's state makes an output depend on more than the input: chance, or the other samples of the batch."""

from __future__ import annotations

from typing import Any

import torch

from dlbt_core.errors import ModelStateError, RandomModelWarning
from dlbt_core.graph.ir import Graph, Node
from dlbt_core.graph.ops import packet
from dlbt_core.notices import warn_user

__all__ = ["check_mode", "check_randomness"]


def check_mode(model: Any) -> None:
    """Refuse a module in train mode that would draw at random or mix the samples of a batch.

    Raises
    ------
    ModelStateError
        If there is one.
    """
    if not isinstance(model, torch.nn.Module):
        return
    for name, module in model.named_modules():
        if module.training and _acts_in_training(module):
            raise ModelStateError(
                f"module {name!r} ({type(module).__name__}) is in train mode: its output depends on chance or on the "
                "other samples of the batch.\n  fix  call model.eval() first."
            )


def check_randomness(graph: Graph, training: bool) -> None:
    """The same by what was recorded: `training` says whether the model is in train mode.

    Raises
    ------
    ModelStateError
        If it drew random numbers in train mode, or an op took the statistics of the batch.
    """
    if graph.random and training:
        raise ModelStateError(
            f"the model is in train mode and draws random numbers: {graph.random[0]}.\n  fix  call model.eval() first."
        )
    mixing = [node for node in graph.nodes if _mixes_samples(node, graph)]
    if mixing:
        raise ModelStateError(
            f"batch norm uses the batch's own statistics in {mixing[0].site}: a sample's output depends on the others.\n"
            "  fix  call model.eval() first; if it has no running statistics, explain one sample at a time."
        )
    if graph.random:
        warn_user(
            f"the model draws random numbers ({graph.random[0]}); the explanation keeps those of the first run.",
            RandomModelWarning,
        )


def _mixes_samples(node: Node, graph: Graph) -> bool:
    """Whether an op normalises by the statistics of a batch of several."""
    norms = ("aten.batch_norm", "aten.native_batch_norm", "aten._native_batch_norm_legit")
    if packet(node.op) not in norms or not (node.args.get("training") or "no_stats" in node.op):
        return False
    return int(graph.values[node.args["input"].index].shape[0]) > 1


def _acts_in_training(module: torch.nn.Module) -> bool:
    """Whether train mode changes what the module computes."""
    dropout = torch.nn.modules.dropout._DropoutNd
    if isinstance(module, dropout):
        return bool(module.p)
    if isinstance(module, torch.nn.RNNBase):
        return bool(module.dropout)
    return isinstance(module, (torch.nn.modules.batchnorm._BatchNorm, torch.nn.RReLU))
