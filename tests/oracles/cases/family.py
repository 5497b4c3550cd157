"""The linear family's variants beyond epsilon and gradient: which parameters are tried, and on how many cases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from oracles import boundary, dlb, signed
from oracles.harness import Case, Check, Handed

__all__ = ["COUPLED", "FEW", "MANY", "ORACLES", "SYMMETRIC", "Choice", "passing", "variants_of"]

ORACLES: Mapping[str, Callable[..., Handed]] = {
    "epsilon": signed.epsilon_rule,
    "norm": partial(signed.epsilon_rule, epsilon=1e-6),
    "zplus": signed.z_plus,
    "alpha_beta": signed.alpha_beta,
    "gamma": signed.gamma_rule,
    "flat": boundary.flat,
    "w_square": boundary.w_square,
    "zbox": boundary.z_box,
    "dlb_default": dlb.by_size,
}
"""The oracle of each variant of one stream; with the rule's parameters and its defaults."""

COUPLED: Mapping[str, Callable[..., tuple[Handed, ...]]] = {"dlb_contrastive": dlb.contrastive}
"""Those of variants that couple two streams."""

Choice = tuple[str, Mapping[str, Any]]

FEW: tuple[Choice, ...] = (
    ("norm", {"epsilon": 0.25}),
    ("zplus", {"epsilon": 0.1}),
    ("alpha_beta", {"epsilon": 0.1}),
    ("gamma", {"gamma": 0.5, "epsilon": 0.1}),
    ("gamma", {"form": "original", "gamma": 0.5, "epsilon": 0.25}),
    ("flat", {"epsilon": 0.1}),
    ("w_square", {"epsilon": 0.1}),
    ("zbox", {"low": -3.0, "high": 3.5, "epsilon": 0.1}),
    ("dlb_default", {}),
    ("dlb_contrastive", {}),
)
"""Each variant once."""

MANY: tuple[Choice, ...] = (
    ("epsilon", {"epsilon": 0.25, "relative": True}),
    ("epsilon", {"epsilon": 0.1, "relative": True, "bias": "dropped"}),
    *FEW,
    ("norm", {}),
    ("norm", {"epsilon": 0.1, "relative": True}),
    ("zplus", {}),
    ("zplus", {"epsilon": 0.1, "bias": "dropped"}),
    ("zplus", {"epsilon": 0.1, "relative": True}),
    ("alpha_beta", {}),
    ("alpha_beta", {"alpha": 1.0, "beta": 0.0, "epsilon": 0.1}),
    ("alpha_beta", {"alpha": 1.5, "beta": 0.5, "epsilon": 0.1, "bias": "dropped"}),
    ("alpha_beta", {"epsilon": 0.1, "relative": True}),
    ("gamma", {}),
    ("gamma", {"gamma": 10.0, "epsilon": 0.1, "bias": "kept"}),
    ("gamma", {"gamma": 3.0, "epsilon": 0.1, "relative": True, "bias": "dropped"}),
    ("gamma", {"form": "original"}),
    ("gamma", {"form": "original", "gamma": 2.0, "epsilon": 0.25, "bias": "kept"}),
    ("gamma", {"form": "original", "epsilon": 0.25, "relative": True, "bias": "dropped"}),
    ("flat", {}),
    ("flat", {"epsilon": 0.1, "relative": True}),
    ("w_square", {}),
    ("w_square", {"epsilon": 0.1, "relative": True, "bias": "dropped"}),
    ("zbox", {}),
    ("zbox", {"low": -2.5, "epsilon": 0.1}),
    ("zbox", {"high": 3.0, "epsilon": 0.1, "relative": True}),
    ("dlb_default", {"low": 0.0}),
    ("dlb_default", {"low": -1.0, "high": 1.0}),
)
"""Each with several parameters."""

SYMMETRIC = frozenset({"epsilon", "norm", "zplus", "alpha_beta", "dlb_default", "dlb_contrastive"})
"""Variants that depend on the product terms alone, so that it does not matter which factor is looked at."""


def variants_of(
    case: Case, choices: Iterable[Choice] = FEW, additive: tuple[int, ...] = (), channel: int = -1, channels: int = 0
) -> list[Check]:
    """The variants for one case; z^B also with bounds per channel if there are `channels` of them."""
    wanted = list(choices)
    if channels:
        low, high = (tuple(sign * (3.0 + 0.5 * c) for c in range(channels)) for sign in (-1.0, 1.0))
        wanted += [("zbox", {"low": low, "high": high, "epsilon": 0.1}), ("zbox", {"low": low, "epsilon": 0.1})]
    oracles: Mapping[str, Callable[..., Any]] = {**ORACLES, **COUPLED}
    found = []
    for variant, parameters in wanted:
        oracle = partial(oracles[variant], additive=additive, **parameters)
        if variant == "zbox":
            oracle = partial(oracle, channel=channel)
        found.append(Check(case, variant, oracle, parameters, streams=variant in COUPLED))
    return found


def passing(case: Case) -> list[Check]:
    """The rule that changes nothing, for outputs shaped as the inputs."""
    return [Check(case, "pass", boundary.passed)]
