"""From a text to what a model takes: token ids with their places in the text, words, and padded batches."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from dlbt_core.errors import InputError
from dlbt_core.show.tokens import Piece, pieces_of
from dlbt_rules_nlp.texts_words import as_read, place_words, words_of

__all__ = ["Encoded", "arrange", "device_of", "encode", "encode_chat", "encode_target", "takes"]

_NO_CONTINUATION = "continuation is the text that follows, a string that is not empty."
_PER_TOKEN = ("token_type_ids", "attention_mask", "global_attention_mask")


@dataclass(frozen=True)
class Encoded:
    """One text as token ids.

    Attributes
    ----------
    ids : tuple of int
        The token ids, without padding.
    tokens, words : tuple of Piece
        Tokens and words as they are read; positions count in `ids`.
    spans : tuple of (part, start, end), or None
        Where each token lies in the text: which text of a pair, first letter, end. None where the tokenizer cannot say.
    texts : tuple of str
        The text, or both texts of a pair.
    extra : mapping of str to tuple of int
        What else the tokenizer made, one number per token.
    """

    ids: tuple[int, ...]
    tokens: tuple[Piece, ...]
    words: tuple[Piece, ...]
    spans: tuple[tuple[int, int, int] | None, ...] | None
    texts: tuple[str, ...]
    extra: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def of_text(self, part: int | None = None) -> list[int]:
        """Positions of tokens that stand for text; those of one text of a pair."""
        own = [i for i, piece in enumerate(self.tokens) if not piece.special]
        if part is None or self.spans is None:
            return own
        return [i for i in own if (span := self.spans[i]) is not None and span[0] == part]

    def within(self, start: int, end: int, part: int = 0) -> list[int]:
        """Positions of the tokens that have letters from `start` to `end` of a text."""
        spans = self.spans or ()
        return [i for i, s in enumerate(spans) if s is not None and s[0] == part and s[1] < end and start < s[2]]


def encode(
    tokenizer: Any, text: Any, pair: Any = None, *, special: bool = True, template: Sequence[tuple[int, int]] | None = None,
    max_length: int | None = None, is_target: bool = False,
) -> Encoded:  # fmt: skip
    """Token ids of a text, or of a pair of texts.

    Parameters
    ----------
    tokenizer : transformers tokenizer
        The model's own.
    text, pair : str
        The text, and the second one of a pair.
    special : bool
        Whether the tokenizer adds its special tokens.
    template : sequence of (start, end), optional
        The parts of the text that someone has written; all else is the frame of a chat.
    max_length : int, optional
        Up to how many tokens; what is beyond is cut off.
    is_target : bool
        Whether it is what a decoder should say, which some tokenizers treat differently.

    Raises
    ------
    InputError
        If text or tokenizer are none, or the text has no tokens.
    """
    for what, one in (("text", text), ("pair", pair)):
        if not isinstance(one, str) and not (what == "pair" and one is None):
            raise InputError(f"{what} is a string, not {type(one).__name__}.")
    if not callable(tokenizer) or not hasattr(tokenizer, "convert_ids_to_tokens"):
        raise InputError(
            f"{type(tokenizer).__name__} is not a tokenizer of transformers.\n"
            "  fix  tokenizer=AutoTokenizer.from_pretrained(...), that of the model."
        )
    has_places = bool(getattr(tokenizer, "is_fast", False))
    given: tuple[Any, ...] = () if is_target else (text,) if pair is None else (text, pair)
    made = tokenizer(
        *given, **({"text_target": text} if is_target else {}), add_special_tokens=special, return_special_tokens_mask=True,
        return_offsets_mapping=has_places, truncation=max_length is not None, max_length=max_length,
    )  # fmt: skip
    ids = tuple(int(i) for i in made["input_ids"])
    if not ids and not is_target:
        raise InputError("the text has no tokens.\n  fix  give a text that is not empty.")
    texts = (text,) if pair is None else (text, pair)
    names = tokenizer.convert_ids_to_tokens(list(ids))
    marked = _special(tokenizer, ids, made.get("special_tokens_mask"))
    extra = {k: tuple(made[k]) for k in _PER_TOKEN if k in made and k != "attention_mask" and len(made[k]) == len(ids)}
    if not has_places:
        pieces = pieces_of(names, {name for name, is_special in zip(names, marked, strict=True) if is_special})
        return Encoded(ids, tuple(pieces), words_of(pieces, None, texts), None, texts, extra)
    spans = place_words(made["offset_mapping"], made.sequence_ids(0), texts)
    pieces = as_read(names, spans, texts, marked, template)
    return Encoded(ids, tuple(pieces), words_of(pieces, spans, texts), tuple(spans), texts, extra)


def _special(tokenizer: Any, ids: Sequence[int], added: Sequence[int] | None) -> list[bool]:
    """Which tokens stand for no text. A token for unknown words does, unless it is also one of the others."""
    known = set(getattr(tokenizer, "all_special_ids", ()) or ())
    unknown = getattr(tokenizer, "unk_token_id", None)
    others = {getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "pad", "cls", "sep", "mask")}
    known -= {unknown} - others
    known |= {
        int(i) for i, token in (getattr(tokenizer, "added_tokens_decoder", None) or {}).items()
        if getattr(token, "special", False) and i != unknown
    }  # fmt: skip
    return [bool(flag) or i in known for i, flag in zip(ids, added or [0] * len(ids), strict=True)]


def encode_chat(
    tokenizer: Any, chat: Sequence[Mapping[str, str]], continuation: str | None = None
) -> tuple[Encoded, int]:
    """Token ids of a conversation in the tokenizer's chat template, and how many of them come before the continuation.

    Parameters
    ----------
    tokenizer : transformers tokenizer
        With a chat template.
    chat : sequence of mappings
        Messages with ``role`` and ``content``.
    continuation : str, optional
        What the assistant answers.

    Raises
    ------
    InputError
        If the tokenizer has no template, or the chat does not fit it.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(
            "the tokenizer has no chat template.\n  fix  give the text itself, or a tokenizer with a chat_template."
        )
    try:
        frame = tokenizer.apply_chat_template(list(chat), tokenize=False, add_generation_prompt=True)
    except Exception as error:
        raise InputError(
            f"the chat does not fit the tokenizer's template: {type(error).__name__}: {error}\n"
            "  fix  a list of messages: [{'role': 'user', 'content': 'Hello'}]."
        ) from error
    written: list[tuple[int, int]] = []
    after = 0
    for message in chat:
        content = str(message.get("content", "")).strip()
        found = frame.find(content, after) if content else -1
        if found >= 0:
            after = found + len(content)
            written.append((found, after))
    if continuation is None:
        whole = encode(tokenizer, frame, special=False, template=written)
        return whole, len(whole.ids)
    return with_continuation(tokenizer, frame, continuation, special=False, template=written)


def with_continuation(
    tokenizer: Any, text: str, continuation: str, *, special: bool = True, template: Sequence[tuple[int, int]] | None = None
) -> tuple[Encoded, int]:  # fmt: skip
    """A text and what follows it as one row of ids, and how many of them come before the continuation.

    Both are cut into tokens together, as they would be written; where one token would hold letters of both, each by itself.
    """
    if not isinstance(continuation, str) or not continuation:
        raise InputError(_NO_CONTINUATION)
    end = None if template is None else (len(text), len(text) + len(continuation))
    parts = None if template is None or end is None else [*template, end]
    whole = encode(tokenizer, text + continuation, special=special, template=parts)
    last = max((i for i, piece in enumerate(whole.tokens) if not piece.special), default=-1)
    if whole.spans is not None:
        whole = _cut(whole, last + 1 if special else len(whole.ids))
        starts = [i for i, s in enumerate(whole.spans or ()) if s is not None and s[2] > len(text)]
        first = starts[0] if starts else len(whole.ids)
        span = (whole.spans or ())[first] if starts else None
        if span is not None and (span[1] >= len(text) or not (text + continuation)[span[1] : len(text)].strip()):
            return whole, first
    alone = encode(tokenizer, text, special=special, template=template)
    last = max((i for i, piece in enumerate(alone.tokens) if not piece.special), default=-1)
    before = _cut(alone, last + 1 if special else len(alone.ids))
    return _chain(before, encode(tokenizer, continuation, special=False)), len(before.ids)


def _cut(encoded: Encoded, count: int) -> Encoded:
    """The first tokens: without those a tokenizer sets at the end, which a text that goes on does not have."""
    tokens, spans = encoded.tokens[:count], None if encoded.spans is None else encoded.spans[:count]
    return replace(
        encoded, ids=encoded.ids[:count], tokens=tokens, words=words_of(tokens, spans, encoded.texts), spans=spans,
        extra={name: values[:count] for name, values in encoded.extra.items()},
    )  # fmt: skip


def _chain(first: Encoded, second: Encoded) -> Encoded:
    """Two texts as one row of tokens."""
    shift = len(first.ids)

    def moved(pieces: Iterable[Piece]) -> tuple[Piece, ...]:
        return tuple(replace(piece, positions=tuple(p + shift for p in piece.positions)) for piece in pieces)

    both = {n: (*first.extra[n], *second.extra[n]) for n in first.extra.keys() & second.extra.keys()}
    start = len(first.texts[0])
    spans: tuple[tuple[int, int, int] | None, ...] | None = None
    if first.spans is not None and second.spans is not None:
        spans = (*first.spans, *(None if s is None else (0, s[1] + start, s[2] + start) for s in second.spans))
    return Encoded(
        first.ids + second.ids, first.tokens + moved(second.tokens), first.words + moved(second.words), spans,
        (first.texts[0] + second.texts[0],), both,
    )  # fmt: skip


def encode_target(tokenizer: Any, start: int, text: str | None) -> tuple[Encoded, list[int], int]:
    """What a decoder of its own gets: ids, the ids it should predict, and the position that predicts the first of them.

    Parameters
    ----------
    tokenizer : transformers tokenizer
        The model's own.
    start : int
        The id that a decoder starts with.
    text : str, optional
        What the decoder should say; nothing yet unless given.
    """
    if text is not None and not (isinstance(text, str) and text.strip()):
        raise InputError(_NO_CONTINUATION)
    said = encode(tokenizer, text or "", is_target=True)
    if said.ids and said.ids[-1] == getattr(tokenizer, "eos_token_id", None):
        said = _cut(said, len(said.ids) - 1)
    first = next((place for place, piece in enumerate(said.tokens) if not piece.special), len(said.ids))
    name = str(tokenizer.convert_ids_to_tokens(start))
    piece = Piece(name, name, (0,), False, "special")
    begin = Encoded((start,), (piece,), (piece,), (None,), ("",))
    fed = _cut(said, len(said.ids) - 1) if text else said
    return (_chain(begin, fed) if fed.ids else begin), list(said.ids[first:]), first


# -- batches -----------------------------------------------------------------------------------------------------------


def takes(model: Any, name: str) -> bool:
    """Whether the model's forward has a parameter of that name."""
    try:
        return name in inspect.signature(getattr(model, "forward", model)).parameters
    except (TypeError, ValueError):
        return False


def device_of(model: Any) -> torch.device:
    """Where the model's first parameter lies."""
    first = next(iter(model.parameters()), None) if isinstance(model, nn.Module) else None
    return torch.device("cpu") if first is None else first.device


def arrange(
    model: Any, rows: Sequence[Encoded], pad: int, left: bool, decoder: Sequence[Encoded] | None = None
) -> tuple[dict[str, Tensor], list[int]]:
    """The keyword arguments of one call with these texts, and per text how many positions of padding come before it.

    Parameters
    ----------
    model : torch.nn.Module
        What they are for.
    rows : sequence of Encoded
        The texts.
    pad : int
        Token id of padding.
    left : bool
        Whether padding comes before the text. Positions are then counted from the text's first token, where the model takes
        positions.
    decoder : sequence of Encoded, optional
        What a decoder of its own gets.
    """
    device = device_of(model)
    longest = max(len(row.ids) for row in rows)
    before = [longest - len(row.ids) if left else 0 for row in rows]

    def padded(values: Sequence[Sequence[int]], filler: int, to_left: bool, length: int) -> Tensor:
        lines = [
            [filler] * (length - len(v)) + list(v) if to_left else [*v, *([filler] * (length - len(v)))] for v in values
        ]
        return torch.tensor(lines, device=device)

    call = {"input_ids": padded([row.ids for row in rows], pad, left, longest)}
    mask = padded([[1] * len(row.ids) for row in rows], 0, left, longest)
    if takes(model, "attention_mask"):
        call["attention_mask"] = mask
    for name in rows[0].extra:
        if takes(model, name):
            call[name] = padded([row.extra[name] for row in rows], 0, left, longest)
    if left and any(before) and takes(model, "position_ids"):
        call["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    if decoder is not None:
        length = max(len(row.ids) for row in decoder)
        call["decoder_input_ids"] = padded([row.ids for row in decoder], pad, False, length)
        if takes(model, "decoder_attention_mask") and any(a != b for a, b in pairwise(len(d.ids) for d in decoder)):
            call["decoder_attention_mask"] = padded([[1] * len(row.ids) for row in decoder], 0, False, length)
    return call, before
