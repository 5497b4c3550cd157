"""What the text front end refuses, word by word."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import dlbt_core as dlbt
from dlbt_core.errors import DlbtError, InputError, TargetError
from dlbt_core.target import continuation, each, label, similarity, span
from dlbt_rules_nlp import explain_text
from dlbt_rules_nlp.texts_tasks import task_of
from text_models import bert, byte_pairs, llama, t5, unigrams, word_pieces

TASKS = "'classification', 'token-classification', 'question-answering', 'masked-lm', 'causal-lm', 'seq2seq-lm', 'similarity'"
CHAT = [{"role": "user", "content": "Hello"}]


def classifier(**options: Any) -> Any:
    return explain_text(
        bert("ForSequenceClassification", labels=["no", "yes"]), word_pieces(), **{"text": "rain", **options}
    )


def causal(**options: Any) -> Any:
    return explain_text(llama(), byte_pairs(), **{"text": "rain", **options})


def masked(**options: Any) -> Any:
    return explain_text(bert("ForMaskedLM"), word_pieces(), **{"text": "the [MASK]", **options})


def answers(**options: Any) -> Any:
    return explain_text(bert("ForQuestionAnswering"), word_pieces(), **{"text": "who", "pair": "the bank", **options})


def tokens(**options: Any) -> Any:
    return explain_text(bert("ForTokenClassification", labels=["O", "B"]), word_pieces(), **{"text": "rain", **options})


def translates(**options: Any) -> Any:
    return explain_text(t5(), unigrams(), **{"text": "rain", **options})


def encodes(**options: Any) -> Any:
    return explain_text(bert("Model"), word_pieces(), **{"text": "rain", **options})


def own() -> Any:
    return dlbt.Explainer(bert("ForSequenceClassification"))


NO_HEAD = (
    "BertModel has no head whose score could be explained, only hidden states.\n  fix  pair= another text, whose similarity "
    "is explained then; target=dlbt.target.function(fn); or a model with a head: AutoModelForSequenceClassification, ..."
)
EMPTY = "continuation is the text that follows, a string that is not empty."


@pytest.mark.parametrize(
    ("call", "options", "message"),
    [
        (classifier, {"text": None}, "give text or chat, one of them."),
        (classifier, {"chat": CHAT}, "give text or chat, one of them."),
        (classifier, {"text": 3}, "text is a string, not int."),
        (classifier, {"pair": 3}, "pair is a string, not int."),
        (classifier, {"text": []}, "no texts.\n  fix  give at least one."),
        (classifier, {"text": ["a", "b"], "target": [1]}, "1 targets for 2 texts.\n  fix  give one for all, or one per text."),
        (classifier, {"task": "nope"}, f"no task 'nope'.\n  fix  task= one of: {TASKS}."),
        (classifier, {"target": 1.5}, "a class is a label or a number, not 1.5."),
        (classifier, {"target": "yess"}, "no class is called 'yess'. Close: 'yes'.\n  fix  one of the labels, or the number "
         "of the class."),
        (classifier, {"text": None, "chat": CHAT}, "a chat is for causal language models, not for classification.\n"
         "  fix  give the text itself."),
        (classifier, {"continuation": "x"}, "a continuation is for language models, not for classification.\n"
         "  fix  target= says what to explain."),
        (classifier, {"at": 1}, "at= names a token, but classification has no score per token.\n  fix  leave it out."),
        (classifier, {"measure": "log_probability"}, "measure is for language models, not for classification.\n"
         "  fix  leave it out."),
        (classifier, {"target": dlbt.target.classes([0]), "against": 1}, "against= goes with a label or a token.\n"
         "  fix  dlbt.target.contrast(a, b)."),
        (classifier, {"text": "rain " * 70}, "the text has 142 tokens; the model takes 64 at most.\n"
         "  fix  max_length=64 cuts off what is beyond."),
        (tokens, {"at": "sun"}, "the text has no word 'sun'.\n  found  '[CLS]', 'rain', '[SEP]'\n"
         "  fix    one of these, or the position of a token."),
        (tokens, {"at": 9}, "at=9: the text has 4 tokens, 0 to 3."),
        (tokens, {"against": "B"}, "against= needs to know which token.\n"
         "  fix  at= a word of the text, or a token's position."),
        (answers, {"pair": None}, "question answering needs the text to answer from.\n"
         "  fix  pair= that text; the question is the text."),
        (answers, {"target": "Paris"}, "the text has no 'Paris'.\n"
         "  fix  an answer as it stands in the text, 'start' or 'end'."),
        (answers, {"target": 3}, "3 is no answer.\n  fix  an answer as it stands in the text, 'start' or 'end'."),
        (answers, {"against": "the"}, "question answering has no against=.\n"
         "  fix  dlbt.target.contrast(dlbt.target.span(a, b), ...)."),
        (masked, {"text": "rain"}, "the text has no [MASK] to fill.\n  fix  put a [MASK] in place of a word."),
        (masked, {"pair": "rain"}, "masked-lm takes one text, not a pair.\n  fix  put both into one text."),
        (masked, {"measure": "p"}, "measure is 'logit' or 'log_probability', not 'p'."),
        (causal, {"text": ""}, "the text has no tokens.\n  fix  give a text that is not empty."),
        (causal, {"target": " capital"}, "' capital' is not one token: 'Ġcap', 'ital'.\n  fix  one of these, a token's id, or "
         "continuation= for several; a word in a text has a space before it: ' word'."),
        (causal, {"target": ""}, "'' is not one token: nothing.\n  fix  one of these, a token's id, or "
         "continuation= for several; a word in a text has a space before it: ' word'."),
        (causal, {"target": True}, "a token is a string or an id, not True."),
        (causal, {"target": " the", "continuation": " the"}, "got a continuation and a target; both say what is explained.\n"
         "  fix  give one of them: target and against are single tokens."),
        (causal, {"measure": "p"}, "measure is 'logit' or 'log_probability', not 'p'."),
        (causal, {"measure": "log_probability"}, "measure='log_probability' needs a token.\n"
         "  fix  target= the token, without against=; or a continuation."),
        (causal, {"continuation": ""}, EMPTY),
        (causal, {"text": "", "continuation": "a"}, "the continuation follows nothing: the text has no tokens.\n"
         "  fix  give a text that is not empty."),
        (causal, {"text": None, "chat": [{"content": "x"}, "y"]}, "the chat does not fit the tokenizer's template: "
         "AttributeError: 'str' object has no attribute 'items'\n"
         "  fix  a list of messages: [{'role': 'user', 'content': 'Hello'}]."),
        (translates, {"continuation": " "}, EMPTY),
        (translates, {"pair": "x"}, "seq2seq-lm takes one text, not a pair.\n  fix  put both into one text."),
        (encodes, {}, NO_HEAD),
        (encodes, {"pair": "x", "target": 3}, NO_HEAD),
    ],
)  # fmt: skip
def test_refused(call: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DlbtError) as caught:
        call(**options)
    assert str(caught.value) == message


def refused(message: str, kind: type[DlbtError], make: Any, *args: Any, **options: Any) -> None:
    with pytest.raises(kind) as caught:
        make(*args, **options)
    assert str(caught.value) == message


def test_a_tokenizer_without_a_mask_token() -> None:
    tokenizer = word_pieces()
    tokenizer.mask_token = None
    message = "the text has no mask token to fill.\n  fix  put a mask token in place of a word."
    refused(message, InputError, explain_text, bert("ForMaskedLM"), tokenizer, "rain")


def test_no_chat_template() -> None:
    refused(
        "the tokenizer has no chat template.\n  fix  give the text itself, or a tokenizer with a chat_template.",
        InputError, explain_text, llama(), unigrams(), chat=CHAT,
    )  # fmt: skip


def test_no_tokenizer() -> None:
    refused(
        "str is not a tokenizer of transformers.\n  fix  tokenizer=AutoTokenizer.from_pretrained(...), that of the model.",
        InputError, explain_text, llama(), "nope", "rain",
    )  # fmt: skip


def test_no_labels() -> None:
    refused(
        "the target 'yes' is the label of a class, but no labels are known.\n"
        "  fix  labels=['no', 'yes'], or the number of the class.",
        TargetError, explain_text, bert("ForSequenceClassification"), word_pieces(), "rain", target="yes",
    )  # fmt: skip


def test_no_decoder_start() -> None:
    model = t5()
    model.config.decoder_start_token_id = None  # type: ignore[union-attr]
    refused(
        "the model's config has no decoder_start_token_id.\n  fix  set model.config.decoder_start_token_id.",
        InputError, explain_text, model, unigrams(), "rain",
    )  # fmt: skip


def test_places_are_needed_for_answers() -> None:
    class Slow:
        is_fast = False
        all_special_ids: tuple[int, ...] = ()

        def __call__(self, *texts: str, **options: Any) -> dict[str, list[int]]:
            return {"input_ids": [5, 6]}

        def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
            return ["a", "b"]

    refused(
        "question answering needs to know where each token lies in the text, which this tokenizer does not tell.\n"
        "  fix  a fast tokenizer: AutoTokenizer.from_pretrained(..., use_fast=True).",
        InputError, explain_text, bert("ForQuestionAnswering"), Slow(), "who", pair="b",
    )  # fmt: skip


def test_options_of_an_explainer() -> None:
    refused(
        "layers is set where the explainer is made.\n  fix  Explainer(model, layers=...).",
        InputError, explain_text, own(), word_pieces(), "rain", layers="all",
    )  # fmt: skip


def test_an_explainer_of_something_else() -> None:
    class Embedded(torch.nn.Module):
        def forward(self, input_ids: Any, inputs_embeds: Any) -> Any:
            return inputs_embeds.sum((1, 2))[:, None]

    explainer = dlbt.Explainer(Embedded().eval(), explain_inputs=["inputs_embeds"])
    refused(
        "the explainer explains no token ids.\n  fix  explain_inputs=['input_ids'].", InputError,
        explain_text, explainer, word_pieces(), "rain", task="classification", inputs_embeds=torch.ones(1, 2, 3),
    )  # fmt: skip


def test_a_class_that_does_not_tell_its_task() -> None:
    refused(
        f"what Linear is for cannot be told from its class.\n  fix  task= one of: {TASKS}.",
        InputError, task_of, torch.nn.Linear(2, 2),
    )  # fmt: skip
    assert task_of(None, "ner") == "token-classification"


# -- targets -----------------------------------------------------------------------------------------------------------

OUT = {"logits": torch.arange(24.0).reshape(2, 3, 4)}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: continuation([1], measure="p"), "measure is 'logit' or 'log_probability', not 'p'."),
        (lambda: continuation([]).seed(OUT), "a continuation has no tokens.\n  fix  give at least one token id."),
        (lambda: continuation([1, 2, 3]).seed(OUT), "a continuation of 3 tokens that is predicted from position -1 on does not "
         "fit 3 positions.\n  fix  pass the ids of text and continuation as the model's input."),
        (lambda: continuation([1], 5).seed(OUT), "a continuation of 1 tokens that is predicted from position 5 on does not "
         "fit 3 positions.\n  fix  pass the ids of text and continuation as the model's input."),
        (lambda: continuation([[1], [1], [1]]).seed(OUT), "3 continuations for 2 samples.\n"
         "  fix  give one, or one per sample."),
        (lambda: continuation([1], [0, 1, 2]).seed(OUT), "3 starts for 2 samples.\n  fix  give one, or one per sample."),
        (lambda: continuation([9]).seed(OUT), "token id [9] is out of range: the output has 4, so 0 to 3."),
        (lambda: continuation([1]).seed({"logits": torch.ones(2, 3)}), "continuation() needs an output of shape (samples, "
         "positions, vocabulary), not (2, 3).\n  fix  a language model, or path= names its logits."),
        (lambda: span(part="x"), "part is 'both', 'start' or 'end', not 'x'."),
        (lambda: span(2, 1).seed({n: torch.ones(1, 3) for n in ("start_logits", "end_logits")}), "no answer fits: start 2, "
         "end 1, at most 30 tokens.\n  fix  an end that is not before the start."),
        (lambda: span().seed({n: torch.ones(3) for n in ("start_logits", "end_logits")}), "span() needs outputs of shape "
         "(samples, positions), not (3,).\n"
         "  fix  a question answering model; dlbt.target.function(fn) for outputs of another form."),
        (lambda: span().seed(OUT), "the model has no output 'start_logits'. It returns: 'logits'."),
        (lambda: label().seed({"logits": torch.ones(2, 3)}), "label() needs an output of shape (samples, positions, labels), "
         "not (2, 3).\n  fix  for classes pass the class: target=3; path= names another output."),
        (lambda: label(5).seed(OUT), "position 5 is out of range: the output has 3, so 0 to 2."),
        (lambda: label(0, 9).seed(OUT), "label 9 is out of range: the output has 4, so 0 to 3."),
        (lambda: each([]), "each() got no target.\n  fix  give one per sample."),
        (lambda: each([0, len]), "each() takes no functions.\n  fix  a function(fn) gets all samples at once; write one for "
         "all."),
        (lambda: each([dlbt.target.token(0)] * 3).seed(OUT), "3 targets for 2 samples.\n  fix  give one, or one per sample."),
        (lambda: similarity(torch.ones(3), pooling="x"), "pooling is 'mean', 'first' or 'last', not 'x'."),
        (lambda: similarity(torch.ones(3)).fn({"a": torch.ones(2, 3)}), "similarity() needs an output of shape (samples, "
         "positions, features), not (2, 3).\n  fix  path= names the output; dlbt.target.cosine(embedding) takes one that is "
         "the embedding itself."),
    ],
)  # fmt: skip
def test_targets_that_do_not_fit(make: Any, message: str) -> None:
    with pytest.raises(TargetError) as caught:
        make()
    assert str(caught.value) == message
