"""How similar an embedding of the model is to a given one: the cosine, a function target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dlbt_core.errors import TargetError
from dlbt_core.graph.structure import leaves

__all__ = ["EMBEDDINGS", "Cosine", "embedding_in"]

EMBEDDINGS = ("image_embeds", "pooler_output", "embeddings", "embedding")
"""Names that outputs have when they are the model's embedding, the surest first."""


@dataclass(frozen=True, eq=False)
class Cosine:
    """The cosine of an output with a constant embedding, per sample; the output is flattened to (B, D).

    Attributes
    ----------
    embedding : Tensor
        Shape (D,) or (B, D), or a shape that has as many elements as the output per sample.
    path : str, optional
        Which output; unless given the one named like an embedding, or the only one of the embedding's size.
    """

    embedding: Any
    path: str | None = None

    @property
    def __name__(self) -> str:
        """How the target is called in the explanation."""
        return "cosine with the given embedding" + (f" of {self.path}" if self.path else "")

    def __call__(self, outputs: Any) -> Tensor:
        """Shape (B,)."""
        if not isinstance(self.embedding, Tensor) or not self.embedding.is_floating_point():
            kind = type(self.embedding).__name__
            raise TargetError(
                f"cosine() needs an embedding, a floating-point tensor of shape (D,) or (samples, D), not {kind}.\n"
                "  fix  cosine(dlbt_rules_vision.embed_image(model, image, ...)); explain_image takes the image itself."
            )
        floating = {
            path: leaf for path, leaf in leaves(outputs) if isinstance(leaf, Tensor) and leaf.is_floating_point()
        }
        found = embedding_in(floating, self.path, self.embedding)
        flat = found.reshape(found.shape[0], -1)
        given = self.embedding.detach().to(flat)
        given = given.reshape(-1, flat.shape[1])
        if given.shape[0] not in (1, flat.shape[0]):
            raise TargetError(
                f"{given.shape[0]} embeddings for {flat.shape[0]} samples.\n  fix  give one, or one per sample."
            )
        direction = torch.nn.functional.normalize(given, dim=-1)
        return (torch.nn.functional.normalize(flat, dim=-1) * direction).sum(-1)


def embedding_in(floating: Mapping[str, Tensor], path: str | None, given: Tensor | None = None) -> Tensor:
    """The output that is the model's embedding.

    Parameters
    ----------
    floating : mapping of str to Tensor
        The model's floating-point outputs.
    path : str, optional
        Its path, if it is known.
    given : Tensor, optional
        An embedding that it must have the size of.

    Raises
    ------
    TargetError
        If there is no such output, or several and none with the name of an embedding.
    """
    shapes = ", ".join(f"{name!r} {tuple(out.shape)}" for name, out in floating.items()) or "no floating-point output"
    if path is not None:
        if path not in floating:
            raise TargetError(f"the model has no output {path!r}. It returns: {shapes}.")
        fitting = {path: floating[path]}
    else:
        fitting = {name: out for name, out in floating.items() if out.dim() >= 2}
    sizes = set() if given is None else {given.numel(), *given.shape[-1:]}
    if given is not None:
        fitting = {name: out for name, out in fitting.items() if out[0].numel() in sizes}
    if not fitting:
        size = "" if given is None else f" for an embedding of shape {tuple(given.shape)}"
        raise TargetError(
            f"no output fits{size}.\n  found  {shapes}\n"
            "  fix    an embedding of the same model and output: shape (D,) or (samples, D); path= names the output."
        )
    named = [name for name in EMBEDDINGS if name in fitting]
    if not named and len(fitting) > 1:
        raise TargetError(
            f"several outputs could be the embedding: {', '.join(map(repr, fitting))}.\n  fix  name one with path=."
        )
    return fitting[named[0] if named else next(iter(fitting))]
