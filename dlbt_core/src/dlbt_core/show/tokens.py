"""Tokens as they are read: word pieces joined, special tokens marked, each with its relevance and colour."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from dlbt_core.show.colours import diverging, hexadecimal, ink

__all__ = ["Span", "plain_text", "token_spans"]

_SPECIAL = re.compile(r"\[[A-Za-z0-9_ ]+\]|<[|/]?[A-Za-z0-9_ ]+[|]?>|<｜.+｜>")
_SPACE = ("Ġ", "▁")
_SIGNS = {"Ċ": "⏎", "\n": "⏎", "ĉ": "⇥", "\t": "⇥"}


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
        Its place.
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
    tokens: Sequence[str], relevance: Sequence[float], scale: float, special: Collection[str] = ()
) -> list[Span]:
    """Tokens with their relevance, ready to be shown.

    Parameters
    ----------
    tokens
        As the tokenizer gives them, with its marks: ``##ing`` continues a word, ``Ġword`` and ``▁word`` begin one.
    relevance
        One number per token.
    scale
        The relevance that gets the full colour.
    special
        Tokens that stand for no text, besides those that look like it: ``[CLS]``, ``<s>``, ``<|endoftext|>``.
    """
    marks_space = any(token.startswith(_SPACE) for token in tokens)
    spans: list[Span] = []
    after_special = True
    for position, (token, amount) in enumerate(zip(tokens, relevance, strict=True)):
        is_special = token in special or bool(_SPECIAL.fullmatch(token))
        continues = token.startswith("##") or (marks_space and not token.startswith(_SPACE))
        light, dark = diverging(amount / scale, "light"), diverging(amount / scale, "dark")
        spans.append(
            Span(
                text=token if is_special else plain_text(token),
                token=token,
                position=position,
                joined=continues and not is_special and not after_special,
                special=is_special,
                relevance=amount,
                light=hexadecimal(light),
                light_ink=hexadecimal(ink(light)),
                dark=hexadecimal(dark),
                dark_ink=hexadecimal(ink(dark)),
            )
        )
        after_special = is_special
    return spans


def plain_text(token: str) -> str:
    """A token without the marks of its tokenizer; spaces and line breaks that are all of it are made visible."""
    text = token.removeprefix("##") if len(token) > 2 else token
    for mark in _SPACE:
        text = text.replace(mark, " ")
    text = "".join(_SIGNS.get(sign, sign) for sign in text)
    return text.strip() or "␣" * max(len(text), 1)
