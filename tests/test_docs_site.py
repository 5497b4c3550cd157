"""The site: what its pages must hold, what ends its build, and the build itself."""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import dlbt_core as dlbt
import dlbt_core.testing
import dlbt_rules_nlp
import dlbt_rules_vision
from dlbt_core.errors import RuleContractError
from dlbt_core.plugins import hookspecs
from dlbt_core.rules.described import citations, describe
from dlbt_core.rules.rule import Provenance, Rule, RuleSet
from dlbt_core.show.words import MEANINGS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def made() -> ModuleType:
    """The script that makes pages."""
    spec = importlib.util.spec_from_file_location("docs_pages", ROOT / "scripts" / "docs_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["docs_pages"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return made()


@pytest.fixture(scope="module")
def pages(script: ModuleType) -> dict[str, str]:
    found: dict[str, str] = script.pages()
    return found


def text(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


# -- the reference of rules and composites -------------------------------------------------------------------------------


def test_every_rule_is_in_the_reference(script: ModuleType, pages: dict[str, str]) -> None:
    """With formula, parameters, what it absorbs, and every op."""
    entries = script.entries(script.plugins().registry)
    assert sum(len(entry.rules) for entry in entries) == len(script.plugins().registry)
    for entry in entries:
        page = pages[f"reference/rules_{entry.home}.md"]
        start = page.index(f"{{: #{entry.anchor} }}")
        section = page[start : page.find("\n### ", start)]
        assert describe(entry.first).formula in section
        for parameter in entry.first.parameters.values():
            assert f"`{parameter.name}={parameter.default!r}`" in section
        for name in entry.first.absorbs:
            assert f"`{name}`" in section
        for rule in entry.rules:
            assert f"`{rule.op}`" in section
            assert re.search(rf"^\| `{re.escape(str(rule.op))}` \|.*#{entry.anchor}\)", pages["reference/ops.md"], re.M)


def test_anchors_are_told_apart(script: ModuleType) -> None:
    entries = script.entries(script.plugins().registry)
    assert len({(entry.home, entry.anchor) for entry in entries}) == len(entries)


def test_every_composite_is_in_the_reference(script: ModuleType, pages: dict[str, str]) -> None:
    page = pages["reference/composites.md"]
    for name in script.plugins().composites:
        section = page.split(f"## {name}\n")[1].split("\n## ")[0]
        value = script.plugins().composites.get(name)
        for _, use in value.choices if value is not None else ():
            assert ("held constant" if use.holds_constant else f"`{use.variant}`") in section


NO_FORMULA = (
    "mine:mine.op#mine has no formula, at {place}.\n"
    '  fix  start its docstring with one: "R_i = x_i w_ji / (z_j + eps sgn z_j) R_j.  Bach et al. 2015, eq. 58."'
)


def rule_with(doc: str | None, **options: Any) -> Rule:
    add = RuleSet(Provenance("mine"))

    def mine(ctx: Any, m: Any) -> dict[str, Any]:
        return {}

    mine.__doc__ = doc
    add.rule("mine::op", variant="mine", **options)(mine)
    (rule,) = add
    return rule


@pytest.mark.parametrize(
    ("doc", "message"),
    [
        (None, NO_FORMULA),
        ("Hands back.  Bach et al. 2015, eq. 58.", NO_FORMULA),
        (
            "R_i = R.",
            "mine:mine.op#mine does not say where it comes from, at {place}.\n"
            '  fix  name the paper in its docstring, "Bach et al. 2015, eq. 58.", or say that it is "the op\'s gradient", '
            '"exact", or a "Convention" and which.',
        ),
    ],
)
def test_a_rule_without_formula_or_source_ends_the_build(script: ModuleType, doc: str | None, message: str) -> None:
    rule = rule_with(doc)
    with pytest.raises(RuleContractError) as caught:
        script.rule_section(script.Entry((rule,)))
    assert str(caught.value) == message.replace("{place}", f"{__file__}:{inspect.getsourcelines(rule_with)[1] + 3}")


def test_a_paper_that_is_not_listed_ends_the_build(script: ModuleType) -> None:
    with pytest.raises(script.DocumentationError, match=r"does not list 'Nobody et al. 1999'. Add a heading"):
        script.rule_section(script.Entry((rule_with("R_i = R.  Nobody et al. 1999, eq. 1."),)))


def test_an_absorbed_name_without_a_meaning_ends_the_build(script: ModuleType) -> None:
    rule = rule_with("R_i = R.  Bach et al. 2015.", absorbs=("thin_air",))
    with pytest.raises(script.DocumentationError, match=r"absorbs .thin_air., which .*MEANINGS does not explain"):
        script.rule_section(script.Entry((rule,)))


def test_a_composite_without_a_paper_ends_the_build(script: ModuleType) -> None:
    plugins = script.plugins()
    plugins.composites.add(dlbt.Composite("ours"), "something of ours")
    with pytest.raises(script.DocumentationError, match="'ours' has no summary that names its paper"):
        script.composite_section(plugins.composites, "ours")


@pytest.mark.parametrize(
    ("sentence", "found"),
    [
        ("R_i = R.  Bach et al. 2015, eq. 58.", ("Bach et al. 2015",)),
        ("as Zeiler & Fergus (2014) and\nAli et al.\n2022 have it", ("Zeiler & Fergus 2014", "Ali et al. 2022")),
        ("DLBacktrace (Sankarapu et al. 2024), as Sankarapu et al. 2024", ("Sankarapu et al. 2024",)),
        ("the op's gradient", ()),
    ],
)
def test_citations(sentence: str, found: tuple[str, ...]) -> None:
    assert citations(sentence) == found


# -- what the written pages hold -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("hook", [name for name in hookspecs.__all__ if name.startswith("dlbt_")])
def test_every_hook_is_in_the_contract_with_its_arguments(hook: str) -> None:
    arguments = ", ".join(inspect.signature(getattr(hookspecs, hook)).parameters)
    assert f"`{hook}({arguments})`" in text("plugin_contract.md")


def test_every_member_of_the_context_is_in_the_contract() -> None:
    contract = text("plugin_contract.md").split("## RuleContext")[1].split("\n## ")[0]
    documented = set(re.findall(r"^\| `(\w+)", contract, re.M))
    attributes = {"args", "carries", "facts", "form", "node"}  # set when it is made
    assert documented == attributes | {name for name in vars(dlbt.RuleContext) if not name.startswith("_")}


def test_the_contract_has_what_a_rule_and_a_plugin_declare() -> None:
    contract = text("plugin_contract.md")
    for name in list(inspect.signature(RuleSet.rule).parameters)[2:]:
        assert f"`{name}`" in contract
    assert str(inspect.signature(dlbt.PluginInfo)).split(" -> ")[0].replace("'", '"').count("=") == 3
    for name, parameter in inspect.signature(dlbt.PluginInfo).parameters.items():
        assert f"{name}={parameter.default!r}".replace("'", '"') in contract
    for switch in ("DLBT_DISABLE_PLUGINS", "DLBT_PLUGINS", "DLBT_STRICT_PLUGINS"):
        assert f"`{switch}`" in contract
    assert f"now **{'.'.join(map(str, hookspecs.RULE_API))}**" in contract
    assert "`dlbt.plugins`" in contract


PACKAGES = [dlbt, dlbt_core.testing, dlbt_rules_vision, dlbt_rules_nlp]
ELSEWHERE = {"__version__", "ALL_CHECKS", "RuleCheckError"}  # the checks are listed at rulecheck, the errors as a module


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_every_public_name_is_in_the_api_reference(package: ModuleType) -> None:
    documented = set(re.findall(rf"^::: {package.__name__}\.(\w+)$", text("api.md"), re.M))
    assert documented == set(package.__all__) - ELSEWHERE


def test_every_target_is_in_the_api_reference() -> None:
    (listed,) = re.findall(r"::: dlbt_core\.target\n.*?members: \[(.*?)\]", text("api.md"), re.S)
    functions = {name for name in dlbt.target.__all__ if inspect.isfunction(getattr(dlbt.target, name))}
    assert set(listed.split(", ")) == functions - {"as_target", "choose_output"}


def test_every_name_of_the_ledger_is_explained() -> None:
    table = text("how_it_works.md").split("The names, and what they mean:")[1].split("\n\nA plugin may")[0]
    assert {name for row in re.findall(r"^\| (`.*?) \|", table, re.M) for name in re.findall(r"`(\w+)`", row)} == set(
        MEANINGS
    )


WAYS = {
    "explain my model": "get_started.md",
    "my op has no rule": "my_op_has_no_rule.md",
    "swap a rule": "swap_a_rule.md",
    "write a plugin": "write_a_rule.md",
}


@pytest.mark.parametrize("wish", WAYS)
@pytest.mark.parametrize(("page", "folder"), [(ROOT / "README.md", "docs/"), (DOCS / "index.md", "")])
def test_a_newcomer_finds_it_in_one_click(page: Path, folder: str, wish: str) -> None:
    (row,) = [
        line
        for line in page.read_text(encoding="utf-8").splitlines()
        if line.startswith("| ") and wish in line and ".md)" in line
    ]
    assert f"]({folder}{WAYS[wish]})" in row


def test_readme_has_its_parts_and_no_dead_link() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", readme)
    assert all((ROOT / link).exists() for link in links if not link.startswith("https://"))
    assert (DOCS / "pictures" / "digits.png").stat().st_size < 150_000
    assert "docs/pictures/digits.png" in links
    assert "make demo" in readme
    assert "make test" in readme
    for peer in ("Zennit", "LXT", "Captum", "DLBacktrace"):
        assert peer in readme.split("## How it compares")[1].split("\n## ")[0]
    assert len(re.split(r"(?<=\.)\s", readme.split("\n\n")[1])) == 3  # what it is, in three sentences


# -- the build ---------------------------------------------------------------------------------------------------------


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout + done.stderr == ""
    site = tmp_path / "site"
    assert "R_i = sum_j x_i w_ji" in (site / "reference" / "rules_core.html").read_text(encoding="utf-8")
    for page in site.rglob("*.html"):
        fetched = re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=\"https?://", page.read_text(encoding="utf-8"))
        assert fetched == [], page  # complete in itself
