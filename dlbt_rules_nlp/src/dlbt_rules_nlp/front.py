"""The text front end: from a model of transformers, its tokenizer and texts to explained texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from dlbt_core.composites.composite import Composite, choices_in_context
from dlbt_core.errors import InputError
from dlbt_core.explainer import Explainer
from dlbt_core.explanation import Explanation
from dlbt_core.show.labels import labels_of
from dlbt_core.show.tokens import Piece
from dlbt_core.show.words import Labels, headline
from dlbt_core.target import FunctionTarget, as_target, each, similarity
from dlbt_core.target import continuation as continuation_target
from dlbt_core.target.text import Similarity
from dlbt_rules_nlp.texts import TextExplanation
from dlbt_rules_nlp.texts_input import Encoded, arrange, device_of, encode, takes
from dlbt_rules_nlp.texts_layers import Layout, layout
from dlbt_rules_nlp.texts_list import TextExplanations
from dlbt_rules_nlp.texts_positions import Source
from dlbt_rules_nlp.texts_rows import TokenRow
from dlbt_rules_nlp.texts_tasks import Asked, Wish, ask, task_of

__all__ = ["explain_text"]

_OF_EXPLAINER = ("explain_inputs", "layers", "fallback", "backend", "plugins")
_OF_CALL = ("rules", "audit", "progress")


def explain_text(
    model: Any,
    tokenizer: Any,
    text: Any = None,
    *,
    pair: Any = None,
    chat: Any = None,
    target: Any = None,
    against: Any = None,
    continuation: Any = None,
    at: int | str | None = None,
    task: str = "auto",
    measure: str = "logit",
    composite: str | Composite | None = None,
    labels: Labels | None = None,
    max_length: int | None = None,
    batch_size: int = 8,
    **options: Any,
) -> Any:
    """Explain a model's output on a text, or on several.

    Parameters
    ----------
    model : torch.nn.Module or Explainer
        A model of transformers in eval mode; or an explainer of one, which then keeps the layers it was told to.
    tokenizer : transformers tokenizer
        The model's own.
    text : str or sequence of str
        The text. Several are explained in padded batches; `pair`, `target`, `against`, `continuation` and `at` are then one
        for all or a list of one per text.
    pair : str, optional
        A second text: that to answer the question from, that which the first is compared with, ...
    chat : list of messages, optional
        In place of the text: ``[{"role": "user", "content": "Hello"}]``, put into the tokenizer's chat template.
    target : None, int, str or a target, optional
        What to explain. Classification: a label or its number; token classification: the same; question answering: an
        answer as it stands in the text, ``"start"``, ``"end"``; language models: a token as text or its id. Unless given,
        what the model finds most likely. For any task one of ``dlbt.target``, or a function of the outputs.
    against : int or str, optional
        A label or token to set against it: why the target rather than this.
    continuation : str, optional
        Language models: the text that follows, whose tokens' logits are summed, each at the position that predicts it. For
        a seq2seq model what the decoder says. Its tokens are inputs, too, but for the last.
    at : int or str, optional
        Token classification and masked language models: which token, by its position or as a word of the text.
    task : str
        ``"classification"``, ``"token-classification"``, ``"question-answering"``, ``"masked-lm"``, ``"causal-lm"``,
        ``"seq2seq-lm"`` or ``"similarity"``; told from the model's class unless given.
    measure : {"logit", "log_probability"}
        What of a token or continuation is explained.
    composite : str or Composite, optional
        Which rule where; ``"auto"`` unless given.
    labels : sequence or mapping of int to str, optional
        Names of the classes; those of the model's config unless given.
    max_length : int, optional
        Up to how many tokens a text has; what is beyond is cut off.
    batch_size : int
        How many texts run together. It changes nothing but time and memory.
    **options
        `rules`, `layers`, `explain_inputs`, `audit`, `fallback`, `plugins`, `progress` as for `dlbt_core.Explainer`; anything
        else goes to the model.

    Returns
    -------
    TextExplanation or TextExplanations
        The latter, which is a sequence, for a list of texts or chats.

    Raises
    ------
    InputError, TargetError
        If text, tokenizer, task or target do not fit; and what `dlbt_core.explain` raises.
    """
    work = _Work.of(model, tokenizer, task, composite, labels, options)
    several, rows = _rows(text, pair, chat, target, against, continuation, at)
    asked: list[tuple[Wish, Asked, Any]] = []
    for row in rows:
        wish = Wish(
            work.task, row["target"], row["against"], row["continuation"], row["at"], measure, work.labels, max_length
        )
        one = ask(wish, work.explainer.model, tokenizer, row["text"], row["pair"], row["chat"])
        asked.append((wish, one, row["pair"]))
        work.check_length(one)
    found: list[TextExplanation] = []
    for together in work.batches(asked, batch_size):
        found += work.explain(together)
    return TextExplanations(found) if several else found[0]


def _rows(
    text: Any, pair: Any, chat: Any, target: Any, against: Any, continuation: Any, at: Any
) -> tuple[bool, list[dict[str, Any]]]:
    """What is asked of each text, and whether there are several."""
    chats = isinstance(chat, (list, tuple)) and bool(chat) and isinstance(chat[0], (list, tuple))
    several = (isinstance(text, (list, tuple))) or chats
    given = {
        "text": text, "pair": pair, "chat": chat, "target": target, "against": against, "continuation": continuation, "at": at,
    }  # fmt: skip
    if not several:
        return False, [given]
    count = len(chat) if chats else len(text)
    if not count:
        raise InputError("no texts.\n  fix  give at least one.")
    columns: dict[str, list[Any]] = {}
    for name, value in given.items():
        is_list = isinstance(value, (list, tuple)) and (name != "chat" or chats)
        if is_list and len(value) != count:
            raise InputError(f"{len(value)} {name}s for {count} texts.\n  fix  give one for all, or one per text.")
        columns[name] = list(value) if is_list else [value] * count
    return True, [{name: values[i] for name, values in columns.items()} for i in range(count)]


@dataclass(frozen=True)
class _Work:
    """What is the same for all texts of a call."""

    explainer: Explainer
    tokenizer: Any
    task: str
    labels: Labels | None
    composite: Any
    call: Mapping[str, Any]
    inputs: Mapping[str, Any]
    own: bool

    @classmethod
    def of(
        cls, model: Any, tokenizer: Any, task: str, composite: Any, labels: Any, options: Mapping[str, Any]
    ) -> _Work:
        own = not isinstance(model, Explainer)
        set_before = [name for name in _OF_EXPLAINER if name in options]
        if not own and set_before:
            raise InputError(
                f"{set_before[0]} is set where the explainer is made.\n  fix  Explainer(model, {set_before[0]}=...)."
            )
        found = task_of(model if own else model.model, task)
        if own:
            inputs = ["input_ids", "decoder_input_ids"] if found == "seq2seq-lm" else ["input_ids"]
            given = {name: options[name] for name in _OF_EXPLAINER if name in options}
            model = Explainer(model, "auto" if composite is None else composite, **{"explain_inputs": inputs, **given})
        call = {name: value for name, value in options.items() if name in _OF_CALL}
        rest = {name: value for name, value in options.items() if name not in (*_OF_EXPLAINER, *_OF_CALL)}
        known = labels_of(model.model) if labels is None else labels
        return cls(model, tokenizer, found, known, composite, call, rest, own and "layers" not in options)

    # -- batches ----------------------------------------------------------------------------------------------------

    def batches(self, asked: Sequence[tuple[Wish, Asked, Any]], size: int) -> Iterator[list[tuple[Wish, Asked, Any]]]:
        """Neighbours that can run together."""
        now: list[tuple[Wish, Asked, Any]] = []
        for entry in asked:
            if now and (len(now) >= size or not self._fit(now[0], entry)):
                yield now
                now = []
            now.append(entry)
        if now:
            yield now

    def _fit(self, a: tuple[Wish, Asked, Any], b: tuple[Wish, Asked, Any]) -> bool:
        (wish, first, _), (other, second, _) = a, b
        alike = wish.own is other.own and (first.aim is None) == (second.aim is None)
        if not alike or first.encoded.extra.keys() != second.encoded.extra.keys():
            return False
        lengths = [(len(one.encoded.ids), len(one.decoder.ids) if one.decoder else 0) for one in (first, second)]
        if lengths[0] == lengths[1]:
            return True
        # A target of the user's own may count positions, and then does not know of padding.
        knows = wish.own is None or self.task == "classification" or _similarity_in(wish.own) is not None
        return knows and self._pad() is not None

    def _pad(self) -> int | None:
        """The id to pad with. A causal model without one may take any, since the mask leaves it out."""
        config = getattr(self.explainer.model, "config", None)
        for known in (getattr(self.tokenizer, "pad_token_id", None), getattr(config, "pad_token_id", None)):
            if isinstance(known, int) and known >= 0:
                return known
        return 0 if self.task in ("causal-lm", "masked-lm", "token-classification") else None

    def _pads_left(self) -> bool:
        """Whether padding before the text can be told to the model.

        A causal model needs to be told the positions then; after the text padding changes nothing for it. A model that counts
        positions from the ids of padding counts from elsewhere than 0.
        """
        model = self.explainer.model
        if self.task == "causal-lm":
            return takes(model, "position_ids")
        return not any(embedding.padding_idx is not None for embedding in _positions_of(model))

    def check_length(self, one: Asked) -> None:
        """Whether the model has a place for each token, where it learned its places."""
        for embedding in _positions_of(self.explainer.model):
            first = getattr(embedding, "offset", 0) if embedding.padding_idx is None else embedding.padding_idx + 1
            most = embedding.num_embeddings - first
            if len(one.encoded.ids) > most:
                raise InputError(
                    f"the text has {len(one.encoded.ids)} tokens; the model takes {most} at most.\n"
                    f"  fix  max_length={most} cuts off what is beyond."
                )

    # -- one batch --------------------------------------------------------------------------------------------------

    def explain(self, together: Sequence[tuple[Wish, Asked, Any]]) -> list[TextExplanation]:
        """Explain texts that run together."""
        model, asked = self.explainer.model, [one for _, one, _ in together]
        decoders = [one.decoder for one in asked if one.decoder is not None]
        left = getattr(self.tokenizer, "padding_side", "right") == "left" and self._pads_left()
        rows = [one.encoded for one in asked]
        tensors, before = arrange(model, rows, self._pad() or 0, left, decoders or None)
        call: dict[str, Any] = {**tensors, **self.inputs}
        plan = self._layout(call)
        explanation = self.explainer(
            **call, **self.call, target=self._target(together, call, before), composite=self.composite
        )
        return [
            self._explained(explanation, place, shift, wish, one, call, plan)
            for place, (shift, (wish, one, _)) in enumerate(zip(before, together, strict=True))
        ]

    def _layout(self, call: Mapping[str, Any]) -> Layout:
        """Blocks and heads; our own explainer is told to keep them."""
        plan = layout(self.explainer.graph(**call))
        if self.own:
            self.explainer.layers = list(plan.keep)
        return plan

    def _target(
        self, together: Sequence[tuple[Wish, Asked, Any]], call: Mapping[str, Any], before: Sequence[int]
    ) -> Any:
        own = together[0][0].own
        if own is not None:
            target = as_target(own)
            alike = _similarity_in(target)
            return target if alike is None or alike.mask is not None else FunctionTarget(
                replace(alike, mask=call.get("attention_mask"))
            )  # fmt: skip
        if self.task == "similarity":
            return similarity(self._embed([pair for _, _, pair in together]), call.get("attention_mask"))
        if together[0][1].aim is None:
            found = [one.continuation for _, one, _ in together if one.continuation is not None]
            shifts = [0 if one.decoder else shift for shift, (_, one, _) in zip(before, together, strict=True)]
            starts = [start + shift for (start, _), shift in zip(found, shifts, strict=True)]
            return continuation_target([ids for _, ids in found], starts, "log_probability")
        return each([one.aim(shift) for shift, (_, one, _) in zip(before, together, strict=True) if one.aim])

    def _embed(self, texts: Sequence[Any]) -> Tensor:
        """Embeddings of texts, shape (B, D): one run of the model for each, without an explanation."""
        model = self.explainer.model
        found = []
        for text in texts:
            call, _ = arrange(model, [encode(self.tokenizer, text)], 0, False)
            with torch.no_grad():
                outputs = model(**call, **self.inputs)
            found.append(Similarity(torch.zeros(1, device=device_of(model))).pooled(outputs)[0])
        return torch.stack(found)

    def _explained(
        self,
        explanation: Explanation,
        place: int,
        shift: int,
        wish: Wish,
        one: Asked,
        call: Mapping[str, Any],
        plan: Layout,
    ) -> TextExplanation:
        picked = explanation.picked[place] if place < len(explanation.picked) else None
        title = one.say(picked, shift) if wish.own is None else headline(explanation.target, picked, self.labels)
        rows = []
        for name, path, encoded, moved in (
            ("text", "input_ids", one.encoded, shift), ("decoder", "decoder_input_ids", one.decoder, 0)
        ):  # fmt: skip
            if encoded is not None and path in explanation.inputs:
                rows.append(_row(name, path, explanation.inputs[path][place], encoded, moved))
        if not rows:
            raise InputError("the explainer explains no token ids.\n  fix  explain_inputs=['input_ids'].")
        return TextExplanation(
            explanation, place, tuple(rows), title, self.task, one.encoded.texts[0], plan,
            self._source(call, place),
        )  # fmt: skip

    def _source(self, call: Mapping[str, Any], place: int) -> Source:
        count = call["input_ids"].shape[0]

        def of_sample(value: Any) -> Any:
            is_batch = isinstance(value, Tensor) and value.dim() and value.shape[0] == count
            return value[place : place + 1] if is_batch else value

        made = self.explainer
        rules = (*self.call.get("rules", ()), *made.rules, *choices_in_context())
        options = {
            "composite": made.composite if self.composite is None else self.composite, "rules": rules,
            "explain_inputs": made.explain_inputs, "fallback": made.fallback, "plugins": made.plugins,
        }  # fmt: skip
        return Source(made.model, {name: of_sample(value) for name, value in call.items()}, options)


def _positions_of(model: Any) -> list[nn.Embedding]:
    """The model's table of positions, if it learned one."""
    names = ("position_embeddings", "wpe", "embed_positions")
    modules = model.named_modules() if isinstance(model, nn.Module) else ()
    return [m for name, m in modules if isinstance(m, nn.Embedding) and name.rpartition(".")[2] in names]


def _similarity_in(target: Any) -> Similarity | None:
    inner = getattr(target, "fn", None)
    return inner if isinstance(inner, Similarity) else None


def _row(name: str, path: str, values: Tensor, encoded: Encoded, shift: int) -> TokenRow:
    def moved(pieces: Sequence[Piece]) -> list[Piece]:
        return [replace(piece, positions=tuple(position + shift for position in piece.positions)) for piece in pieces]

    return TokenRow.of(name, path, values, moved(encoded.tokens), moved(encoded.words))
