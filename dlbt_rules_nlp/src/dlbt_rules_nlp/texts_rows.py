"""Tokens and words of one input of the model, with their relevance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from dlbt_core.show.tokens import Piece

__all__ = ["Token", "TokenRow"]


@dataclass(frozen=True)
class Token(Piece):
    """A token, or a word of several, with its relevance: the sum over its positions and over the embedding."""

    relevance: float = 0.0


@dataclass(frozen=True, eq=False)
class TokenRow:
    """The tokens of one input of the model.

    Attributes
    ----------
    name : str
        What it is: ``"text"``, or ``"decoder"``.
    input : str
        The model's name for it.
    tokens, words : tuple of Token
        In the order of the text, without padding.
    relevance : Tensor
        One number per token, shape (T,), float64, on the CPU.
    padding : float
        What the positions that belong to no token have, together: 0.
    """

    name: str
    input: str
    tokens: tuple[Token, ...]
    words: tuple[Token, ...]
    relevance: Tensor
    padding: float

    @classmethod
    def of(cls, name: str, path: str, values: Tensor, tokens: Sequence[Piece], as_words: Sequence[Piece]) -> TokenRow:
        """Tokens and words with the relevance of their positions; `values` has one number per position, shape (T,)."""
        values = values.detach().cpu().double()

        def scored(pieces: Sequence[Piece]) -> tuple[Token, ...]:
            return tuple(Token(**{**vars(p), "relevance": float(values[list(p.positions)].sum())}) for p in pieces)

        own = [position for piece in tokens for position in piece.positions]
        rest = sorted(set(range(len(values))) - set(own))
        return cls(name, path, scored(tokens), scored(as_words), values[own], float(values[rest].sum()))
