"""Copying and selecting ops, in both forms of the message."""

from __future__ import annotations

import pytest
import torch

import dlbt_core as dlbt
from dlbt_core.graph.ops import COPIES
from oracles.cases import resampling
from oracles.cases.copies import CHECKS
from oracles.harness import Check, check_books, check_near, check_rule, source


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.id)
def test_copies_of_multipliers(check: Check) -> None:
    check_rule(check)


def test_every_copying_op_has_a_case() -> None:
    tried = {check.case.op for check in (*CHECKS, *resampling.COPIED)}
    elsewhere = {
        "aten.detach",
        "aten._pack_padded_sequence",
        "aten._pad_packed_sequence",
    }  # which have rules of their own
    assert tried == COPIES - elsewhere


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_ids_that_are_cast(dtype: torch.dtype) -> None:
    """Relevance of ids passes a cast to other integers."""
    table, ids = source(61)(7, 3), torch.tensor([[1, 5, 2], [6, 0, 3]], dtype=torch.int64)

    def model(ids: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.embedding((ids.to(torch.int16) + 0).to(dtype), table).sum(1)

    def plain(ids: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.embedding(ids.to(dtype), table).sum(1)

    found = dlbt.explain(plain, ids, target=1, explain_inputs=["ids"])
    check_near(found.relevance, table[ids][..., 1], 1.0, "ids")
    shifted = dlbt.explain(model, ids, target=1, explain_inputs=["ids"])  # new ids at the same positions
    check_near(shifted.relevance, found.relevance, 1.0, "ids plus nothing")


@pytest.mark.parametrize("op", ["type_as", "expand_as", "view_as", "reshape_as"])
def test_nothing_flows_from_a_tensor_whose_shape_alone_is_looked_at(op: str) -> None:
    constant, x = source(62)(2, 3), source(63)(2, 3)
    with pytest.raises(dlbt.errors.InputError) as caught:
        dlbt.explain(lambda x: getattr(constant, op)(x), x, target=1)
    assert str(caught.value) == (
        "nothing to explain: output '' does not depend on 'x' (torch.float64, shape (2, 3)) through floating-point ops or an "
        "embedding.\n  fix  pass floating-point inputs, or name the inputs to explain with explain_inputs=[...]; integer "
        "inputs are explained where they enter an embedding."
    )


def test_function_of_results_that_share_memory() -> None:
    """The pieces of a split are views of one tensor; a target function of the second must not read the first."""
    x = source(60)(2, 5)
    target = dlbt.target.function(lambda pieces: 2.0 * pieces[1].sum(1))
    explanation = dlbt.explain(lambda a: a.split([2, 3], 1), x, target=target, composite="attnlrp", layers="none")
    want = 2.0 * x
    want[:, :2] = 0.0
    check_near(explanation.inputs["a"], want, 1.0, "second piece")
    check_books(explanation, "split", audit=False)
