"""For authors of rules and plugins: what their tests need."""

from __future__ import annotations

from dlbt_core.errors import RuleCheckError
from dlbt_core.testing.rulecheck import ALL_CHECKS, check_plugin, rulecheck
from dlbt_core.testing.samples import Arriving, Handed, Sample

__all__ = ["ALL_CHECKS", "Arriving", "Handed", "RuleCheckError", "Sample", "check_plugin", "rulecheck"]
