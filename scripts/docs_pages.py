"""The pages of the site that are made from the code: rules, composites, examples. mkdocs runs `on_files` (mkdocs.yml).

A rule without formula or source, a paper that docs/literature.md does not list, or an absorbed name without a meaning ends
the build, and the test of this file.
"""

from __future__ import annotations

import ast
import html
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PLUGINS = {"core": "dlbt_core", "vision": "dlbt_rules_vision", "nlp": "dlbt_rules_nlp"}
HEADS = {
    "core": ("Rules of the core", "Copies, elementwise functions, arithmetic, reductions, and the linear family."),
    "vision": ("Rules for vision", "Pooling, norms over channels, resampling, detection."),
    "nlp": ("Rules for language", "Attention, embedding, norms over features, recurrent layers, gated units."),
}
FORMS = {"multiplier": "m", "relevance": "R", "either": "R or m"}


class DocumentationError(Exception):
    """Something that a page has to say is said nowhere."""


def pages() -> dict[str, str]:
    """All made pages: path below docs/ to Markdown."""
    made = {f"reference/rules_{plugin}.md": rules_page(plugin) for plugin in PLUGINS}
    made["reference/ops.md"] = ops_page()
    made["reference/composites.md"] = composites_page()
    for notebook in sorted((ROOT / "examples").glob("*.ipynb")):
        made[f"examples/{notebook.stem}.md"] = notebook_page(notebook)
    return made


# -- rules -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """One rule as it is written: one function under one variant name, for all its ops of all plugins."""

    rules: tuple[Any, ...]

    @property
    def first(self) -> Any:
        return self.rules[0]

    @cached_property
    def file(self) -> Path:
        return Path(self.first.location.rpartition(":")[0])

    @property
    def line(self) -> int:
        return int(self.first.location.rpartition(":")[2])

    @property
    def home(self) -> str:
        """The plugin in whose package it is written; its ops may be of others."""
        return next(plugin for plugin, package in PLUGINS.items() if package in self.file.parts)

    @property
    def anchor(self) -> str:
        variant, function = self.first.variant, self.first.function.__name__
        parts = [self.file.stem, *([] if variant in function else [variant]), function]
        return "-".join(parts).replace("_", "-").lower()

    @property
    def path(self) -> str:
        return f"{self.file.relative_to(ROOT).as_posix()}:{self.line}"


def plugins() -> Any:
    """The bundled plugins, whatever else is installed."""
    import dlbt_core as dlbt

    return dlbt.Plugins(only=("vision", "nlp"), strict=True)


def entries(registry: Iterable[Any]) -> list[Entry]:
    """The rules of a registry, one entry per function and variant, in the order in which they are written."""
    grouped: dict[tuple[str, str], list[Any]] = {}
    for rule in registry:
        grouped.setdefault((rule.location, rule.variant), []).append(rule)
    found = [Entry(tuple(sorted(rules, key=lambda r: str(r.op)))) for rules in grouped.values()]
    return sorted(found, key=lambda e: (e.file.as_posix(), e.line, e.first.variant))


def rules_page(plugin: str) -> str:
    """The reference of the rules that are written in one package."""
    title, about = HEADS[plugin]
    lines = [
        f"# {title}\n",
        f"{about} Made from the registry; every op and its variants: [Ops](ops.md). `R` is relevance, `m` its multiplier, "
        "`R = x m` ([the two forms](../how_it_works.md#two-forms-of-one-message)); `z_j` is what the op computes from the "
        "`x_i`; `sgn 0 = +1`. Ops in bold have this variant as their default.\n",
    ]
    found = [entry for entry in entries(plugins().registry) if entry.home == plugin]
    count = Counter((entry.file, entry.first.variant) for entry in found)
    for file, of_file in groupby(found, key=lambda entry: entry.file):
        lines.append(f"## {file.stem.replace('_', ' ').capitalize()}\n\n{module_summary(file)}\n")
        for entry in of_file:
            variant, function = entry.first.variant, entry.first.function.__name__.replace("_", " ")
            several = count[file, variant] > 1 and function != variant
            lines.append(rule_section(entry, f"{variant} ({function})" if several else variant))
    return "\n".join(lines)


def module_summary(file: Path) -> str:
    """The first line of a module's docstring."""
    return html.escape((ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").split("\n")[0])


def rule_section(entry: Entry, title: str = "") -> str:
    """One rule: formula, source, parameters, forms, what it absorbs, ops. Its title is its variant unless given.

    Raises
    ------
    RuleContractError, DocumentationError
        If its docstring does not say all of that.
    """
    from dlbt_core.rules.described import describe
    from dlbt_core.show.words import MEANINGS

    rule, said = entry.first, describe(entry.first)
    for name in rule.absorbs:
        if name not in MEANINGS:
            raise DocumentationError(
                f"{rule.id} absorbs {name!r}, which dlbt_core.show.words.MEANINGS does not explain."
            )
    source = "; ".join(map(paper, said.citations)) or said.source
    lines = [f"### {title or rule.variant} {{: #{entry.anchor} }}\n", f"```text\n{said.formula}\n```\n"]
    if said.text:
        lines.append(prose(said.text) + "\n")
    lines += [
        "| | |\n|---|---|",
        f"| source | {source} |",
        f"| parameters | {parameters(rule.parameters.values())} |",
        f"| takes → gives | {FORMS[rule.takes]} → {FORMS[rule.gives]}{extras(rule)} |",
        f"| absorbs | {', '.join(f'`{name}`' for name in rule.absorbs) or 'nothing'} |",
        f"| written in | `{entry.path}` |\n",
    ]
    for plugin in PLUGINS:
        ops = [f"**`{r.op}`**" if r.default else f"`{r.op}`" for r in entry.rules if r.source.plugin == plugin]
        if ops:
            lines.append(f"Ops of `{plugin}`: {', '.join(ops)}\n")
    return "\n".join(lines)


def paper(citation: str) -> str:
    """A link to the paper in the list of literature.

    Raises
    ------
    DocumentationError
        If it is not listed.
    """
    if citation not in literature():
        raise DocumentationError(f"docs/literature.md does not list {citation!r}. Add a heading '### {citation}'.")
    return f"[{citation}](../literature.md#{slug(citation)})"


def literature() -> frozenset[str]:
    """The headings of docs/literature.md."""
    text = (ROOT / "docs" / "literature.md").read_text(encoding="utf-8")
    return frozenset(line[4:].strip() for line in text.splitlines() if line.startswith("### "))


def slug(heading: str) -> str:
    """The anchor that Markdown gives a heading."""
    from markdown.extensions.toc import slugify

    return str(slugify(heading, "-"))


def parameters(found: Iterable[Any]) -> str:
    """Parameters with type and default."""
    return ", ".join(f"`{p.name}={p.default!r}`{kind(p.annotation)}" for p in found) or "none"


def kind(annotation: Any) -> str:
    """What else than its default a parameter may be, where it is one of a few words."""
    import typing

    choices = [a for a in typing.get_args(annotation) if isinstance(a, str)]
    return f" (of {', '.join(f'`{c}`' for c in choices)})" if choices else ""


def extras(rule: Any) -> str:
    """What is unusual about it."""
    said = ["both streams at once"] * rule.coupled + ["not linear in the message"] * (not rule.linear)
    return f" ({', '.join(said)})" if said else ""


def prose(text: str) -> str:
    """The lines of a docstring as Markdown that shows them as they are."""
    return html.escape(text, quote=False).replace("*", "\\*").replace("_", "\\_")


def ops_page() -> str:
    """Every op that has a rule, with its variants and where they are explained."""
    lines = [
        "# Ops and their variants\n",
        "Every op that has a rule, and its variants; the default is bold. From the shell: `dlbt rules --op 'aten.conv*'`. "
        "Batch norm and its like are folded first under most composites. An op that is not here: "
        "[My op has no rule](../my_op_has_no_rule.md).\n",
        "| op | variants | plugin |\n|---|---|---|",
    ]
    links = {(str(r.op), r.variant): entry for entry in entries(plugins().registry) for r in entry.rules}
    rows: dict[tuple[str, str], list[str]] = {}
    for rule in plugins().registry:
        entry = links[str(rule.op), rule.variant]
        link = f"[{rule.variant}](rules_{entry.home}.md#{entry.anchor})"
        rows.setdefault((str(rule.op), rule.source.plugin), []).append(f"**{link}**" if rule.default else link)
    lines += [f"| `{op}` | {', '.join(variants)} | {plugin} |" for (op, plugin), variants in rows.items()]
    return "\n".join(lines) + "\n"


# -- composites ----------------------------------------------------------------------------------------------------------


def composites_page() -> str:
    """The reference of the composites: what each choice is."""
    found = plugins().composites
    lines = [
        "# Composites\n",
        "What each named composite chooses; the first choice that fits a node wins, then the op's default rule. "
        'Parameters: `dlbt.composite("epsilon_plus", epsilon=1e-4)`; from the shell: `dlbt composites epsilon_plus`. What they '
        "are for: [Rules and composites](../composites.md).\n",
    ]
    lines += [composite_section(found, name) for name in found]
    return "\n".join(lines)


def composite_section(found: Any, name: str) -> str:
    """One composite.

    Raises
    ------
    DocumentationError
        If nothing says what it is, or where it comes from.
    """
    from dlbt_core.rules.described import citations

    summary, value = found.summary(name), found.get(name)
    papers = citations(summary)
    if not summary or not (papers or value is None):
        raise DocumentationError(f"the composite {name!r} has no summary that names its paper.")
    lines = [f"## {name}\n", f"{summary[0].upper()}{summary[1:]}.\n"]
    if papers:
        lines.append(f"Source: {'; '.join(map(paper, papers))}\n")
    if value is None:
        lines.append("`dlbt.explain(...).plan.composite_name` says what it became, and why.\n")
        return "\n".join(lines)
    given = found.parameters(name)
    lines.append(f"Parameters: {', '.join(f'`{k}={v!r}`' for k, v in given.items()) or 'none'}\n")
    if value.passes:
        lines.append(f"Graph passes first: {', '.join(f'`{p}`' for p in value.passes)}\n")
    if value.streams:
        lines.append(f"Streams: {', '.join(f'`{s}`' for s in value.streams)}\n")
    lines.append("| | for nodes with | use |\n|---|---|---|")
    for number, (select, use) in enumerate(value.choices, 1):
        lines.append(f"| {number} | {selected(select.given())} | {used(use)} |")
    lines.append(f"| {len(value.choices) + 1} | all others | the op's default rule |\n")
    return "\n".join(lines)


def selected(given: Mapping[str, Any]) -> str:
    """A selection in words."""
    words = {"op": "op", "module": "module", "module_type": "module type", "fact": "fact", "has": "variant"}
    parts = [f"{words[k]} {listed(v)}" for k, v in given.items() if k in words]
    parts += [f"the {k} such node" for k in ("first", "last") if given.get(k)]
    return "; ".join(parts) or "anything"


def listed(value: str | Sequence[str]) -> str:
    """One name, or several."""
    return ", ".join(f"`{v}`" for v in ([value] if isinstance(value, str) else value))


def used(use: Any) -> str:
    """A variant with its parameters."""
    if use.holds_constant:
        return "held constant"
    return f"`{use.variant}`" + "".join(f", `{k}={v!r}`" for k, v in use.parameters.items())


# -- examples ------------------------------------------------------------------------------------------------------------


def cells(notebook: Path) -> Iterator[tuple[str, str]]:
    """Kind ("markdown" or "code") and text of each cell."""
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        yield cell["cell_type"], "".join(cell["source"])


def notebook_page(notebook: Path) -> str:
    """A notebook as a page."""
    parts = [text if kind == "markdown" else f"```python\n{text}\n```" for kind, text in cells(notebook)]
    parts.append(f"The notebook: `{notebook.relative_to(ROOT).as_posix()}`. The tests run it.")
    return "\n\n".join(parts) + "\n"


# -- mkdocs --------------------------------------------------------------------------------------------------------------


def on_files(files: Any, config: Any) -> Any:
    """Add the made pages to the site."""
    from mkdocs.structure.files import File

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Show the brackets of messages in the zoo's tables as they are; elsewhere they may be references."""
    zoo = page.file.src_uri.startswith("zoo_")
    return re.sub(r"\[(?=[^\]\n]*\](?!\())", r"\\[", markdown) if zoo else markdown
