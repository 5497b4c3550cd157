"""Relevance of experts: what each expert of a mixture contributed, per layer, sample and token; and what the router got."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dlbt_core.errors import DlbtError
from dlbt_core.graph.experts import Mixture, origins
from dlbt_core.graph.ir import Graph
from dlbt_core.graph.sample_axis import SampleAxis

__all__ = ["ExpertRelevance", "Experts", "Routed"]


@dataclass(frozen=True, eq=False)
class ExpertRelevance:
    """What the experts of one layer contributed.

    An expert's relevance is that of its weighted output: of the product of its output and the router's weight, at the moment
    it is added to those of the other experts. It is the last place where experts are apart, and the same place for every way
    to call them. The sum over experts is the relevance of the layer's routed output, since a sum hands its relevance back to
    the summands in full. What enters an expert has less than that: the part of biases and of the router is gone by then.
    Where a model weights what is on its way through an expert instead, that product is meant: what enters the experts of Llama
    4, or shared experts that the router of Inkling rates with the others.

    Attributes
    ----------
    layer : str
        Path of the module that holds router and experts, e.g. ``"model.layers.3.mlp"``.
    per_token : Tensor
        Shape (samples, tokens, experts), float64, on the CPU; exactly 0 where a token was not sent to the expert.
    router : Tensor
        Of the same shape: the relevance that the router's logits get, from where it goes on to the token's hidden state. All
        0 where the router is held constant or its relevance is stopped (``detach``).
    weights : Tensor
        Of the same shape: by what the expert's output was multiplied, 0 where the expert was not chosen.
    """

    layer: str
    per_token: Tensor
    router: Tensor
    weights: Tensor

    @property
    def per_sample(self) -> Tensor:
        """Relevance of each expert, shape (samples, experts)."""
        return self.per_token.sum(1)

    @property
    def relevance(self) -> Tensor:
        """Relevance of each expert over all samples, shape (experts,)."""
        return self.per_sample.sum(0)

    @property
    def tokens(self) -> Tensor:
        """How many tokens were sent to each expert, shape (samples, experts)."""
        return (self.weights != 0).sum(1)

    def table(self) -> list[dict[str, Any]]:
        """A row per expert: layer, expert, relevance, number of tokens, relevance of its logit in the router."""
        columns = zip(
            self.relevance.tolist(), self.tokens.sum(0).tolist(), self.router.sum((0, 1)).tolist(), strict=True
        )
        return [
            {"layer": self.layer, "expert": expert, "relevance": relevance, "tokens": tokens, "router": router}
            for expert, (relevance, tokens, router) in enumerate(columns)
        ]

    def __str__(self) -> str:
        samples, tokens, experts = self.per_token.shape
        lines = [f"{self.layer or '(model)'}: {experts} experts, {samples} x {tokens} tokens"]
        lines += [f"  expert {r['expert']:>3}  {r['relevance']:+.4g}  {r['tokens']} tokens" for r in self.table()]
        sums = {"together": float(self.per_token.sum()), "router": float(self.router.sum())}
        return "\n".join([*lines, *(f"  {name:<10}  {amount:+.4g}" for name, amount in sums.items())])

    def __repr__(self) -> str:
        samples, tokens, experts = self.per_token.shape
        return (
            f"<ExpertRelevance of {self.layer or '(model)'}: {experts} experts, {samples} x {tokens} tokens; "
            f"together {float(self.per_token.sum()):+.4g}, router {float(self.router.sum()):+.4g}>"
        )


class Experts(Mapping[str, ExpertRelevance]):
    """The layers of experts of a model by name, first layer first."""

    def __init__(self, layers: Sequence[ExpertRelevance] = ()) -> None:
        self._layers = {layer.layer: layer for layer in layers}

    def __getitem__(self, name: str) -> ExpertRelevance:
        if name not in self._layers:
            known = (
                f"one of: {', '.join(map(repr, self._layers))}"
                if self._layers
                else "the model has none, or layers='none'"
            )
            raise DlbtError(f"no relevance of experts was kept for {name!r}.\n  fix  {known}.")
        return self._layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __contains__(self, name: object) -> bool:
        return name in self._layers

    def __len__(self) -> int:
        return len(self._layers)

    def table(self) -> list[dict[str, Any]]:
        """A row per layer and expert; see `ExpertRelevance.table`."""
        return [row for layer in self._layers.values() for row in layer.table()]

    def __str__(self) -> str:
        return "\n".join(map(str, self._layers.values())) or "no experts"

    def __repr__(self) -> str:
        return f"<Experts of {len(self)} layers: {', '.join(map(repr, self))}>"


@dataclass(frozen=True, eq=False)
class Routed:
    """A mixture in one run: which token each weighted output belongs to, and which expert.

    Attributes
    ----------
    mixture
        What was recorded.
    ratings
        The ratings of this run; the last dimension counts the experts.
    weights, origins
        Of each part: the weights, and which rating each was, as an index into the flattened ratings or -1.
    """

    mixture: Mixture
    ratings: Tensor
    weights: tuple[Tensor, ...]
    origins: tuple[Tensor, ...]

    @classmethod
    def of(cls, graph: Graph, mixture: Mixture, values: list[Any]) -> Routed:
        """Read it off the values of a run."""
        weights = tuple(values[part.weight] for part in mixture.parts)
        return cls(mixture, values[mixture.ratings], weights, origins(graph, mixture, values))

    def relevance(self, of: Callable[[int], Tensor], axis: SampleAxis | None, samples: int) -> ExpertRelevance:
        """The relevance of weighted outputs, summed by token and expert.

        Parameters
        ----------
        of
            Gives the relevance of a value.
        axis, samples
            Where the samples lie in the ratings. Where they cannot be told apart they count as one.
        """
        amounts = torch.zeros(self.ratings.numel(), dtype=torch.float64)
        weights = torch.zeros_like(amounts)
        for part, weight, origin in zip(self.mixture.parts, self.weights, self.origins, strict=True):
            known = (origin >= 0).flatten()
            place = origin.flatten()[known]
            amount = of(part.output)
            amount = (
                amount.to(torch.promote_types(amount.dtype, torch.float32)).sum_to_size(weight.shape).cpu().double()
            )
            amounts = amounts.index_add(0, place, amount.flatten()[known])
            weights = weights.index_copy(0, place, weight.detach().cpu().double().flatten()[known])
        router = of(self.mixture.ratings).cpu().double()
        tables = (amounts.reshape(self.ratings.shape), router, weights.reshape(self.ratings.shape))
        return ExpertRelevance(self.mixture.layer, *(_by_sample(table, axis, samples) for table in tables))


def _by_sample(table: Tensor, axis: SampleAxis | None, samples: int) -> Tensor:
    """A table of ratings as (samples, tokens, experts)."""
    experts = table.shape[-1]
    places = None if axis is None else axis.places(samples)
    if axis is None or axis.axis in (None, table.dim() - 1) or places is None:
        return table.reshape(1, -1, experts)
    return table.movedim(axis.axis, 0)[places].reshape(samples, -1, experts)
