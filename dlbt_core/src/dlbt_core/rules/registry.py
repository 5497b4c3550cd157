"""The registry: all rules taken in, and which one a name stands for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from dlbt_core.errors import AmbiguousRuleError, UnknownVariantError
from dlbt_core.graph.ops import packet
from dlbt_core.rules.opkey import OpKey
from dlbt_core.rules.rule import Rule

__all__ = ["Registry"]


class Registry:
    """Rules by op and variant. The order in which plugins were taken in never decides between them."""

    def __init__(self) -> None:
        self._rules: dict[str, dict[str, dict[str, Rule]]] = {}
        self._owners: dict[str, set[str]] = {}

    def add(self, rules: Iterable[Rule], plugin: str, owns: Sequence[str] = ()) -> None:
        """Take in the rules of one plugin, which owns the namespaces `owns`."""
        for namespace in owns:
            self._owners.setdefault(namespace, set()).add(plugin)
        for rule in rules:
            self._rules.setdefault(str(rule.op), {}).setdefault(rule.variant, {})[plugin] = rule

    def __iter__(self) -> Iterator[Rule]:
        for op in sorted(self._rules):
            for variant in sorted(self._rules[op]):
                yield from (rule for _, rule in sorted(self._rules[op][variant].items()))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def knows(self, op: str) -> bool:
        """Whether any rule fits the op of that full name."""
        return op in self._rules or packet(op) in self._rules

    def variants(self, op: str) -> Mapping[str, Mapping[str, Rule]]:
        """The rules that fit an op: variant to plugin to rule. A plugin's rule for the overload hides its general one."""
        found: dict[str, dict[str, Rule]] = {}
        for key in dict.fromkeys((packet(op), op)):
            for variant, by_plugin in self._rules.get(key, {}).items():
                found.setdefault(variant, {}).update(by_plugin)
        return found

    def offers(self, op: str, variant: str) -> bool:
        """Whether the op has a variant of that name, which may be qualified: ``plugin:variant``."""
        plugin, _, name = variant.rpartition(":")
        by_plugin = self.variants(op).get(name, {})
        return plugin in by_plugin if plugin else bool(by_plugin)

    def any_offers(self, variant: str) -> bool:
        """Whether any op at all has a variant of that name."""
        plugin, _, name = variant.rpartition(":")
        return any(rule.variant == name and (not plugin or rule.source.plugin == plugin) for rule in self)

    def variant_names(self) -> list[str]:
        """All variant names."""
        return sorted({rule.variant for rule in self})

    def find(self, op: str, variant: str, prefer: Sequence[str] = (), asked_by: str = "") -> Rule:
        """The rule that `variant` stands for on an op.

        Raises
        ------
        UnknownVariantError
            If the op has no such variant.
        AmbiguousRuleError
            If several plugins have it and neither is preferred or owns the op.
        """
        plugin, _, name = variant.rpartition(":")
        by_plugin = self.variants(op).get(name, {})
        if plugin and plugin in by_plugin:
            return by_plugin[plugin]
        if plugin or not by_plugin:
            raise UnknownVariantError(self._no_variant(op, variant, asked_by))
        return self._choose(op, by_plugin, prefer)

    def default(self, op: str, prefer: Sequence[str] = ()) -> Rule | None:
        """The rule for an op for which nobody chose another; None if there is none."""
        by_plugin: dict[str, Rule] = {}
        for variants in self.variants(op).values():
            for plugin, rule in variants.items():
                if rule.default and (plugin not in by_plugin or rule.op.overload):
                    by_plugin[plugin] = rule
        return self._choose(op, by_plugin, prefer) if by_plugin else None

    def _choose(self, op: str, by_plugin: Mapping[str, Rule], prefer: Sequence[str]) -> Rule:
        for plugin in prefer:
            if plugin in by_plugin:
                return by_plugin[plugin]
        owners = [p for p in sorted(by_plugin) if p in self._owners.get(OpKey.of(op).namespace, ())]
        candidates = owners or sorted(by_plugin)
        if len(candidates) == 1:
            return by_plugin[candidates[0]]
        rules = [by_plugin[p] for p in candidates]
        lines = "\n".join(f"  {r.source.plugin}:{r.variant}    {r.source}    {r.location}" for r in rules)
        first = rules[0]
        raise AmbiguousRuleError(
            f"{len(rules)} rules fit {op}:\n{lines}\n"
            f"  fix  name one, e.g. Use('{first.source.plugin}:{first.variant}'), or Composite(..., "
            f"prefer=('{first.source.plugin}',)), or disable the other plugin."
        )

    def _no_variant(self, op: str, variant: str, asked_by: str) -> str:
        has = [f"{plugin}:{name}" for name, plugins in sorted(self.variants(op).items()) for plugin in sorted(plugins)]
        asked = f" (asked by {asked_by})" if asked_by else ""
        name = variant.rpartition(":")[2]
        known = "" if self.any_offers(name) else f"\n  No op has it. Known variants: {', '.join(self.variant_names())}"
        return f"{op} has no variant {variant!r}{asked}.\n  It has: {', '.join(has) or 'none'}{known}"

    def table(self) -> list[dict[str, Any]]:
        """All rules as plain rows, for listings."""
        return [
            {
                "op": str(rule.op), "variant": rule.variant, "default": rule.default, "plugin": rule.source.plugin,
                "distribution": rule.source.distribution, "version": rule.source.version,
                "parameters": {p.name: p.default for p in rule.parameters.values()}, "takes": rule.takes,
                "gives": rule.gives, "absorbs": list(rule.absorbs), "location": rule.location, "summary": rule.summary,
            }
            for rule in self
        ]  # fmt: skip
