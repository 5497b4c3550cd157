"""What is shown of an explained text: pieces with their amounts, tables of blocks, heads and positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dlbt_core.errors import DlbtError, InputError
from dlbt_core.show import words
from dlbt_core.show.matrix import Matrix
from dlbt_core.show.tokens import Piece

if TYPE_CHECKING:
    from dlbt_rules_nlp.texts import TextExplanation
    from dlbt_rules_nlp.texts_rows import Token

__all__ = ["check_special", "drawn", "matrices_of", "matrix_of"]


def check_special(special: str) -> None:
    """Whether special tokens are shown is said by a word.

    Raises
    ------
    InputError
        If it is none of the two.
    """
    if special not in ("show", "hide"):
        raise InputError(f"special is 'show' or 'hide', not {special!r}.")


def drawn(result: TextExplanation, kind: str, special: str) -> tuple[list[tuple[str, Sequence[Piece], Tensor]], str]:
    """Name, pieces and amounts of each row of tokens, and what is left out in words."""
    check_special(special)
    rows: list[tuple[str, Sequence[Piece], Tensor]] = []
    hidden: list[Token] = []
    for row in result.rows:
        pieces = row.words if kind == "words" else row.tokens
        hidden += [piece for piece in pieces if piece.special and special == "hide"]
        shown = [piece for piece in pieces if not piece.special or special == "show"]
        name = row.name if len(result.rows) > 1 else ""
        rows.append((name, shown, torch.tensor([piece.relevance for piece in shown], dtype=torch.float64)))
    if not hidden:
        return rows, ""
    total = words.signed(sum(token.relevance for token in hidden))
    count = f"{len(hidden)} special token" + ("s" if len(hidden) > 1 else "")
    return rows, f" Not shown: {count}, together {total}."


def matrices_of(result: TextExplanation, kind: str) -> list[Matrix]:
    """All tables of a kind that there are: none where nothing was kept for it."""
    found = []
    for row in result.rows:
        try:
            found.append(matrix_of(result, kind, row.name))
        except DlbtError:
            continue
    return found


def matrix_of(result: TextExplanation, kind: str, row: str = "text", **options: Any) -> Matrix:
    """A table of a kind: ``"layers"``, ``"heads"``, ``"experts"`` or ``"token_map"``."""
    side = f", {row}" if len(result.rows) > 1 else ""
    names = [token.text for token in result.row(row).tokens]
    if kind == "layers":
        maps = result.layers_map(row)
        rows = [*reversed(maps), "input"]
        return Matrix(
            values=torch.stack([*reversed(maps.values()), result.row(row).relevance]),
            rows=rows,
            columns=names,
            title=f"Relevance of the blocks{side}",
            note="A row per block, the last at the top: what its output has at each token.",
        )
    if kind == "heads":
        return _of_parts(
            result.heads(row), f"Relevance of the attention heads{side}",
            "A row per attention, the last at the top; a column per head: what arrives at its part of the output.",
        )  # fmt: skip
    if kind == "experts":
        return _of_parts(
            result.experts(row), f"Relevance of the experts{side}",
            "A row per mixture, the last at the top; a column per expert: what its weighted output has.",
        )  # fmt: skip
    of = options.get("of") or row
    block = result.block(options.get("layer"), row)
    return Matrix(
        values=result.token_map(block, row, of),
        rows=names,
        columns=[token.text for token in result.row(of).tokens],
        title=f"From tokens to positions of {block}",
        note=f"A row per position of {block}: what of each token's relevance passed through it.",
    )


def _of_parts(parts: dict[str, Tensor], title: str, note: str) -> Matrix:
    """A row for each layer, the last at the top, with a column for each of its parts."""
    most = max(len(values) for values in parts.values())
    return Matrix(
        values=torch.stack([torch.cat([v, v.new_zeros(most - len(v))]) for v in reversed(parts.values())]),
        rows=list(reversed(parts)),
        columns=[str(number) for number in range(most)],
        title=title,
        note=note,
    )
