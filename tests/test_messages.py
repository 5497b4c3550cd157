"""Every message that a user can meet is asserted in full: errors, warnings, and the notes of a plan, word by word.

What a message says is read from the packages' code, as `wordings` describes it. It counts as asserted if one string of a
test holds all its fixed words in their order, from the first to the last, with anything in place of what is inserted; a
prefix or two halves in two strings do not. Where a message has alternatives, each is in such a string. Blanks, quotes and
the backslashes of regular expressions do not count.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import wordings
from wordings import Module, Wording, Words, called, leaves, pattern, squeezed, written

ROOT = Path(__file__).resolve().parent.parent
NOT_ASSERTING = {Path(__file__).resolve(), Path(wordings.__file__).resolve()}


@dataclass(frozen=True)
class Message:
    """What is raised, warned of or noted, and where."""

    where: str
    kind: str
    wording: Wording

    @property
    def words(self) -> list[Words]:
        """Its literals that have letters."""
        return [words for words in dict.fromkeys(leaves(self.wording)) if any(map(str.isalpha, words.text))]

    def asserted(self, words: Words, strings: frozenset[str]) -> bool:
        """Whether a string holds the whole message, in the alternative that has these words."""
        wanted, fits = squeezed(words.text), re.compile(pattern(self.wording, words), re.DOTALL)
        return any(wanted in string and fits.search(string) for string in strings)


def messages(module: Module, name: str = "") -> Iterator[Message]:
    for node in ast.walk(module.tree):
        for kind, text in told(node):
            yield Message(f"{name or module.path}:{getattr(node, 'lineno', 0)}", kind, module.wording(text))


def told(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """What a node tells the user: an error, a warning, or a note of a plan."""
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
        if called(node.exc).endswith("Error"):
            yield called(node.exc), node.exc.args[0]
    elif isinstance(node, ast.ClassDef) and any(ast.unparse(base).endswith("Error") for base in node.bases):
        for call in ast.walk(node):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "super().__init__":
                yield node.name, call.args[0]
    elif isinstance(node, ast.Call) and called(node) == "warn_user":
        yield ast.unparse(node.args[1]), node.args[0]
    elif isinstance(node, ast.Call) and called(node) in ("replace", "Composite"):
        composite = not node.args or ast.unparse(node.args[0]) != "exhibit"  # the caption of a picture has a note, too
        yield from (("note", keyword.value) for keyword in node.keywords if keyword.arg == "note" and composite)


@cache
def packages() -> dict[str, Module]:
    """The modules of the packages by their import name."""
    found: dict[str, Module] = {}
    for package in ("dlbt_core", "dlbt_rules_nlp", "dlbt_rules_vision"):
        source = ROOT / package / "src"
        for path in sorted(source.rglob("*.py")):
            if "_template" not in path.parts:
                name = ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")
                found[name] = Module(path, path.read_text(encoding="utf-8"), found)
    return found


@cache
def in_tests() -> frozenset[str]:
    """The strings of all other tests, squeezed; what is not fixed in them is a hole, which no fixed word fits."""
    found: set[str] = set()
    for path in (ROOT / "tests").rglob("*.py"):
        if path.resolve() not in NOT_ASSERTING:
            found |= strings(Module(path, path.read_text(encoding="utf-8")))
    return frozenset(found)


def strings(module: Module) -> set[str]:
    """Each string and sum of strings of a test, and the lines that something is compared with; no docstrings."""
    found: set[str] = set()
    pending: list[ast.AST] = [module.tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        equal = node.comparators if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Eq) else []
        lines: list[ast.expr] = [part for part in equal if isinstance(part, ast.List | ast.Tuple)]
        for text in [node, *lines] if is_string(node) else lines:
            found.update(written(module.wording(text)))
        if not isinstance(node, ast.BinOp) or not is_string(node):
            pending += ast.iter_child_nodes(node)
    return found


def is_string(node: ast.AST) -> bool:
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, ast.Add) and (is_string(node.left) or is_string(node.right))
    filled_in = isinstance(node, ast.Call) and called(node) == "format"
    return filled_in or isinstance(node, ast.JoinedStr) or isinstance(getattr(node, "value", None), str)


def unasserted(found: list[Message], strings: frozenset[str]) -> list[str]:
    """Messages that no string holds, and words that none of the strings which hold their message has."""
    whole = {message: [w for w in message.words if message.asserted(w, strings)] for message in found}
    seen = {words for asserted in whole.values() for words in asserted}
    lines = []
    for message, asserted in whole.items():
        lacking = [words.text for words in message.words if words not in seen]
        if lacking or (message.words and not asserted):
            lines.append("\n    ".join([f"{message.where} {message.kind}", *map(repr, lacking or ["not as a whole"])]))
    return lines


def test_every_message_is_asserted_in_full() -> None:
    found = [
        message
        for module in packages().values()
        for message in messages(module, str(module.path.relative_to(ROOT)))
    ]  # fmt: skip
    missing = unasserted(found, in_tests())
    assert not missing, f"{len(missing)} of {len(found)} messages are not asserted in full:\n" + "\n".join(missing)


SOURCE = """
_TABLE = "what is there: "

def ask(name, found):
    remedy = "" if found else "\\n  fix  write it down"
    raise InputError(f"no file of that name {name!r}.{remedy}" + _TABLE + listed(found))

def listed(found):
    lines = [f"  the entry {x}" for x in found["entry of"]]
    lines.append("nothing else")
    return "\\n".join(lines)

def check(kind):
    refuse("no more of " + kind, True)

def refuse(what, strictly):
    raise GuardError(f"{what}: it does not fit")

class Wrong(KeyError):
    def __init__(self, name):
        super().__init__(f"there is no key {name}")

class Job:
    def run(self):
        warn_user(self.text(), PluginWarning)

    def text(self):
        return "a plugin is not in use"
"""


def not_asserted_by(*assertions: str) -> list[str]:
    """The kinds of the messages that are not asserted in full if these are what the tests say."""
    found = list(messages(Module(Path("source.py"), SOURCE)))
    tests = frozenset(s for text in assertions for s in strings(Module(Path("test.py"), f"assert x == {text}")))
    return [line.split()[1] for line in unasserted(found, tests)]


ALL = (
    "'no file of that name X.\\n  fix  write it down' + 'what is there:   the entry 1\\n  the entry 2\\nnothing else'",
    "f'no more of {kind}: it does not fit'",
    "['a plugin is', 'not in use']",
    "'there is no key 3'",
)


def test_what_counts_as_asserted() -> None:
    every = {"InputError", "GuardError", "PluginWarning", "Wrong"}
    assert {message.kind for message in messages(Module(Path("source.py"), SOURCE))} == every
    assert not_asserted_by(*ALL) == []
    assert set(not_asserted_by()) == every
    for text in (
        ALL[0].replace("nothing else", ""),  # only its first half
        ALL[0].replace("write it down", ""),  # without its remedy
        "'what is there:   the entry 1\\nnothing else', 'no file of that name X.\\n  fix  write it down'",  # two strings
        "'no file of that name X.\\n  fix  write it down' + rest",  # the rest is a hole
    ):
        assert not_asserted_by(text, *ALL[1:]) == ["InputError"]
    assert not_asserted_by(ALL[0], "'it does not fit', 'no more of X:'", *ALL[2:]) == ["GuardError"]
    assert not_asserted_by(*ALL[:2], "'a plugin is not'", ALL[3]) == ["PluginWarning"]
