"""Saving and loading explanations."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import dlbt_core as dlbt
from dlbt_core.errors import FileFormatError


@pytest.fixture
def explanation() -> dlbt.Explanation:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4)).eval()
    return dlbt.explain(model, torch.randn(3, 8), audit=True, layers="all")  # type: ignore[no-any-return]


def test_all_of_it_comes_back(explanation: dlbt.Explanation, tmp_path: Path) -> None:
    path = explanation.save(tmp_path / "x.safetensors")
    found = dlbt.load(path)
    assert torch.equal(found.relevance, explanation.relevance)
    assert torch.equal(found.score, explanation.score)
    assert torch.equal(found.at("linear_1"), explanation.at("linear_1"))
    assert torch.equal(found.outputs[""], explanation.outputs[""])
    assert found.ledger.error == explanation.ledger.error
    assert found.ledger.audited
    assert [a.node for a in found.ledger.worst(3)] == [a.node for a in explanation.ledger.worst(3)]
    assert str(found.ledger) == str(explanation.ledger)
    assert found.target == explanation.target
    assert found.picked == explanation.picked
    assert found.plan.table() == explanation.plan.table()
    assert found.plan.summary() == explanation.plan.summary()
    assert found.plan.composite_name == explanation.plan.composite_name
    assert "PlanRecord of 3 nodes" in repr(found)
    assert str(found) == str(explanation)


def test_it_can_be_saved_again_and_without_layers(explanation: dlbt.Explanation, tmp_path: Path) -> None:
    first = dlbt.load(explanation.save(tmp_path / "a.safetensors"))
    second = dlbt.load(first.save(tmp_path / "b.safetensors", layers=False))
    assert torch.equal(second.relevance, explanation.relevance)
    assert not second.layers


def test_an_off_path_layer_is_saved_as_zeros(tmp_path: Path) -> None:
    class Aside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.a(x), self.b(x)

    found = dlbt.explain(Aside().eval(), torch.randn(2, 3), target=dlbt.target.output("0", 1))
    assert (found.at("b") == 0).all()
    assert (dlbt.load(found.save(tmp_path / "x.safetensors")).at("b") == 0).all()


def test_damaged_and_foreign_files(explanation: dlbt.Explanation, tmp_path: Path) -> None:
    path = explanation.save(tmp_path / "x.safetensors")
    data = path.read_bytes()
    damaged = tmp_path / "damaged.safetensors"
    for content in (data[: len(data) // 2], b"", b"not at all", data[:8] + b"\x00" * 64 + data[72:]):
        damaged.write_bytes(content)
        with pytest.raises(FileFormatError) as caught:
            dlbt.load(damaged)
        cause = caught.value.__cause__
        assert str(caught.value) == (
            f"{damaged} is damaged or not a saved explanation: {type(cause).__name__}: {cause}\n"
            "  fix  write it again with Explanation.save()."
        )
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(2)}, foreign)
    with pytest.raises(FileFormatError) as caught:
        dlbt.load(foreign)
    assert str(caught.value) == (
        f"{foreign} is a safetensors file, but not a saved explanation of dlbt.\n"
        "  fix  a file that Explanation.save() has written."
    )
    save_file({"score": torch.zeros(2)}, foreign, {"format": "dlbt-explanation", "version": "99", "about": "{}"})
    with pytest.raises(FileFormatError) as caught:
        dlbt.load(foreign)
    assert str(caught.value) == (
        f"{foreign} has format version 99, this dlbt-core reads up to 1.\n  fix  update dlbt-core."
    )
    save_file({"score": torch.zeros(2)}, foreign, {"format": "dlbt-explanation", "version": "1", "about": "{}"})
    with pytest.raises(FileFormatError) as caught:
        dlbt.load(foreign)
    assert str(caught.value) == (
        f"{foreign} is damaged or not a saved explanation: KeyError: 'accounts'\n"
        "  fix  write it again with Explanation.save()."
    )
    with pytest.raises(FileNotFoundError) as missing:
        dlbt.load(tmp_path / "nowhere")
    assert str(missing.value) == (
        f"there is no file {str(tmp_path / 'nowhere')!r}.\n  fix  a file that Explanation.save() has written."
    )


def test_nothing_is_pickled(explanation: dlbt.Explanation, tmp_path: Path) -> None:
    data = explanation.save(tmp_path / "x.safetensors").read_bytes()
    header = int.from_bytes(data[:8], "little")
    assert data[8 : 8 + header].decode().startswith("{")
