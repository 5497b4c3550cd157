"""Which relevance of the input passed through which position of a layer: a backward pass from each position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dlbt_core.errors import DlbtError, InputError
from dlbt_core.explainer import Explainer
from dlbt_core.graph.structure import leaves
from dlbt_core.target.base import Target

__all__ = ["Source", "through_positions"]

_AT_ONCE = 16
"""How many positions are handed back together: more take more memory."""


@dataclass(frozen=True)
class Source:
    """How an explanation was made, to make another one of the same run.

    Attributes
    ----------
    model : torch.nn.Module
        The model.
    call : mapping of str to Tensor
        What it got, one sample.
    options : mapping
        Of the explainer: composite, rules, ...
    """

    model: Any
    call: Mapping[str, Any]
    options: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class _At(Target):
    """The relevance that a layer has at one position, as it was found: R = a m, with m held constant."""

    relevance: Tensor
    position: int
    path: str | None = "tapped"

    def weights(self, out: Tensor) -> tuple[Tensor, list[Any]]:
        """The multiplier of the output and what was picked; see `Target.weights`."""
        weights = torch.zeros_like(out)
        own, found = out[:, self.position], self.relevance[:, self.position].to(out)
        weights[:, self.position] = torch.where(own == 0, 0.0, found / torch.where(own == 0, 1.0, own))
        return weights, [None] * out.shape[0]

    def __str__(self) -> str:
        return f"relevance of position {self.position}"


class _Tapped(nn.Module):
    """A model that also returns what one of its modules put out. It shares all parts with the model, which stays as it is."""

    def __init__(self, model: nn.Module, module: str, call: int, path: str) -> None:
        super().__init__()
        self.training = model.training
        self._modules, self._parameters, self._buffers = model._modules, model._parameters, model._buffers
        self.__dict__["_run"] = model.forward
        self.__dict__["_place"] = (module, call, path)

    def forward(self, **kwargs: Any) -> dict[str, Any]:
        """The output, and what was tapped."""
        module, call, path = self.__dict__["_place"]
        seen: list[Any] = []

        def keep(_module: nn.Module, _args: Any, output: Any) -> None:
            # A copy, since the model may write into its own tensor later on.
            seen.append({name: leaf.clone() for name, leaf in _floating(output)})

        handle = self.get_submodule(module).register_forward_hook(keep)
        try:
            outputs = self.__dict__["_run"](**kwargs)
        finally:
            handle.remove()
        return {
            "tapped": seen[call][path] if path else next(iter(seen[call].values())),
            "outputs": dict(_floating(outputs)),
        }


def _floating(outputs: Any) -> Sequence[tuple[str, Tensor]]:
    return [(p, leaf) for p, leaf in leaves(outputs) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def through_positions(
    source: Source, layer: str, relevance: Tensor, outputs: Mapping[str, Tensor], positions: Sequence[int]
) -> dict[str, Tensor]:
    """Per explained input the relevance that passed through each position of a layer, shape (positions, tokens).

    Each position of the layer gets the relevance it has, all others nothing; what then arrives at the inputs is what passed
    through it. Where all relevance passes the layer, the rows sum up to the relevance of the inputs.

    Parameters
    ----------
    source : Source
        How the explanation was made.
    layer : str
        Name of the layer in the explanation.
    relevance : Tensor
        The layer's relevance, shape (1, T, D).
    outputs : mapping of str to Tensor
        The outputs that were explained, of this sample, by which a model that has changed since is found out.
    positions : sequence of int
        Which positions.

    Raises
    ------
    InputError
        If the model is no module.
    DlbtError
        If it has changed.
    """
    model = source.model
    if not isinstance(model, nn.Module):
        raise InputError(
            "token_map() needs a torch.nn.Module, not a torch.export program.\n"
            "  fix  explain_text(model, ...) with the model itself."
        )
    module, _, path = layer.partition(":")
    module, _, call = module.partition("#")
    explainer = Explainer(_Tapped(model, module, int(call or 0), path), layers="none", **source.options)
    rows: list[dict[str, Tensor]] = []
    for start in range(0, len(positions), _AT_ONCE):
        targets = [_At(relevance, position) for position in positions[start : start + _AT_ONCE]]
        explanations = explainer(**source.call, targets=targets)
        if not rows:
            _check_same(explanations[0].outputs, outputs)
        rows += [{name: r[0].detach().cpu().double() for name, r in e.inputs.items()} for e in explanations]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def _check_same(now: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> None:
    for name, tensor in before.items():
        other = now.get(f"outputs.{name}")
        if other is None or not tensor.is_floating_point() or other.shape != tensor.shape:
            continue
        if not torch.allclose(other, tensor, rtol=1e-2, atol=1e-2 * float(tensor.abs().max())):
            raise DlbtError(
                "the model gives another output now than when this text was explained.\n"
                "  fix  explain the text again: token_map() needs the model as it was."
            )
