"""Where an op takes the sample axis: for each op the dimension of its result that counts what one of its argument does.

An op that is not listed, or that lets samples meet, takes it nowhere. Ops from outside torch and its own libraries are held
to torch's convention that dimension 0 counts the samples.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from dlbt_core.graph.ir import Graph, Node, Ref
from dlbt_core.graph.ops import ELEMENTWISE, arguments, packet

__all__ = ["Move", "knows", "moved"]

Shape = tuple[int, ...]


class Move(NamedTuple):
    """One argument of a node with its sample axis, and the result it might move to.

    Attributes
    ----------
    name, item, before, axis
        The argument, which of its tensors if it is a list, its shape, its sample axis.
    after, place
        The result's shape, and which of several it is.
    """

    graph: Graph
    node: Node
    name: str
    item: int
    before: Shape
    axis: int
    after: Shape
    place: int

    def arg(self, name: str, default: Any = None) -> Any:
        """An argument of the node, or its schema's default."""
        if name in self.node.args:
            return self.node.args[name]
        return next((a.default for a in arguments(self.node.op) if a.name == name and a.default is not None), default)

    def dims(self, default: Any = None) -> set[int]:
        """The dimensions that the op works along; all of them if it names none."""
        given = self.arg("dim", default)
        if given is None or given == []:
            return set(range(len(self.before)))
        return {d % len(self.before) for d in (given if isinstance(given, (list, tuple)) else [given])}

    def rank(self, name: str) -> int:
        """The number of dimensions of a tensor argument."""
        ref = self.node.args[name]
        return len(self.graph.values[ref.index].shape) if isinstance(ref, Ref) else 0

    @property
    def behind(self) -> int:
        """The axis counted from the right: 1 for the last."""
        return len(self.before) - self.axis


Where = Callable[[Move], "int | None"]


def knows(name: str) -> bool:
    """Whether an op of that name, without overload, is listed here."""
    return name in _TABLE


def moved(move: Move) -> int | None:
    """The dimension of the result with the samples of this argument; None if they meet, or the op is unknown."""
    name = packet(move.node.op)
    where = _TABLE.get(name)
    if where is None:
        where = _front if name.split(".")[0] not in ("aten", "prims", "torchvision") else None
    found = where(move) if where is not None else None
    fits = found is not None and 0 <= found < len(move.after) and move.after[found] == move.before[move.axis]
    return found if fits else None


# -- element by element, and along some dimensions ----------------------------------------------------------------------


def _broadcast(m: Move) -> int | None:
    return m.axis + len(m.after) - len(m.before)


def _apart_from(default: Any) -> Where:
    """Ops along a dimension: the others stay apart."""
    return lambda m: None if m.axis in m.dims(default) else m.axis


def _reduced(m: Move) -> int | None:
    if isinstance(m.arg("other"), Ref):
        return _broadcast(m)  # the larger one of two, not of one
    dims = m.dims()
    if m.axis in dims:
        return None
    return m.axis if len(m.after) == len(m.before) else m.axis - sum(d < m.axis for d in dims)


def _before_last(count: Callable[[Move], int]) -> Where:
    """Ops along the last dimensions: those before them stay apart."""
    return lambda m: m.axis if m.behind > count(m) and m.place == 0 else None


def _spatial(m: Move) -> int:
    return int(re.findall(r"(\d)d", m.node.op)[0])


def _transformed(m: Move) -> int:
    """How many dimensions an n-dimensional Fourier transform takes."""
    return len(m.arg("s") or m.before)


def _fourier_n(m: Move) -> int | None:
    if m.arg("dim") is not None:
        return _apart_from(None)(m)
    return m.axis if m.behind > _transformed(m) else None


def _front(m: Move) -> int | None:
    return 0 if m.axis == 0 else None


def _front_of(*names: str, rank: int = 0) -> Where:
    return lambda m: 0 if m.axis == 0 and m.name in names and (not rank or len(m.before) == rank) else None


def _convolved(m: Move) -> int | None:
    return 0 if m.axis == 0 and m.name == "input" and len(m.before) == _spatial(m) + 2 else None


def _batch_normed(m: Move) -> int | None:
    own = bool(m.arg("training")) or "no_stats" in m.node.op or packet(m.node.op).endswith("_legit")
    apart = m.axis == 1 or not own  # statistics of the batch are taken over all dimensions but that of the channels
    return m.axis if apart and m.name == "input" and m.place == 0 else None


# -- products -----------------------------------------------------------------------------------------------------------


def _of_pair(left: str, right: str) -> Where:
    """Matrix products ``(..., i, k) x (..., k, j)``, with vectors and with an offset that is broadcast."""

    def where(m: Move) -> int | None:
        if m.name not in (left, right):
            return _broadcast(m)
        other = right if m.name == left else left
        vector = len(m.before) == 1
        contracted = 1 if m.name == left or vector else 2
        if m.behind == contracted:
            return None
        kept = 1 if m.behind == 1 else m.behind - (m.rank(other) == 1)
        return len(m.after) - kept

    return where


def _linear(m: Move) -> int | None:
    if m.name == "input":
        return m.axis if m.behind > 1 else None
    return len(m.after) - 1 if m.axis == 0 else None


def _bilinear(m: Move) -> int | None:
    return m.axis if m.name.startswith("input") and m.behind > 1 else None


def _outer(m: Move) -> int | None:
    return 0 if m.name == "self" else 1


def _grouped(m: Move) -> int | None:
    """Rows times the matrix of their group, or without ends of groups a batch of products: rows, or products, stay apart."""
    apart = m.node.args.get("offs") is None or (m.name in ("self", "input") and len(m.before) == 2)
    return 0 if m.axis == 0 and apart else None


def _einsum(m: Move) -> int | None:
    left, right = _spelt_out(m)
    return right.index(left[m.item][m.axis]) if left[m.item][m.axis] in right else None


def _spelt_out(m: Move) -> tuple[list[list[str]], list[str]]:
    """Letters of each factor and of the result; dimensions behind an ellipsis are numbered from the right."""
    left, arrow, right = m.node.args["equation"].replace(" ", "").partition("->")
    ranks = [len(m.graph.values[ref.index].shape) for ref in m.node.args["tensors"]]
    terms = left.split(",")

    def letters(term: str, rank: int) -> list[str]:
        before, dots, after = term.partition("...")
        hidden = rank - len(before) - len(after) if dots else 0
        return [*before, *(str(d) for d in range(hidden, 0, -1)), *after]

    spelt = [letters(term, rank) for term, rank in zip(terms, ranks, strict=True)]
    if arrow:
        return spelt, letters(right, len(m.after))
    once = sorted(c for c in set(left) - set(",.") if left.count(c) == 1)
    hidden = len(m.after) - len(once)
    return spelt, [*(str(d) for d in range(hidden, 0, -1)), *once]


def _attention(m: Move) -> int | None:
    if m.name in ("key", "value") and m.behind <= 2:
        return None
    return _broadcast(m) if m.behind > (1 if m.name in ("query", "attn_mask") else 2) else None


def _solved(m: Move) -> int | None:
    columns = m.name == "B" and m.behind == (1 if m.arg("left", True) else 2)
    return _broadcast(m) if m.behind > 2 or columns else None


# -- recurrent ----------------------------------------------------------------------------------------------------------


def _recurrent(m: Move) -> int | None:
    """Sequences lie as (time, samples, features), or samples first; states as (layers, samples, features)."""
    sequence = 0 if m.arg("batch_first") else 1
    here = {"input": sequence, "hx": 1}.get(m.name)
    if len(m.before) != 3 or m.axis != here:
        return None
    return sequence if m.place == 0 else 1


def _table(entries: Mapping[str, Where]) -> dict[str, Where]:
    return {f"aten.{name}": where for names, where in entries.items() for name in names.split()}


_TABLE: Mapping[str, Where] = (
    dict.fromkeys(ELEMENTWISE, _broadcast)
    | _table(
        {
            """contiguous clone alias positive lift_fresh lift_fresh_copy detach resolve_conj resolve_neg to _to_copy type_as
            dropout feature_dropout alpha_dropout feature_alpha_dropout masked_fill where tril triu expand expand_as
            broadcast_to broadcast_tensors addcmul addcdiv lerp fmax fmin logit erfinv complex real imag angle _conj
            conj_physical _neg_view fmod remainder atan2 nan_to_num logaddexp logaddexp2 xlogy hypot special_expit
            special_erf sinc log_ndtr
            lgamma digamma floor_divide""": _broadcast,
            "max min mean sum amax amin prod var std logsumexp linalg_vector_norm norm median kthvalue": _reduced,
            "var_mean std_mean": _reduced,
            "softmax _softmax _safe_softmax log_softmax _log_softmax cumsum cumprod logcumsumexp": _apart_from(-1),
            "sort topk glu diff fft_fft fft_ifft fft_rfft fft_irfft fft_hfft fft_ihfft": _apart_from(-1),
            "fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2 fft_hfft2 fft_ihfft2": _apart_from([-2, -1]),
            "_fft_c2c _fft_c2r _fft_r2c fft_fftshift fft_ifftshift unfold_backward": _apart_from(None),
            "fft_fftn fft_ifftn fft_rfftn fft_irfftn fft_hfftn fft_ihfftn": _fourier_n,
            "layer_norm native_layer_norm rms_norm": _before_last(lambda m: len(m.arg("normalized_shape"))),
            "view_as_real": lambda m: m.axis,
            "view_as_complex": _before_last(lambda m: 1),
            "batch_norm native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training": _batch_normed,
            "group_norm instance_norm native_group_norm": _front_of("input"),
            "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution": _convolved,
            """avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
            _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
            max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices
            fractional_max_pool2d fractional_max_pool3d max_unpool2d max_unpool3d
            upsample_linear1d upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d _upsample_bicubic2d_aa
            _upsample_bilinear2d_aa _upsample_lanczos2d_aa upsample_nearest1d upsample_nearest2d upsample_nearest3d
            _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d
            reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d
            replication_pad3d""": _before_last(_spatial),
            "pixel_shuffle pixel_unshuffle": _before_last(lambda m: 3),
            "grid_sampler grid_sampler_2d grid_sampler_3d": _front_of("input", "grid"),
            "affine_grid_generator": _front_of("theta"),
            "im2col channel_shuffle native_channel_shuffle": _front_of("self", rank=4),
            "col2im": _front_of("self", rank=3),
            "stft": _front_of("self", rank=2),
            "istft": _front_of("self", rank=3),
            "embedding": lambda m: m.axis if m.name == "indices" else None,
            "matmul": _of_pair("self", "other"),
            "mm bmm": _of_pair("self", "mat2"),
            "mv": _of_pair("self", "vec"),
            "addmm": _of_pair("mat1", "mat2"),
            "addmv": _of_pair("mat", "vec"),
            "baddbmm": _of_pair("batch1", "batch2"),
            "linear": _linear,
            "bilinear": _bilinear,
            "outer": _outer,
            "einsum": _einsum,
            "_grouped_mm": _grouped,
            "scaled_dot_product_attention": _attention,
            "linalg_solve_triangular": _solved,
            "lstm gru rnn_tanh rnn_relu": _recurrent,
            "lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell": _front_of("input", "hx", rank=2),
        }
    )
    | {"transformers.grouped_mm_fallback": _grouped}
    | {"torchvision.deform_conv2d": _front_of("input", "offset", "mask")}
)
