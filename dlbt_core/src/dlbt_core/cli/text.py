"""``dlbt text``: explain a model of transformers on a text, from the shell."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import Any

import typer
from rich.text import Text

from dlbt_core.cli.tables import Terminal
from dlbt_core.errors import DlbtError
from dlbt_core.show import words
from dlbt_core.show.colours import robust_scale
from dlbt_core.show.tokens import token_spans

__all__ = ["explain", "print_text", "text_json"]

_NUMBERED = ("classification", "token-classification")


def explain(model: str, text: str, *, task: str, composite: str, **wishes: str | None) -> Any:
    """Load a model and explain it on a text; see ``dlbt text --help``.

    Raises
    ------
    DlbtError
        If a package is missing, or the model cannot be loaded.
    """
    if find_spec("dlbt_rules_nlp") is None:
        raise DlbtError("dlbt text needs dlbt-rules-nlp, which cannot be imported.\n  fix  pip install dlbt-rules-nlp")
    loading: Any = importlib.import_module("dlbt_rules_nlp.texts_load")
    front: Any = importlib.import_module("dlbt_rules_nlp.front")
    tasks: Any = importlib.import_module("dlbt_rules_nlp.texts_tasks")
    loaded, tokenizer = loading.load_text_model(model, task)
    found = tasks.task_of(loaded, task)
    given: dict[str, Any] = {name: value for name, value in wishes.items() if value is not None}
    for name in ("target", "against"):
        if found in _NUMBERED and str(given.get(name, "")).isdecimal():
            given[name] = int(given[name])  # a label's number; of a language model it is the text of a token
    if str(given.get("at", "")).lstrip("-").isdecimal():
        given["at"] = int(given["at"])
    return front.explain_text(loaded, tokenizer, text, task=found, composite=composite, **given)


def text_json(result: Any) -> dict[str, Any]:
    """An explained text as plain values."""

    def plain(pieces: Any) -> list[dict[str, Any]]:
        return [
            {"text": p.text, "token": p.token, "positions": list(p.positions), "kind": p.kind, "relevance": p.relevance}
            for p in pieces
        ]

    ledger, place = result.explanation.ledger, result.index
    return {
        "task": result.task,
        "explained": result.title,
        "score": result.score,
        "composite": result.explanation.plan.composite_name,
        "inputs": [
            {"name": row.name, "input": row.input, "tokens": plain(row.tokens), "words": plain(row.words)}
            for row in result.rows
        ],
        "absorbed": {name: float(amount.reshape(-1)[place]) for name, amount in ledger.absorbed.items()},
        "ledger_error": float(ledger.error),
    }


def print_text(result: Any, as_words: bool) -> None:
    """Print an explained text in colour, and where its score went."""
    console = Terminal(highlight=False)
    console.print(Text.assemble((result.title, "bold"), f", score {words.signed(result.score)}"))
    scale = max(robust_scale(row.relevance) for row in result.rows)
    for row in result.rows:
        pieces = row.words if as_words else row.tokens
        line = Text(f"{row.name}: " if len(result.rows) > 1 else "")
        for span in token_spans(pieces, [piece.relevance for piece in pieces], scale):
            line.append("" if span.joined else " ")
            style = f"{span.light_ink} on {span.light}" + (" italic" if span.special else "")
            line.append(f"{span.text} {words.at_scale(span.relevance, scale)}" if as_words else span.text, style)
        console.print(line)
    ledger, place = result.explanation.ledger, result.index
    parts = [*ledger.inputs.items(), *ledger.absorbed.items()]
    terms = " ".join(f"{words.signed(float(amount.reshape(-1)[place]))} {name}" for name, amount in parts)
    typer.echo(f"{words.signed(result.score)} = {terms}")
    typer.echo(f"composite {result.explanation.plan.composite_name}; ledger error {ledger.error:.1e}")
