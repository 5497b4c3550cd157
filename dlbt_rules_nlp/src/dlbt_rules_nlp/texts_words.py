"""Words of a text, and tokens as they are read in it."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence

from dlbt_core.show.tokens import Piece, PieceKind, plain_text

__all__ = ["as_read", "place_words", "words_of"]

_UNSPACED = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
"""Letters of scripts that do not set words apart."""

_WORD = re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])\w)+(?:['’](?:(?![{_UNSPACED}])\w)+)*|([^\w\s])\1*")
"""A word: letters and digits, apostrophes between them; one letter of a script without spaces; a sign, repeated or not."""

Place = tuple[int, int, int]


def place_words(
    offsets: Sequence[tuple[int, int]], parts: Sequence[int | None], texts: Sequence[str]
) -> list[Place | None]:
    """Where each token lies: (part, start, end) without the spaces around it; None for what the tokenizer has added.

    Parameters
    ----------
    offsets : sequence of (start, end)
        As the tokenizer gives them, with or without a space before the word.
    parts : sequence of int or None
        Which text of a pair each token is of.
    texts : sequence of str
        The texts.
    """
    found: list[Place | None] = []
    for (start, end), part in zip(offsets, parts, strict=True):
        if part is None or part >= len(texts):
            found.append(None)
            continue
        piece = texts[part][start:end]
        if piece.strip():
            end -= len(piece) - len(piece.rstrip())
            start += len(piece) - len(piece.lstrip())
        found.append((part, start, end))
    return found


def as_read(
    names: Sequence[str],
    spans: Sequence[Place | None],
    texts: Sequence[str],
    special: Sequence[bool],
    written: Sequence[tuple[int, int]] | None = None,
) -> list[Piece]:
    """Tokens with the letters of the text that they stand for.

    Parameters
    ----------
    names : sequence of str
        The tokens as the tokenizer has them.
    spans : sequence of (part, start, end) or None
        Where they lie.
    texts : sequence of str
        The texts.
    special : sequence of bool
        Which stand for no text.
    written : sequence of (start, end), optional
        The parts of the text that are not a template's.
    """
    pieces: list[Piece] = []
    words = [_Words(text) for text in texts]
    before: Place | None = None
    until = -1
    is_space = False
    for position, (name, span, is_special) in enumerate(zip(names, spans, special, strict=True)):
        kind: PieceKind = "special" if is_special else "text"
        if (
            kind == "text"
            and written is not None
            and (span is None or not any(a < span[2] and span[1] < b for a, b in written))
        ):
            kind = "template"
        text = name if is_special or span is None else texts[span[0]][span[1] : span[2]]
        joined = False
        if span is not None and not is_special:
            same = before is not None and before[0] == span[0]
            if same and before == span and len(text) <= 2 and not is_space:
                text = "…"  # one letter of several tokens
            joined = same and span[1] < until and not pieces[-1].special
            until = max(until if same else -1, words[span[0]].end_after(span[2]), span[1])
            before = span
        else:
            before, until = None, -1
        is_space = not is_special and not name.strip("▁Ġ")
        if is_space:
            text = plain_text(name)  # a space that is a token of its own, placed at the letter after it
        elif not text.strip():
            text = plain_text(text or name)
        elif not is_special:
            text = " ".join(text.split())
        pieces.append(Piece(text, name, (position,), joined, kind))
    return pieces


class _Words:
    """Ends of the words of a text."""

    def __init__(self, text: str) -> None:
        self._spans = [match.span() for match in _WORD.finditer(text)]
        self._starts = [start for start, _ in self._spans]

    def end_after(self, end: int) -> int:
        """Where the word that has the letter before `end` ends."""
        place = bisect_left(self._starts, end) - 1
        return max(end, self._spans[place][1]) if place >= 0 else end


def words_of(pieces: Sequence[Piece], spans: Sequence[Place | None] | None, texts: Sequence[str]) -> tuple[Piece, ...]:
    """Words: tokens with those that continue them. A special token is a word of its own."""
    groups: list[list[int]] = []
    for place, piece in enumerate(pieces):
        if piece.joined and groups:
            groups[-1].append(place)
        else:
            groups.append([place])
    return tuple(
        _word([pieces[i] for i in group], [spans[i] for i in group] if spans else None, texts) for group in groups
    )


def _word(pieces: Sequence[Piece], spans: Sequence[Place | None] | None, texts: Sequence[str]) -> Piece:
    if len(pieces) == 1:
        return Piece(pieces[0].text, pieces[0].token, pieces[0].positions, False, pieces[0].kind)
    text = "".join(piece.text for piece in pieces)
    places = [span for span in spans or () if span is not None]
    if len(places) == len(pieces):
        written = texts[places[0][0]][min(s[1] for s in places) : max(s[2] for s in places)]
        text = " ".join(written.split()) or text
    positions = tuple(position for piece in pieces for position in piece.positions)
    return Piece(text, " ".join(piece.token for piece in pieces), positions, False, pieces[0].kind)
