"""Norms with their statistic held constant, and embeddings."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import dlbt_core as dlbt
from oracles.cases.norms import CHECKS
from oracles.harness import Check, check_books, check_near, check_rule, source


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.id)
def test_norms_and_embeddings(check: Check) -> None:
    check_rule(check)


def test_native_layer_norm_also_hands_back_its_statistics() -> None:
    """Mean and rstd are results too: if the target looks at them, their relevance must be somewhere."""
    x = source(40)(2, 5)

    def total(outputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return outputs[0][:, 0] + 2.0 * outputs[1][:, 0]

    def model(a: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.native_layer_norm(a, [5], None, None, 0.1)

    explanation = dlbt.explain(model, x, target=dlbt.target.function(total), composite="attnlrp", layers="none")
    check_books(explanation, "native_layer_norm", audit=False)
    only_mean = dlbt.target.function(lambda outputs: outputs[1][:, 0])
    explanation = dlbt.explain(model, x, target=only_mean, composite="attnlrp", layers="none")
    check_near(explanation.inputs["a"], x / 5, 1.0, "the mean")


@pytest.mark.parametrize("audit", [False, True])
def test_weights_computed_on_the_way(audit: bool) -> None:
    """``rms_norm(x, 1 + w)``: the weight is a constant, but the result of an op."""
    rand = source(41)
    x, w, mask = rand(2, 5), rand(5), rand(2, 5)
    target = dlbt.target.logits(mask)
    rms = dlbt.explain(
        lambda a: F.rms_norm(a, [5], 1 + w), x, target=target, composite="attnlrp", layers="none", audit=audit
    )
    check_near(rms.inputs["a"], mask * F.rms_norm(x, [5], 1 + w), 1.0, "rms norm")
    layer = dlbt.explain(
        lambda a: F.layer_norm(a, [5], 1 + w, 2 * w), x, target=target, composite="attnlrp", layers="none", audit=audit
    )
    plain = dlbt.explain(
        lambda a: F.layer_norm(a, [5]) * (1 + w) + 2 * w,
        x,
        target=target,
        composite="attnlrp",
        layers="none",
        audit=audit,
    )
    check_near(layer.inputs["a"], plain.inputs["a"], 1.0, "layer norm")
    check_books(layer, "layer norm", audit)


def test_weights_that_carry() -> None:
    """A norm's weight computed from the input is a factor of a product, as it is if the product is written out."""
    rand = source(42)
    x, c, mask = rand(2, 5), rand(2, 5), rand(2, 5)
    target = dlbt.target.logits(mask)
    weight = c[0]
    fused = dlbt.explain(
        lambda a, w: F.rms_norm(a, [5], w), x, weight, target=target, composite="attnlrp", layers="none", audit=True
    )
    written = dlbt.explain(
        lambda a, w: F.rms_norm(a, [5]) * w, x, weight, target=target, composite="attnlrp", layers="none", audit=True
    )
    for name in "aw":
        check_near(fused.inputs[name], written.inputs[name], 1.0, name)
    check_books(fused, "rms norm with a carrying weight")


def test_looking_up_vectors_that_carry() -> None:
    """``embedding(ids, table)`` with a table that depends on the input copies rows, like ``table[ids]``."""
    rand = source(43)
    table, ids, mask = rand(4, 3), torch.tensor([[0, 2], [2, 1]]), rand(2, 2, 3)
    target = dlbt.target.logits(mask)
    looked_up = dlbt.explain(lambda a: F.embedding(ids, a), table, target=target, composite="attnlrp", layers="none")
    indexed = dlbt.explain(lambda a: a[ids], table, target=target, composite="attnlrp", layers="none")
    check_near(looked_up.inputs["a"], indexed.inputs["a"], 1.0, "table")
