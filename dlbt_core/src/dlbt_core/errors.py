"""Every error dlbt raises on purpose. Each message says what, where and the remedy."""

from __future__ import annotations

__all__ = [
    "AmbiguousRuleError",
    "AuditError",
    "CaptureError",
    "DlbtError",
    "DuplicateRuleError",
    "FileFormatError",
    "GuardError",
    "InputError",
    "ModelStateError",
    "NoRuleError",
    "NonFiniteError",
    "OpKeyError",
    "PluginError",
    "PluginWarning",
    "RandomModelWarning",
    "RuleCheckError",
    "RuleContractError",
    "TargetError",
    "UnknownCompositeError",
    "UnknownParameterError",
    "UnknownVariantError",
]


class DlbtError(Exception):
    """Base class of every error dlbt raises on purpose."""


class CaptureError(DlbtError):
    """The model's run could not be recorded."""


class GuardError(DlbtError):
    """A recorded graph does not hold for these inputs (internal: leads to a new recording)."""


class InputError(DlbtError, ValueError):
    """The inputs do not fit the model, or nothing in them can be explained."""


class ModelStateError(DlbtError):
    """The model is in a state in which a result would depend on chance or on the rest of the batch."""


class TargetError(DlbtError, ValueError):
    """The target does not fit the model's outputs."""


class NonFiniteError(DlbtError):
    """A NaN or infinity where a number was needed."""


class OpKeyError(DlbtError, ValueError):
    """A name that is not the name of an op."""


class NoRuleError(DlbtError):
    """Ops on the relevance path that no rule handles."""


class UnknownVariantError(DlbtError, ValueError):
    """An op has no variant of that name."""


class UnknownParameterError(DlbtError, ValueError):
    """A variant has no parameter of that name, or the value is not of its type."""


class UnknownCompositeError(DlbtError, ValueError):
    """No composite of that name."""


class AmbiguousRuleError(DlbtError):
    """Two plugins offer a rule of the same name and neither owns the op."""


class DuplicateRuleError(DlbtError):
    """One plugin declares the same op and variant twice."""


class RuleContractError(DlbtError):
    """A rule returned something the contract does not allow."""


class RuleCheckError(DlbtError, AssertionError):
    """A rule does not keep what it promises; raised by the test kit."""


class PluginError(DlbtError):
    """A plugin could not be taken in."""


class FileFormatError(DlbtError, ValueError):
    """A file that is not a saved explanation, or is damaged."""


class AuditError(DlbtError):
    """A question that only an audited explanation can answer."""


class PluginWarning(UserWarning):
    """A plugin is not in use."""


class RandomModelWarning(UserWarning):
    """The model draws random numbers in its forward pass."""
