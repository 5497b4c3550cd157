"""Names of ops: from name to torch op and schema, and the sets of ops that several parts must agree on."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

__all__ = [
    "COPIES",
    "COPIES_OF_PIXELS",
    "ELEMENTWISE",
    "LIKE",
    "OF_IDS",
    "VALUE_FREE",
    "Argument",
    "arguments",
    "packet",
    "resolve_op",
    "returns_many",
]


class Argument(NamedTuple):
    """One argument of an op's schema."""

    name: str
    default: Any
    keyword_only: bool


@cache
def resolve_op(name: str) -> Any:
    """The callable torch op of a full name such as ``"aten.linear.default"``."""
    import torch

    namespace, op, overload = name.split(".")
    return getattr(getattr(getattr(torch.ops, namespace), op), overload)


@cache
def arguments(name: str) -> tuple[Argument, ...]:
    """The arguments of an op's schema, in order."""
    return tuple(
        Argument(a.name, a.default_value if a.has_default_value() else None, a.kwarg_only)
        for a in resolve_op(name)._schema.arguments
    )


@cache
def returns_many(name: str) -> bool:
    """Whether the op returns a list or a tuple of tensors."""
    import torch

    returns = resolve_op(name)._schema.returns
    return len(returns) > 1 or (len(returns) == 1 and isinstance(returns[0].type, torch.ListType))


@cache
def packet(name: str) -> str:
    """The name without its overload: ``"aten.add"`` for ``"aten.add.Tensor"``."""
    namespace, op, *_ = name.split(".")
    return f"{namespace}.{op}"


def _aten(names: str) -> frozenset[str]:
    return frozenset(f"aten.{name}" for name in names.split())


COPIES_OF_PIXELS = _aten(
    """pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle im2col
    upsample_nearest1d upsample_nearest2d upsample_nearest3d
    _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d
    reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d"""
)
"""Copies that only images and the like know, with their spatial dimensions."""

COPIES = COPIES_OF_PIXELS | _aten(
    """view reshape _unsafe_view _reshape_alias flatten unflatten squeeze unsqueeze view_as reshape_as
    transpose swapaxes swapdims t numpy_T permute movedim moveaxis adjoint mT mH matrix_H
    expand expand_as broadcast_to broadcast_tensors repeat tile repeat_interleave
    contiguous clone alias positive nan_to_num lift_fresh lift_fresh_copy detach resolve_conj resolve_neg
    to _to_copy type_as dropout feature_dropout alpha_dropout feature_alpha_dropout
    slice select narrow diagonal as_strided unfold split split_with_sizes chunk tensor_split unbind unsafe_split unsafe_chunk
    cat concat concatenate stack hstack vstack dstack column_stack row_stack
    constant_pad_nd pad roll flip fliplr flipud rot90 tril triu
    index index_select gather take_along_dim masked_select masked_fill where
    slice_scatter select_scatter as_strided_scatter diagonal_scatter
    index_put index_copy index_fill scatter masked_scatter copy _pack_padded_sequence _pad_packed_sequence"""
)
"""Ops each of whose results' elements is one element of an argument, or a constant."""

ELEMENTWISE = _aten(
    """add sub rsub mul div neg pow square sqrt rsqrt reciprocal exp expm1 exp2 log log1p log2 log10 abs sign
    relu relu6 leaky_relu silu gelu elu celu selu mish softplus sigmoid log_sigmoid logsigmoid tanh hardtanh hardswish
    hardsigmoid sin cos tan asin acos atan sinh asinh atanh cosh erf erfc clamp clamp_min clamp_max clip prelu rrelu softsign
    tanhshrink hardshrink softshrink threshold floor ceil round trunc maximum minimum multiply divide subtract
    true_divide negative absolute"""
)
"""Ops that act on each element alone (constants broadcast)."""

VALUE_FREE = _aten(
    """zeros_like ones_like full_like empty_like rand_like randn_like randint_like new_zeros new_ones new_full new_empty
    new_empty_strided empty_strided sym_size argmax argmin sign floor ceil round trunc heaviside nan_to_num_like
    bernoulli isnan isinf isfinite"""
)
"""Ops whose result does not depend, or only in steps, on the numbers in their arguments."""

LIKE = dict.fromkeys(_aten("type_as expand_as view_as reshape_as"), "other")
"""Arguments of which only shape and dtype are looked at."""

OF_IDS = (ELEMENTWISE - VALUE_FREE) | _aten(
    """remainder fmod floor_divide bitwise_and bitwise_or bitwise_xor bitwise_not bitwise_left_shift
    bitwise_right_shift __and__ __or__ __xor__ __lshift__ __rshift__"""
)
"""Ops that make new ids of ids, each of those at its own position: hashes, offsets into a shared table, n-grams."""
