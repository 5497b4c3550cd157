"""Tokens: tokenizer marks, special tokens, numbers in words."""

from types import SimpleNamespace

import pytest
import torch

import dlbt_core as dlbt
from dlbt_core.errors import InputError, TargetError
from dlbt_core.show.labels import class_called, labels_of
from dlbt_core.show.pictures import tokens as picture_of
from dlbt_core.show.tokens import Piece, pieces_of, plain_text, token_spans
from dlbt_core.show.words import MEANINGS, at_scale, headline, meaning, picked_in_words, short_line, signed, verdict


def spans(*tokens, special=()):
    return token_spans(tokens, [0.5] * len(tokens), 1.0, special)


def shown(*tokens, **options):
    return [("+" if s.joined else "") + s.text for s in spans(*tokens, **options)]


def test_word_pieces_join():
    assert shown("[CLS]", "sim", "##mer", "the", "[SEP]") == ["[CLS]", "sim", "+mer", "the", "[SEP]"]


def test_marks_of_byte_pair_tokenizers():
    assert shown("Hello", "Ġwor", "ld", "Ċ") == ["Hello", "wor", "+ld", "+⏎"]


def test_marks_of_sentencepiece():
    assert shown("<s>", "▁Hel", "lo", "▁", "</s>") == ["<s>", "Hel", "+lo", "␣", "</s>"]


def test_tokens_without_marks_stay_apart():
    assert shown("a", "b") == ["a", "b"]


def test_special_tokens():
    marked = [s.token for s in spans("[CLS]", "<s>", "<|endoftext|>", "a<b", "[", "EOT", special={"EOT"}) if s.special]
    assert marked == ["[CLS]", "<s>", "<|endoftext|>", "EOT"]


def test_a_token_that_looks_like_a_mark_is_kept():
    assert plain_text("##") == "##"


def test_every_span_has_its_number_and_colours():
    first, second = token_spans(["a", "b"], [0.0, -2.0], 2.0)
    assert (first.relevance, second.relevance) == (0.0, -2.0)
    assert first.light != second.light
    assert first.dark != second.dark


def test_pieces_stay_as_they_are():
    pieces = [Piece("A", "Ġa", (1,)), Piece("b", "##b", (2,), joined=True), Piece("\n", "Ċ", (3,), kind="template")]
    assert pieces_of(pieces) == pieces
    first, second, third = token_spans(pieces, [1.0, 2.0, 3.0], 3.0)
    assert (first.text, first.token, first.position, first.special) == ("A", "Ġa", 1, False)
    assert (second.joined, third.special) == (True, True)
    assert [piece.joined for piece in pieces_of(["[CLS]", "sim", "##mer"])] == [False, False, True]


def test_words_have_the_sum_of_their_positions():
    relevance = torch.tensor([0.0, 1.0, 2.0, -4.0, 0.5])
    pieces = [Piece("[CLS]", "[CLS]", (1,), kind="special"), Piece("simmer", "sim ##mer", (2, 3))]
    seen = picture_of(relevance, pieces)
    assert [(span.text, number) for span, number in seen.spans] == [("[CLS]", "+1.00"), ("simmer", "−2.00")]
    assert (seen.scale, seen.rest) == ("2", "2 further positions, together +0.5")
    hidden = picture_of(relevance, pieces, hide_special=True, full=8.0)
    assert [span.text for span, _ in hidden.spans] == ["simmer"]
    assert (hidden.scale, hidden.rest) == ("8", "1 special token, together +1; 2 further positions, together +0.5")
    with pytest.raises(InputError) as caught:
        picture_of(relevance[:3], pieces)
    assert str(caught.value) == (
        "2 tokens for 3 positions.\n  fix  give one token per position, in the order of the ids."
    )


def test_labels():
    model = SimpleNamespace(config=SimpleNamespace(id2label={0: "no", "1": "Yes"}))
    assert labels_of(model) == {0: "no", 1: "Yes"}
    assert labels_of(SimpleNamespace(config=SimpleNamespace(id2label={0: "LABEL_0"}))) is None
    assert labels_of(None) is None
    assert class_called("yes", labels_of(model), "") == 1
    assert class_called("B", ["a", "b", "b"], "") == 1
    for name, labels, message in (
        ("x", None, "the target 'x' is the label of a class, but no labels are known.\n  fix  the remedy"),
        (
            "yex",
            {1: "yes"},
            "no class is called 'yex'. Close: 'yes'.\n  fix  one of the labels, or the number of the class.",
        ),
        ("x", ["yes"], "no class is called 'x'.\n  fix  one of the labels, or the number of the class."),
    ):
        with pytest.raises(TargetError) as caught:
            class_called(name, labels, "the remedy")
        assert str(caught.value) == message


def test_numbers():
    assert [signed(0.0), signed(0.02743), signed(-1e-9)] == ["0", "+0.0274", "−1e-09".replace("-", "−")]
    assert [at_scale(v, 0.03) for v in (0.0274, -0.00001, 0.0)] == ["+0.0274", "−0.0000", "0"]
    assert at_scale(12345.6, 1e5) == "+12346"
    assert at_scale(1e-9, 1e-9) == "+1e−09"


@pytest.mark.parametrize(
    ("target", "picked", "words"),
    [
        ("largest class", 3, "class 3 (d)"),
        ("largest class", 9, "class 9"),
        ("class 3 against class 1", (3, 1), "3 (d) against 1 (b)"),
        ("most likely token at position -1", (5, 2), "token 2 (c) at position 5"),
        ("class (1, 2)", (1, 2), "1, 2"),
        ("score of detection 0", (5, 2), "number 5, class 2 (c)"),
        ("score of detection 0", (5, None), "number 5"),
        ("sum of classes 1, 2", (1, 2), "classes 1 (b), 2 (c)"),
    ],
)
def test_picked_in_words(target, picked, words):
    assert picked_in_words(target, picked, ["a", "b", "c", "d"]) == words
    assert picked_in_words("largest class", 3, {4: "e"}) == "class 3"


@pytest.mark.parametrize(
    ("target", "picked", "words"),
    [
        ("largest class", 3, "class 3 (d)"),
        ("class 3", 3, "class 3 (d)"),
        ("class -1", 3, "class 3 (d)"),
        ("class 3 against class 1", (3, 1), "class 3 (d) against class 1 (b)"),
        ("mean of class 2 over a mask", 2, "mean of class 2 (c) over a mask"),
        ("mean of the most frequent class over a mask", 0, "mean of class 0 (a) over a mask"),
        ("class 1 at pixel (1, 2)", 1, "class 1 (b) at pixel (1, 2)"),
        ("sum of classes 1, 2", (1, 2), "sum of classes 1 (b), 2 (c)"),
        ("x1 of detection 0 of class 1", (5, 1), "x1 of detection 0, class 1 (b)"),
        ("score of detection 0", (5, None), "score of detection 0"),
        ("score of detection 0 against score of detection 1", ((5, 1), (6, 9)),
         "score of detection 0, class 1 (b) against score of detection 1, class 9"),
        ("cosine with the given embedding", None, "cosine with the given embedding"),
    ],
)  # fmt: skip
def test_headlines(target, picked, words):
    assert headline(target, picked, ["a", "b", "c", "d"]) == words


def test_meanings():
    assert "position embeddings" in meaning("absorbed: constant")
    assert "'mine'" in meaning("absorbed: mine")
    assert "told apart" in meaning("absorbed, all samples: bias")
    named = {name for row in dlbt.default_plugins().registry.table() for name in row["absorbs"]}
    assert named >= {"bias", "epsilon", "constant"}
    assert not {name for name in named if name not in MEANINGS}, "say in show/words.py what these mean"
    assert "NOT" in verdict(0.1)
    assert "NOT" in verdict(float("inf"))
    assert "NOT" not in verdict(1e-7)


def test_lines_are_shown_without_where_things_are_installed():
    assert short_line("/home/me/.venv/lib/python3.11/site-packages/torch/nn/a.py:3") == "torch/nn/a.py:3"
    assert short_line("/home/me/code/project/model.py:7") == "code/project/model.py:7"
    assert short_line("C:\\Users\\me\\project\\model.py:7") == "me/project/model.py:7"
    assert short_line("model.py:7") == "model.py:7"
