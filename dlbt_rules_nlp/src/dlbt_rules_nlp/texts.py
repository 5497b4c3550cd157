"""An explained text: its relevance per token and per word, per layer and head; in the notebook, in files, on a page."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from dlbt_core.errors import DlbtError, InputError
from dlbt_core.explanation import Explanation
from dlbt_core.show import figure, words
from dlbt_core.show.flow import flow_figure
from dlbt_core.show.matrix import matrix_figure
from dlbt_rules_nlp.texts_layers import Layout, head_sums
from dlbt_rules_nlp.texts_positions import Source, through_positions
from dlbt_rules_nlp.texts_rows import Token, TokenRow
from dlbt_rules_nlp.texts_show import check_special, drawn, matrices_of, matrix_of

__all__ = ["OF_PAGE", "TextExplanation"]

OF_PAGE = ("title", "intro", "how_to_read")
"""Options of a page; the others are those of what it shows."""

KINDS = ("tokens", "words", "layers", "heads", "experts", "token_map")
"""What a figure can show."""


@dataclass(frozen=True, eq=False)
class TextExplanation:
    """What made a model's output what it is, on one text.

    Attributes
    ----------
    explanation : Explanation
        The whole explanation: score, ledger, plan, relevance of layers. It may be of a batch.
    index : int
        Which of its samples this text is.
    rows : tuple of TokenRow
        The tokens with their relevance: of the text, and of what the decoder of a seq2seq model got.
    title : str
        What was explained, in words: ``class 1 (positive)``.
    task : str
        What the model is for.
    text : str
        The text.
    layout : Layout, optional
        Which layers and heads there are.
    source : Source, optional
        How it was made, for `token_map`.
    """

    explanation: Explanation
    index: int
    rows: tuple[TokenRow, ...]
    title: str
    task: str = ""
    text: str = ""
    layout: Layout | None = None
    source: Source | None = field(default=None, repr=False)

    # -- numbers ----------------------------------------------------------------------------------------------------

    @property
    def tokens(self) -> tuple[Token, ...]:
        """The tokens of the text, special ones too."""
        return self.rows[0].tokens

    @property
    def words(self) -> tuple[Token, ...]:
        """The words of the text; a special token is a word of its own, so that they sum up to the same."""
        return self.rows[0].words

    @property
    def relevance(self) -> Tensor:
        """Relevance per token, shape (T,), without padding, float64, on the CPU."""
        return self.rows[0].relevance

    @property
    def decoder(self) -> TokenRow | None:
        """What the decoder of a seq2seq model got, with its relevance; None for other models."""
        return self.rows[1] if len(self.rows) > 1 else None

    @property
    def score(self) -> float:
        """What was explained."""
        return float(self.explanation.score.reshape(-1)[self.index])

    @property
    def picked(self) -> Any:
        """What the target left open and the outputs decided, e.g. the class; None if nothing. Positions count padding."""
        return self.explanation.picked[self.index] if self.index < len(self.explanation.picked) else None

    def top(self, count: int = 5, *, words: bool = True, special: bool = False) -> list[Token]:
        """The words with the most relevance, largest amount first, whatever its sign.

        Parameters
        ----------
        count : int
            How many.
        words : bool
            Words, or tokens.
        special : bool
            Whether special tokens count.
        """
        found = [t for t in (self.words if words else self.tokens) if special or not t.special]
        return sorted(found, key=lambda token: -abs(token.relevance))[:count]

    def layers_map(self, row: str = "text") -> dict[str, Tensor]:
        """Relevance of the model's blocks per token, first block first.

        Parameters
        ----------
        row : {"text", "decoder"}
            Whose tokens.

        Returns
        -------
        dict of str to Tensor
            Name of the block to shape (T,): the relevance that its output has at each token, summed over the features.

        Raises
        ------
        DlbtError
            If none were kept.
        """
        tokens = self.row(row)
        places = [position for token in tokens.tokens for position in token.positions]
        found = {}
        for name, key in (self.layout.blocks if self.layout else {}).items():
            values = self.explanation.layers.get(key)
            if values is not None and self._is_of(name, row) and values.shape[1] > max(places):
                found[name] = values[self.index].detach().cpu().double().sum(-1)[places]
        if not found:
            raise DlbtError(
                "no relevance of blocks was kept.\n  fix  explain_text(model, ...) with the model itself, without layers=."
            )
        return found

    def heads(self, row: str = "text", *, per_token: bool = False) -> dict[str, Tensor]:
        """Relevance that arrives at each attention head: at its part of the attention's output, before it is projected.

        With grouped queries each query head has its own part. What the heads of an attention have sums up to the relevance
        of the attention's output before projection.

        Parameters
        ----------
        row : {"text", "decoder"}
            Whose attentions; those of a decoder look at its own tokens and at the text.
        per_token : bool
            Whether for each token at which the attention puts something out, or summed over them.

        Returns
        -------
        dict of str to Tensor
            Name of the attention to shape (heads,), or (heads, T).

        Raises
        ------
        DlbtError
            If none were kept.
        """
        places = [position for token in self.row(row).tokens for position in token.positions]
        samples = int(self.explanation.score.numel())
        found = {}
        for name, node in (self.layout.heads if self.layout else {}).items():
            values = self.explanation.layers.get(node)
            if values is not None and self._is_of(name, row):
                sums = head_sums(values, samples, self.index)
                found[name] = sums[:, places] if per_token else sums.sum(-1)
        if not found:
            raise DlbtError(
                "no relevance of attention heads was kept: the model has no attention with weights that mix values, or the "
                "explainer keeps others.\n  fix  explain_text(model, ...) with the model itself, without layers=."
            )
        return found

    def experts(self, row: str = "text", *, per_token: bool = False) -> dict[str, Tensor]:
        """Relevance of each expert of a mixture: of its weighted output. See `dlbt_core.experts.ExpertRelevance`.

        Parameters
        ----------
        row : {"text", "decoder"}
            Whose mixtures.
        per_token : bool
            Whether for each token, exactly 0 for experts it was not sent to, or summed over them. Where the experts do not
            work on tokens one by one (after a pooling, say), that layer is left out.

        Returns
        -------
        dict of str to Tensor
            Name of the module to shape (experts,), or (T, experts), float64, on the CPU. `explanation.experts` has the
            router's relevance and the weights besides.

        Raises
        ------
        DlbtError
            If none were kept.
        """
        places = [position for token in self.row(row).tokens for position in token.positions]
        found = {}
        for name, layer in self.explanation.experts.items():
            samples, count, _ = layer.per_token.shape
            if self._is_of(name, row) and samples == self.explanation.score.numel() and count > max(places):
                values = layer.per_token[self.index].detach().cpu()
                found[name] = values[places] if per_token else values.sum(0)
        if not found:
            raise DlbtError(
                "no relevance of experts was kept: the model has no router that chooses experts and weights what they put "
                "out, or the explainer keeps nothing.\n  fix  explain_text(model, ...) with the model itself, without layers=."
            )
        return found

    def token_map(self, layer: int | str | None = None, row: str = "text", of: str | None = None) -> Tensor:
        """How relevance went from tokens to positions of a layer: what of each token's passed through each position.

        A backward pass from each position: it gets the relevance it has under the target, the others nothing. Down a column
        the parts of one token sum up to its relevance, where all of it passes the layer, as it does through a block with its
        residual. Along a row they sum up to what the position has, less what was absorbed below. It runs the model again.

        Parameters
        ----------
        layer : int or str, optional
            Number or name of a block in `layers_map`; the middle one unless given.
        row : {"text", "decoder"}
            Whose positions.
        of : {"text", "decoder"}, optional
            Whose tokens; the same unless given.

        Returns
        -------
        Tensor
            Shape (positions, tokens), float64.

        Raises
        ------
        DlbtError
            If there is no such block, or the model is not at hand or has changed.
        """
        name = self.block(layer, row)
        if self.source is None or self.layout is None:
            raise DlbtError("token_map() needs the model.\n  fix  explain_text(model, tokenizer, text).token_map().")
        key = self.layout.blocks[name]
        positions = [position for token in self.row(row).tokens for position in token.positions]
        of_tokens = self.row(of or row)
        one = slice(self.index, self.index + 1)
        count = int(self.explanation.score.numel())
        outputs = {n: t[one] for n, t in self.explanation.outputs.items() if t.dim() and t.shape[0] == count}
        found = through_positions(self.source, key, self.explanation.layers[key][one], outputs, positions)
        places = [position for token in of_tokens.tokens for position in token.positions]
        return found[of_tokens.input][:, places]

    # -- pictures ---------------------------------------------------------------------------------------------------

    def figure(self, kind: str = "tokens", *, special: str = "show", width: float = 7.0, **options: Any) -> Any:
        """A matplotlib figure.

        Parameters
        ----------
        kind : {"tokens", "words", "layers", "heads", "experts", "token_map"}
            Tokens or words in colour; blocks by tokens; attentions by heads; mixtures by experts; positions by tokens.
        special : {"show", "hide"}
            Whether special tokens are drawn; if not, the foot tells their sum.
        width : float
            Of tokens and words, in inches.
        **options
            `row` for layers, heads and experts, `layer`, `row` and `of` for the token map.

        Raises
        ------
        InputError
            If there is no such kind.
        DlbtError
            If matplotlib is not installed, or what is to be shown was not kept.
        """
        if kind not in KINDS:
            raise InputError(f"no figure {kind!r}.\n  fix  kind= one of: {', '.join(map(repr, KINDS))}.")
        if kind in ("tokens", "words"):
            rows, rest = drawn(self, kind, special)
            return flow_figure(rows, title=self._heading(), note=f"{self._note()}{rest}", width=width)
        return matrix_figure(matrix_of(self, kind, **options), note=f"{self._heading()}. {self._note()}")

    def show(self, kind: str = "tokens", **options: Any) -> None:
        """Open the figure: in the notebook, else in a window. Options as for `figure`."""
        figure.show(self.figure(kind, **options))

    def save(self, path: str | Path, kind: str = "tokens", *, dpi: int = 150, **options: Any) -> Path:
        """Write the figure to a file: ``.png``, ``.svg``, ``.pdf``, or ``.html`` for a page. Options as for `figure`."""
        if Path(path).suffix.lower() in (".html", ".htm"):
            return self.to_html(path, **options)
        return figure.save(self.figure(kind, **options), path, dpi)

    def to_html(self, path: str | Path, **options: Any) -> Path:
        """Write a page that is complete in itself: tokens in colour and in numbers, blocks, heads, experts, ledger, plan.

        Parameters
        ----------
        path : str or Path
            The file.
        **options
            `words` (words in place of tokens), `special` ("show" or "hide"), `layers`, `heads`, `experts`, `token_map` (which
            maps to show; the last is left out unless asked for), and those of `dlbt_core.show.page.write_page`.
        """
        from dlbt_core.show.page import write_page

        own = {name: options.pop(name) for name in OF_PAGE if name in options}
        return write_page([self.exhibit(**options)], path, **{"title": "Explanation", **own})

    def exhibit(
        self, *, words: bool = False, special: str = "show", layers: bool = True, heads: bool = True,
        experts: bool = True, token_map: bool = False, **options: Any,
    ) -> Any:  # fmt: skip
        """This text as a part of a page; see `to_html`."""
        from dlbt_core.show.page import Exhibit

        check_special(special)
        count = int(self.explanation.score.numel())
        maps = {"layers": layers, "heads": heads, "experts": experts, "token_map": token_map}
        given: dict[str, Any] = {
            "heading": self.title,
            "only": [self.index],
            "tokens": {row.input: [row.words if words else row.tokens] * count for row in self.rows},
            "kinds": {row.input: "tokens" for row in self.rows},
            "hide_special": special == "hide",
            "picked": [""] * count,
            "names": [""] * count,
            "matrices": [matrix for kind in maps if maps[kind] for matrix in matrices_of(self, kind)],
        }
        return Exhibit(self.explanation, **{**given, **options})

    def _repr_html_(self) -> str:
        from dlbt_core.show.notebook import fragment

        return fragment([self.exhibit(layers=False, heads=False, experts=False)])

    def __repr__(self) -> str:
        short = self.text if len(self.text) <= 48 else f"{self.text[:47]}…"
        return (
            f"<TextExplanation of {short!r}, {len(self.tokens)} tokens: {self.title}, score {self.score:.4g}; "
            f"composite {self.explanation.plan.composite_name}; ledger error {self.explanation.ledger.error:.1e}>"
        )

    # -- parts ------------------------------------------------------------------------------------------------------

    def row(self, name: str) -> TokenRow:
        """The tokens of that name: ``"text"`` or ``"decoder"``."""
        for row in self.rows:
            if row.name == name:
                return row
        known = ", ".join(repr(row.name) for row in self.rows)
        raise InputError(f"this text has no tokens called {name!r}.\n  fix  one of: {known}.")

    def _is_of(self, module: str, row: str) -> bool:
        """Whether a module works on these tokens: in a seq2seq model its path tells."""
        return len(self.rows) == 1 or ("decoder" in module.split(".")) == (row == "decoder")

    def block(self, layer: int | str | None = None, row: str = "text") -> str:
        """The name of a block, by its number or name; the middle one unless given."""
        names = list(self.layers_map(row))
        if layer is None:
            return names[len(names) // 2]
        if isinstance(layer, int) and -len(names) <= layer < len(names):
            return names[layer]
        if layer in names:
            return str(layer)
        raise DlbtError(
            f"there is no block {layer!r}.\n  fix  0 to {len(names) - 1}, or one of: {', '.join(map(repr, names))}."
        )

    def _heading(self) -> str:
        return f"{self.title}, score {words.signed(self.score)}"

    def _note(self) -> str:
        return f"Composite {self.explanation.plan.composite_name}."
