"""Tasks: what a model of transformers is for, and what is explained of one text."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dlbt_core.errors import InputError, TargetError
from dlbt_core.show import words
from dlbt_core.show.labels import class_called
from dlbt_core.target import Target, contrast, label, span, token
from dlbt_core.target.base import FunctionTarget
from dlbt_core.target.scores import ClassTarget
from dlbt_core.target.text import MEASURES, ContinuationTarget
from dlbt_rules_nlp.texts_input import Encoded, encode, encode_chat, encode_target, with_continuation
from dlbt_rules_nlp.texts_tokens import position_of, quoted, token_id, whole

__all__ = ["TASKS", "Asked", "Wish", "ask", "task_of"]

TASKS = (
    "classification", "token-classification", "question-answering", "masked-lm", "causal-lm", "seq2seq-lm", "similarity",
)  # fmt: skip
"""What can be asked of a model."""

_ALIASES = {
    "text-classification": "classification", "sequence-classification": "classification", "ner": "token-classification",
    "fill-mask": "masked-lm", "text-generation": "causal-lm", "text2text-generation": "seq2seq-lm",
    "summarization": "seq2seq-lm", "translation": "seq2seq-lm", "sentence-similarity": "similarity",
}  # fmt: skip

_MAPPINGS = {  # in this order: a seq2seq model is in the list of masked ones, too
    "SEQUENCE_CLASSIFICATION": "classification", "TOKEN_CLASSIFICATION": "token-classification",
    "QUESTION_ANSWERING": "question-answering", "SEQ_TO_SEQ_CAUSAL_LM": "seq2seq-lm", "CAUSAL_LM": "causal-lm",
    "MASKED_LM": "masked-lm",
}  # fmt: skip

_ENDINGS = {
    "ForSequenceClassification": "classification", "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering", "ForMaskedLM": "masked-lm", "ForCausalLM": "causal-lm",
    "LMHeadModel": "causal-lm", "ForConditionalGeneration": "seq2seq-lm", "Model": "similarity",
}  # fmt: skip


def task_of(model: Any, task: str = "auto") -> str:
    """What a model is for: as said, or as its class tells.

    Raises
    ------
    InputError
        If there is no such task, or the class does not tell.
    """
    if task != "auto":
        found = _ALIASES.get(task, task)
        if found not in TASKS:
            raise InputError(f"no task {task!r}.\n  fix  task= one of: {', '.join(map(repr, TASKS))}.")
        return found
    names = [kind.__name__ for kind in type(model).__mro__]
    try:
        lists: Any = importlib.import_module("transformers.models.auto.modeling_auto")
    except ImportError:
        lists = None
    for mapping, found in _MAPPINGS.items():
        known = getattr(lists, f"MODEL_FOR_{mapping}_MAPPING_NAMES", {})
        classes = {name for entry in known.values() for name in ([entry] if isinstance(entry, str) else entry)}
        if any(name in classes for name in names):
            return found
    for ending, found in _ENDINGS.items():
        if hasattr(model, "config") and any(n.endswith(ending) for n in names if n != "PreTrainedModel"):
            is_causal = found == "seq2seq-lm" and not getattr(model.config, "is_encoder_decoder", False)
            return "causal-lm" if is_causal else found
    raise InputError(
        f"what {type(model).__name__} is for cannot be told from its class.\n"
        f"  fix  task= one of: {', '.join(map(repr, TASKS))}."
    )


@dataclass(frozen=True)
class Wish:
    """What someone wants to know of a text; see `dlbt_rules_nlp.explain_text`."""

    task: str
    target: Any = None
    against: Any = None
    continuation: str | None = None
    at: int | str | None = None
    measure: str = "logit"
    labels: words.Labels | None = None
    max_length: int | None = None

    @property
    def own(self) -> Target | FunctionTarget | Callable[..., Any] | None:
        """The target as it was given, if it is one of ``dlbt.target`` or a function."""
        given = isinstance(self.target, (Target, FunctionTarget)) or callable(self.target)
        return self.target if given else None


@dataclass(frozen=True)
class Asked:
    """A text as the model gets it, and what is explained of it.

    Attributes
    ----------
    encoded : Encoded
        The text.
    decoder : Encoded, optional
        What a decoder of its own gets.
    aim : callable, optional
        Given how many positions of padding come before the text, its target. None where one function is for the whole batch.
    say : callable
        Given what was picked and how many positions of padding come before, what was explained, in words.
    continuation : (start, ids), optional
        Tokens whose log-probabilities are summed, and the position that predicts the first of them.
    """

    encoded: Encoded
    decoder: Encoded | None
    aim: Callable[[int], Target] | None
    say: Callable[[Any, int], str]
    continuation: tuple[int, list[int]] | None = None


def ask(wish: Wish, model: Any, tokenizer: Any, text: Any, pair: Any = None, chat: Any = None) -> Asked:
    """Make of a text what its model gets, and what is explained.

    Raises
    ------
    InputError, TargetError
        If the text does not fit the task, or the target not the text.
    """
    _check(wish, text, pair, chat)
    return _ASK[wish.task](wish, model, tokenizer, text, pair, chat)


def _check(wish: Wish, text: Any, pair: Any, chat: Any) -> None:
    is_lm = wish.task in ("causal-lm", "seq2seq-lm")
    if (text is None) == (chat is None):
        raise InputError("give text or chat, one of them.")
    if chat is not None and wish.task != "causal-lm":
        raise InputError(f"a chat is for causal language models, not for {wish.task}.\n  fix  give the text itself.")
    if wish.continuation is not None and not is_lm:
        raise InputError(
            f"a continuation is for language models, not for {wish.task}.\n  fix  target= says what to explain."
        )
    if wish.continuation is not None and (wish.target is not None or wish.against is not None):
        raise InputError(
            "got a continuation and a target; both say what is explained.\n"
            "  fix  give one of them: target and against are single tokens."
        )
    if pair is not None and wish.task in ("causal-lm", "seq2seq-lm", "masked-lm"):
        raise InputError(f"{wish.task} takes one text, not a pair.\n  fix  put both into one text.")
    if wish.at is not None and wish.task not in ("token-classification", "masked-lm"):
        raise InputError(f"at= names a token, but {wish.task} has no score per token.\n  fix  leave it out.")
    if wish.measure not in MEASURES:
        raise InputError(f"measure is 'logit' or 'log_probability', not {wish.measure!r}.")
    if wish.measure != "logit" and not is_lm:
        raise InputError(f"measure is for language models, not for {wish.task}.\n  fix  leave it out.")
    if wish.own is not None and wish.against is not None:
        raise InputError("against= goes with a label or a token.\n  fix  dlbt.target.contrast(a, b).")


# -- a score per text or token -----------------------------------------------------------------------------------------


def _classification(wish: Wish, model: Any, tokenizer: Any, text: Any, pair: Any, chat: Any) -> Asked:
    encoded = encode(tokenizer, text, pair, max_length=wish.max_length)
    target = ClassTarget(_class(wish, wish.target))
    aim = target if wish.against is None else contrast(target, ClassTarget(_class(wish, wish.against)))
    return Asked(encoded, None, lambda shift: aim, lambda picked, shift: words.headline(str(aim), picked, wish.labels))


def _class(wish: Wish, given: Any) -> Any:
    if wish.own is not None:
        return None
    if isinstance(given, str):
        return class_called(given, wish.labels, "labels=['no', 'yes'], or the number of the class.")
    return whole(given, "a class is a label or a number")


def _token_classification(wish: Wish, model: Any, tokenizer: Any, text: Any, pair: Any, chat: Any) -> Asked:
    encoded = encode(tokenizer, text, pair, max_length=wish.max_length)
    within = encoded.of_text() if wish.at is None else [position_of(encoded, wish.at)]
    names = dict(wish.labels.items() if isinstance(wish.labels, Mapping) else enumerate(wish.labels or ()))
    outside = next((number for number, name in names.items() if name == "O"), None)
    chosen = _class(wish, wish.target)

    def aim(shift: int) -> Target:
        places = [place + shift for place in within]
        if wish.against is None:
            return label(None, chosen, places, outside)
        if wish.at is None:
            raise TargetError(
                "against= needs to know which token.\n  fix  at= a word of the text, or a token's position."
            )
        return contrast(label(places[0], chosen), label(places[0], _class(wish, wish.against)))

    def say(picked: Any, shift: int) -> str:
        pairs = picked if wish.against is not None else [picked]
        where = encoded.tokens[pairs[0][0] - shift].text
        return f"{' against '.join(_named(number, names) for _, number in pairs)} at “{where}”"

    return Asked(encoded, None, aim, say)


def _named(number: int, names: Mapping[int, str]) -> str:
    return f"label {number} ({names[number]})" if number in names else f"label {number}"


def _question(wish: Wish, model: Any, tokenizer: Any, text: Any, pair: Any, chat: Any) -> Asked:
    if pair is None:
        raise InputError(
            "question answering needs the text to answer from.\n  fix  pair= that text; the question is the text."
        )
    encoded = encode(tokenizer, text, pair, max_length=wish.max_length)
    if encoded.spans is None:
        raise InputError(
            "question answering needs to know where each token lies in the text, which this tokenizer does not tell.\n"
            "  fix  a fast tokenizer: AutoTokenizer.from_pretrained(..., use_fast=True)."
        )
    allowed = encoded.of_text(1)
    part, first, last = "both", None, None
    if wish.target in ("start", "end"):
        part = wish.target
    elif isinstance(wish.target, str):
        at = pair.find(wish.target)
        found = encoded.within(at, at + len(wish.target), 1) if at >= 0 and wish.target else []
        if not found:
            raise TargetError(
                f"the text has no {wish.target!r}.\n  fix  an answer as it stands in the text, 'start' or 'end'."
            )
        first, last = found[0], found[-1]
    elif wish.target is not None and wish.own is None:
        raise TargetError(
            f"{wish.target!r} is no answer.\n  fix  an answer as it stands in the text, 'start' or 'end'."
        )
    if wish.against is not None:
        raise InputError(
            "question answering has no against=.\n  fix  dlbt.target.contrast(dlbt.target.span(a, b), ...)."
        )

    def aim(shift: int) -> Target:
        first_, last_ = (None if place is None else place + shift for place in (first, last))
        return span(first_, last_, part, [place + shift for place in allowed])

    def say(picked: Any, shift: int) -> str:
        ends = [encoded.spans[place - shift] for place in picked] if encoded.spans else []
        start, end = (ends[0] or (0, 0, 0))[1], (ends[1] or (0, 0, 0))[2]
        what = {"both": "answer", "start": "start of the answer", "end": "end of the answer"}[part]
        return f"{what} “{' '.join(pair[start:end].split())}”"

    return Asked(encoded, None, aim, say)


# -- language models ---------------------------------------------------------------------------------------------------


def _masked(wish: Wish, model: Any, tokenizer: Any, text: Any, pair: Any, chat: Any) -> Asked:
    encoded = encode(tokenizer, text, max_length=wish.max_length)
    masks = [place for place, id_ in enumerate(encoded.ids) if id_ == getattr(tokenizer, "mask_token_id", None)]
    if not masks and wish.own is None:
        name = getattr(tokenizer, "mask_token", None) or "mask token"
        raise InputError(f"the text has no {name} to fill.\n  fix  put a {name} in place of a word.")
    place = position_of(encoded, wish.at) if wish.at is not None else (masks or [0])[0]
    return _one_token(wish, tokenizer, encoded, None, place, lambda name: f"{name} at {encoded.tokens[place].text}")


def _causal(wish: Wish, model: Any, tokenizer: Any, text: Any, pair: Any, chat: Any) -> Asked:
    if chat is not None:
        encoded, count = encode_chat(tokenizer, chat, wish.continuation)
    elif wish.continuation is not None:
        encoded, count = with_continuation(tokenizer, text, wish.continuation)
    else:
        encoded = encode(tokenizer, text, max_length=wish.max_length)
        ends = encoded.ids[-1] == getattr(tokenizer, "eos_token_id", None) and encoded.tokens[-1].special
        # A tokenizer that closes each text leaves nothing to come next.
        encoded = encode(tokenizer, text, special=False) if ends and len(encoded.ids) > 1 and not text.endswith(
            str(getattr(tokenizer, "eos_token", ""))
        ) else encoded  # fmt: skip
        count = len(encoded.ids)
    if wish.continuation is None:
        return _one_token(wish, tokenizer, encoded, None, count - 1, lambda name: f"next token {name}")
    if count < 1:
        raise InputError(
            "the continuation follows nothing: the text has no tokens.\n  fix  give a text that is not empty."
        )
    return _several(wish, encoded, None, count - 1, list(encoded.ids[count:]))


def _seq2seq(wish: Wish, model: Any, tokenizer: Any, text: Any, pair: Any, chat: Any) -> Asked:
    encoded = encode(tokenizer, text, max_length=wish.max_length)
    config = getattr(model, "config", None)
    start = getattr(config, "decoder_start_token_id", None)
    start = getattr(config, "bos_token_id", None) if start is None else start
    if start is None:
        raise InputError(
            "the model's config has no decoder_start_token_id.\n  fix  set model.config.decoder_start_token_id."
        )
    decoder, ids, first = encode_target(tokenizer, int(start), wish.continuation)
    if wish.continuation is not None:
        return _several(wish, encoded, decoder, first, ids)
    return _one_token(wish, tokenizer, encoded, decoder, len(decoder.ids) - 1, lambda name: f"next token {name}")


def _one_token(
    wish: Wish, tokenizer: Any, encoded: Encoded, decoder: Encoded | None, place: int, say: Callable[[str], str]
) -> Asked:
    """One token's score at one position."""
    chosen = None if wish.own is not None else token_id(tokenizer, wish.target)
    other = None if wish.against is None else token_id(tokenizer, wish.against)

    def aim(shift: int) -> Target:
        shift = 0 if decoder is not None else shift
        first = token(place + shift, chosen)
        return first if other is None else contrast(first, token(place + shift, other))

    def title(picked: Any, shift: int) -> str:
        ids = [pair[1] for pair in (picked if other is not None else [picked])]
        named = say(" against ".join(quoted(tokenizer, id_) for id_ in ids))
        return named if wish.measure == "logit" else f"log-probability of {named}"

    if wish.measure == "logit":
        return Asked(encoded, decoder, aim, title)
    if chosen is None or other is not None:
        raise InputError(
            "measure='log_probability' needs a token.\n  fix  target= the token, without against=; or a continuation."
        )
    return Asked(encoded, decoder, None, lambda picked, shift: title((place, chosen), shift), (place, [chosen]))


def _several(wish: Wish, encoded: Encoded, decoder: Encoded | None, start: int, ids: list[int]) -> Asked:
    """The tokens of a continuation."""
    said = f"continuation “{' '.join((wish.continuation or '').split())}”"
    if wish.measure != "logit":
        return Asked(encoded, decoder, None, lambda picked, shift: f"log-probability of the {said}", (start, ids))

    def aim(shift: int) -> Target:
        return ContinuationTarget([ids], [start + (0 if decoder is not None else shift)])

    return Asked(encoded, decoder, aim, lambda picked, shift: said)


def _similarity(wish: Wish, model: Any, tokenizer: Any, text: Any, pair: Any, chat: Any) -> Asked:
    if wish.own is None and (pair is None or wish.target is not None or wish.against is not None):
        raise InputError(
            f"{type(model).__name__} has no head whose score could be explained, only hidden states.\n"
            "  fix  pair= another text, whose similarity is explained then; target=dlbt.target.function(fn); or a model with "
            "a head: AutoModelForSequenceClassification, ..."
        )
    said = "similarity" if pair is None else f"similarity to “{pair}”"
    return Asked(encode(tokenizer, text, max_length=wish.max_length), None, None, lambda picked, shift: said)


_ASK = {
    "classification": _classification, "token-classification": _token_classification, "question-answering": _question,
    "masked-lm": _masked, "causal-lm": _causal, "seq2seq-lm": _seq2seq, "similarity": _similarity,
}  # fmt: skip
