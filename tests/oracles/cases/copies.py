"""Ops that copy and select, each at least once, with constants inside where they can have them."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from oracles.copies import copied
from oracles.harness import Case, Check, source

__all__ = ["CHECKS", "UNREACHED"]

T = torch.ops.aten
rand = source(5)

UNREACHED: frozenset[str] = frozenset()
"""Copying ops that no model can run."""

x23, x234, x4 = rand(2, 3).mul(16).round() / 16, rand(2, 3, 4), rand(4)  # the first is exact in float32
row = torch.tensor([2, 0, 2])
truth = torch.tensor([[True, False, True], [False, False, True]])
column_truth = torch.tensor([True, False, True])

# op: name, function of inputs then constants, inputs, constants, whether rows are samples
_ONE: list[tuple[str, str, Any, Any, bool]] = [
    ("view", "flat", lambda a: a.view(-1, 12), x234, True),
    ("view", "inferred", lambda a: a.view(len(a), -1, 2), x234, True),
    ("reshape", "not-contiguous", lambda a: a.reshape(-1, 12), x234.transpose(1, 2), True),
    ("reshape", "fold-samples", lambda a: a.reshape(6, 4), x234, False),
    ("_unsafe_view", "flat", lambda a: T._unsafe_view(a, [-1, 12]), x234, True),
    ("_reshape_alias", "flat", lambda a: T._reshape_alias(a, [len(a), 12], [12, 1]), x234, True),
    ("flatten", "last", lambda a: a.flatten(1), x234, True),
    ("flatten", "all", torch.flatten, x234, False),
    ("unflatten", "last", lambda a: a.unflatten(-1, (2, 2)), x234, True),
    ("squeeze", "dim", lambda a: a.squeeze(1), rand(2, 1, 3), True),
    ("squeeze", "all", torch.squeeze, rand(2, 1, 3, 1), True),
    ("squeeze", "dims", lambda a: a.squeeze((1, 3)), rand(2, 1, 3, 1), True),
    ("unsqueeze", "1", lambda a: a.unsqueeze(1), x23, True),
    ("unsqueeze", "last", lambda a: a.unsqueeze(-1), x23, True),
    ("transpose", "inner", lambda a: a.transpose(1, 2), x234, True),
    ("transpose", "outer", lambda a: a.transpose(0, 2), x234, False),
    ("swapaxes", "inner", lambda a: a.swapaxes(1, 2), x234, True),
    ("swapdims", "inner", lambda a: a.swapdims(-1, -2), x234, True),
    ("t", "2d", torch.t, x23, False),
    ("t", "1d", torch.t, x4, False),
    ("numpy_T", "2d", lambda a: a.T, x23, False),
    ("mT", "3d", lambda a: a.mT, x234, True),
    ("mH", "3d", lambda a: a.mH, x234, True),
    ("matrix_H", "2d", lambda a: a.H, x23, False),
    ("adjoint", "3d", torch.adjoint, x234, True),
    ("permute", "inner", lambda a: a.permute(0, 2, 1), x234, True),
    ("permute", "outer", lambda a: a.permute(2, 0, 1), x234, False),
    ("movedim", "inner", lambda a: a.movedim(1, 2), x234, True),
    ("moveaxis", "inner", lambda a: torch.moveaxis(a, (1, 2), (2, 1)), x234, True),
    ("expand", "new", lambda a: a.expand(-1, 4, -1), rand(2, 1, 3), True),
    ("expand", "front", lambda a: a.expand(5, -1, -1), x23, False),
    ("expand_as", "like", lambda a, b: a.expand_as(b), rand(2, 1, 3), True),
    ("broadcast_to", "wide", lambda a: a.broadcast_to(len(a), 4, 3), rand(2, 1, 3), True),
    ("repeat", "last", lambda a: a.repeat(1, 2), x23, True),
    ("repeat", "front", lambda a: a.repeat(2, 1, 2), x23, False),
    ("tile", "last", lambda a: a.tile((1, 2)), x23, True),
    ("tile", "short", lambda a: a.tile((3,)), x23, True),
    ("repeat_interleave", "number", lambda a: a.repeat_interleave(2, 1), x23, True),
    ("repeat_interleave", "flat", lambda a: a.repeat_interleave(2), x23, False),
    ("contiguous", "of-transposed", lambda a: T.contiguous(a), x23, True),
    ("clone", "plain", torch.clone, x23, True),
    ("alias", "plain", lambda a: T.alias(a), x23, True),
    ("positive", "plain", torch.positive, x23, True),
    ("lift_fresh", "plain", lambda a: T.lift_fresh(a), x23, True),
    ("lift_fresh_copy", "plain", lambda a: T.lift_fresh_copy(a), x23, True),
    ("resolve_conj", "plain", lambda a: T.resolve_conj(a), x23, True),
    ("resolve_neg", "plain", lambda a: T.resolve_neg(a), x23, True),
    ("to", "float32", lambda a: a.to(torch.float32), x23, True),
    ("to", "same", lambda a: a.to(torch.float64), x23, True),
    ("to", "copy", lambda a: a.to(torch.float64, copy=True), x23, True),
    ("to", "device", lambda a: a.to("cpu", torch.float32), x23, True),
    ("_to_copy", "float32", lambda a: T._to_copy(a, dtype=torch.float32), x23, True),
    ("type_as", "float32", lambda a, b: a.type_as(b), x23, True),
    ("dropout", "eval", lambda a: T.dropout(a, 0.5, False), x23, True),
    ("feature_dropout", "eval", lambda a: T.feature_dropout(a, 0.5, False), x234, True),
    ("alpha_dropout", "eval", lambda a: T.alpha_dropout(a, 0.5, False), x23, True),
    ("feature_alpha_dropout", "eval", lambda a: T.feature_alpha_dropout(a, 0.5, False), x234, True),
    ("slice", "step", lambda a: a[:, ::2], x23, True),
    ("slice", "rows", lambda a: a[1:], x23, False),
    ("select", "last", lambda a: a.select(-1, 1), x23, True),
    ("select", "row", lambda a: a[1], x23, False),
    ("narrow", "last", lambda a: a.narrow(1, 1, 2), x23, True),
    ("diagonal", "inner", lambda a: a.diagonal(0, 1, 2), x234, True),
    ("diagonal", "offset", lambda a: a.diagonal(1), x23, False),
    ("as_strided", "overlapping", lambda a: a.as_strided((3, 2), (1, 1), 1), x23, False),
    ("unfold", "overlapping", lambda a: a.unfold(1, 2, 1), x23, True),
    ("split", "even", lambda a: a.split(1, 1), x23, True),
    ("split", "uneven", lambda a: a.split(2, 1), x23, True),
    ("split", "sizes", lambda a: T.split.sizes(a, [1, 2], 1), x23, True),
    ("split_with_sizes", "sizes", lambda a: a.split_with_sizes([1, 2], 1), x23, True),
    ("unsafe_split", "uneven", lambda a: T.unsafe_split(a, 2, 1), x23, True),
    ("unsafe_chunk", "two", lambda a: T.unsafe_chunk(a, 2, 1), x23, True),
    ("chunk", "two", lambda a: a.chunk(2, 1), x23, True),
    ("tensor_split", "sections", lambda a: a.tensor_split(2, 1), x23, True),
    ("tensor_split", "indices", lambda a: a.tensor_split((1,), 1), x23, True),
    ("unbind", "last", lambda a: a.unbind(1), x23, True),
    ("constant_pad_nd", "value", lambda a: T.constant_pad_nd(a, [1, 2], 0.7), x23, True),
    ("constant_pad_nd", "cut", lambda a: T.constant_pad_nd(a, [-1, 2], -0.3), x23, True),
    ("constant_pad_nd", "zero", lambda a: T.constant_pad_nd(a, [1, 0]), x23, True),
    ("pad", "value", lambda a: F.pad(a, (1, 2), value=0.7), x23, True),
    ("pad", "zero", lambda a: F.pad(a, (1, 2)), x23, True),
    ("pad", "reflect", lambda a: F.pad(a, (1, 2), mode="reflect"), x234, True),
    ("pad", "replicate", lambda a: F.pad(a, (2, 1), mode="replicate"), x234, True),
    ("pad", "circular", lambda a: F.pad(a, (1, 2), mode="circular"), x234, True),
    ("pad", "reflect-2d", lambda a: F.pad(a, (1, 2, 1, 0), mode="reflect"), rand(2, 1, 3, 4), True),
    ("roll", "last", lambda a: a.roll(1, 1), x23, True),
    ("roll", "flat", lambda a: a.roll(2), x23, False),
    ("flip", "last", lambda a: a.flip(1), x23, True),
    ("fliplr", "plain", torch.fliplr, x23, True),
    ("flipud", "plain", torch.flipud, x23, False),
    ("rot90", "inner", lambda a: a.rot90(1, (1, 2)), x234, True),
    ("tril", "offset", lambda a: a.tril(-1), x234, True),
    ("triu", "plain", torch.triu, x234, True),
    ("nan_to_num", "finite", torch.nan_to_num, x23, True),
]

_WITH: list[tuple[str, str, Any, tuple[Any, ...], tuple[Any, ...], bool | None]] = [
    ("expand_as", "both", lambda a, b: a.expand_as(b), (rand(2, 1, 3), rand(2, 4, 3)), (), True),
    ("view_as", "like", lambda a, b: a.view_as(b), (x234,), (rand(2, 12),), True),
    ("reshape_as", "like", lambda a, b: a.reshape_as(b), (x234,), (rand(2, 12),), True),
    ("broadcast_tensors", "both", lambda a, c: T.broadcast_tensors([c, a]), (rand(2, 1, 3),), (rand(4, 1),), True),
    ("broadcast_tensors", "two", lambda a, b: T.broadcast_tensors([a, b]), (rand(2, 1, 3), rand(2, 4, 1)), (), True),
    (
        "broadcast_tensors",
        "constant",
        lambda a, b: T.broadcast_tensors([a, b])[0],
        (rand(2, 1, 3),),
        (rand(4, 1),),
        True,
    ),
    ("repeat_interleave", "tensor", lambda a, n: a.repeat_interleave(n, 1), (x23,), (torch.tensor([2, 0, 1]),), True),
    ("tensor_split", "tensor", lambda a, n: a.tensor_split(n, 1), (x23,), (torch.tensor([1, 2]),), True),
    ("cat", "all", lambda a, b: torch.cat([a, b], 1), (x23, rand(2, 2)), (), True),
    ("cat", "constant", lambda a, c: torch.cat([c, a, c], 1), (x23,), (rand(2, 2),), True),
    ("cat", "itself", lambda a, b, c: torch.cat([a, c, b], 0), (x23,), (rand(1, 3),), False),
    ("concat", "constant", lambda a, c: torch.concat([a, c], 1), (x23,), (rand(2, 2),), True),
    ("concatenate", "constant", lambda a, c: torch.concatenate([a, c], 1), (x23,), (rand(2, 2),), True),
    ("stack", "all", lambda a, b: torch.stack([a, b], 1), (x23, rand(2, 3)), (), True),
    ("stack", "constant", lambda a, c: torch.stack([a, c], 2), (x23,), (rand(2, 3),), True),
    ("stack", "front", lambda a, c: torch.stack([c, a]), (x23,), (rand(2, 3),), False),
    ("hstack", "constant", lambda a, c: torch.hstack([a, c]), (x23,), (rand(2, 2),), True),
    ("vstack", "constant", lambda a, c: torch.vstack([a, c]), (x23,), (rand(1, 3),), False),
    ("dstack", "constant", lambda a, c: torch.dstack([a, c]), (x23,), (rand(2, 3),), True),
    ("column_stack", "constant", lambda a, c: torch.column_stack([a, c]), (x23,), (rand(2),), True),
    ("row_stack", "constant", lambda a, c: torch.row_stack([a, c]), (x23,), (rand(1, 3),), False),
    ("index", "row", lambda a, i: a[:, i], (x23,), (row,), True),
    ("index", "pairs", lambda a, i, j: a[i, j], (x23,), (torch.tensor([0, 1, 1]), row), False),
    ("index", "truth", lambda a, m: a[:, m], (x23,), (column_truth,), True),
    ("index_select", "repeated", lambda a, i: a.index_select(1, i), (x23,), (row,), True),
    ("gather", "repeated", lambda a, i: a.gather(1, i.expand(2, -1)), (x23,), (row,), None),
    ("gather", "full", lambda a, i: a.gather(1, i), (x23,), (torch.tensor([[0, 0], [2, 1]]),), False),
    (
        "take_along_dim",
        "last",
        lambda a, i: torch.take_along_dim(a, i, 1),
        (x23,),
        (torch.tensor([[0, 0], [2, 1]]),),
        False,
    ),
    ("masked_select", "truth", torch.masked_select, (x23,), (truth,), False),
    ("masked_fill", "number", lambda a, m: a.masked_fill(m, 0.3), (x23,), (column_truth,), True),
    ("masked_fill", "tensor", lambda a, m, v: a.masked_fill(m, v), (x23,), (column_truth, rand()), True),
    ("masked_fill", "carrying", lambda a, v, m: a.masked_fill(m, v), (x23, rand()), (truth,), False),
    ("where", "both", lambda a, b, m: torch.where(m, a, b), (x23, rand(2, 3)), (column_truth,), True),
    ("where", "constant", lambda a, m, c: torch.where(m, a, c), (x23,), (column_truth, rand(3)), True),
    ("where", "constant-first", lambda a, m, c: torch.where(m, c, a), (x23,), (column_truth, rand(2, 3)), None),
    ("where", "number", lambda a, m: torch.where(m, a, 0.3), (x23,), (column_truth,), True),
    ("where", "broadcast", lambda a, b, m: torch.where(m, a, b), (rand(3), rand(2, 1)), (truth,), False),
    ("slice_scatter", "both", lambda a, b: torch.slice_scatter(a, b, 1, 1, 3), (x23, rand(2, 2)), (), True),
    ("slice_scatter", "into-constant", lambda b, a: torch.slice_scatter(a, b, 1, 0, 3, 2), (rand(2, 2),), (x23,), None),
    ("slice_scatter", "constant", lambda a, c: torch.slice_scatter(a, c, 1, 0, 2), (x23,), (rand(2, 2),), None),
    ("select_scatter", "both", lambda a, b: torch.select_scatter(a, b, 1, 1), (x23, rand(2)), (), True),
    ("select_scatter", "constant", lambda a, c: torch.select_scatter(a, c, 1, 1), (x23,), (rand(2),), None),
    (
        "as_strided_scatter",
        "both",
        lambda a, b: torch.as_strided_scatter(a, b, (2, 2), (1, 2), 1),
        (x23, rand(2, 2)),
        (),
        False,
    ),
    (
        "as_strided_scatter",
        "constant",
        lambda a, c: torch.as_strided_scatter(a, c, (2,), (2,), 1),
        (x23,),
        (rand(2),),
        False,
    ),
    ("diagonal_scatter", "both", torch.diagonal_scatter, (rand(3, 3), rand(3)), (), False),
    ("diagonal_scatter", "constant", lambda a, c: torch.diagonal_scatter(a, c, 1), (rand(3, 3),), (rand(2),), False),
    (
        "index_put",
        "both",
        lambda a, v, i: T.index_put(a, [None, i], v),
        (x23, rand(2, 2)),
        (torch.tensor([2, 0]),),
        True,
    ),
    ("index_put", "constant", lambda a, i, v: torch.index_put(a, (i,), v), (x23,), (torch.tensor([1]), rand(3)), False),
    ("index_put", "truth", lambda a, m, v: torch.index_put(a, (m,), v), (x23,), (truth, rand()), False),
    ("index_copy", "both", lambda a, b, i: a.index_copy(1, i, b), (x23, rand(2, 2)), (torch.tensor([2, 0]),), True),
    ("index_copy", "constant", lambda a, i, c: a.index_copy(1, i, c), (x23,), (torch.tensor([2, 0]), rand(2, 2)), None),
    ("index_fill", "number", lambda a, i: a.index_fill(1, i, 0.3), (x23,), (torch.tensor([2, 0]),), True),
    ("index_fill", "tensor", lambda a, i, v: a.index_fill(1, i, v), (x23,), (torch.tensor([1]), rand()), True),
    (
        "scatter",
        "both",
        lambda a, b, i: a.scatter(1, i, b),
        (x23, rand(2, 2)),
        (torch.tensor([[2, 0], [1, 2]]),),
        False,
    ),
    (
        "scatter",
        "constant",
        lambda a, i, c: a.scatter(1, i, c),
        (x23,),
        (torch.tensor([[2, 0], [1, 2]]), rand(2, 2)),
        False,
    ),
    ("scatter", "number", lambda a, i: a.scatter(1, i, 0.3), (x23,), (torch.tensor([[2, 0], [1, 2]]),), False),
    ("masked_scatter", "both", lambda a, b, m: a.masked_scatter(m, b), (x23, rand(5)), (truth,), False),
    ("masked_scatter", "constant", lambda a, m, c: a.masked_scatter(m, c), (x23,), (truth, rand(5)), False),
    ("copy", "over", lambda b, a: T.copy(a, b), (rand(3),), (x23,), False),
    ("copy", "both", lambda a, b: T.copy(a, b), (x23, rand(2, 3)), (), True),
]


_ROWS = frozenset("view_as reshape_as cat concat concatenate stack hstack dstack column_stack".split())
"""Ops that are given constants of as many rows as there are samples."""


def _checks() -> list[Check]:
    cases = []
    for op, name, fn, x, batched in _ONE:
        constants: tuple[Any, ...] = ()
        if op == "expand_as":
            constants = (rand(2, 4, 3),)
        if op == "type_as":
            constants = (torch.zeros(1),)
        alike = (0,) if op == "expand_as" else ()
        cases.append(Case(f"aten.{op}", name, fn, (x,), constants, batched=bool(batched), per_sample=alike))
    for op, name, fn, inputs, given, rows in _WITH:
        slots = (0, 0) if name == "itself" else ()
        alike = (
            tuple(k for k, t in enumerate(given) if t.is_floating_point() and t.shape[:1] == (2,))
            if op in _ROWS
            else ()
        )
        cases.append(Case(f"aten.{op}", name, fn, inputs, given, slots, bool(rows), alike))
    return [Check(case, "gradient", copied) for case in cases]


CHECKS = _checks()
