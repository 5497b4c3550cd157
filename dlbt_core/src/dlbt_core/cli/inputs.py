"""What the command line says of inputs, targets and rules, read into what the library takes."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dlbt_core import target as targets
from dlbt_core.composites.select import Choice, Select, Use
from dlbt_core.errors import InputError, TargetError, UnknownVariantError

__all__ = ["given_inputs", "parse_rule", "parse_target", "random_tensor"]

_DTYPES = {
    name: getattr(torch, name)
    for name in ("float16", "bfloat16", "float32", "float64", "int32", "int64", "uint8", "bool")
}
_INPUT = re.compile(r"(?:(?P<name>[A-Za-z_]\w*)=)?(?P<shape>\d+(?:x\d+)*)(?::(?P<dtype>\w+))?")


def given_inputs(specs: Sequence[str]) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Random inputs: ``1x3x224x224`` for the next positional one, ``input_ids=1x12:int64`` for one by name.

    Raises
    ------
    InputError
        If one is something else or too large, or a name is given twice.
    """
    args: list[Tensor] = []
    kwargs: dict[str, Tensor] = {}
    for spec in specs:
        match = _INPUT.fullmatch(spec.strip())
        dtype = "" if match is None else match["dtype"] or "float32"
        if match is None or dtype not in _DTYPES:
            raise InputError(
                f"--input {spec!r} is no shape.\n  fix  SHAPE, NAME=SHAPE or NAME=SHAPE:DTYPE, such as 1x3x224x224 or "
                f"input_ids=1x12:int64; dtypes: {', '.join(_DTYPES)}."
            )
        try:
            tensor = random_tensor([int(size) for size in match["shape"].split("x")], _DTYPES[dtype])
        except (RuntimeError, TypeError) as error:  # torch's words for no memory, and for sizes beyond 64 bits
            raise InputError(f"--input {spec!r} cannot be made: it is too large.\n  fix  a smaller shape.") from error
        if match["name"] in kwargs:
            raise InputError(f"--input gives {match['name']!r} twice.\n  fix  leave one out.")
        if match["name"] is None:
            args.append(tensor)
        else:
            kwargs[match["name"]] = tensor
    return tuple(args), kwargs


def random_tensor(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Normally distributed numbers; integers from 0 to 9, which every vocabulary has; True and False."""
    if dtype.is_floating_point:
        return torch.randn(*shape).to(dtype)
    return torch.randint(0, 2 if dtype == torch.bool else 10, tuple(shape)).to(dtype)


def parse_target(text: str | None) -> Any:
    """A target: a class; ``token:POSITION`` or ``token:POSITION:ID``; ``output:PATH`` or ``output:PATH:CLASS``; ``sum``.

    Raises
    ------
    TargetError
        If it is none of these.
    """
    if text is None:
        return None
    kind, *parts = text.split(":")
    numbers = [int(part) for part in parts if re.fullmatch(r"-?\d+", part)]
    if re.fullmatch(r"\d+", text):
        return int(text)
    if text == "sum":
        return targets.logits()
    if kind == "token" and len(numbers) == len(parts) in (1, 2):
        return targets.token(numbers[0], numbers[1] if len(numbers) == 2 else None)
    if kind == "output" and len(parts) in (1, 2) and parts[0] and (len(parts) == 1 or parts[1].isdecimal()):
        return targets.output(parts[0], int(parts[1]) if len(parts) == 2 else None)
    raise TargetError(
        f"--target {text!r} is no target.\n  fix  a class (281), token:-1, token:-1:50, output:PATH, output:PATH:3, or sum."
    )


_SELECTING = ("op", "module", "module_type", "fact", "has", "first", "last")


def parse_rule(text: str) -> Choice:
    """A choice: ``op=aten.linear module=encoder.* variant=gamma gamma=0.1``.

    What a `Select` takes selects (several globs are set apart by commas), ``variant`` is the rule, the rest its parameters.

    Raises
    ------
    UnknownVariantError
        If there is no variant, or a part is not ``name=value``.
    """
    remedy = "\n  fix  'op=aten.linear module=encoder.* variant=gamma gamma=0.1'."
    given: dict[str, str] = {}
    try:
        parts = shlex.split(text)
    except ValueError as error:
        raise UnknownVariantError(f"--rule {text!r}: {error}.{remedy}") from error
    for part in parts:
        name, separator, value = part.partition("=")
        if not separator or not name.isidentifier() or name in given:
            reason = "is given twice" if name in given else "is not name=value"
            raise UnknownVariantError(f"--rule {text!r}: {part!r} {reason}.{remedy}")
        given[name] = value
    if "variant" not in given:
        raise UnknownVariantError(f"--rule {text!r} has no variant=.{remedy}")
    selecting: dict[str, Any] = {name: given.pop(name) for name in _SELECTING if name in given}
    for name in ("op", "module", "module_type"):
        if "," in selecting.get(name, ""):
            selecting[name] = tuple(selecting[name].split(","))
    for name in ("first", "last"):
        if name in selecting:
            if selecting[name].lower() not in ("true", "false"):
                raise UnknownVariantError(f"--rule {text!r}: {name} is true or false, not {selecting[name]!r}.{remedy}")
            selecting[name] = selecting[name].lower() == "true"
    variant = given.pop("variant")
    return Select(**selecting), Use(variant, **{name: _value(value) for name, value in given.items()})


def _value(text: str) -> Any:
    """A number, True, False, a tuple; else the text itself."""
    words = {"true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
