"""What the commands that take a model are asked: the model, its inputs, and how to explain it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dlbt_core.cli.output import prints_aside

__all__ = ["Asked"]


@dataclass(frozen=True)
class Asked:
    """A model of the command line, and what is asked of it: positional and keyword arguments of an `Explainer`'s call."""

    model: Any
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    explain_inputs: Sequence[str] | None
    target: Any
    rules: Sequence[Any]
    shown: Mapping[str, Any]

    @classmethod
    def of(
        cls, model: str, inputs: Sequence[str] | None, text: str | None, seed: int, target: str | None,
        rules: Sequence[str] | None, explained: Sequence[str] | None,
    ) -> Asked:  # fmt: skip
        """Read what the options say; all that can be wrong in them is told before the model is loaded."""
        from dlbt_core.cli.inputs import parse_rule, parse_target
        from dlbt_core.cli.models import load_model

        choices, aim = [parse_rule(rule) for rule in rules or ()], parse_target(target)
        with prints_aside():
            loaded = load_model(model, inputs or (), text=text, seed=seed)
        return cls(
            loaded.model,
            loaded.args,
            loaded.kwargs,
            explained or loaded.explain_inputs,
            loaded.target if target is None else aim,
            choices,
            loaded.shown,
        )

    def explainer(self, composite: str) -> Any:
        """An explainer of the model."""
        from dlbt_core.explainer import Explainer

        return Explainer(self.model, composite, explain_inputs=self.explain_inputs)

    def plan(self, composite: str) -> Any:
        """The plan under a composite."""
        with prints_aside():
            return self.explainer(composite).plan(*self.args, **self.kwargs, target=self.target, rules=self.rules)
