"""`rulecheck` tries one rule on samples; `check_plugin` all rules that a plugin brings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dlbt_core.errors import DlbtError, RuleCheckError, UnknownVariantError
from dlbt_core.notices import told
from dlbt_core.plugins.loader import Plugins, default_plugins
from dlbt_core.rules.rule import Rule
from dlbt_core.testing.checks import CHECKS
from dlbt_core.testing.samples import Sample
from dlbt_core.testing.twins import of_rule

__all__ = ["ALL_CHECKS", "SUCCESS", "check_plugin", "rulecheck"]

ALL_CHECKS = tuple(CHECKS)
"""Names of all checks, in the order in which they are made."""

SUCCESS = "SUCCESS"

Samples = Mapping[str, Sequence[Sample]]


def rulecheck(
    rule: Rule | str,
    samples: Sequence[Sample],
    *,
    checks: Iterable[str] = ALL_CHECKS,
    plugins: Plugins | None = None,
    raise_exception: bool = True,
) -> dict[str, str]:
    """Try a rule on samples, in the way of `torch.library.opcheck`.

    ============= ====================================================================================================
    absorbs       score = inputs + what the rule absorbs under the names it declares, at the node and in all; also with
                  relevance at one result alone, through one input alone, and in each form that it takes
    reference     relevance is that of the sample's `reference`
    reads         it asks for no value that it did not declare, with other ops before it, and declares none that is not there
    linear        linear in the message, also in very large and small ones, unless declared ``linear=False``
    pure          nothing given is written to; twice the same call gives the same bits; nothing is kept from other inputs
                  or weights
    finite        no NaN and no infinity, also where all inputs are 0 and where nothing arrives
    rows          a batched sample's rows are what they are alone
    vmap          several targets at once give what each gives alone
    dtype         float32, bfloat16, float16 where the op has them: the same dtype comes out, near float64's values, and
                  finite where all inputs are 0
    device        on a GPU what it is on the CPU; without one: no tensor of its own is on the CPU if those given are not
    tracing       ``make_fx`` can trace it, and the trace holds for other messages
    defaults      it runs with its default parameters
    ============= ====================================================================================================

    Parameters
    ----------
    rule
        A rule, or its name: ``"aten.linear#gamma"``, ``"acme:acme.rotate#epsilon"``.
    samples
        At least one.
    checks
        Which; all of them unless said.
    plugins
        Where the rule is; the installed plugins unless given. The checks may add test rules to them.
    raise_exception
        Whether to raise at the end if something failed.

    Returns
    -------
    dict
        Check to ``"SUCCESS"``, to ``"not tried: reason"`` where it applies to no sample, or to what failed.

    Raises
    ------
    RuleCheckError
        If a check fails, with all that failed; or if there are no samples.
    UnknownVariantError
        If there is no such rule.
    ValueError
        If there is no such check.
    """
    wanted = tuple(checks)
    unknown = sorted(set(wanted) - set(ALL_CHECKS))
    if unknown:
        raise ValueError(f"no check {unknown[0]!r}. There are: {', '.join(ALL_CHECKS)}.")
    found = _rule_named(rule, plugins) if isinstance(rule, str) else rule
    if not samples:
        raise RuleCheckError(f"{found.id} has no samples.\n  fix  give at least one Sample whose fn calls {found.op}.")
    report = {name: _tried(name, found, samples, plugins) for name in wanted}
    if raise_exception:
        _raise_failures({found.id: report})
    return report


def check_plugin(
    module: Any,
    samples: Samples,
    *,
    checks: Iterable[str] = ALL_CHECKS,
    name: str = "",
    raise_exception: bool = True,
) -> dict[str, dict[str, str]]:
    """Try every rule that a plugin registers; a rule without a sample fails.

    Parameters
    ----------
    module
        The plugin: the module or object with its hooks.
    samples
        Samples by op, ``"acme.rotate"``, for all its rules, and by rule, ``"acme.rotate#epsilon"``, where they have
        parameters or a reference. A rule gets those of its own if there are any, else those of its op.
    checks, raise_exception
        See `rulecheck`.
    name
        The plugin's name; that of the installed plugin with this module unless given, else the module's.

    Returns
    -------
    dict
        Rule to what `rulecheck` gives for it.

    Raises
    ------
    RuleCheckError
        If a rule fails or has no sample, if a sample is for no rule, or if the plugin registers nothing.
    PluginError
        If the plugin cannot be loaded.
    """
    plugins, name = _plugins_with(module, name)
    rules = [rule for rule in plugins.registry if rule.source.plugin == name]
    used: set[str] = set()
    report: dict[str, dict[str, str]] = {}
    for rule in rules:
        keys = (f"{rule.op}#{rule.variant}", str(rule.op))
        key = next((key for key in keys if key in samples), None)
        if key is None:
            report[rule.id] = {"samples": f"none. fix  add samples[{keys[1]!r}] or samples[{keys[0]!r}]"}
            continue
        used.add(key)
        report[rule.id] = rulecheck(rule, samples[key], checks=checks, plugins=plugins, raise_exception=False)
    for key in sorted(set(samples) - used):
        if key not in {str(rule.op) for rule in rules}:
            report[key] = {"samples": "of no rule: the plugin registers none of that name"}
    if not rules and not _brings_anything(plugins, name):
        report[name] = {"rules": "the plugin registers nothing"}
    if raise_exception:
        _raise_failures(report)
    return report


def _brings_anything(plugins: Plugins, name: str) -> bool:
    """Whether a plugin without rules brings anything else."""
    others = Plugins(block=[name])
    return any(
        len(list(getattr(plugins, kind))) > len(list(getattr(others, kind)))
        for kind in ("composites", "lowerings", "analysers", "passes")
    )


def _plugins_with(module: Any, name: str) -> tuple[Plugins, str]:
    """All installed plugins, the given one among them, and its name."""
    plugins = Plugins(strict=True)
    target = getattr(module, "__name__", "")
    installed = next((p for p in plugins.loaded if p.target == target or (name and p.name == name)), None)
    if installed is not None:
        return plugins, installed.name
    name = name or (target.split(".")[0] or type(module).__name__.lower())
    plugins.add(module, name)
    return plugins, name


def _rule_named(name: str, plugins: Plugins | None) -> Rule:
    op, mark, variant = name.rpartition("#")
    plugin, _, key = op.rpartition(":") if "::" not in op else ("", "", op)
    if not mark:
        raise UnknownVariantError(f"{name!r} names no rule. Write op#variant, e.g. 'aten.linear#epsilon'.")
    registry = (plugins or default_plugins()).registry
    return registry.find(key, f"{plugin}:{variant}" if plugin else variant)


def _tried(check: str, rule: Rule, samples: Sequence[Sample], plugins: Plugins | None) -> str:
    """The outcome of one check on all samples."""
    applied, reason = False, ""
    for sample in samples:
        tried = sample.check(str(rule.op), f"{rule.source.plugin}:{rule.variant}", streams=rule.coupled)
        try:
            why_not = CHECKS[check](replace(tried, plugins=plugins))
        except DlbtError as error:
            return of_rule(str(error), rule)
        except Exception as error:
            return f"it raises {told(error)}\n  where  {rule.location}"
        applied, reason = applied or why_not is None, why_not or reason
    return SUCCESS if applied else f"not tried: {reason}"


def _raise_failures(report: Mapping[str, Mapping[str, str]]) -> None:
    failed: dict[tuple[str, str], list[str]] = {}  # checks that say the same of a rule are said together
    for rule, outcomes in report.items():
        for check, outcome in outcomes.items():
            if outcome != SUCCESS and not outcome.startswith("not tried"):
                failed.setdefault((rule, outcome), []).append(check)
    if failed:
        lines = [f"- {rule}: {', '.join(checks)}: {outcome}" for (rule, outcome), checks in failed.items()]
        raise RuleCheckError(f"{sum(map(len, failed.values()))} of the checks failed:\n" + "\n".join(lines))
