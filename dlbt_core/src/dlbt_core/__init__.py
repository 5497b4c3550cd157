"""dlbt: relevance propagation for PyTorch as a plugin framework.

``import dlbt_core as dlbt`` and ``dlbt.explain(model, x)``: which parts of the input, which layers, made the output what it
is, with every unit of relevance accounted for. Rules for ops come from plugins.
"""

from __future__ import annotations

from typing import Any

from dlbt_core import errors, target
from dlbt_core.comparing import compare
from dlbt_core.comparison import Comparison
from dlbt_core.composites.composite import Composite, use_rules
from dlbt_core.composites.select import Select, Use
from dlbt_core.explainer import Explainer, explain
from dlbt_core.explanation import Explanation
from dlbt_core.plugins.hookspecs import PluginInfo, hookimpl
from dlbt_core.plugins.loader import Plugins, default_plugins, reload_plugins
from dlbt_core.rules.context import RuleContext
from dlbt_core.rules.rule import RuleSet
from dlbt_core.scheduler.ledger import Ledger
from dlbt_core.scheduler.plan import Plan
from dlbt_core.storage import load

__version__ = "0.1.0"


def composite(name: str, **parameters: Any) -> Composite:
    """The named composite with parameters of your own: ``composite("epsilon_gamma_box", low=-2.1, high=2.6)``.

    Parameters
    ----------
    name : str
        One of those listed by ``dlbt composites``, or the path of a TOML file.
    **parameters
        In place of its defaults.

    Raises
    ------
    UnknownCompositeError, UnknownParameterError
        If there is no composite, or no parameter, of that name.
    """
    return default_plugins().composites.build(name, **parameters)


__all__ = [
    "Comparison",
    "Composite",
    "Explainer",
    "Explanation",
    "Ledger",
    "Plan",
    "PluginInfo",
    "Plugins",
    "RuleContext",
    "RuleSet",
    "Select",
    "Use",
    "__version__",
    "compare",
    "composite",
    "default_plugins",
    "errors",
    "explain",
    "hookimpl",
    "load",
    "reload_plugins",
    "target",
    "use_rules",
]
