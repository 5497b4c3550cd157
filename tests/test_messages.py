"""Every message that a user can meet is in a test: errors, warnings, and the notes of a plan, word by word.

What a message says is read from the packages' code: the strings in the expression that is raised or handed to
`warn_user`, in what its names were assigned in the same function or module, and in what functions of that module return
into it. Of these, a piece between inserted values on one line counts if it has 8 letters or more and is no mere
identifier. It must stand in a string of a test; blanks, quotes and the backslashes of regular expressions do not count.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(
    path
    for package in ("dlbt_core", "dlbt_rules_nlp", "dlbt_rules_vision")
    for path in (ROOT / package / "src").rglob("*.py")
    if "_template" not in path.parts
)
LETTERS = 8

Scope = dict[str, list[ast.AST]]


def squeezed(text: str) -> str:
    return re.sub(r"[\\\s'\"]+", "", text)


def assigned(node: ast.AST) -> Scope:
    """Name to the expressions assigned, added or appended to it."""
    found: Scope = {}
    for part in ast.walk(node):
        if isinstance(part, ast.Assign | ast.AnnAssign | ast.AugAssign) and part.value is not None:
            for target in part.targets if isinstance(part, ast.Assign) else [part.target]:
                if isinstance(target, ast.Name):
                    found.setdefault(target.id, []).append(part.value)
        elif isinstance(part, ast.Call) and called(part) == "append" and isinstance(part.func.value, ast.Name):
            found.setdefault(part.func.value.id, []).extend(part.args)
    return found


def called(node: ast.Call) -> str:
    """The name of what is called, without what it belongs to."""
    return node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")


class Messages:
    """What one file may tell the user."""

    def __init__(self, source: str) -> None:
        self.tree = ast.parse(source)
        self.functions = {node.name: node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef)}
        self.known = assigned(ast.Module([s for s in self.tree.body if isinstance(s, ast.Assign | ast.AnnAssign)], []))

    def __iter__(self) -> Iterator[tuple[int, str, list[str]]]:
        """Line, what it is, and its pieces, of each message."""
        for statement in self.tree.body:
            for part in statement.body if isinstance(statement, ast.ClassDef) else [statement]:
                found = [(node, *message) for node in ast.walk(part) for message in told(node)]
                scope = self.known | assigned(part) if found else {}
                for node, kind, text in found:
                    lines = [line for string in self.strings(text, scope, set()) for line in string.splitlines()]
                    yield getattr(node, "lineno", 0), kind, [line for line in dict.fromkeys(lines) if is_text(line)]

    def strings(self, node: ast.AST, scope: Scope, seen: set[str]) -> Iterator[str]:
        """The strings in an expression; not those by which something is looked up."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.Name) and node.id not in seen:
            for meant in scope.get(node.id, ()):
                yield from self.strings(meant, scope, seen | {node.id})
        elif isinstance(node, ast.Subscript):
            yield from self.strings(node.value, scope, seen)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).startswith("re."):
            pass
        elif isinstance(node, ast.Call) and is_own(node.func) and (name := called(node)) in self.functions:
            if name not in seen:
                here = self.known | assigned(self.functions[name])
                for part in ast.walk(self.functions[name]):
                    if isinstance(part, ast.Return) and part.value is not None:
                        yield from self.strings(part.value, here, seen | {name})
            for argument in node.args:
                yield from self.strings(argument, scope, seen)
        elif not isinstance(node, ast.Dict | ast.Compare):
            for child in ast.iter_child_nodes(node):
                yield from self.strings(child, scope, seen)


def is_own(function: ast.expr) -> bool:
    """Whether what is called may be of the same module: a name, or a method of `self`."""
    return isinstance(function, ast.Name) or ast.unparse(getattr(function, "value", function)) == "self"


def told(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """What a node tells the user: an error, a warning, or a note of a plan."""
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
        if called(node.exc).endswith("Error"):
            yield called(node.exc), node.exc.args[0]
    elif isinstance(node, ast.Call) and called(node) == "warn_user":
        yield ast.unparse(node.args[1]), node.args[0]
    elif isinstance(node, ast.Call) and called(node) in ("replace", "Composite"):
        yield from (("note", keyword.value) for keyword in node.keywords if keyword.arg == "note")


def is_text(piece: str) -> bool:
    return sum(map(str.isalpha, piece)) >= LETTERS and re.fullmatch(r"[\w.]+", piece) is None


@cache
def in_tests() -> str:
    """The strings of all other tests, squeezed; of an f-string all that is written out, in one."""
    found: list[str] = []
    for path in (ROOT / "tests").rglob("*.py"):
        pending: list[ast.AST] = (
            [] if path == Path(__file__).resolve() else [ast.parse(path.read_text(encoding="utf-8"))]
        )
        while pending:
            node = pending.pop()
            if isinstance(node, ast.JoinedStr):
                found.append("".join(str(part.value) for part in node.values if isinstance(part, ast.Constant)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):  # a docstring asserts nothing
                pending += ast.iter_child_nodes(node)
    return "\n".join(map(squeezed, found))


def test_every_message_stands_in_a_test() -> None:
    missing = []
    for path in FILES:
        for line, kind, pieces in Messages(path.read_text(encoding="utf-8")):
            absent = [piece for piece in pieces if squeezed(piece) not in in_tests()]
            if absent:
                missing.append("\n    ".join([f"{path.relative_to(ROOT)}:{line} {kind}", *map(repr, absent)]))
    assert not missing, f"{len(missing)} messages stand in no test:\n" + "\n".join(missing)


SOURCE = """
_TABLE = "what is there: "

def ask(name, found):
    remedy = "" if found else "\\n  fix  write it down"
    raise InputError(f"no file of that name {name!r}.{remedy}" + _TABLE + listed(found))

def listed(found):
    lines = [f"  the entry {x}" for x in found["entry of"]]
    lines.append("nothing else")
    return "\\n".join(lines)

class Job:
    def run(self):
        warn_user(self.text(), PluginWarning)
        raise GuardError("the recording does not fit")

    def text(self):
        return "a plugin is not in use"
"""


def test_what_counts_as_a_message() -> None:
    found = {kind: pieces for _, kind, pieces in Messages(SOURCE)}
    assert found == {
        "InputError": [
            "no file of that name ", "  fix  write it down", "what is there: ", "  the entry ", "nothing else",
        ],
        "GuardError": ["the recording does not fit"],
        "PluginWarning": ["a plugin is not in use"],
    }  # fmt: skip
    assert "nofileofthatname" not in in_tests()
