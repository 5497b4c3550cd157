"""Blocks by tokens, heads, and what went from tokens to positions of a layer."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

import dlbt_core as dlbt
from dlbt_core.errors import DlbtError
from dlbt_rules_nlp import TextExplanation, explain_text
from dlbt_rules_nlp.texts_layers import layout
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

CASES: dict[str, Any] = {
    "bert": lambda kind: explain_text(bert("ForSequenceClassification", kind), word_pieces(), ["the final", "rain"])[1],
    "gpt2": lambda kind: explain_text(gpt2("LMHeadModel", kind), byte_pairs("left"), ["the final of", "rain"])[1],
    "llama": lambda kind: explain_text(llama(kind), byte_pairs("left"), ["Paris is", "the central bank"])[0],
    "t5": lambda kind: explain_text(t5(kind), unigrams(), "the central bank", continuation="heavy rain"),
    "bart": lambda kind: explain_text(bart(kind), marked_pieces(), ["the bank", "rain"], continuation="the final")[1],
}
DECODERS = ("t5", "bart")
_MADE: dict[tuple[str, str], TextExplanation] = {}


def made(name: str, kind: str = "sdpa") -> TextExplanation:
    if (name, kind) not in _MADE:
        _MADE[name, kind] = CASES[name](kind)
    return _MADE[name, kind]


def rows(name: str) -> tuple[str, ...]:
    return ("text", "decoder") if name in DECODERS else ("text",)


# -- blocks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "decoder"),
    [
        ("bert", [f"bert.encoder.layer.{i}" for i in range(3)], []),
        ("gpt2", ["transformer.h.0", "transformer.h.1"], []),
        ("llama", ["model.layers.0", "model.layers.1"], []),
        ("t5", ["encoder.block.0", "encoder.block.1"], ["decoder.block.0", "decoder.block.1"]),
        ("bart", ["model.encoder.layers.0", "model.encoder.layers.1"], ["model.decoder.layers.0", "model.decoder.layers.1"]),
    ],
)  # fmt: skip
def test_blocks(name: str, text: list[str], decoder: list[str]) -> None:
    for kind in ("eager", "sdpa"):
        result = made(name, kind)
        for row, names in (("text", text), ("decoder", decoder)):
            if names:
                maps = result.layers_map(row)
                assert list(maps) == names
                assert {tuple(values.shape) for values in maps.values()} == {(len(result.row(row).tokens),)}
        key = text[-1] if f"{text[-1]}:0" not in result.explanation.layers else f"{text[-1]}:0"
        whole = result.explanation.at(key)[result.index].double().sum()
        assert torch.allclose(result.layers_map()[text[-1]].sum(), whole, atol=1e-6)


def test_the_last_block_of_a_classifier_has_its_relevance_where_the_classifier_looks() -> None:
    last = made("llama").layers_map()["model.layers.1"]
    assert bool((last[:-1] == 0).all())
    assert float(last[-1]) != 0


def test_blocks_that_share_their_weights_are_told_apart() -> None:
    config = transformers.AlbertConfig(
        vocab_size=len(word_pieces()), embedding_size=16, hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=48, max_position_embeddings=40,
    )  # fmt: skip
    model = seeded(lambda: transformers.AlbertForSequenceClassification(config))
    result = explain_text(model, word_pieces(), "the final")
    name = "albert.encoder.albert_layer_groups.0"
    assert list(result.layers_map()) == [name, f"{name}#1", f"{name}#2"]
    assert len(result.heads()) == 3
    assert torch.allclose(result.token_map(f"{name}#1").sum(0), result.relevance, atol=1e-5)


# -- heads -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_heads_are_the_same_for_eager_and_sdpa(name: str) -> None:
    for row in rows(name):
        eager, fused = (made(name, kind).heads(row, per_token=True) for kind in ("eager", "sdpa"))
        assert list(eager) == list(fused)
        for attention, values in fused.items():
            assert values.shape == (4, len(made(name).row(row).tokens))
            assert torch.allclose(values, eager[attention], atol=1e-5)
            assert torch.allclose(made(name).heads(row)[attention], values.sum(-1))


def test_heads_sum_up_to_what_arrives_before_the_projection() -> None:
    """For Llama with queries in groups: four query heads over two key and value heads."""
    model, tokenizer = llama(), byte_pairs()
    result = explain_text(model, tokenizer, "Paris is the")
    ids = torch.tensor([tokenizer("Paris is the")["input_ids"]])
    target = dlbt.target.token(-1)
    full = dlbt.Explainer(model, layers="all", explain_inputs=["input_ids"])(input_ids=ids, target=target)
    nodes = [step.node for step in full.plan.steps]
    for number in range(2):
        (projection,) = [
            n for n in nodes if n.site.module == f"model.layers.{number}.self_attn.o_proj" and "linear" in n.op
        ]
        (source,) = [n for n in nodes if projection.args["input"].index in n.outputs]
        arrived = full.at(source.name)[0].double().reshape(ids.shape[1], 4, 8).sum(-1).T
        found = result.heads(per_token=True)[f"model.layers.{number}.self_attn"]
        assert torch.allclose(found, arrived, atol=1e-6)


def test_a_head_that_is_switched_off_gets_nothing() -> None:
    model = bert("ForSequenceClassification")
    with torch.no_grad():
        model.get_submodule("bert.encoder.layer.1.attention.output.dense").weight[:, 8:16] = 0  # type: ignore[index, operator]
    heads = explain_text(model, word_pieces(), "the final of the goalkeeper").heads(per_token=True)
    values = heads["bert.encoder.layer.1.attention.self"]
    assert bool((values[1] == 0).all())
    assert bool((values[[0, 2, 3]] != 0).any(1).all())


def test_attentions_of_a_decoder() -> None:
    names = list(made("bart").heads("decoder"))
    assert names == [f"model.decoder.layers.{i}.{which}" for i in range(2) for which in ("self_attn", "encoder_attn")]


def test_attention_by_batched_products() -> None:
    """Heads folded into the batch, as in models that call bmm."""

    class Folded(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = torch.nn.Embedding(20, 8), torch.nn.Linear(8, 3)

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            x = self.embedding(input_ids)
            batch, count, _ = x.shape
            heads = x.view(batch, count, 2, 4).transpose(1, 2).reshape(batch * 2, count, 4)
            mixed = torch.bmm(torch.bmm(heads, heads.transpose(1, 2)).softmax(-1), heads)
            return self.head(mixed.view(batch, 2, count, 4).transpose(1, 2).reshape(batch, count, 8).mean(1))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Folded().eval()
    graph = dlbt.Explainer(model).graph(input_ids=torch.zeros(2, 3, dtype=torch.long))
    assert len(layout(graph).heads) == 1
    results = explain_text(model, byte_pairs_of_twenty(), ["a b", "c d"], task="classification")
    (heads,) = results[1].heads(per_token=True).values()
    assert heads.shape == (2, 2)
    (alone,) = explain_text(model, byte_pairs_of_twenty(), "c d", task="classification").heads(per_token=True).values()
    assert torch.allclose(heads, alone, atol=1e-6)


def byte_pairs_of_twenty() -> Any:
    from text_models import tokenizers

    vocabulary = {letter: number for number, letter in enumerate("?abcdefghijklmnopqrs")}
    made_ = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="?"))
    made_.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made_, unk_token="?")


# -- from tokens to positions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_the_parts_of_a_token_sum_up_to_its_relevance(name: str) -> None:
    result = made(name)
    for row in rows(name):
        for block in range(2):
            found = result.token_map(block, row)
            count = len(result.row(row).tokens)
            assert found.shape == (count, count)
            assert torch.allclose(found.sum(0), result.row(row).relevance, atol=1e-5)


def test_causal_positions_see_no_later_token() -> None:
    found = made("llama").token_map(0)
    assert bool((found.triu(1) == 0).all())
    assert bool((found.tril() != 0).any())


def test_a_position_hands_on_what_it_has_less_what_is_absorbed_below() -> None:
    """Without biases and with attention held constant nothing is absorbed: rows sum up to the block's own relevance."""
    held = [(dlbt.Select(op="aten.scaled_dot_product_attention"), dlbt.Use("detach"))]
    result = explain_text(llama(), byte_pairs(), "the central bank raised", rules=held)
    for number, values in enumerate(result.layers_map().values()):
        assert torch.allclose(result.token_map(number).sum(1), values, atol=1e-5)


def test_a_decoder_s_positions_and_the_text() -> None:
    result = made("t5")
    assert result.decoder is not None
    found = result.token_map(0, "decoder", of="text")
    assert found.shape == (len(result.decoder.tokens), len(result.tokens))
    own = result.token_map(0, "decoder")
    assert own.shape == (len(result.decoder.tokens),) * 2


def test_many_positions_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    result = made("bert")
    whole = result.token_map(1)
    monkeypatch.setattr("dlbt_rules_nlp.texts_positions._AT_ONCE", 1)
    assert torch.allclose(result.token_map(1), whole, atol=1e-6)


def test_the_map_keeps_rules_and_composite() -> None:
    held = [(dlbt.Select(module="bert.encoder.layer.0.*", op="aten.scaled_dot_product_attention"), dlbt.Use("detach"))]
    model = bert("ForSequenceClassification")
    by_call = explain_text(model, word_pieces(), "the final of", composite="epsilon", rules=held)
    assert torch.allclose(by_call.token_map(2).sum(0), by_call.relevance, atol=1e-5)
    with dlbt.use_rules(*held):
        by_context = explain_text(model, word_pieces(), "the final of", composite="epsilon")
    assert torch.allclose(by_context.relevance, by_call.relevance)
    assert torch.allclose(by_context.token_map(2).sum(0), by_call.relevance, atol=1e-5)


# -- what cannot be ----------------------------------------------------------------------------------------------------


def fails(message: str, make: Any, *args: Any, **options: Any) -> None:
    with pytest.raises(DlbtError) as caught:
        make(*args, **options)
    assert str(caught.value) == message


def test_errors() -> None:
    result = made("bert")
    names = ", ".join(f"'bert.encoder.layer.{i}'" for i in range(3))
    fails(f"there is no block 7.\n  fix  0 to 2, or one of: {names}.", result.token_map, 7)
    fails(f"there is no block 'nope'.\n  fix  0 to 2, or one of: {names}.", result.token_map, "nope")
    fails("this text has no tokens called 'decoder'.\n  fix  one of: 'text'.", result.layers_map, "decoder")
    kept = explain_text(bert("ForSequenceClassification"), word_pieces(), "rain", layers="none")
    fails(
        "no relevance of blocks was kept.\n  fix  explain_text(model, ...) with the model itself, without layers=.",
        kept.layers_map,
    )
    fails(
        "no relevance of attention heads was kept: the model has no attention with weights that mix values, or the "
        "explainer keeps others.\n  fix  explain_text(model, ...) with the model itself, without layers=.",
        kept.heads,
    )
    lone = TextExplanation(result.explanation, 0, result.rows, "x", layout=result.layout)
    fails("token_map() needs the model.\n  fix  explain_text(model, tokenizer, text).token_map().", lone.token_map)


def test_a_model_that_has_changed_since() -> None:
    model = bert("ForSequenceClassification")
    result = explain_text(model, word_pieces(), "the final")
    with torch.no_grad():
        model.get_submodule("classifier").weight.mul_(2)  # type: ignore[union-attr, operator]
    fails(
        "the model gives another output now than when this text was explained.\n"
        "  fix  explain the text again: token_map() needs the model as it was.",
        result.token_map,
    )


def test_an_exported_model() -> None:
    model = bert("ForSequenceClassification")
    encoded = word_pieces()("the final", return_tensors="pt")
    call = {name: encoded[name] for name in ("input_ids", "attention_mask")}
    with warnings.catch_warnings():  # export warns about its own internals
        warnings.simplefilter("ignore")
        program = torch.export.export(model, (), call)
    result = explain_text(dlbt.Explainer(program), word_pieces(), "the final", task="classification")
    fails(
        "token_map() needs a torch.nn.Module, not a torch.export program.\n"
        "  fix  explain_text(model, ...) with the model itself.",
        result.token_map,
    )


def test_a_model_that_is_no_module() -> None:
    model = bert("ForSequenceClassification")
    explainer = dlbt.Explainer(lambda input_ids, attention_mask: model(input_ids, attention_mask))
    result = explain_text(explainer, word_pieces(), "the final", task="classification")
    assert result.explanation.ledger.error < 1e-4
    fails(
        "no relevance of blocks was kept.\n  fix  explain_text(model, ...) with the model itself, without layers=.",
        result.token_map,
    )
