"""Tokens as they are read: word pieces joined, special tokens marked, each with its relevance and colour."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from dlbt_core.show.colours import diverging, hexadecimal, ink

__all__ = ["Piece", "PieceKind", "Span", "pieces_of", "plain_text", "token_spans"]

_SPECIAL = re.compile(r"\[[A-Za-z0-9_ ]+\]|<[|/]?[A-Za-z0-9_ ]+[|]?>|<｜.+｜>")
_SPACE = ("Ġ", "▁")
_SIGNS = {"Ċ": "⏎", "\n": "⏎", "ĉ": "⇥", "\t": "⇥"}

PieceKind = Literal["text", "special", "template"]
"""What a piece stands for: the text, nothing (``[CLS]``), or the frame that a chat template puts around the text."""


@dataclass(frozen=True)
class Piece:
    """A token, or a word of several tokens, as it is read.

    Attributes
    ----------
    text
        What is read, without the marks of the tokenizer.
    token
        The token as the tokenizer has it; those of a word with spaces between them.
    positions
        Its places in the model's input.
    joined
        Whether it continues the word before it.
    kind
        What it stands for.
    """

    text: str
    token: str
    positions: tuple[int, ...]
    joined: bool = False
    kind: PieceKind = "text"

    @property
    def special(self) -> bool:
        """Whether it stands for none of the text."""
        return self.kind != "text"


@dataclass(frozen=True)
class Span:
    """One token as it is shown.

    Attributes
    ----------
    text
        What is read, without the marks of the tokenizer.
    token
        The token as it was given.
    position
        Its place, the first if it has several.
    joined
        Whether it continues the word before it.
    special
        Whether it stands for no text, as ``[CLS]`` does.
    relevance
        Its relevance.
    light, light_ink, dark, dark_ink
        CSS colours: background and text, on a light and on a dark page.
    """

    text: str
    token: str
    position: int
    joined: bool
    special: bool
    relevance: float
    light: str
    light_ink: str
    dark: str
    dark_ink: str


def token_spans(
    tokens: Sequence[str | Piece], relevance: Sequence[float], scale: float, special: Collection[str] = ()
) -> list[Span]:
    """Tokens with their relevance, ready to be shown.

    Parameters
    ----------
    tokens
        Pieces, or tokens as the tokenizer gives them, with its marks: ``##ing`` continues a word, ``Ġword`` and ``▁word``
        begin one.
    relevance
        One number per token.
    scale
        The relevance that gets the full colour.
    special
        Tokens that stand for no text, besides those that look like it: ``[CLS]``, ``<s>``, ``<|endoftext|>``.
    """
    return [_span(piece, amount, scale) for piece, amount in zip(pieces_of(tokens, special), relevance, strict=True)]


def _span(piece: Piece, amount: float, scale: float) -> Span:
    light, dark = diverging(amount / scale, "light"), diverging(amount / scale, "dark")
    return Span(
        text=piece.text,
        token=piece.token,
        position=piece.positions[0],
        joined=piece.joined,
        special=piece.special,
        relevance=amount,
        light=hexadecimal(light),
        light_ink=hexadecimal(ink(light)),
        dark=hexadecimal(dark),
        dark_ink=hexadecimal(ink(dark)),
    )


def pieces_of(tokens: Sequence[str | Piece], special: Collection[str] = ()) -> list[Piece]:
    """Tokens as a tokenizer gives them as pieces; pieces stay as they are. See `token_spans`."""
    names = [token for token in tokens if isinstance(token, str)]
    marks_space = any(token.startswith(_SPACE) for token in names)
    pieces: list[Piece] = []
    after_special = True
    for position, token in enumerate(tokens):
        if isinstance(token, Piece):
            pieces.append(token)
        else:
            is_special = token in special or bool(_SPECIAL.fullmatch(token))
            continues = token.startswith("##") or (marks_space and not token.startswith(_SPACE))
            joined = continues and not is_special and not after_special
            text = token if is_special else plain_text(token)
            pieces.append(Piece(text, token, (position,), joined, "special" if is_special else "text"))
        after_special = pieces[-1].special
    return pieces


def plain_text(token: str) -> str:
    """A token without the marks of its tokenizer; spaces and line breaks that are all of it are made visible."""
    text = token.removeprefix("##") if len(token) > 2 else token
    for mark in _SPACE:
        text = text.replace(mark, " ")
    text = "".join(_SIGNS.get(sign, sign) for sign in text)
    return text.strip() or "␣" * max(len(text), 1)
