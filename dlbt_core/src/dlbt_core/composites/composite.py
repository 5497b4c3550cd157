"""A composite: an ordered, immutable choice of variants for a whole model."""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dlbt_core.composites.select import Choice, Select, Use
from dlbt_core.errors import DlbtError, UnknownCompositeError, UnknownParameterError
from dlbt_core.graph.facts import Facts
from dlbt_core.graph.ir import Graph

__all__ = ["Composite", "CompositeSet", "as_choices", "as_composite", "choices_in_context", "use_rules"]


@dataclass(frozen=True)
class Composite:
    """An ordered choice of variants; the first match wins, then the op's default rule.

    Parameters
    ----------
    name
        What it is called in plans.
    choices
        Pairs of `Select` and `Use`.
    prefer
        Plugins to prefer where several offer a variant.
    passes
        Graph passes to apply first, e.g. ``("fold_batch_norm",)``.
    note
        Why it was chosen, if it was chosen by rule.
    streams
        Names of coupled messages, if there are several: ``("for", "against")``.
    """

    name: str
    choices: tuple[Choice, ...] = ()
    prefer: tuple[str, ...] = ()
    passes: tuple[str, ...] = ()
    note: str = ""
    streams: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise DlbtError(f"a composite's name is a string, not {self.name!r}.\n  fix  Composite('ours', [...]).")
        for key in ("prefer", "passes", "streams"):
            names = getattr(self, key)
            if isinstance(names, str) or not all(isinstance(name, str) for name in names):
                raise DlbtError(f"composite {self.name!r}: {key} is a list of names, not {names!r}.")
        object.__setattr__(self, "choices", as_choices(self.choices))
        object.__setattr__(self, "prefer", tuple(self.prefer))
        object.__setattr__(self, "passes", tuple(self.passes))
        object.__setattr__(self, "streams", tuple(self.streams))
        if self.streams and len(self.streams) != 2:
            raise DlbtError(f"composite {self.name!r}: streams are two, such as ('for', 'against'), or none.")

    def but(self, *choices: Choice) -> Composite:
        """The same composite with more choices in front."""
        return replace(self, choices=(*choices, *self.choices))

    def __str__(self) -> str:
        lines = [f"{select} -> {use}" for select, use in self.choices]
        head = f"composite {self.name}" + (f", passes {', '.join(self.passes)}" if self.passes else "")
        return "\n  ".join([head + (f" ({self.note})" if self.note else ""), *lines, "else the op's default rule"])

    def to_toml(self) -> str:
        """The composite as TOML; `Composite.from_toml` reads it back.

        Raises
        ------
        DlbtError
            If a parameter is None, which TOML cannot say.
        """
        import tomli_w

        for select, use in self.choices:
            for name, value in use.parameters.items():
                if value is None:
                    raise DlbtError(f"TOML has no None: leave {name!r} out of {use} for {select}, which means its default.")
        table: dict[str, Any] = {"name": self.name}
        for key in ("prefer", "passes", "streams"):
            if getattr(self, key):
                table[key] = list(getattr(self, key))
        table["choice"] = [
            {
                "select": {k: list(v) if isinstance(v, tuple) else v for k, v in select.given().items()},
                "use": use.variant,
                **({"parameters": dict(use.parameters)} if use.parameters else {}),
            }
            for select, use in self.choices
        ]
        return tomli_w.dumps(table)

    @classmethod
    def from_toml(cls, text: str | Path) -> Composite:
        """A composite from TOML text, or from a file if a `Path` is given.

        Raises
        ------
        DlbtError
            If there is no such file, it is not TOML, or has an entry that no composite has.
        """
        source = str(text) if isinstance(text, Path) else "composite"
        try:
            table = tomllib.loads(text.read_text(encoding="utf-8") if isinstance(text, Path) else text)
        except OSError as error:
            raise DlbtError(
                f"no composite can be read from {source!r}: {error.strerror}.\n"
                "  fix  the path of a file that Composite.to_toml() has written."
            ) from error
        except UnicodeDecodeError as error:
            raise DlbtError(f"{source} is not TOML: it is not text in UTF-8.") from error
        except tomllib.TOMLDecodeError as error:
            raise DlbtError(f"{source} is not TOML: {error}") from error
        lists = {"prefer": list, "passes": list, "streams": list}
        _only(table, {"name": str, "choice": list, **lists}, source)
        choices = []
        for number, entry in enumerate(table.get("choice", ()), 1):
            where = f"{source}, choice {number}"
            _only(entry, {"select": dict, "use": str, "parameters": dict}, where)
            _only(entry.get("select", {}), _OF_SELECT, where)
            if "use" not in entry:
                raise DlbtError(f"{where} has no 'use'. Write e.g. use = \"epsilon\".")
            choices.append((Select(**entry.get("select", {})), Use(entry["use"], **entry.get("parameters", {}))))
        if "name" not in table:
            raise DlbtError(f"{source} has no 'name'. Write e.g. name = \"ours\" in its first line.")
        more: dict[str, Any] = {key: tuple(table.get(key, ())) for key in lists}
        return cls(table["name"], tuple(choices), **more)


_OF_SELECT: Mapping[str, Any] = {
    "op": (str, list), "module": (str, list), "module_type": (str, list), "fact": str, "has": str, "first": bool, "last": bool,
}  # fmt: skip
_IN_TOML = {str: "a string", list: "a list", dict: "a table", bool: "true or false"}


def _only(table: Any, known: Mapping[str, Any], where: str) -> None:
    """Refuse what is no table, an entry that is not known, and one of another type than it should be."""
    if not isinstance(table, Mapping):
        raise DlbtError(f"{where} is {table!r}, not a table. Write [[choice]] above each choice.")
    unknown = sorted(set(table) - set(known))
    if unknown:
        raise DlbtError(f"{where} has an entry {unknown[0]!r}. Known entries: {', '.join(sorted(known))}.")
    for name, value in table.items():
        kinds = known[name] if isinstance(known[name], tuple) else (known[name],)
        if not isinstance(value, kinds):
            raise DlbtError(f"{where}: {name!r} is {' or '.join(_IN_TOML[kind] for kind in kinds)}, not {value!r}.")


def as_composite(given: Any) -> Any:
    """What was given as a composite: a path, or a string that ends in ``.toml``, becomes the composite in that file.

    Raises
    ------
    DlbtError
        If the file does not hold one.
    """
    if isinstance(given, Path) or (isinstance(given, str) and given.endswith(".toml")):
        return Composite.from_toml(Path(given))
    if isinstance(given, (str, Composite)):
        return given
    raise DlbtError(
        f"a composite is a name, a Composite or the path of a TOML file, not {given!r}.\n"
        "  fix  composite='epsilon', composite=Composite(...), or composite='mine.toml'; 'dlbt composites' lists the names."
    )


def as_choices(choices: Any) -> tuple[Choice, ...]:
    """Checked pairs of `Select` and `Use`.

    Raises
    ------
    DlbtError
        If an item is something else.
    """
    if not isinstance(choices, Iterable):
        raise DlbtError(f"rules are a list of pairs (Select(...), Use(...)), not {choices!r}.")
    found = tuple(tuple(choice) if isinstance(choice, list) else choice for choice in choices)
    for choice in found:
        pair = choice if isinstance(choice, tuple) and len(choice) == 2 else (None, None)
        if not isinstance(pair[0], Select) or not isinstance(pair[1], Use):
            raise DlbtError(f"a choice is a pair (Select(...), Use(...)), not {choice!r}.")
    return found


@dataclass(frozen=True)
class Recipe:
    """A function from parameters to a composite."""

    function: Callable[..., Composite]

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Parameter to default."""
        return {p.name: p.default for p in inspect.signature(self.function).parameters.values()}

    def build(self, name: str, given: Mapping[str, Any]) -> Composite:
        """The composite for these parameters."""
        unknown = sorted(set(given) - set(self.parameters))
        if unknown:
            raise UnknownParameterError(
                f"the composite {name!r} has no parameter {unknown[0]!r}. It has: {', '.join(self.parameters)}."
            )
        return self.function(**given)


class CompositeSet:
    """Where plugins declare named composites: values, functions of parameters, or functions of a graph and its facts."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[str, str, Any]] = {}

    def add(self, composite: Composite, summary: str = "", plugin: str = "") -> None:
        """Declare a composite under its name."""
        self._enter(composite.name, summary, plugin, composite)

    def factory(self, name: str, summary: str = "", plugin: str = "") -> Callable[[Any], Any]:
        """Decorator: declare a function from (graph, facts) to a composite."""

        def declare(function: Any) -> Any:
            self._enter(name, summary or (function.__doc__ or "").split("\n")[0], plugin, function)
            return function

        return declare

    def recipe(self, name: str, summary: str = "", plugin: str = "") -> Callable[[Any], Any]:
        """Decorator: declare a function from parameters, each with a default, to a composite."""

        def declare(function: Any) -> Any:
            self._enter(name, summary or (function.__doc__ or "").split("\n")[0], plugin, Recipe(function))
            return function

        return declare

    def build(self, name: str, **parameters: Any) -> Composite:
        """The composite of that name, made with these parameters.

        Raises
        ------
        UnknownCompositeError
            If there is none.
        UnknownParameterError
            If it has no such parameter.
        """
        entry = as_composite(name)
        entry = self._entry(name) if isinstance(entry, str) else entry
        if isinstance(entry, Recipe):
            return entry.build(name, parameters)
        if not isinstance(entry, Composite):
            raise UnknownCompositeError(f"{name!r} is chosen by the model's graph; pass the name itself as composite.")
        if parameters:
            raise UnknownParameterError(f"the composite {name!r} has no parameters.")
        return entry

    def parameters(self, name: str) -> Mapping[str, Any]:
        """The parameters of a composite, with their defaults."""
        entry = self._entry(name)
        return entry.parameters if isinstance(entry, Recipe) else {}

    def _enter(self, name: str, summary: str, plugin: str, entry: Any) -> None:
        if name in self._entries:
            raise DlbtError(f"the composite name {name!r} is declared twice.\n  fix  give one of them another name.")
        self._entries[name] = (summary, plugin, entry)

    def update(self, other: CompositeSet) -> None:
        """Take in another set."""
        for name, (summary, plugin, entry) in other._entries.items():
            self._enter(name, summary, plugin, entry)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def summary(self, name: str) -> str:
        """One line about a composite."""
        return self._entries[name][0]

    def get(self, name: str) -> Composite | None:
        """The composite of that name; None if there is none, or if it is chosen by the graph."""
        entry = self._entries[name][2] if name in self._entries else None
        entry = entry.build(name, {}) if isinstance(entry, Recipe) else entry
        return entry if isinstance(entry, Composite) else None

    def resolve(self, name: str | Composite, graph: Graph, facts: Facts) -> Composite:
        """The composite of that name for a graph.

        Raises
        ------
        UnknownCompositeError
            If there is none.
        """
        if isinstance(name, Composite):
            return name
        entry = self._entry(name)
        if isinstance(entry, Recipe):
            return entry.build(name, {})
        return entry if isinstance(entry, Composite) else entry(graph, facts)

    def _entry(self, name: str) -> Any:
        if name not in self._entries:
            import difflib

            near = difflib.get_close_matches(str(name), list(self._entries), 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise UnknownCompositeError(f"no composite {name!r}.{hint} There are: {', '.join(self)}.")
        return self._entries[name][2]


_IN_CONTEXT: ContextVar[tuple[Choice, ...]] = ContextVar("dlbt_rules", default=())


@contextmanager
def use_rules(*choices: Choice, inherit: bool = True) -> Iterator[None]:
    """Put choices in front of every composite inside a ``with`` block, in this thread or async task.

    A generator that yields inside the block leaves it open: until it goes on, the choices hold for its caller, too.

    Parameters
    ----------
    *choices
        Pairs of `Select` and `Use`.
    inherit
        Whether choices of an enclosing block still hold, behind these.

    Raises
    ------
    DlbtError
        If a choice is no pair, or the block ends in another thread or task than it began in.
    """
    outer = _IN_CONTEXT.get() if inherit else ()
    token = _IN_CONTEXT.set((*as_choices(choices), *outer))
    try:
        yield
    finally:
        try:
            _IN_CONTEXT.reset(token)
        except ValueError:
            raise DlbtError(
                "a block of use_rules ended in another thread or async task than it began in, where its choices still hold.\n"
                "  fix  end it where it began: in a generator no yield inside the block."
            ) from None


def choices_in_context() -> Sequence[Choice]:
    """The choices of the enclosing `use_rules` blocks."""
    return _IN_CONTEXT.get()
