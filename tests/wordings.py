"""The wording of an expression: its fixed words in their order, with what is inserted between them left open.

A wording is read from code, not from a run. Of a name it takes what is assigned to it, added or appended; of a function
of the same packages what it returns; of a parameter what callers in the same module pass. The rest is a hole.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

HOLE = "\0"
DEPTH = 12
UNCHANGED = ("sorted", "list", "tuple", "fromkeys", "str", "escape", "filter")  # what they are given is what they give


def squeezed(text: str) -> str:
    """Without blanks, quotes and the backslashes of regular expressions."""
    return re.sub(r"[\\\s'\"]+", "", text)


@dataclass(frozen=True)
class Words:
    """A literal and where it stands, which tells it from the same words elsewhere."""

    text: str
    place: tuple[Path, int, int]


@dataclass(frozen=True)
class Hole:
    pass


@dataclass(frozen=True)
class Row:
    """Parts one after the other."""

    parts: tuple[Wording, ...]


@dataclass(frozen=True)
class Either:
    parts: tuple[Wording, ...]


@dataclass(frozen=True)
class Repeated:
    """Never, once or more often, whatever stands between."""

    part: Wording


Wording = Words | Hole | Row | Either | Repeated


def leaves(wording: Wording) -> Iterator[Words]:
    if isinstance(wording, Words):
        yield wording
    elif isinstance(wording, Row | Either):
        for part in wording.parts:
            yield from leaves(part)
    elif isinstance(wording, Repeated):
        yield from leaves(wording.part)


def pattern(wording: Wording, needed: Words | None = None) -> str:
    """The regular expression that squeezed text of this wording fits; if `needed` is one of its words, text with it."""
    if isinstance(wording, Words):
        return re.escape(squeezed(wording.text))
    if isinstance(wording, Row):
        return re.sub(r"(?:\.\*\?)+", ".*?", "".join(pattern(part, needed) for part in wording.parts))
    if isinstance(wording, Either):
        chosen = [part for part in wording.parts if needed in set(leaves(part))] or wording.parts
        return f"(?:{'|'.join(dict.fromkeys(pattern(part, needed) for part in chosen))})"
    if isinstance(wording, Repeated) and needed in set(leaves(wording.part)):
        return f".*?{pattern(wording.part, needed)}.*?"
    return ".*?"


def written(wording: Wording) -> Iterator[str]:
    """The squeezed texts of a wording in a test: of alternatives first the first of each, then the second, ..."""
    count = max([1, *widths(wording)])
    for index in range(min(count, 40)):
        yield squeezed(_written(wording, index))


def widths(wording: Wording) -> Iterator[int]:
    if isinstance(wording, Either):
        yield len(wording.parts)
    if isinstance(wording, Row | Either):
        for part in wording.parts:
            yield from widths(part)


def _written(wording: Wording, index: int) -> str:
    if isinstance(wording, Words):
        return wording.text
    if isinstance(wording, Row):
        return "".join(_written(part, index) for part in wording.parts)
    if isinstance(wording, Either):
        return _written(wording.parts[min(index, len(wording.parts) - 1)], index)
    return HOLE


def row(parts: Iterable[Wording]) -> Wording:
    flat = tuple(parts)
    return flat[0] if len(flat) == 1 else Row(flat)


def either(parts: Iterable[Wording]) -> Wording:
    flat = tuple(dict.fromkeys(parts))
    return Hole() if not flat else flat[0] if len(flat) == 1 else Either(flat)


@dataclass
class Scope:
    """What the names of a function, or of a module, were assigned."""

    assigned: dict[str, list[ast.expr]] = field(default_factory=dict)
    added: dict[str, list[ast.expr]] = field(default_factory=dict)
    bound: dict[str, Wording] = field(default_factory=dict)

    @classmethod
    def of(cls, nodes: Iterable[ast.AST]) -> Scope:
        found = cls()
        for node in nodes:
            for part in ast.walk(node):
                found.note(part)
        return found

    def note(self, part: ast.AST) -> None:
        if isinstance(part, ast.Assign | ast.AnnAssign | ast.NamedExpr) and part.value is not None:
            for target in part.targets if isinstance(part, ast.Assign) else [part.target]:
                self.pair(target, part.value)
        elif isinstance(part, ast.AugAssign) and isinstance(part.target, ast.Name):
            self.added.setdefault(part.target.id, []).append(part.value)
        elif isinstance(part, ast.For):
            rows = part.iter.elts if isinstance(part.iter, ast.Tuple | ast.List) else [part.iter]
            for item in rows if isinstance(part.target, ast.Tuple) else ():  # else mere names of what is gone through
                self.pair(part.target, item)
        elif isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute):
            grows = part.func.attr in ("append", "extend") and isinstance(part.func.value, ast.Name)
            if grows:
                self.added.setdefault(ast.unparse(part.func.value), []).extend(part.args)

    def pair(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Name):
            self.assigned.setdefault(target.id, []).append(value)
        elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
            for one, meant in zip(target.elts, value.elts, strict=True):
                self.pair(one, meant)
        else:
            for one in getattr(target, "elts", ()):
                self.pair(one, ast.Constant(None))  # what is not known


def called(node: ast.Call) -> str:
    """The name of what is called, without what it belongs to."""
    return node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")


class Module:
    """A file of code, whose expressions have wordings."""

    def __init__(self, path: Path, source: str, modules: dict[str, Module] | None = None) -> None:
        self.path, self.tree, self.modules = path, ast.parse(source), modules or {}
        nodes = list(ast.walk(self.tree))
        self.functions = {node.name: node for node in nodes if isinstance(node, ast.FunctionDef)}
        self.calls = [node for node in nodes if isinstance(node, ast.Call)]
        self.scope = Scope.of(s for s in self.tree.body if isinstance(s, ast.Assign | ast.AnnAssign))
        self.imports = {
            name.asname or name.name: (node.module, name.name)
            for node in nodes
            if isinstance(node, ast.ImportFrom) and node.module
            for name in node.names
        }
        self.pending: set[int] = set()

    @cached_property
    def owner(self) -> dict[int, ast.FunctionDef]:
        """The innermost function around a node."""
        found: dict[int, ast.FunctionDef] = {}
        for function in sorted(self.functions.values(), key=lambda f: f.lineno):
            found |= {id(node): function for node in ast.walk(function) if node is not function}
        return found

    def wording(self, node: ast.expr) -> Wording:
        return self.read(node, self.scope_at(node), DEPTH)

    def scope_at(self, node: ast.AST) -> Scope:
        function = self.owner.get(id(node))
        return Scope() if function is None else Scope.of(function.body)

    def read(self, node: ast.expr, scope: Scope, depth: int) -> Wording:
        """The wording of an expression in a scope; a hole where nothing is fixed."""
        if depth == 0:
            return Hole()
        depth -= 1

        def inner(part: ast.expr) -> Wording:
            return self.read(part, scope, depth)

        match node:
            case ast.Constant(value=str(text)):
                return Words(text, (self.path, node.lineno, node.col_offset))
            case ast.JoinedStr(values=parts):
                return row(map(inner, parts))
            case ast.FormattedValue(value=value) | ast.NamedExpr(value=value) | ast.Starred(value=value):
                return inner(value)
            case ast.List(elts=parts) | ast.Tuple(elts=parts):
                return row(map(inner, parts))
            case ast.BinOp(op=ast.Add(), left=left, right=right):
                return row([inner(left), inner(right)])
            case ast.IfExp(body=left, orelse=right):
                return either([inner(left), inner(right)])
            case ast.BoolOp(values=parts):
                return either(map(inner, parts))
            case ast.ListComp(elt=part) | ast.GeneratorExp(elt=part) | ast.SetComp(elt=part):
                return Repeated(inner(part))
            case ast.Subscript(value=value) if isinstance(looked_up := self.table(value, scope), ast.Dict):
                return either(map(inner, looked_up.values))
            case ast.Attribute(attr=name) if is_property(self.functions.get(name)):
                return either([Hole(), self.returned(self.functions[name], {}, scope, depth)])  # perhaps another's
            case ast.Name(id=name):
                return self.named(name, node, scope, depth)
            case ast.Call():
                return self.result(node, scope, depth)
        return Hole()

    def table(self, node: ast.expr, scope: Scope) -> ast.expr:
        """What is looked up in."""
        if isinstance(node, ast.Name):
            meant = scope.assigned.get(node.id) or self.scope.assigned.get(node.id) or [node]
            return meant[0]
        return node

    def named(self, name: str, node: ast.AST, scope: Scope, depth: int) -> Wording:
        if name in scope.bound:
            return scope.bound[name]
        known = scope if name in scope.assigned or name in scope.added else self.scope
        if name in known.assigned or name in known.added:
            first = [part for part in known.assigned.get(name, ()) if id(part) not in self.pending]
            more = [part for part in known.added.get(name, ()) if id(part) not in self.pending]
            self.pending |= set(map(id, first + more))
            try:
                begin = either(self.read(part, scope, depth) for part in first)
                end = [Repeated(self.read(part, scope, depth)) for part in more]
            finally:
                self.pending -= set(map(id, first + more))
            return row([begin, *end])
        function = self.owner.get(id(node))
        if function is not None and name in (names := parameters(function)):
            return self.passed(function, names.index(name), name, depth)
        module, original = self.imported(name)
        return module.named(original, node, module.scope, depth) if original in module.scope.assigned else Hole()

    def passed(self, function: ast.FunctionDef, index: int, name: str, depth: int) -> Wording:
        """What callers in this module pass for a parameter."""
        found = []
        for call in self.calls:
            if is_own(call.func) and called(call) == function.name and id(call) not in self.pending:
                given = [k.value for k in call.keywords if k.arg == name] or call.args[index : index + 1]
                self.pending.add(id(call))
                found += [self.read(part, self.scope_at(call), depth) for part in given]
                self.pending.discard(id(call))
        return either(found)

    def result(self, node: ast.Call, scope: Scope, depth: int) -> Wording:
        """The wording of what a call returns."""
        function, name = node.func, called(node)
        if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Constant):
            if name == "join" and isinstance(function.value.value, str):
                return self.joined(function.value, node.args[0], scope, depth)
            return Hole()
        given = {k.arg: self.read(k.value, scope, depth) for k in node.keywords if k.arg}
        if isinstance(function, ast.Attribute) and name == "format":
            return filled(self.read(function.value, scope, depth), given)
        if name in UNCHANGED and node.args:
            return self.read(node.args[-1], scope, depth)
        module, original = (self, name) if is_own(function) and name in self.functions else self.imported(name)
        if original not in module.functions:
            return Hole()
        names = parameters(module.functions[original])
        given |= {key: self.read(part, scope, depth) for key, part in zip(names, node.args, strict=False)}
        return module.returned(module.functions[original], given, scope, depth)

    def imported(self, name: str) -> tuple[Module, str]:
        """The module that a name was imported from, and what it is called there."""
        module, original = self.imports.get(name, ("", ""))
        return (self.modules[module], original) if module in self.modules else (self, "")

    def joined(self, separator: ast.Constant, items: ast.expr, scope: Scope, depth: int) -> Wording:
        between = self.read(separator, scope, depth)
        if isinstance(items, ast.List | ast.Tuple) and squeezed(str(separator.value)):
            parts = [part for item in items.elts for part in (between, self.read(item, scope, depth))]
            return row(parts[1:])
        return self.read(items, scope, depth)

    def returned(self, function: ast.FunctionDef, given: dict[str, Wording], scope: Scope, depth: int) -> Wording:
        if id(function) in self.pending:
            return Hole()
        here = Scope.of(function.body)
        here.bound = {name: given.get(name, Hole()) for name in parameters(function)}
        self.pending.add(id(function))
        try:
            return either(
                self.read(part.value, here, depth)
                for part in ast.walk(function)
                if isinstance(part, ast.Return | ast.Yield) and part.value is not None
            )
        finally:
            self.pending.discard(id(function))


def filled(wording: Wording, given: dict[str, Wording]) -> Wording:
    """A text with its ``{name}`` filled in, as `str.format` does it."""
    if isinstance(wording, Row):
        return row(filled(part, given) for part in wording.parts)
    if not isinstance(wording, Words):
        return wording
    parts = re.split(r"\{(\w*)\}", wording.text)
    return row(given.get(part, Hole()) if i % 2 else Words(part, wording.place) for i, part in enumerate(parts))


def is_property(function: ast.FunctionDef | None) -> bool:
    """Whether it is one with a name of its own."""
    if function is None or function.name.startswith("__"):
        return False
    return any(ast.unparse(one) == "property" for one in function.decorator_list)


def is_own(function: ast.expr) -> bool:
    """Whether what is called may be of the same module: a name, or a method of `self`."""
    return isinstance(function, ast.Name) or ast.unparse(getattr(function, "value", function)) == "self"


def parameters(function: ast.FunctionDef) -> list[str]:
    spec = function.args
    names = [argument.arg for argument in [*spec.posonlyargs, *spec.args, *spec.kwonlyargs]]
    return names[1:] if names[:1] in (["self"], ["cls"]) else names
