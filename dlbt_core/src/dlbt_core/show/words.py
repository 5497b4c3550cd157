"""Numbers and names in words."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "MEANINGS",
    "Labels",
    "at_scale",
    "headline",
    "meaning",
    "picked_in_words",
    "short_line",
    "signed",
    "verdict",
]

Labels = Sequence[str] | Mapping[int, str]

MEANINGS: Mapping[str, str] = {
    "bias": "put in by biases: what layers add whatever comes in",
    "epsilon": "damped by the stabiliser ε",
    "constant": "put in by values that the explained inputs do not enter, such as position embeddings",
    "stopped": "stopped where the model detaches a value",
    "softmax": "kept by softmax: the constant part of its linear approximation at this input",
    "nonlinearity": "kept or added by activations, whose gradient does not hand on what they put out",
    "product": "added or kept by products, whose gradient hands on more than they put out",
    "norm": "kept by normalisations, whose gradient hands on next to nothing",
    "statistic": "kept by means and deviations that are results of their own and are held constant",
    "fallback": "kept or added by ops without a rule, whose gradient was used in its place",
    "clipped": "left out because the method hands on only what is positive",
    "smoothing": "kept or added by the smooth function whose gradient is used in place of ReLU's",
    "dropped": "left where nothing of its sign comes in that could take it, or where a rule leaves out the bias",
    "kernel": "kept or added where an op's derivative is not that of its result",
    "location": "kept or added by places to look at, whose gradient hands on other amounts than they put out",
    "recurrence": "kept or added by recurrent layers, whose gradient does not hand on what they put out",
    "overlap": "added where several values are put into one place, of which one is seen",
}
"""What the names in a ledger mean."""

_SHARED_PREFIX = re.compile(r"^.*?(?:site-packages|dist-packages)/")
_EXACT = 1e-4


def meaning(entry: str) -> str:
    """What an entry of a ledger means, in words."""
    if entry == "score":
        return "what was explained"
    if entry.startswith("input "):
        return "arrived at this input: the sum of what is shown above"
    name = entry.rpartition(": ")[2]
    known = MEANINGS.get(name, f"booked as {name!r} by the rule that absorbed it")
    return known + "; the samples cannot be told apart there" if entry.startswith("absorbed, all samples") else known


def verdict(error: float) -> str:
    """What the error of a ledger means, in words."""
    if error <= _EXACT:
        return "the books balance: score = inputs + absorbed, to this share of the score"
    return "the books do NOT balance: this share of the score is unaccounted for, so read the numbers with care"


def signed(value: float, digits: int = 3) -> str:
    """A number with its sign; an exact zero is ``0``."""
    return "0" if value == 0 else f"{value:+.{digits}g}".replace("-", "−")


def amount(value: float) -> str:
    """What the full colour stands for: two figures, without a sign."""
    return signed(value, 2).lstrip("+")


def at_scale(value: float, scale: float) -> str:
    """A number with its sign and as many decimals as its neighbours of the size of `scale` need."""
    if value == 0 or not math.isfinite(value) or not 1e-5 <= scale < 1e6:
        return signed(value)
    decimals = max(0, 2 - math.floor(math.log10(scale)))
    return f"{value:+.{decimals}f}".replace("-", "−")


def picked_in_words(target: str, picked: Any, labels: Labels | None = None) -> str:
    """What the target left open and the outputs decided, for one sample: ``class 7``, ``3 against 5``, ..."""
    if isinstance(picked, (tuple, list)):
        if " against " in target and len(picked) == 2:
            kind = "detection" if "detection" in target else ""
            return " against ".join(picked_in_words(kind, part, labels) for part in picked)
        if "position" in target and len(picked) == 2:
            return f"token {_named(picked[1], labels)} at position {picked[0]}"
        if "detection" in target and len(picked) == 2:
            of = "" if picked[1] is None else f", class {_named(picked[1], labels)}"
            return f"number {picked[0]}{of}"
        if "of classes" in target:
            return f"classes {', '.join(_named(one, labels) for one in picked)}"
        return ", ".join(map(str, picked))
    return f"class {_named(picked, labels)}" if "class" in target else _named(picked, labels)


def headline(target: str, picked: Any, labels: Labels | None = None) -> str:
    """What was explained of one sample, as short as it can be said: the target with what was picked filled in."""
    sides = target.split(" against ")
    if len(sides) == 2 and isinstance(picked, (tuple, list)) and len(picked) == 2:
        return " against ".join(headline(side, part, labels) for side, part in zip(sides, picked, strict=True))
    if picked is None:
        return target
    if "detection" in target and isinstance(picked, (tuple, list)):
        plain = target.partition(" of class ")[0]
        return plain if picked[1] is None else f"{plain}, class {_named(picked[1], labels)}"
    if "of classes" in target:
        return target.partition("classes")[0] + picked_in_words(target, picked, labels)
    for unnamed in ("largest class", "the most frequent class", f"class {picked}"):
        if unnamed in target and isinstance(picked, int):
            return target.replace(unnamed, f"class {_named(picked, labels)}", 1)
    return picked_in_words(target, picked, labels)


def _named(number: Any, labels: Labels | None) -> str:
    try:
        label = labels[number] if labels is not None else ""
    except (LookupError, TypeError):
        label = ""
    return f"{number} ({label})" if label and str(label) != str(number) else str(number)


def short_line(line: str) -> str:
    """A source line without the folders it was installed in: ``torch/nn/modules/linear.py:125``."""
    path = _SHARED_PREFIX.sub("", line.replace("\\", "/"))
    return "/".join(path.rsplit("/", 3)[1:]) if path.startswith("/") or re.match(r"^[A-Za-z]:/", path) else path
