"""What a rule says about itself: its formula and where it comes from, read from its docstring."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass

from dlbt_core.errors import RuleContractError
from dlbt_core.rules.rule import Rule

__all__ = ["Description", "citations", "describe"]

_NAME = r"[A-ZÀ-Ý][\w’'-]+"
_CITATION = re.compile(rf"({_NAME}(?: et al\.| & {_NAME})?),? \(?((?:19|20)\d\d[a-z]?)\b")
_OWN = {
    "the op's gradient": re.compile(r"the op's (own )?gradient"),
    "exact: the op only moves or copies elements": re.compile(r"\b[Ee]xact\b"),
    "our convention": re.compile(r"\bConvention\b"),
}
"""Sources that are no paper, and the words by which a docstring states them."""


@dataclass(frozen=True)
class Description:
    """What the docstring of a rule says.

    Attributes
    ----------
    formula
        Its first line.
    text
        The lines after it.
    citations
        Papers, as ``"Bach et al. 2015"``.
    source
        Where it comes from in words: the papers, or that it is the op's gradient, exact, or a convention of ours.
    """

    formula: str
    text: str
    citations: tuple[str, ...]
    source: str


def citations(text: str) -> tuple[str, ...]:
    """Papers that a text names, each once, as ``"Bach et al. 2015"``."""
    return tuple(dict.fromkeys(f"{name} {year}" for name, year in _CITATION.findall(" ".join(text.split()))))


def describe(rule: Rule) -> Description:
    """The description of a rule.

    Raises
    ------
    RuleContractError
        If the first line of its docstring is no formula, or if nothing in it says where the rule comes from.
    """
    doc = inspect.getdoc(rule.function) or ""
    formula, _, text = doc.partition("\n")
    if " = " not in formula:
        raise RuleContractError(
            f"{rule.id} has no formula, at {rule.location}.\n"
            '  fix  start its docstring with one: "R_i = x_i w_ji / (z_j + eps sgn z_j) R_j.  Bach et al. 2015, eq. 58."'
        )
    papers = citations(doc)
    source = "; ".join(papers) or next((words for words, found in _OWN.items() if found.search(doc)), "")
    if not source:
        raise RuleContractError(
            f"{rule.id} does not say where it comes from, at {rule.location}.\n"
            '  fix  name the paper in its docstring, "Bach et al. 2015, eq. 58.", or say that it is "the op\'s gradient", '
            '"exact", or a "Convention" and which.'
        )
    return Description(formula, text.strip(), papers, source)
