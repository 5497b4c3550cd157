"""Layers and attention heads of a recorded model: which of its values stand for them, under which names."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from dlbt_core.graph.facts import attention_weights
from dlbt_core.graph.ir import Graph, Node
from dlbt_core.graph.ops import COPIES, packet

__all__ = ["Layout", "layout"]

_PRODUCTS = {"aten.matmul", "aten.bmm", "aten.baddbmm"}
_FUSED = "aten.scaled_dot_product_attention"
_NUMBER = re.compile(r"(^|\.)\d+(\.|$)")


@dataclass(frozen=True)
class Layout:
    """What of a recording is kept for the maps.

    Attributes
    ----------
    blocks : mapping of str to str
        Name of a block as it is shown, e.g. ``"encoder.layer.3"``, to the name its relevance has in the explanation.
    heads : mapping of str to str
        Name of an attention to the node that mixes its values.
    keep : tuple of str
        For `dlbt_core.Explainer`: globs on all of these, and on the outputs of modules that are made of modules.
    """

    blocks: dict[str, str]
    heads: dict[str, str]
    keep: tuple[str, ...]


def layout(graph: Graph) -> Layout:
    """The blocks and attentions of a recorded model."""
    parents = {call.module.rpartition(".")[0] for call in graph.modules if call.module}
    blocks: dict[str, str] = {}
    kept: list[str] = []
    for call in graph.modules:
        name = call.module + (f"#{call.call}" if call.call else "")
        outputs = [(path, value) for path, value in call.outputs if graph.values[value].is_floating]
        names = [name if len(outputs) == 1 else f"{name}:{path}" for path, _ in outputs]
        if "." not in call.module or call.module in parents:
            kept += names
        if outputs and _is_block(call.module) and len(graph.values[outputs[0][1]].shape) == 3:
            blocks[name] = names[0]
    heads = {_module(node): node.name for node in _mixing(graph)}
    keep = dict.fromkeys((*kept, *blocks.values(), *heads.values()))
    return Layout(blocks, heads, tuple(glob.escape(name) for name in keep))


def _is_block(module: str) -> bool:
    """Whether a module is one of several in a row, and not a part of one: ``encoder.layer.3``."""
    before, _, last = module.rpartition(".")
    return last.isdigit() and not _NUMBER.search(before)


def _module(node: Node) -> str:
    return node.site.module + (f"#{node.site.call}" if node.site.call else "")


def _mixing(graph: Graph) -> Iterator[Node]:
    """Nodes that mix values by attention weights: the fused kernel, or a product with a softmax."""
    weights = set(attention_weights(graph)["attention_weights"])
    for node in graph.nodes:
        op = packet(node.op)
        mixes = bool(weights.intersection(node.inputs))
        if op == _FUSED or (mixes and op in _PRODUCTS):
            yield node
        elif mixes and (op in COPIES or op in ("aten.dropout", "aten.mul", "aten.div")):
            weights.update(output for output in node.outputs if output is not None)


def head_sums(relevance: Tensor, samples: int, index: int) -> Tensor:
    """Relevance of what the heads put out, shape (B, H, T, D) or (B * H, T, D), as one number per head and token: (H, T)."""
    if relevance.dim() == 3:
        relevance = relevance.reshape(samples, -1, *relevance.shape[1:])
    return relevance[index].detach().cpu().double().sum(-1)
