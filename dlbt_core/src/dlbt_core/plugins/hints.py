"""Where the rules of common ops live: for the remedy in "no rule for ..." messages."""

from __future__ import annotations

from fnmatch import fnmatchcase

from dlbt_core.graph.ops import packet
from dlbt_core.plugins.discovery import installed_version

__all__ = ["bundled_home", "home_of"]

_HOMES = {
    "dlbt-rules-vision": (
        "conv1d conv2d conv3d convolution _convolution conv_transpose* *_pool1d* *_pool2d* *_pool3d* "
        "*batch_norm *batch_norm_* instance_norm group_norm native_group_norm *upsample_* "
        "pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle "
        "grid_sampler grid_sampler_* affine_grid_generator im2col col2im "
        "reflection_pad* replication_pad* max_unpool* torchvision.*roi_* torchvision.deform_conv2d"
    ).split(),
    "dlbt-rules-nlp": (
        "embedding embedding_bag _embedding_bag* scaled_dot_product_attention _scaled_dot_product_* "
        "softmax _softmax _safe_softmax log_softmax _log_softmax layer_norm native_layer_norm rms_norm _fused_rms_norm "
        "lstm lstm_cell gru gru_cell rnn_tanh rnn_relu rnn_tanh_cell rnn_relu_cell _thnn_fused_* "
        "_pack_padded_sequence _pad_packed_sequence glu logsumexp linalg_solve_triangular _grouped_mm transformers.grouped_mm*"
    ).split(),
}


def bundled_home(op: str) -> str | None:
    """The bundled distribution that has the rules of an op, installed or not; None if no other package has them.

    Parameters
    ----------
    op
        Name of the op, with or without overload: ``"aten.conv2d.default"``.
    """
    namespace = packet(op).partition(".")[0]
    if namespace not in ("aten", "torchvision", "transformers"):
        return None
    name = packet(op).removeprefix("aten.")
    for distribution, patterns in _HOMES.items():
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            return distribution
    return None


def home_of(op: str) -> str | None:
    """The bundled distribution to install for an op's rules; None if there is none or it is installed already.

    Parameters
    ----------
    op
        Name of the op, with or without overload: ``"aten.conv2d.default"``.
    """
    distribution = bundled_home(op)
    return distribution if distribution and installed_version(distribution) is None else None
