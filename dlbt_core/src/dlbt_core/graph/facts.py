"""Facts: named properties of values, found once by dataflow and readable by composites.

They take the place of per-architecture patches: an RMS norm written as ``x * rsqrt(mean(x * x) + eps)`` is known by what
it does, whatever the class is called.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

import torch

from dlbt_core.graph.experts import facts_of, mixtures
from dlbt_core.graph.gated_mlp import activated_gates
from dlbt_core.graph.ir import Graph, Node, Ref, refs_in
from dlbt_core.graph.ops import COPIES, ELEMENTWISE, LIKE, OF_IDS, VALUE_FREE, packet
from dlbt_core.graph.signs import activations, gates, nonnegative
from dlbt_core.graph.softmaxes import softmaxes, weighing

__all__ = ["EMBEDDINGS", "OWN", "Analyser", "Facts", "analyse", "carriers", "on_path", "receivers"]

EMBEDDINGS: Mapping[str, str] = dict.fromkeys(
    ("aten.embedding", "aten.embedding_bag", "aten._embedding_bag", "aten._embedding_bag_forward_only"), "indices"
)

OWN = frozenset(
    {
        "statistic", "self_gate", "attention_weights", "softmax", "softmax_step", "infinite", "nonnegative", "gate", "gated",
        "before_relu", "before_tanh", "before_sigmoid", "before_swish", "activated_gate", "router", "expert",
    }
)  # fmt: skip
"""What the built-in analysers find: composites choose by it, so that a plugin's analyser may not add to it."""

Analyser = Callable[[Graph], Mapping[str, Iterable[int]]]
"""Takes a graph, gives fact name to the values that have it."""

_REDUCING_SQUARES = {"aten.mean", "aten.sum", "aten.avg_pool1d", "aten.avg_pool2d", "aten.avg_pool3d"}
_NORMS = {
    "aten.var", "aten.std", "aten.var_mean", "aten.std_mean", "aten.linalg_vector_norm", "aten.norm",
    "aten.linalg_norm", "aten.frobenius_norm",
}  # fmt: skip
_DIVISIONS = {"aten.div", "aten.divide", "aten.true_divide"}
_PRODUCTS = {"aten.mul", "aten.multiply"} | _DIVISIONS
_ROOTS = {
    "aten.sqrt", "aten.rsqrt", "aten.reciprocal", "aten.pow", "aten.square", "aten.abs", "aten.add", "aten.sub",
    "aten.mul", "aten.div", "aten.clamp", "aten.clamp_min", "aten.clamp_max", "aten.maximum",
}  # fmt: skip
_CASTS = {"aten.to", "aten._to_copy"}


@dataclass(frozen=True)
class Facts:
    """Fact name to the values that have it."""

    named: Mapping[str, frozenset[int]]

    def of(self, value: int) -> frozenset[str]:
        """The facts of one value."""
        return frozenset(name for name, values in self.named.items() if value in values)

    def has(self, value: int | None, name: str) -> bool:
        """Whether a value has a fact."""
        return value is not None and value in self.named.get(name, ())


def analyse(graph: Graph, more: Sequence[Analyser] = ()) -> Facts:
    """The facts of all built-in analysers, `OWN`, and of `more`."""
    found: dict[str, set[int]] = {}
    carries = carriers(graph, graph.inputs.values())
    built_in = (statistics, self_gates, attention_weights, infinite_values, nonnegative, gates, activations)
    by_carriers = (activated_gates(graph, carries), facts_of(mixtures(graph, carries)))
    for facts in (*(analyser(graph) for analyser in built_in), *by_carriers, *(analyser(graph) for analyser in more)):
        for name, values in facts.items():
            found.setdefault(name, set()).update(values)
    return Facts({name: frozenset(values) for name, values in found.items()})


# -- what carries relevance ---------------------------------------------------------------------------------------------


def carriers(graph: Graph, explained: Iterable[int], held: Set[int] = frozenset()) -> frozenset[int]:
    """Values that depend on an explained input through floating-point ops or through an embedding's indices.

    Parameters
    ----------
    graph
        The recorded run.
    explained
        Values of the explained inputs. An integer one carries up to an embedding: through copies, and through arithmetic
        that gives new ids at the same positions.
    held
        Nodes whose results are held constant.
    """
    carries = set(explained)
    for node in graph.nodes:
        sources = [index for index in _looked_at(node) if index in carries]
        if not sources or node.index in held or packet(node.op) in VALUE_FREE:
            continue
        enters = _enters_embedding(node, carries)
        for output in node.outputs:
            if output is None:
                continue
            if graph.values[output].is_floating:
                ok = enters or any(graph.values[s].is_floating for s in sources)
            else:
                ok = _gives_ids(graph, node, output, sources[0])
                ok = ok and not any(graph.values[s].is_floating for s in sources)
            if ok:
                carries.add(output)
    return frozenset(carries)


def _looked_at(node: Node) -> list[int]:
    """The tensors whose numbers a node looks at."""
    aside = LIKE.get(packet(node.op))
    return [ref.index for name, arg in node.args.items() if name != aside for ref in refs_in(arg)]


def _gives_ids(graph: Graph, node: Node, output: int, source: int) -> bool:
    """Whether a node copies ids, or makes new ones of them."""
    op, dtype = packet(node.op), graph.values[output].dtype
    if dtype == torch.bool or op in OF_IDS:
        return dtype != torch.bool and op in OF_IDS
    return op in COPIES and (dtype == graph.values[source].dtype or op in _CASTS)


def _enters_embedding(node: Node, carries: Set[int]) -> bool:
    name = EMBEDDINGS.get(packet(node.op))
    return name is not None and any(ref.index in carries for ref in refs_in(node.args.get(name)))


def on_path(graph: Graph, carries: Set[int], outputs: Iterable[int]) -> tuple[int, ...]:
    """Nodes through which relevance of `outputs` reaches an explained input, in the order of execution."""
    wanted = {index for index in outputs if index in carries}
    path: list[int] = []
    for node in reversed(graph.nodes):
        if any(output in wanted and output in carries for output in node.outputs):
            sources = receivers(node, carries, graph)
            if sources:
                path.append(node.index)
                wanted.update(sources)
    return tuple(reversed(path))


def receivers(node: Node, carries: Set[int], graph: Graph) -> list[int]:
    """The carrying values a node can hand relevance to: floating ones, indices of an embedding, and copies of ids."""
    embedding = EMBEDDINGS.get(packet(node.op))
    floating = any(o is not None and graph.values[o].is_floating for o in node.outputs)
    found = []
    for name, arg in node.args.items():
        for ref in refs_in(arg) if name != LIKE.get(packet(node.op)) else ():
            if ref.index in carries and (graph.values[ref.index].is_floating or not floating or name == embedding):
                found.append(ref.index)
    return found


# -- what kind of value it is -------------------------------------------------------------------------------------------


def _depends_on_input(graph: Graph) -> set[int]:
    depends = set(graph.inputs.values())
    for node in graph.nodes:
        if any(index in depends for index in node.inputs):
            depends.update(o for o in node.outputs if o is not None)
    return depends


def _tensor(node: Node, name: str) -> int | None:
    arg = node.args.get(name)
    return arg.index if isinstance(arg, Ref) else None


def _operands(node: Node) -> list[int]:
    """The tensors a node reads, without repetitions."""
    return list(dict.fromkeys(node.inputs))


def statistics(graph: Graph) -> dict[str, set[int]]:
    """``statistic``: what a normalisation divides by, in whatever spelling.

    A value is a moment of x if it is the mean or sum of x's squares or absolute values, or a variance or norm of x, or
    comes from such a moment by roots, powers, limits and constants. It is a statistic if it scales x, or x less its mean;
    x may have been scaled by constants before.
    """
    depends = _depends_on_input(graph)
    origin = {index: index for index in depends}
    squares: dict[int, int] = {}
    means: dict[int, int] = {}
    moments: dict[int, int] = {}
    found: set[int] = set()
    for node in graph.nodes:
        read = [index for index in _operands(node) if index in depends]
        out = node.outputs[0] if node.outputs else None
        if out is None or not read:
            continue
        op, first = packet(node.op), read[0]
        if _sums_squares(graph, node) and len({origin.get(index) for index in read}) == 1 and first in origin:
            moments[out] = origin[first]
        elif len(read) == 1:
            if op in COPIES and not node.many:
                for table in (origin, squares, means, moments):
                    if first in table:
                        table[out] = table[first]
            elif op in ELEMENTWISE:
                if op in ("aten.pow", "aten.square", "aten.mul", "aten.abs") and first not in moments and _squares(node):
                    squares[out] = origin[first]
                if first in means:
                    means[out] = means[first]
                if first in moments and op in _ROOTS:
                    moments[out] = moments[first]
                if op in _PRODUCTS and not _squares_itself(node) and _is_numerator(node, first):
                    for table in (origin, squares):
                        if first in table:
                            table[out] = table[first]
            elif op in _NORMS:
                moments[out] = origin[first]
                for other, place in zip(node.outputs[1:], ("mean",), strict=False):
                    if other is not None and place == "mean":
                        means[other] = origin[first]
            elif op in _REDUCING_SQUARES or op in ("aten.amax", "aten.max"):
                if first in squares:
                    moments[out] = squares[first]
                means[out] = origin[first]
        elif len(read) == 2:
            second = read[1]
            if op in ("aten.expand_as", "aten.type_as", "aten.maximum"):
                for table in (origin, moments):
                    if first in table:
                        table[out] = table[first]
            if op in ("aten.sub", "aten.subtract") and means.get(second) == origin.get(first):
                origin[out] = origin[first]
            if op in ("aten.sub", "aten.subtract") and first in moments and means.get(second) == moments[first]:
                moments[out] = moments[first]
            if op in _PRODUCTS:
                for scaled, scale in ((first, second), (second, first)):
                    if scale in moments and moments[scale] == origin.get(scaled):
                        found.add(scale)
    return {"statistic": found}


def _sums_squares(graph: Graph, node: Node) -> bool:
    """Whether a matrix product of a value with itself is the product of each row with itself."""
    op, (out, *_) = packet(node.op), node.outputs
    if op == "aten.einsum":
        terms, _, result = str(node.args["equation"]).replace(" ", "").partition("->")
        first, _, second = terms.partition(",")
        return first == second and set(result) < set(first)
    return op in ("aten.matmul", "aten.bmm") and out is not None and graph.values[out].shape[-2:] == (1, 1)


def _squares(node: Node) -> bool:
    """Whether an elementwise op of one tensor is a square or an absolute value of it."""
    op = packet(node.op)
    if op == "aten.pow":
        return node.args.get("exponent") in (2, 2.0)
    if op == "aten.mul":
        return isinstance(node.args.get("other"), Ref) and _tensor(node, "self") == _tensor(node, "other")
    return True


def self_gates(graph: Graph) -> dict[str, set[int]]:
    """``self_gate``: g(x) in x * g(x) or x / g(x), g elementwise: a SiLU or GELU that the model spells out.

    Holding g(x) constant in the product is the identity rule for the whole activation. The product is a value that others
    may be functions of, and one more function of x itself.
    """
    depends = _depends_on_input(graph)
    origins: dict[int, dict[int, bool]] = {index: {index: True} for index in depends}  # of what, and whether linear
    gates: set[int] = set()
    for node in graph.nodes:
        read = [index for index in _operands(node) if index in depends]
        out = node.outputs[0] if node.outputs else None
        op = packet(node.op)
        if out is None or not read or (op not in ELEMENTWISE and op not in ("aten.clone", "aten.to", "aten.alias")):
            continue
        common = sorted(set.intersection(*(set(origins[index]) for index in read)))
        if not common:
            continue
        if op in _PRODUCTS and len(read) == 2:
            a, b = read
            pairs = [(x, g) for root in common for x, g in ((a, b), (b, a)) if origins[x][root] and not origins[g][root]]
            scaling = [gate for scaled, gate in pairs if _is_numerator(node, scaled)]
            if scaling:
                gates.add(scaling[0])
                origins[out] = {**dict.fromkeys(common, False), out: True}
                continue
        scaled = op in ("aten.mul", "aten.div", "aten.neg", "aten.clone", "aten.to", "aten.alias") and len(read) == 1
        scaled = scaled and len(node.inputs) <= 2 and not _squares_itself(node) and _is_numerator(node, read[0])
        origins[out] = {root: scaled and origins[read[0]][root] for root in common}
    return {"self_gate": {g for g in gates if _only_scales(graph, g, origins)}}


def _squares_itself(node: Node) -> bool:
    return len(node.inputs) == 2 and node.inputs[0] == node.inputs[1]


def _is_numerator(node: Node, value: int) -> bool:
    return packet(node.op) not in _DIVISIONS or _tensor(node, "self") == value


def _only_scales(graph: Graph, gate: int, origins: Mapping[int, Mapping[int, bool]]) -> bool:
    """Whether all that is done with the gate is to scale what it is a function of."""
    users = [graph.nodes[user] for user in graph.consumers[gate]]
    alike = all(set.intersection(*(set(origins[i]) for i in user.inputs if i in origins)) for user in users)
    return gate not in graph.outputs.values() and alike and all(packet(user.op) in _PRODUCTS for user in users)


def attention_weights(graph: Graph) -> dict[str, set[int]]:
    """``attention_weights``: softmaxes that mix other values; ``softmax``, ``softmax_step``: all of them, and their parts."""
    depends = _depends_on_input(graph)
    found = softmaxes(graph, depends)
    return {**found, **weighing(graph, depends, found["softmax"])}


_BOUNDED = {"aten.softmax", "aten._softmax", "aten._safe_softmax", "aten.sigmoid", "aten.tanh", "aten.exp", "aten.relu"}


def infinite_values(graph: Graph) -> dict[str, set[int]]:
    """``infinite``: values that may hold an infinity on purpose, as masked logits do. There 0 * inf must be 0."""
    found = {
        index for index, tensor in graph.constants.items()
        if tensor.is_floating_point() and tensor.numel() and bool(tensor.isinf().any())
    }  # fmt: skip
    found |= {index for path, index in graph.inputs.items() if "mask" in path and graph.values[index].is_floating}
    for node in graph.nodes:
        given = any(isinstance(arg, float) and math.isinf(arg) for arg in node.args.values())
        made = packet(node.op) in ("aten.log", "aten.reciprocal", "aten.div")
        if (given or made or any(i in found for i in node.inputs)) and packet(node.op) not in _BOUNDED:
            found.update(o for o in node.outputs if o is not None)
    return {"infinite": found}


def explainable(graph: Graph, names: Iterable[str] | None, is_aside: Callable[[str], bool]) -> dict[str, int]:
    """The inputs to explain: those named, else floating ones and integer ones that enter an embedding."""
    if names is not None:
        return {name: graph.inputs[name] for name in names}
    chosen: dict[str, int] = {}
    for path, value in graph.inputs.items():
        if is_aside(path):
            continue
        if graph.values[value].is_floating or any(graph.values[v].is_floating for v in carriers(graph, [value])):
            chosen[path] = value
    return chosen
