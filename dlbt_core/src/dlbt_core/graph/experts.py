"""Mixtures of experts, found by dataflow: which value rates the experts, and where its choice weights what they put out.

However a model calls its experts (a loop over modules or over slices of one weight, grouped or batched matrix products), a
router rates all of them for each token, some are chosen, and what the chosen ones put out is multiplied by weights that were
ratings before. These products are the same in all spellings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dlbt_core.graph.ir import Graph, Node, Ref, substitute
from dlbt_core.graph.ops import COPIES, ELEMENTWISE, LIKE, arguments, packet, resolve_op

__all__ = ["Mixture", "Part", "facts_of", "mixtures", "needed", "origins"]


def _aten(names: str) -> frozenset[str]:
    return frozenset(f"aten.{name}" for name in names.split())


_ROUTERS = _aten("softmax _softmax _safe_softmax sigmoid")
_RANKS = _aten("topk sort max min kthvalue")
"""Ops that put out elements of their argument, and as a second result where along a dimension these were."""

_CHOICES = _RANKS | _aten("argmax argmin argsort")
_SUMS = _aten("sum mean amax amin cumsum logsumexp linalg_vector_norm norm")
"""Ops each of whose results' elements is made of several of their argument."""
_SHAPELESS = _aten(
    "to _to_copy type_as dropout contiguous clone alias detach positive lift_fresh resolve_conj resolve_neg"
)
"""Copies that leave every element in its place."""

_PRODUCTS = _aten("mul multiply")
_DIVISIONS = _aten("div divide true_divide")


@dataclass(frozen=True)
class Part:
    """What experts put out, weighted.

    Attributes
    ----------
    output
        The product.
    weight
        Its factor that the router gave: as many dimensions as the product, of the same size or 1.
    """

    output: int
    weight: int


@dataclass(frozen=True)
class Mixture:
    """One layer of experts.

    Attributes
    ----------
    layer
        Path of the innermost module that holds both the router and the experts; ``"#1"`` after it for its second call.
    ratings
        What rates the experts, usually the router's logits; the last dimension counts the experts.
    routers
        Results of the softmax or sigmoid that turns ratings into weights.
    totals
        What the weights of the chosen experts are divided by: their sum.
    parts
        The weighted outputs: a part for each expert, or one for all.
    labelled
        Values that hold ratings, or elements made of one rating each.
    """

    layer: str
    ratings: int
    routers: frozenset[int]
    totals: frozenset[int]
    parts: tuple[Part, ...]
    labelled: frozenset[int]

    @property
    def reported(self) -> tuple[int, ...]:
        """The values whose relevance is wanted."""
        return (self.ratings, *(part.output for part in self.parts))


@dataclass(frozen=True)
class _Rating:
    """What a value is of a linear map's results: whether each element comes from one of them, through which functions."""

    root: int
    labelled: bool = True
    routers: frozenset[int] = frozenset()
    totals: frozenset[int] = frozenset()
    total: bool = False


def mixtures(graph: Graph, carries: Set[int]) -> tuple[Mixture, ...]:
    """The layers of experts of a recorded run, in the order of execution.

    Parameters
    ----------
    graph
        The recorded run.
    carries
        Values that depend on any input through numbers.
    """
    known: dict[int, _Rating] = {}
    chosen: set[int] = set()
    found: dict[int, list[Part]] = {}
    for node in graph.nodes:
        op = packet(node.op)
        read = [index for index in dict.fromkeys(node.inputs) if index in carries and graph.values[index].is_floating]
        read = read[:1] if op in LIKE else read
        if not read:
            continue
        roots = {known.setdefault(index, _Rating(index)).root for index in read}
        if op in _CHOICES:
            chosen |= roots
        outputs = [o for o in node.outputs if o is not None and graph.values[o].is_floating]
        if op in _PRODUCTS and len(roots) == 2 and outputs:
            weights = [index for index in read if known[index].root in chosen and known[index].labelled]
            if len(weights) == 1 and len(graph.values[weights[0]].shape) == len(graph.values[outputs[0]].shape):
                found.setdefault(known[weights[0]].root, []).append(Part(outputs[0], weights[0]))
        for output in outputs:
            known[output] = _of_output(graph, node, output, read, known) if len(roots) == 1 else _Rating(output)
    of_root: dict[int, list[int]] = {}
    for value, rating in known.items():
        of_root.setdefault(rating.root, []).append(value)
    layers = [_mixture(graph, root, parts, known, of_root[root]) for root, parts in sorted(found.items())]
    return tuple(_told_apart(layers, graph))


def _of_output(graph: Graph, node: Node, output: int, read: list[int], known: Mapping[int, _Rating]) -> _Rating:
    """What a node's result is, if all that it reads was made of the same ratings."""
    op, ratings = packet(node.op), [known[index] for index in read]
    first = ratings[0]
    merged = _Rating(
        first.root, any(r.labelled for r in ratings), frozenset().union(*(r.routers for r in ratings)),
        frozenset().union(*(r.totals for r in ratings)), all(r.total for r in ratings),
    )  # fmt: skip
    if op in _ROUTERS:
        return replace(merged, routers=merged.routers | {output})
    if op in _SUMS:
        return replace(merged, labelled=False, total=op not in ("aten.cumsum", "aten.logsumexp"))
    if op in _DIVISIONS and len(read) == 2 and ratings[1].total and first.routers and not first.total:
        return replace(first, routers=merged.routers, totals=merged.totals | {read[1]})
    if op in ELEMENTWISE:
        shape, ratings_shape = graph.values[output].shape, graph.values[first.root].shape
        by_place = shape == ratings_shape and all(graph.values[index].shape != shape for index in read)
        return replace(merged, labelled=merged.labelled or by_place)
    if op in _RANKS:
        return replace(merged, labelled=merged.labelled and _ranked(node) >= 0)
    return merged if op in COPIES else _Rating(output)


def _ranked(node: Node) -> int:
    """The value that tells where an op found its elements; -1 if it does not tell."""
    index = node.outputs[1] if len(node.outputs) > 1 else None
    return -1 if index is None else index


def _mixture(graph: Graph, root: int, parts: list[Part], known: Mapping[int, _Rating], values: list[int]) -> Mixture:
    weights = [known[part.weight] for part in parts]
    routers = frozenset[int]().union(*(weight.routers for weight in weights))
    totals = frozenset[int]().union(*(weight.totals for weight in weights))
    nodes = [
        graph.nodes[index] for value in (root, *(part.output for part in parts)) if (index := _maker(graph, value)) >= 0
    ]
    labelled = frozenset(value for value in values if known[value].labelled)
    return Mixture(_common([node.site.module for node in nodes]), root, routers, totals, tuple(parts), labelled)


def _maker(graph: Graph, value: int) -> int:
    node = graph.values[value].node
    return -1 if node is None else node


def _common(modules: list[str]) -> str:
    """The innermost module that all of these lie in."""
    paths = [module.split(".") for module in modules]
    shared = []
    for names in zip(*paths, strict=False):
        if len(set(names)) > 1:
            break
        shared.append(names[0])
    return ".".join(shared)


def _told_apart(layers: list[Mixture], graph: Graph) -> list[Mixture]:
    """Several calls of a module are counted, as in the names of layers."""
    seen: dict[str, int] = {}
    found = []
    for layer in layers:
        count = seen.get(layer.layer, 0)
        seen[layer.layer] = count + 1
        found.append(replace(layer, layer=f"{layer.layer}#{count}") if count else layer)
    return found


def facts_of(found: tuple[Mixture, ...]) -> dict[str, set[int]]:
    """``router``: softmax and sigmoid that weight experts. ``expert``: weighted outputs of experts.

    And ``statistic`` for the sum by which the chosen experts' weights are divided: a norm of theirs.
    """
    return {
        "router": {value for mixture in found for value in mixture.routers},
        "expert": {part.output for mixture in found for part in mixture.parts},
        "statistic": {value for mixture in found for value in mixture.totals},
    }


# -- which rating an element comes from ---------------------------------------------------------------------------------


def needed(graph: Graph, mixture: Mixture) -> frozenset[int]:
    """The values that `origins` reads: where elements go on the way from ratings to weights, and the weights."""
    found = {mixture.ratings}
    for value in _path(graph, mixture):
        node = graph.nodes[_maker(graph, value)]
        found.update(index for index in node.inputs if not graph.values[index].is_floating)
        if packet(node.op) in _RANKS:
            found.add(_ranked(node))
    return frozenset(found | {part.weight for part in mixture.parts} | set(mixture.reported))


def origins(graph: Graph, mixture: Mixture, values: list[Any]) -> tuple[Tensor, ...]:
    """For each part the rating that each element of its weight was: an index into the flattened ratings, or -1. On the CPU.

    Each op on the way is run once more, on the places of the ratings in place of the ratings.

    Parameters
    ----------
    graph, mixture
        What was recorded.
    values
        Values of the run, by index; those of `needed` are read.
    """
    shape = values[mixture.ratings].shape
    places = torch.arange(shape.numel(), dtype=torch.float64).reshape(shape)
    known = {mixture.ratings: places}
    for value in _path(graph, mixture):
        known[value] = _moved(graph, graph.nodes[_maker(graph, value)], value, known, values, places)
    return tuple(_as_index(known[part.weight]) for part in mixture.parts)


def _as_index(places: Tensor) -> Tensor:
    return torch.where(places.isfinite(), places, -1.0).long()


def _path(graph: Graph, mixture: Mixture) -> list[int]:
    """The labelled values between ratings and weights, in the order of execution."""
    waiting, found = [part.weight for part in mixture.parts], set[int]()
    while waiting:
        value = waiting.pop()
        if value in found or value == mixture.ratings or value not in mixture.labelled:
            continue
        found.add(value)
        waiting += graph.nodes[_maker(graph, value)].inputs
    return sorted(found, key=lambda value: _maker(graph, value))


def _moved(
    graph: Graph, node: Node, value: int, known: Mapping[int, Tensor], values: list[Any], places: Tensor
) -> Tensor:
    """The places of the ratings in a node's result."""
    op, shape = packet(node.op), graph.values[value].shape
    read = [known[index] for index in node.inputs if index in known]
    if op in ELEMENTWISE:
        fitting = [given for given in read if given.shape == shape]
        return fitting[0] if fitting else (places if shape == places.shape else read[0].expand(shape))
    if op in _ROUTERS or op in _SHAPELESS:
        return read[0]
    if op in _RANKS:
        dim, index = node.args.get("dim", -1), values[_ranked(node)].cpu()
        full = index if index.dim() == read[0].dim() else index.unsqueeze(dim)
        return read[0].gather(dim, full).reshape(shape)
    moved = _call(graph, node, lambda ref: _stand_in(graph, ref, known, values, places))
    found: Tensor = moved[node.outputs.index(value)] if node.many else moved
    return found


def _stand_in(graph: Graph, ref: Ref, known: Mapping[int, Tensor], values: list[Any], places: Tensor) -> Any:
    """Places for ratings, no place for other numbers, and what tells where they go as it is."""
    if ref.index in known:
        return known[ref.index]
    about = graph.values[ref.index]
    return torch.full(about.shape, -1.0, dtype=places.dtype) if about.is_floating else values[ref.index].cpu()


def _call(graph: Graph, node: Node, of: Callable[[Ref], Any]) -> Any:
    positional, keywords = [], {}
    for argument in arguments(node.op):
        if argument.keyword_only:
            if argument.name in node.args:
                keywords[argument.name] = substitute(node.args[argument.name], of)
        else:
            positional.append(substitute(node.args.get(argument.name, argument.default), of))
    return resolve_op(node.op)(*positional, **keywords)
