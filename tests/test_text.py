"""The text front end: every task, with tiny random models and tokenizers that need no download."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import dlbt_core as dlbt
from dlbt_rules_nlp import TextExplanation, TextExplanations, explain_text
from text_models import (
    bart,
    bert,
    byte_pairs,
    gpt2,
    llama,
    marked_pieces,
    seeded,
    t5,
    transformers,
    unigrams,
    word_pieces,
)

TEXT, SHORT = "The goalkeeper saved a penalty.", "heavy rain"


def closed(result: TextExplanation) -> None:
    """Nothing lost: tokens, words and the explanation's own tensor have the same sum, padding exactly 0, books close."""
    explanation = result.explanation
    assert explanation.ledger.error < 1e-4
    for row in result.rows:
        whole = explanation.inputs[row.input][result.index].double()
        assert row.padding == 0.0
        assert torch.allclose(row.relevance.sum(), whole.sum(), atol=1e-7)
        assert sum(token.relevance for token in row.tokens) == pytest.approx(float(whole.sum()), abs=1e-6)
        assert sum(word.relevance for word in row.words) == pytest.approx(float(whole.sum()), abs=1e-6)
        of_tokens = [position for token in row.tokens for position in token.positions]
        assert of_tokens == sorted(of_tokens) == sorted(p for word in row.words for p in word.positions)


def logits(model: Any, tokenizer: Any, *texts: str, **more: Any) -> Tensor:
    with torch.no_grad():
        return model(**tokenizer(*texts, return_tensors="pt"), **more).logits[0]


def alike(result: TextExplanation, other: TextExplanation) -> None:
    assert result.score == pytest.approx(other.score, abs=2e-5)
    assert [token.text for token in result.tokens] == [token.text for token in other.tokens]
    assert torch.allclose(result.relevance, other.relevance, atol=2e-5)


# -- classification ----------------------------------------------------------------------------------------------------


def test_classification() -> None:
    model, tokenizer = bert("ForSequenceClassification", labels=["no", "yes"]), word_pieces()
    result = explain_text(model, tokenizer, TEXT)
    assert isinstance(result, TextExplanation)
    found = logits(model, tokenizer, TEXT)
    assert result.score == pytest.approx(float(found.max()), abs=1e-5)
    assert result.picked == int(found.argmax())
    assert result.title == f"class {result.picked} ({['no', 'yes'][result.picked]})"
    assert result.task == "classification"
    expected = dlbt.explain(model, **tokenizer(TEXT, return_tensors="pt"), explain_inputs=["input_ids"])
    assert torch.equal(result.relevance, expected.relevance[0].double())
    assert [word.text for word in result.words] == ["[CLS]", "The", "goalkeeper", "saved", "a", "penalty", ".", "[SEP]"]
    assert [token.special for token in result.tokens].count(True) == 2
    closed(result)


def test_a_label_against_another_in_pairs_and_a_padded_batch() -> None:
    model, tokenizer = bert("ForSequenceClassification", labels=["no", "yes"]), word_pieces()
    results = explain_text(
        model, tokenizer, [TEXT, SHORT, TEXT], pair=["a", "the bank raised it", "b"], target=["yes", 0, 1], against="no"
    )
    assert isinstance(results, TextExplanations)
    assert results[0].title == "class 1 (yes) against class 0 (no)"
    for result, (text, pair, target) in zip(
        results, [(TEXT, "a", 1), (SHORT, "the bank raised it", 0), (TEXT, "b", 1)], strict=True
    ):
        closed(result)
        found = logits(model, tokenizer, text, pair)
        assert result.score == pytest.approx(float(found[target] - found[0]), abs=2e-5)
        alike(result, explain_text(model, tokenizer, text, pair=pair, target=target, against=0))
    assert results.scores == [result.score for result in results]
    assert [result.text for result in results[1:]] == [SHORT, TEXT]


def test_batch_size_changes_nothing() -> None:
    model, tokenizer = bert("ForSequenceClassification"), word_pieces()
    texts = [TEXT, SHORT, "rain", "the bank"]
    for one, other in zip(
        explain_text(model, tokenizer, texts), explain_text(model, tokenizer, texts, batch_size=1), strict=True
    ):
        alike(one, other)


def test_a_decoder_classifies_with_and_without_padding() -> None:
    with_pad = gpt2("ForSequenceClassification", pad_token_id=1)
    for side in ("left", "right"):
        for one, text in zip(explain_text(with_pad, byte_pairs(side), [TEXT, SHORT]), (TEXT, SHORT), strict=True):
            closed(one)
            alike(one, explain_text(with_pad, byte_pairs(side), text))
    without = gpt2("ForSequenceClassification")  # the model refuses batches then
    for one, text in zip(explain_text(without, byte_pairs(pad=False), [TEXT, SHORT]), (TEXT, SHORT), strict=True):
        alike(one, explain_text(without, byte_pairs(pad=False), text))


# -- a score per token -------------------------------------------------------------------------------------------------


def test_token_classification() -> None:
    names = ["O", "B-PER", "B-LOC"]
    model, tokenizer = bert("ForTokenClassification", labels=names), word_pieces()
    text = "Ada Lovelace lived in London"
    found = logits(model, tokenizer, text)
    lead = (found[1:-1, 0] - found[1:-1, 1:].amax(1)).sort().values
    with torch.no_grad():  # half of the tokens get another label than "O", none is undecided
        model.classifier.bias[0] -= lead[len(lead) // 2 - 1 : len(lead) // 2 + 1].mean()  # type: ignore[index, union-attr]
    found = logits(model, tokenizer, text)
    result = explain_text(model, tokenizer, text)
    position, label = result.picked
    sure = found.log_softmax(-1)[1:-1]
    inside = sure[sure.argmax(-1) != 0]
    assert result.tokens[position].special is False
    assert found[position].argmax() == label != 0
    assert float(found.log_softmax(-1)[position, label]) == pytest.approx(float(inside.max()), abs=1e-5)
    assert result.title == f"label {label} ({names[label]}) at “{result.tokens[position].text}”"
    closed(result)


def test_a_label_of_a_word_against_another() -> None:
    model, tokenizer = bert("ForTokenClassification", labels=["O", "B-PER"]), word_pieces()
    texts = ["rain", "Ada Lovelace lived in London"]
    result = explain_text(model, tokenizer, texts, at=["rain", "Lovelace"], target="B-PER", against="O")[1]
    found = logits(model, tokenizer, texts[1])
    place = next(i for i, token in enumerate(result.tokens) if token.text == "Lo")
    assert result.title == "label 1 (B-PER) against label 0 (O) at “Lo”"
    assert result.score == pytest.approx(float(found[place, 1] - found[place, 0]), abs=2e-5)
    by_position = explain_text(model, tokenizer, texts[1], at=place - len(result.tokens), target=1, against=0)
    alike(result, by_position)


QUESTION, CONTEXT = "Where did Ada live?", "Ada Lovelace lived in London, and Paris is the capital."


def test_question_answering() -> None:
    model, tokenizer = bert("ForQuestionAnswering"), word_pieces()
    batch = tokenizer(QUESTION, CONTEXT, return_tensors="pt")
    with torch.no_grad():
        outputs = model(**batch)
    starts, ends = outputs.start_logits[0], outputs.end_logits[0]
    allowed = [i for i, part in enumerate(batch.sequence_ids(0)) if part == 1]
    best = max((float(starts[a] + ends[b]), a, b) for a in allowed for b in allowed if a <= b < a + 30)
    result = explain_text(model, tokenizer, QUESTION, pair=CONTEXT)
    assert (result.score, *result.picked) == (pytest.approx(best[0], abs=1e-5), *best[1:])
    closed(result)
    london = explain_text(model, tokenizer, ["Who?", QUESTION], pair=CONTEXT, target="London")[1]
    assert london.title == "answer “London”"
    at = batch.char_to_token(0, CONTEXT.index("London"), 1), batch.char_to_token(0, CONTEXT.index("London") + 5, 1)
    assert london.score == pytest.approx(float(starts[at[0]] + ends[at[1]]), abs=2e-5)
    start, end = (explain_text(model, tokenizer, QUESTION, pair=CONTEXT, target=part) for part in ("start", "end"))
    assert start.score == pytest.approx(float(starts[best[1]]), abs=1e-5)
    assert start.score + end.score == pytest.approx(result.score, abs=1e-5)
    assert torch.allclose(start.relevance + end.relevance, result.relevance, atol=1e-5)
    assert (start.title[:19], end.title[:17]) == ("start of the answer", "end of the answer")


# -- language models ---------------------------------------------------------------------------------------------------


def test_masked_language_model() -> None:
    model, tokenizer = bert("ForMaskedLM"), word_pieces()
    text = "the [MASK] saved a [MASK]"
    found = logits(model, tokenizer, text)
    result = explain_text(model, tokenizer, text)
    assert result.picked == (2, int(found[2].argmax()))
    assert result.title.endswith(" at [MASK]")
    closed(result)
    last = len(found) - 2
    assert tokenizer(text)["input_ids"][last] == tokenizer.mask_token_id
    both = explain_text(model, tokenizer, [SHORT + " [MASK]", text], target="last", against="the", at=[-2, last])[1]
    ids = tokenizer.convert_tokens_to_ids(["last", "the"])
    assert both.score == pytest.approx(float(found[last, ids[0]] - found[last, ids[1]]), abs=2e-5)
    assert both.title == "“last” against “the” at [MASK]"


@pytest.mark.parametrize("make", [gpt2, llama])
@pytest.mark.parametrize("side", ["left", "right"])
def test_next_token_in_a_padded_batch(make: Any, side: str) -> None:
    model, tokenizer = make(), byte_pairs(side)
    texts = ["Paris is", "the central bank raised interest rates", "in"]
    results = explain_text(model, tokenizer, texts)
    for text, result in zip(texts, results, strict=True):
        found = logits(model, tokenizer, text)[-1]
        assert result.picked[1] == int(found.argmax())
        assert result.score == pytest.approx(float(found.max()), abs=2e-5)
        closed(result)
        alike(result, explain_text(model, tokenizer, text))
    shift = len(results[1].tokens) - len(results[0].tokens)
    assert results[0].tokens[0].positions == ((shift if side == "left" else 0),)


def test_one_token_against_another() -> None:
    model, tokenizer = llama(), byte_pairs()
    result = explain_text(model, tokenizer, "Paris is", target=" the", against=" in")
    found = logits(model, tokenizer, "Paris is")[-1]
    the, in_ = (tokenizer(word)["input_ids"][0] for word in (" the", " in"))
    assert result.score == pytest.approx(float(found[the] - found[in_]), abs=1e-5)
    assert result.title == "next token “ the” against “ in”"
    alike(result, explain_text(model, tokenizer, "Paris is", target=the, against="Ġin"))
    closed(result)


@pytest.mark.parametrize("measure", ["logit", "log_probability"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_continuation(measure: str, side: str) -> None:
    model, tokenizer = llama(), byte_pairs(side)
    texts, follow = ["Paris is", "the central bank raised interest"], [" the capital of", " rates"]
    results = explain_text(model, tokenizer, texts, continuation=follow, measure=measure)
    for text, after, result in zip(texts, follow, results, strict=True):
        ids = tokenizer(text + after)["input_ids"]
        count = len(tokenizer(text)["input_ids"])
        found = logits(model, tokenizer, text + after)
        found = found if measure == "logit" else found.log_softmax(-1)
        expected = sum(float(found[i - 1, ids[i]]) for i in range(count, len(ids)))
        assert result.score == pytest.approx(expected, abs=5e-5)
        assert result.tokens[-1].relevance == 0.0  # it predicts nothing that is explained
        assert (
            result.title
            == ("" if measure == "logit" else "log-probability of the ") + f"continuation “{after.strip()}”"
        )
        closed(result)
        alike(result, explain_text(model, tokenizer, text, continuation=after, measure=measure))


def test_a_token_s_log_probability() -> None:
    model, tokenizer = gpt2(), byte_pairs()
    result = explain_text(model, tokenizer, "Paris is", target=" the", measure="log_probability")
    the = tokenizer(" the")["input_ids"][0]
    expected = logits(model, tokenizer, "Paris is")[-1].log_softmax(-1)[the]
    assert result.score == pytest.approx(float(expected), abs=1e-5)
    assert result.title == "log-probability of next token “ the”"
    assert "softmax" in result.explanation.ledger.absorbed
    closed(result)


def test_a_continuation_that_would_melt_into_the_text() -> None:
    """Where one token would hold letters of both, each is cut into tokens by itself."""
    model, tokenizer = llama(), byte_pairs()
    assert len(tokenizer("the")["input_ids"]) == 1
    result = explain_text(model, tokenizer, "t", continuation="he")
    assert [token.text for token in result.tokens] == ["t", "he"]
    alike(result, explain_text(model, tokenizer, "t", continuation="he"))
    closed(result)


def test_chat() -> None:
    model, tokenizer = llama(), byte_pairs()
    messages = [
        {"role": "system", "content": "answer the question"},
        {"role": "user", "content": "Where did Ada live?"},
    ]
    frame = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    result = explain_text(model, tokenizer, chat=messages)
    assert result.score == pytest.approx(float(logits(model, tokenizer, frame)[-1].max()), abs=1e-5)
    assert result.text == frame
    written = " ".join(word.text for word in result.words if word.kind == "text")
    assert written == "answer the question Where did Ada live ?"
    assert {word.text for word in result.words if word.kind == "special"} >= {"<|user|>", "<|end|>", "<|assistant|>"}
    assert {word.text for word in result.words if word.kind == "template"} == {"⏎"}
    closed(result)
    several = explain_text(model, tokenizer, chat=[messages, messages[1:]], continuation="in London")
    assert several[1].title == "continuation “in London”"
    assert [word.text for word in several[1].words if word.kind == "text"][-2:] == ["in", "London"]
    closed(several[1])


SEQ2SEQ = [(t5, unigrams, 0), (bart, marked_pieces, 1)]


@pytest.mark.parametrize(("make", "tokens", "leading"), SEQ2SEQ)
def test_seq2seq_next_token(make: Any, tokens: Any, leading: int) -> None:
    model, tokenizer = make(), tokens()
    start = [model.config.decoder_start_token_id, *tokenizer("")["input_ids"][:leading]]
    result = explain_text(model, tokenizer, "the central bank")
    found = logits(model, tokenizer, "the central bank", decoder_input_ids=torch.tensor([start]))[-1]
    assert result.score == pytest.approx(float(found.max()), abs=1e-5)
    assert result.picked == (leading, int(found.argmax()))
    assert list(result.explanation.inputs) == ["input_ids", "decoder_input_ids"]
    assert result.decoder is not None
    assert [token.special for token in result.decoder.tokens] == [True] * (1 + leading)
    closed(result)


@pytest.mark.parametrize(("make", "tokens", "leading"), SEQ2SEQ)
def test_seq2seq_continuation(make: Any, tokens: Any, leading: int) -> None:
    model, tokenizer = make(), tokens()
    texts, said = ["the central bank raised interest", SHORT], ["the bank", "heavy rain and wind"]
    results = explain_text(model, tokenizer, texts, continuation=said)
    for text, follow, result in zip(texts, said, results, strict=True):
        ids = tokenizer(text_target=follow)["input_ids"][:-1]
        given = torch.tensor([[model.config.decoder_start_token_id, *ids[:-1]]])
        found = logits(model, tokenizer, text, decoder_input_ids=given)
        assert result.score == pytest.approx(sum(float(found[i, ids[i]]) for i in range(leading, len(ids))), abs=5e-5)
        alone = explain_text(model, tokenizer, text, continuation=follow)
        alike(result, alone)
        assert result.decoder is not None
        assert alone.decoder is not None
        assert torch.allclose(result.decoder.relevance, alone.decoder.relevance, atol=2e-5)
        assert len(result.decoder.tokens) == len(ids)
        closed(result)


# -- similarity, own targets, explainers -------------------------------------------------------------------------------


def test_similarity_with_another_text() -> None:
    model, tokenizer = bert("Model"), word_pieces()
    others = ["the penalty of the final", "rain"]
    results = explain_text(model, tokenizer, [TEXT, SHORT], pair=others)

    def mean(text: str) -> Tensor:
        with torch.no_grad():
            return model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)

    for text, other, result in zip((TEXT, SHORT), others, results, strict=True):
        assert result.score == pytest.approx(float(torch.cosine_similarity(mean(text), mean(other), dim=0)), abs=2e-5)
        assert result.title == f"similarity to “{other}”"
        closed(result)
    given = explain_text(model, tokenizer, [TEXT, SHORT], target=dlbt.target.similarity(mean(others[0])))
    alike(given[0], results[0])


def test_targets_of_one_s_own() -> None:
    model, tokenizer = llama(), byte_pairs()
    contrast = dlbt.target.contrast(dlbt.target.token(-1, 7), dlbt.target.token(-2, 7))
    results = explain_text(
        model, tokenizer, ["Paris is the", "rain"], target=contrast
    )  # not padded: it counts positions
    for text, result in zip(("Paris is the", "rain"), results, strict=True):
        found = logits(model, tokenizer, text)
        assert result.score == pytest.approx(float(found[-1, 7] - found[-2, 7]), abs=1e-5)
    assert "token 7" in results[0].title
    function = explain_text(model, tokenizer, "rain", target=lambda out: out.logits[:, -1, 3])
    assert function.score == pytest.approx(float(logits(model, tokenizer, "rain")[-1, 3]), abs=1e-5)
    classes = bert("ForSequenceClassification")
    both = explain_text(classes, word_pieces(), [TEXT, SHORT], target=dlbt.target.classes([0, 1]))
    assert both[0].explanation is both[1].explanation
    assert both[0].title == "sum of classes 0, 1"


def test_an_explainer_is_kept() -> None:
    model, tokenizer = bert("ForSequenceClassification"), word_pieces()
    explainer = dlbt.Explainer(model, "epsilon", explain_inputs=["input_ids"])
    result = explain_text(explainer, tokenizer, TEXT)
    assert result.explanation.plan.composite_name == "epsilon"
    assert explainer.layers == "blocks"
    alike(result, explain_text(model, tokenizer, TEXT, composite="epsilon"))
    assert len(result.layers_map()) == 3
    held = [(dlbt.Select(op="aten.scaled_dot_product_attention"), dlbt.Use("detach"))]
    other = explain_text(model, tokenizer, TEXT, rules=held)
    assert not torch.allclose(other.relevance, explain_text(model, tokenizer, TEXT).relevance)


def test_roberta_counts_positions_from_its_padding() -> None:
    """Positions are told to models that count from 0; this one counts from the id of padding, wherever the padding is."""
    config = transformers.RobertaConfig(
        vocab_size=len(byte_pairs()), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=40, pad_token_id=1, type_vocab_size=1,
    )  # fmt: skip
    model = seeded(lambda: transformers.RobertaForSequenceClassification(config))
    for side in ("left", "right"):
        for one, text in zip(explain_text(model, byte_pairs(side), [TEXT, SHORT]), (TEXT, SHORT), strict=True):
            closed(one)
            alike(one, explain_text(model, byte_pairs(side), text))


def test_the_model_and_the_tokenizer_stay_as_they_are() -> None:
    model, tokenizer = llama(), byte_pairs("left")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    settings = (tokenizer.padding_side, tokenizer.pad_token, len(tokenizer), tokenizer.chat_template)
    explain_text(model, tokenizer, ["Paris is", "rain"], continuation=" the").__getitem__(0).token_map()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert (tokenizer.padding_side, tokenizer.pad_token, len(tokenizer), tokenizer.chat_template) == settings
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
