"""Several explained texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

from dlbt_rules_nlp.texts import OF_PAGE, TextExplanation

__all__ = ["TextExplanations"]


class TextExplanations(Sequence[TextExplanation]):
    """Explained texts in their order: a sequence, and a page of all."""

    def __init__(self, texts: Sequence[TextExplanation]) -> None:
        self._texts = tuple(texts)

    @overload
    def __getitem__(self, index: int) -> TextExplanation: ...

    @overload
    def __getitem__(self, index: slice) -> TextExplanations: ...

    def __getitem__(self, index: int | slice) -> TextExplanation | TextExplanations:
        return TextExplanations(self._texts[index]) if isinstance(index, slice) else self._texts[index]

    def __len__(self) -> int:
        return len(self._texts)

    def __iter__(self) -> Iterator[TextExplanation]:
        return iter(self._texts)

    @property
    def scores(self) -> list[float]:
        """What was explained of each."""
        return [text.score for text in self]

    def to_html(self, path: str | Path, **options: Any) -> Path:
        """Write a page that is complete in itself, with a part for each text.

        Parameters
        ----------
        path : str or Path
            The file.
        **options
            As for `TextExplanation.to_html`. Blocks, heads and experts only if asked for: ``layers=True``.
        """
        from dlbt_core.show.page import write_page

        own = {name: options.pop(name) for name in OF_PAGE if name in options}
        parts = [text.exhibit(**{"layers": False, "heads": False, "experts": False, **options}) for text in self]
        return write_page(parts, path, **{"title": "Explanations", **own})

    save = to_html

    def _repr_html_(self) -> str:
        from dlbt_core.show.notebook import fragment

        return fragment([text.exhibit(layers=False, heads=False, experts=False) for text in self])

    def __repr__(self) -> str:
        return "\n".join([f"<TextExplanations of {len(self)} texts:", *(f"  {text!r}" for text in self)]) + ">"
