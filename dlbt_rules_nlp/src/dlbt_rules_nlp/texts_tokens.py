"""Tokens by what someone calls them: a word, a position, an id, a piece of text."""

from __future__ import annotations

from typing import Any

from dlbt_core.errors import TargetError
from dlbt_rules_nlp.texts_input import Encoded

__all__ = ["position_of", "quoted", "token_id", "whole"]


def whole(given: Any, what: str) -> int | None:
    """A whole number or None; `what` begins the error otherwise."""
    if given is None or (isinstance(given, int) and not isinstance(given, bool)):
        return given
    raise TargetError(f"{what}, not {given!r}.")


def position_of(encoded: Encoded, at: int | str) -> int:
    """The position of a token: itself, counted from the end if negative, or the first token of a word of the text."""
    count = len(encoded.ids)
    if isinstance(at, int):
        if not -count <= at < count:
            raise TargetError(f"at={at}: the text has {count} tokens, 0 to {count - 1}.")
        return at % count
    for word in (*encoded.words, *encoded.tokens):
        if word.text == at or word.token == at:
            return word.positions[0]
    for part, text in enumerate(encoded.texts):
        found = encoded.within(place := text.find(at), place + len(at), part) if at and at in text else []
        if found:
            return found[0]
    known = ", ".join(repr(word.text) for word in encoded.words[:12]) + (", ..." if len(encoded.words) > 12 else "")
    raise TargetError(
        f"the text has no word {at!r}.\n  found  {known}\n  fix    one of these, or the position of a token."
    )


def token_id(tokenizer: Any, given: Any) -> int | None:
    """The id of a token: as a number, as text that is one token, or as the tokenizer has it in its vocabulary."""
    if not isinstance(given, str):
        return whole(given, "a token is a string or an id")
    ids = tokenizer(given, add_special_tokens=False)["input_ids"]
    unknown = getattr(tokenizer, "unk_token_id", None)
    if len(ids) == 1 and (ids[0] != unknown or given == getattr(tokenizer, "unk_token", None)):
        return int(ids[0])
    known = tokenizer.convert_tokens_to_ids(given)
    if known is not None and known != unknown:
        return int(known)
    names = ", ".join(map(repr, tokenizer.convert_ids_to_tokens(list(ids))))
    raise TargetError(
        f"{given!r} is not one token: {names or 'nothing'}.\n"
        "  fix  one of these, a token's id, or continuation= for several; a word in a text has a space before it: ' word'."
    )


def quoted(tokenizer: Any, id_: int) -> str:
    """A token as text in quotation marks, or as the tokenizer has it where it is only a part of a letter."""
    text = str(tokenizer.decode([id_]))
    is_readable = text.strip() and "\ufffd" not in text  # part of a letter is not
    return f"“{text}”" if is_readable else f"“{tokenizer.convert_ids_to_tokens(id_)}”"
