"""Recording leaves the process as it was, also after an exception, and does not see what other threads do."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as global_hooks

from dlbt_core.errors import InputError
from graph.replaying import Lambda, ops_of, recorded


def _state() -> dict[str, Any]:
    return {
        "hooks": (len(global_hooks._global_forward_hooks), len(global_hooks._global_forward_pre_hooks)),
        "always called": len(global_hooks._global_forward_hooks_always_called),
        "fast path": torch.backends.mha.get_fastpath_enabled(),
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "rng": torch.get_rng_state().tolist(),
        "autograd key": torch._C._dispatch_tls_is_dispatch_key_excluded(torch._C.DispatchKey.AutogradCPU),
        "modes": torch._C._len_torch_dispatch_stack(),
    }


class _Fails(Exception):
    pass


def _fail(self: nn.Module, x: Tensor) -> Tensor:
    x = self.a(x) * torch.rand(())  # type: ignore[operator]
    self.a.bias.data.add_(1)  # type: ignore[union-attr, operator]
    raise _Fails("no more")


@pytest.mark.parametrize("fastpath", [True, False])
@pytest.mark.parametrize("grad", [True, False])
def test_all_is_as_before_after_an_exception_in_forward(grad: bool, fastpath: bool) -> None:
    model = nn.Sequential(nn.Linear(8, 8), Lambda(_fail, a=nn.Linear(8, 8)))
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.backends.mha.set_fastpath_enabled(fastpath)
    try:
        with torch.set_grad_enabled(grad):
            before = _state()
            with pytest.raises(InputError) as caught:
                recorded(model, torch.ones(3, 8))
            assert _state() == before
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    assert str(caught.value) == (
        "the model cannot run on these inputs: _Fails: no more\n  where  1 (Lambda)\n  input  input: float32 (3, 8) on cpu\n"
        "  fix    pass what model(...) itself accepts: check shapes, dtypes and devices above."
    )
    assert isinstance(caught.value.__cause__, _Fails)
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())


def test_all_is_as_before_after_a_recording() -> None:
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    before = _state()
    recorded(model, torch.ones(3, 5, 8))
    assert _state() == before


def test_gradients_work_after_a_recording() -> None:
    model = nn.Linear(8, 4)
    x = torch.randn(3, 8, requires_grad=True)
    recorded(model, x)
    model(x).sum().backward()
    assert x.grad is not None
    assert model.weight.grad is not None


def test_other_threads_run_undisturbed_and_unseen() -> None:
    """Another thread runs its model while this one records; its ops and module calls stay out of the recording."""
    inside, other_done = threading.Event(), threading.Event()
    other = nn.Sequential(nn.Linear(6, 6), nn.Sigmoid(), nn.Linear(6, 6))
    x = torch.randn(3, 6)
    expected = other(x).detach()
    found: dict[str, Any] = {}

    def run_other() -> None:
        try:
            assert inside.wait(10)
            given = x.clone().requires_grad_()
            out = other(given)
            out.sum().backward()
            found["out"], found["grad"], found["enabled"] = out.detach(), given.grad, torch.is_grad_enabled()
        finally:
            other_done.set()

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        x = self.a(x)  # type: ignore[operator]
        inside.set()
        assert other_done.wait(10)
        return torch.relu(x)

    thread = threading.Thread(target=run_other)
    thread.start()
    graph = recorded(Lambda(forward, a=nn.Linear(8, 8)), torch.randn(3, 8)).graph
    thread.join()
    assert ops_of(graph) == ["aten.linear", "aten.relu"]
    assert {call.module for call in graph.modules} == {"", "a"}
    assert torch.equal(found["out"], expected)
    assert found["grad"] is not None
    assert found["enabled"]


def test_two_threads_record_their_own_models() -> None:
    models = [nn.Sequential(nn.Linear(8, 8), nn.ReLU()), nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))]
    results: dict[int, list[str]] = {}

    def work(index: int) -> None:
        for _ in range(5):
            results[index] = ops_of(recorded(models[index], torch.randn(3, 8)).graph)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {0: ["aten.linear", "aten.relu"], 1: ["aten.linear", "aten.tanh", "aten.linear"]}
