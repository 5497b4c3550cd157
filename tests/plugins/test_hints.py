"""Where to get the rules of a common op."""

from __future__ import annotations

import pytest
import torch

from dlbt_core.plugins.hints import bundled_home, home_of

VISION = """
    conv1d conv2d conv3d convolution _convolution conv_transpose1d conv_transpose2d conv_transpose3d
    max_pool1d max_pool2d max_pool2d_with_indices avg_pool2d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool2d
    _adaptive_avg_pool2d fractional_max_pool2d batch_norm native_batch_norm _native_batch_norm_legit cudnn_batch_norm
    instance_norm group_norm native_group_norm upsample_nearest2d upsample_bilinear2d _upsample_bilinear2d_aa
    pixel_shuffle pixel_unshuffle grid_sampler grid_sampler_2d
""".split()
NLP = """
    embedding embedding_bag scaled_dot_product_attention _scaled_dot_product_flash_attention_for_cpu softmax _softmax
    log_softmax _log_softmax layer_norm native_layer_norm rms_norm lstm gru rnn_tanh rnn_relu lstm_cell gru_cell
""".split()
CORE = "linear addmm mm matmul add mul cat relu gelu view embedding_dense_backward mean dropout".split()


@pytest.mark.parametrize(
    ("op", "home"),
    [
        *((op, "dlbt-rules-vision") for op in VISION),
        *((op, "dlbt-rules-nlp") for op in NLP),
        *((op, None) for op in CORE),
    ],
)
def test_home_of_common_ops(op, home):
    assert hasattr(torch.ops.aten, op)  # a misspelled op would prove nothing
    assert bundled_home(f"aten.{op}") == home
    assert bundled_home(f"aten.{op}.default") == home
    assert bundled_home(f"acme.{op}.default") is None


@pytest.mark.parametrize(("installed", "home"), [(None, "dlbt-rules-vision"), ("0.1.0", None)])
def test_what_is_installed_need_not_be_named(installed, home, monkeypatch):
    asked = []
    monkeypatch.setattr("dlbt_core.plugins.hints.installed_version", lambda name: asked.append(name) or installed)
    assert home_of("aten.conv2d.default") == home
    assert home_of("aten.relu.default") is None
    assert asked == ["dlbt-rules-vision"]
