"""Tokens as they are read and words of them, for every kind of tokenizer."""

from __future__ import annotations

from typing import Any

import pytest

from dlbt_rules_nlp.texts_input import Encoded, encode, encode_chat, encode_target, with_continuation
from dlbt_rules_nlp.texts_words import words_of
from text_models import byte_pairs, marked_pieces, tokenizers, transformers, unigrams, word_pieces


def shown(encoded: Encoded) -> list[str]:
    return [("+" if p.joined else "") + p.text for p in encoded.tokens]


def words(encoded: Encoded) -> list[str]:
    return [word.text for word in encoded.words]


ALL = [word_pieces, byte_pairs, unigrams, marked_pieces]


@pytest.mark.parametrize("make", ALL)
def test_words_are_those_of_the_text_whatever_the_tokenizer(make: Any) -> None:
    text = "The goalkeeper didn't save\n\nit -- twice, in 1998..."
    encoded = encode(make(), text)
    read = [word.text for word in encoded.words if not word.special and word.text not in ("⏎", "⏎⏎", "␣")]
    assert read == ["The", "goalkeeper", "didn't", "save", "it", "--", "twice", ",", "in", "1998", "..."]
    assert [p for word in encoded.words for p in word.positions] == list(range(len(encoded.ids)))
    letters = "".join(token.text for token in encoded.tokens if token.kind == "text" and token.text != "␣")
    assert letters.startswith("Thegoalkeeperdidn'tsave")


def test_word_pieces_are_read_as_the_text_is_written() -> None:
    encoded = encode(word_pieces(), "Ada LIVED", "in Päris")  # the tokenizer makes all small and drops accents
    assert words(encoded) == ["[CLS]", "Ada", "LIVED", "[SEP]", "in", "Päris", "[SEP]"]
    assert [p.kind for p in encoded.words] == ["special", "text", "text", "special", "text", "text", "special"]
    assert encoded.of_text(1) == [p for word in encoded.words[4:6] for p in word.positions]
    assert encoded.extra["token_type_ids"][-1] == 1


def test_the_same_word_at_the_end_of_one_text_and_the_start_of_the_next_is_two_words() -> None:
    encoded = encode(byte_pairs(), "rain", "rain")
    assert [w for w in words(encoded) if w != "<|endoftext|>"] == ["rain", "rain"]


def test_scripts_without_spaces_are_read_letter_by_letter() -> None:
    read = [word for word in words(encode(byte_pairs(), "in 東京 😀")) if word != "␣"]
    assert read == ["in", "東", "京", "😀"]
    encoded = encode(byte_pairs(), "東")
    assert encoded.tokens[0].text == "東"
    assert {token.text for token in encoded.tokens[1:]} <= {"…"}  # one letter of several tokens


def test_a_token_over_several_words_joins_them() -> None:
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"in the": 0, "rain": 1, "?": 2}, unk_token="?"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex("in the|rain"), "isolated")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="?")
    assert words(encode(tokenizer, "in therain"))[:1] == ["in therain"]


def test_an_unknown_word_is_shown_as_it_is_written() -> None:
    encoded = encode(word_pieces(), "rain ☂ rain")
    assert words(encoded) == ["[CLS]", "rain", "☂", "rain", "[SEP]"]
    assert [p.token for p in encoded.tokens if p.text == "☂"] == ["[UNK]"]
    assert not any(p.special for p in encoded.words[1:-1])


def test_special_tokens_that_someone_has_written_are_marked() -> None:
    encoded = encode(byte_pairs(), "rain<|endoftext|>rain")
    assert [(p.text, p.special) for p in encoded.words] == [("rain", False), ("<|endoftext|>", True), ("rain", False)]


def test_a_tokenizer_that_cannot_say_where_its_tokens_lie() -> None:
    class Slow:
        is_fast, all_special_ids, unk_token_id = False, (0, 1), None

        def __call__(self, text: str, *pair: str, **options: Any) -> dict[str, list[int]]:
            return {"input_ids": [0, 2, 3, 4, 1], "special_tokens_mask": [1, 0, 0, 0, 1]}

        def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
            return [["<s>", "</s>", "▁Hel", "lo", "▁you"][i] for i in ids]

    encoded = encode(Slow(), "Hello you")
    assert encoded.spans is None
    assert words(encoded) == ["<s>", "Hello", "you", "</s>"]
    assert shown(encoded) == ["<s>", "Hel", "+lo", "you", "</s>"]
    whole, count = with_continuation(Slow(), "Hello you", "Hello you")
    assert (whole.ids, count) == ((0, 2, 3, 4, 0, 2, 3, 4, 1), 4)
    assert [p.positions for p in whole.words] == [(0,), (1, 2), (3,), (4,), (5, 6), (7,), (8,)]


def test_a_tokenizer_without_words_of_its_own() -> None:
    """As Llama 2's: one long word for the tokenizer, spaces are letters."""
    made = tokenizers.Tokenizer(
        tokenizers.models.BPE({"▁": 0, "h": 1, "i": 2, "▁h": 3, "hi": 4, "▁hi": 5}, [("▁", "h"), ("▁h", "i")])
    )
    made.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")]
    )
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=made)
    encoded = encode(tokenizer, "hi hi hih")
    assert [token.token for token in encoded.tokens] == ["▁hi", "▁hi", "▁hi", "h"]
    assert words(encoded) == ["hi", "hi", "hih"]


def test_continuations() -> None:
    tokenizer = byte_pairs()
    whole, count = with_continuation(tokenizer, "Paris is", " the capital")
    assert whole.ids == tuple(tokenizer("Paris is the capital")["input_ids"])
    assert words(whole)[-2:] == ["the", "capital"]
    assert count == len(tokenizer("Paris is")["input_ids"])
    closed, count = with_continuation(marked_pieces(), "Paris is", " the")
    assert [p.text for p in closed.tokens if p.special] == ["<s>"]  # no end in between, nor after
    assert count == len(closed.ids) - 1


def test_what_a_decoder_gets() -> None:
    tokenizer = marked_pieces()
    encoded, ids, first = encode_target(tokenizer, 7, "the bank")
    target = tokenizer("the bank")["input_ids"]
    assert (encoded.ids, ids, first) == ((7, *target[:-2]), target[1:-1], 1)
    assert words(encoded)[-1] in ("the", "bank")
    nothing, ids, first = encode_target(unigrams(), 0, None)
    assert (nothing.ids, ids, first, words(nothing)) == ((0,), [], 0, ["<pad>"])


def test_chat_templates_are_marked() -> None:
    encoded, count = encode_chat(
        byte_pairs(), [{"role": "user", "content": "  rain "}, {"role": "user", "content": ""}]
    )
    assert count == len(encoded.ids)
    assert [word.text for word in encoded.words if word.kind == "text"] == ["rain"]


def test_words_without_places_keep_the_tokens_text() -> None:
    tokens = encode(word_pieces(), "goalkeeper").tokens
    assert [word.text for word in words_of(tokens, None, ("",))] == ["[CLS]", "goalkeeper", "[SEP]"]
