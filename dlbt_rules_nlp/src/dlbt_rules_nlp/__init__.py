"""Relevance rules for language models: embedding, attention, norms, recurrent layers, experts. A plugin of dlbt-core.

And the text front end: ``explain_text(model, tokenizer, text)``. It is imported when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlbt_rules_nlp.front import explain_text
    from dlbt_rules_nlp.texts import TextExplanation
    from dlbt_rules_nlp.texts_list import TextExplanations
    from dlbt_rules_nlp.texts_rows import Token, TokenRow

__version__ = "0.1.0"

__all__ = ["TextExplanation", "TextExplanations", "Token", "TokenRow", "explain_text"]

_HOMES = {
    "TextExplanation": "texts",
    "TextExplanations": "texts_list",
    "Token": "texts_rows",
    "TokenRow": "texts_rows",
    "explain_text": "front",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
