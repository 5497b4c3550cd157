"""What a rule is tried on: an op on given tensors, and what an author's own slow formula says of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

__all__ = ["NAMES", "TOLERANCE", "Arriving", "Case", "Check", "Handed", "Oracle", "Reference", "Sample", "floating", "source"]

TOLERANCE = 1e-10
NAMES = "abcd"
"""What the explained inputs of a one-op model are called."""

Function = Callable[..., Any]


@dataclass(frozen=True)
class Arriving:
    """What arrives at an op's floating-point outputs, in both forms, with ``R = z * m`` elementwise.

    Attributes
    ----------
    m
        Multipliers, one tensor per output, shaped like it. Empty where two coupled streams arrive.
    R
        Relevance; where two coupled streams arrive each is (2, ...).
    z
        The outputs themselves.
    """

    m: list[Tensor]
    R: list[Tensor]
    z: list[Tensor]


@dataclass(frozen=True)
class Handed:
    """What a reference says is handed on.

    Attributes
    ----------
    inputs
        Relevance of each explained input, shaped like it.
    absorbed
        Amounts by name: tensors whose first dimension counts samples if the sample is batched. None if the reference says
        nothing about them; then the books still have to close.
    """

    inputs: list[Tensor]
    absorbed: Mapping[str, Tensor] | None = field(default_factory=dict)


Reference = Callable[..., Handed | Tensor | Sequence[Tensor]]
"""``reference(arriving, *inputs, *constants, **parameters)`` gives the relevance of each input."""


@dataclass(frozen=True)
class Sample:
    """One call of an op, on which a rule is tried.

    Parameters
    ----------
    fn
        Calls the op: first the explained tensors, then the constants. It must call nothing else but what is `around`.
    inputs
        The explained tensors, at most four; float64 unless the op cannot.
    constants
        Other tensors: weights, indices, masks.
    name
        What is special about it, for messages.
    parameters
        Parameters of the rule; its defaults unless given.
    reference
        The rule's formula written down slowly in float64, straight from the paper:
        ``reference(arriving, *inputs, *constants, **parameters)`` gives the relevance of each input, a `Handed` if it says
        what is absorbed as well. See `Arriving`.
    batched
        Whether the first dimension of all inputs and outputs counts samples that do not mix.
    per_sample
        Positions of the constants of which that is true as well.
    around
        Other ops that `fn` calls, by full name; for those that take or give complex numbers.
    tolerance
        How far the rule may be from the reference, relative to the largest relevance.

    Raises
    ------
    ValueError
        If there is no input, or more than four.
    """

    fn: Function
    inputs: tuple[Tensor, ...]
    constants: tuple[Tensor, ...] = ()
    name: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    reference: Reference | None = None
    batched: bool = False
    per_sample: tuple[int, ...] = ()
    around: tuple[str, ...] = ()
    tolerance: float = TOLERANCE

    def __post_init__(self) -> None:
        if not 1 <= len(self.inputs) <= len(NAMES):
            raise ValueError(
                f"a sample has 1 to {len(NAMES)} explained tensors, not {len(self.inputs)}; pass the others as constants="
            )

    def check(self, op: str, variant: str, streams: bool = False) -> Check:
        """The sample with the rule that is tried on it."""
        case = Case(
            op, self.name or "sample", self.fn, tuple(self.inputs), tuple(self.constants), batched=self.batched,
            per_sample=tuple(self.per_sample), around=tuple(self.around),
        )  # fmt: skip
        oracle = self.reference and _oracle(self.reference, self.parameters)
        return Check(case, variant, oracle, self.parameters, tolerance=self.tolerance, streams=streams)


def _oracle(reference: Reference, parameters: Mapping[str, Any]) -> Oracle:
    def oracle(case: Case, arriving: Arriving) -> Handed:
        found = reference(arriving, *case.inputs, *case.constants, **parameters)
        if isinstance(found, Handed):
            return found
        return Handed([found] if isinstance(found, Tensor) else list(found), None)

    return oracle


@dataclass(frozen=True)
class Case:
    """One op on given tensors.

    Attributes
    ----------
    op
        The op as it is recorded, with or without overload.
    name
        What is special about the case.
    fn
        Calls the op: first the slots, then the constants.
    inputs, constants
        Explained and other tensors.
    slots
        Which input goes to which argument of `fn`; each to its own unless given.
    batched
        Whether the first dimension of all inputs and outputs counts samples that do not mix.
    per_sample
        The constants of which that is true as well.
    rectified
        Whether the inputs, which must not be negative, go through a ReLU first, so that this is known of them.
    around
        Ops that `fn` runs besides, because the op itself does not take and give real numbers.
    """

    op: str
    name: str
    fn: Function
    inputs: tuple[Tensor, ...]
    constants: tuple[Tensor, ...] = ()
    slots: tuple[int, ...] = ()
    batched: bool = False
    per_sample: tuple[int, ...] = ()
    rectified: bool = False
    around: tuple[str, ...] = ()

    @property
    def places(self) -> tuple[int, ...]:
        """Which input goes to which argument."""
        return self.slots or tuple(range(len(self.inputs)))

    @property
    def arguments(self) -> list[Tensor]:
        """The inputs as the op gets them."""
        return [self.inputs[i] for i in self.places]

    def call(self, *slots: Tensor) -> Any:
        """The op on other tensors, with the case's constants."""
        return self.fn(*slots, *self.constants)

    def outputs(self) -> list[Tensor]:
        """What the op gives, as far as it is floating point."""
        return floating(self.call(*self.arguments))

    def per_input(self, by_slot: Sequence[Tensor]) -> list[Tensor]:
        """Relevance per input: summed over the slots it goes to."""
        totals = [torch.zeros(x.shape, dtype=torch.float64) for x in self.inputs]
        for place, found in zip(self.places, by_slot, strict=True):
            totals[place] = totals[place] + found
        return totals

    def rows_of(self, out: Tensor) -> Tensor:
        """An output as one row per sample, or as one in all."""
        return out.reshape(len(out) if self.batched else 1, -1)

    def rows(self, row: int) -> Case:
        """One sample alone."""
        constants = tuple(t[row : row + 1] if k in self.per_sample else t for k, t in enumerate(self.constants))
        return replace(self, inputs=tuple(x[row : row + 1] for x in self.inputs), constants=constants)

    def map(self, convert: Callable[[Tensor], Tensor]) -> Case:
        """The case with all its floating-point tensors converted."""

        def of(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return tuple(convert(t) if t.is_floating_point() else t for t in tensors)

        return replace(self, inputs=of(self.inputs), constants=of(self.constants))

    def to(self, dtype: torch.dtype) -> Case:
        """The case in another precision."""
        return self.map(lambda tensor: tensor.to(dtype))


Oracle = Callable[[Case, Arriving], Handed | tuple[Handed, ...]]
"""What a rule hands on: in one stream, or one for each of several."""


@dataclass(frozen=True)
class Check:
    """A case, a rule, and the oracle for the two; `streams` says whether the rule couples two streams.

    Attributes
    ----------
    variant
        The rule's name, qualified by its plugin where needed: ``"acme:epsilon"``.
    composite
        Which rules the ops around it get.
    plugins
        Where the rule is; the installed plugins unless given.
    """

    case: Case
    variant: str
    oracle: Oracle | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    composite: str = "attnlrp"
    tolerance: float = TOLERANCE
    streams: bool = False
    plugins: Any = None

    @property
    def id(self) -> str:
        """Name of the check in messages."""
        given = ",".join(f"{k}={v}" for k, v in self.parameters.items())
        return f"{self.case.op}#{self.variant}({given})-{self.case.name}"

    def expected(self, arriving: Arriving) -> tuple[Handed, ...]:
        """What the oracle says, for each stream; nothing without one."""
        if self.oracle is None:
            return ()
        found = self.oracle(self.case, arriving)
        return (found,) if isinstance(found, Handed) else found


def floating(out: Any) -> list[Tensor]:
    """The floating-point tensors of an op's result."""
    items = [out] if isinstance(out, Tensor) else list(out)
    return [item for item in items if isinstance(item, Tensor) and item.is_floating_point()]


def source(seed: int) -> Callable[..., Tensor]:
    """A function that gives random float64 tensors of a shape, the same in every run."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    return rand
