"""Tensors inside nested calls and results, each with its path: ``"logits"``, ``"hidden_states.3"``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch

__all__ = ["bind_arguments", "leaves", "shape_of_call"]


def leaves(structure: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of nested mappings, sequences and dataclasses, with its path."""
    if isinstance(structure, torch.Tensor) or structure is None:
        yield path, structure
    elif isinstance(structure, Mapping):
        for key, item in structure.items():
            yield from leaves(item, _join(path, key))
    elif isinstance(structure, tuple) and hasattr(structure, "_fields"):
        for key in structure._fields:
            yield from leaves(getattr(structure, key), _join(path, key))
    elif isinstance(structure, (list, tuple)):
        for index, item in enumerate(structure):
            yield from leaves(item, _join(path, index))
    elif dataclasses.is_dataclass(structure) and not isinstance(structure, type):
        for entry in dataclasses.fields(structure):
            yield from leaves(getattr(structure, entry.name), _join(path, entry.name))
    else:
        yield path, structure


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def bind_arguments(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The call's arguments by parameter name, as `function` would take them.

    Raises
    ------
    TypeError
        If the call does not fit the signature.
    """
    import inspect

    try:
        signature = inspect.signature(function)
    except ValueError:
        return {str(i): arg for i, arg in enumerate(args)} | dict(kwargs)
    bound: dict[str, Any] = {}
    for name, given in signature.bind(*args, **kwargs).arguments.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            bound.update(given)
        else:
            bound[name] = given
    return bound


_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.layout)


def shape_of_call(bound: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """What a recording of this call depends on besides the numbers in its tensors; None if that cannot be told."""
    key: list[Any] = []
    seen: dict[int, str] = {}
    for path, leaf in leaves(bound):
        if isinstance(leaf, torch.Tensor):
            same = seen.setdefault(id(leaf), path)
            key.append((path, tuple(leaf.shape), leaf.stride(), leaf.dtype, leaf.device, same))
        elif isinstance(leaf, _PLAIN):
            key.append((path, type(leaf), leaf))
        else:
            return None
    return tuple(key)


def rebuilder(structure: Any, path: str = "") -> Any:
    """A function from {path: tensor} to a structure like this one, with those tensors; anything opaque becomes None."""
    if isinstance(structure, torch.Tensor):
        return lambda tensors: tensors[path]
    if isinstance(structure, Mapping):
        parts = {key: rebuilder(item, _join(path, key)) for key, item in structure.items()}
        kind = type(structure)

        def mapping(tensors: Mapping[str, Any]) -> Any:
            items = {key: build(tensors) for key, build in parts.items()}
            try:
                return kind(**items)
            except TypeError:
                return items

        return mapping
    if isinstance(structure, tuple) and hasattr(structure, "_fields"):
        fields = {key: rebuilder(getattr(structure, key), _join(path, key)) for key in structure._fields}
        named: Any = type(structure)
        return lambda tensors: named(**{key: build(tensors) for key, build in fields.items()})
    if isinstance(structure, (list, tuple)):
        items = [rebuilder(item, _join(path, index)) for index, item in enumerate(structure)]
        sequence = list if isinstance(structure, list) else tuple
        return lambda tensors: sequence(build(tensors) for build in items)
    if dataclasses.is_dataclass(structure) and not isinstance(structure, type):
        entries = {
            f.name: rebuilder(getattr(structure, f.name), _join(path, f.name)) for f in dataclasses.fields(structure)
        }
        made: Any = type(structure)
        return lambda tensors: made(**{key: build(tensors) for key, build in entries.items()})
    plain = structure if isinstance(structure, _PLAIN) else None  # an opaque one may hold tensors: a cache, say
    return lambda tensors: plain
