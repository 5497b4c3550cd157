"""Every model of the zoo: books that close, the model's own score, rows of a batch, autograd's gradient, nothing changed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import dlbt_core as dlbt
from zoo import ZOO, make, rows

NAMES = list(ZOO)
_KINKS = 3.0


def _output(out: Any) -> torch.Tensor:
    if isinstance(out, torch.Tensor):
        return out
    return out["logits"] if isinstance(out, dict) else out.logits


def _score(model: nn.Module, inputs: Any) -> torch.Tensor:
    """What the zoo explains: the largest class, or the most likely next token."""
    out = _output(model(**inputs))
    return (out[:, -1] if out.dim() == 3 else out).amax(-1)


def _relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("model_name", NAMES)
def test_books_close_and_score_is_the_models(model_name: str, dtype: torch.dtype) -> None:
    model, inputs, target = make(model_name, 3, dtype)
    with torch.no_grad():
        expected = _score(model, inputs)
    found = dlbt.explain(model, **inputs, target=target)
    limit = 1e-4 if dtype == torch.float32 else 1e-6 if ZOO[model_name].half_float else 1e-9
    assert found.ledger.error <= limit, found.ledger
    assert not found.ledger.unassigned
    assert _relative(found.score, expected) <= (1e-6 if dtype == torch.float32 else 1e-12)
    for relevance in found.inputs.values():
        assert torch.isfinite(relevance).all()
        assert relevance.abs().max() > 0


@pytest.mark.parametrize("model_name", NAMES)
def test_audit_finds_no_leak_in_any_node(model_name: str) -> None:
    model, inputs, target = make(model_name, 2, torch.float64)
    found = dlbt.explain(model, **inputs, target=target, audit=True)
    limit = 1e-6 if ZOO[model_name].half_float else 1e-10
    for account in found.ledger.worst(3):
        assert account.received is not None
        assert account.leak is not None
        moved = max(float(account.received.abs().max()), float(found.score.abs().max()))
        assert float(account.leak.abs().max()) <= limit * moved, account
    assert len(found.ledger.accounts) == len(found.plan.steps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("model_name", NAMES)
def test_a_row_of_the_batch_is_the_sample_alone(model_name: str, dtype: torch.dtype) -> None:
    """To 1e-5. In float32 a ReLU may switch where kernels round otherwise for one row: then no worse than autograd's."""
    model, inputs, target = make(model_name, 3, dtype)
    explainer = dlbt.Explainer(model, layers="none")
    batch = explainer(**inputs, target=target)
    for row in range(3):
        alone = explainer(**rows(inputs, row), target=target)
        for name in batch.inputs:
            found = _relative(batch.inputs[name][row : row + 1], alone.inputs[name])
            if found > 1e-5:
                assert dtype == torch.float32
                assert found <= _KINKS * _autograd_rows(model, inputs, target)


def _autograd_rows(model: nn.Module, inputs: Any, target: Any) -> float:
    """How far autograd's own input gradient of a row in the batch is from that of the row alone."""
    (name,) = inputs
    together = _gradient(model, inputs[name])
    alone = [_gradient(model, inputs[name][i : i + 1]) for i in range(3)]
    return max(_relative(together[i : i + 1], alone[i]) for i in range(3))


def _gradient(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(_score(model, {next(iter(_names(model))): x}).sum(), x)[0]


def _names(model: nn.Module) -> list[str]:
    import inspect

    return list(inspect.signature(model.forward).parameters)


@pytest.mark.parametrize("model_name", NAMES)
def test_gradient_times_input_is_autograds(model_name: str) -> None:
    model, inputs, target = make(model_name, 3, torch.float64)
    found = dlbt.explain(model, **inputs, target=target, composite="gradient_times_input")
    expected = _gradient_times_input(model, inputs)
    for name, relevance in expected.items():
        assert _relative(found.inputs[name], relevance) <= 1e-6
    assert found.ledger.error <= 1e-6


def _gradient_times_input(model: nn.Module, inputs: Any) -> dict[str, torch.Tensor]:
    """Input times gradient by autograd; for token ids through the embedding, summed over it."""
    captured: list[torch.Tensor] = []

    def catch(_module: nn.Module, _args: Any, output: torch.Tensor) -> torch.Tensor:
        captured.append(output.detach().requires_grad_())
        return captured[-1]

    if "input_ids" in inputs:
        embedding = model.get_input_embeddings()  # type: ignore[operator]
        handle = embedding.register_forward_hook(catch)
        try:
            score = _score(model, inputs).sum()
        finally:
            handle.remove()
        gradient = torch.autograd.grad(score, captured[0])[0]
        return {"input_ids": (gradient * captured[0]).sum(-1).detach()}
    leaves = {name: x for name, x in inputs.items() if isinstance(x, torch.Tensor)}
    leaves |= {f"{n}.{k}": v for n, x in inputs.items() if isinstance(x, dict) for k, v in x.items()}
    given = {name: x.clone().requires_grad_() for name, x in leaves.items()}
    call: dict[str, Any] = {n: given[n] if n in given else {k: given[f"{n}.{k}"] for k in inputs[n]} for n in inputs}
    gradients = torch.autograd.grad(_score(model, call).sum(), list(given.values()))
    return {name: (x * g).detach() for (name, x), g in zip(given.items(), gradients, strict=True)}


@pytest.mark.parametrize("model_name", NAMES)
def test_the_model_and_the_process_are_as_before(model_name: str) -> None:
    model, inputs, target = make(model_name, 2)
    first = next(model.parameters()).requires_grad_(True)
    first.grad = torch.ones_like(first)
    before = _everything(model)
    explainer = dlbt.Explainer(model)
    explainer(**inputs, target=target)
    explainer(**inputs, target=target)
    after = _everything(model)
    for key, value in before.items():
        same = torch.equal(value, after[key]) if isinstance(value, torch.Tensor) else value == after[key]
        assert same, key


def _everything(model: nn.Module) -> dict[str, Any]:
    found: dict[str, Any] = {f"state {k}": v.clone() for k, v in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        found[f"requires_grad {name}"] = parameter.requires_grad
        found[f"grad {name}"] = None if parameter.grad is None else parameter.grad.clone()
    for name, module in model.named_modules():
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
        found[f"hooks {name}"] = [len(h) for h in hooks]
        found[f"training {name}"] = module.training
        found[f"attributes {name}"] = sorted(module.__dict__)
        found[f"forward {name}"] = type(module).forward
    global_hooks = torch.nn.modules.module
    found["global hooks"] = (len(global_hooks._global_forward_hooks), len(global_hooks._global_forward_pre_hooks))
    found["rng"] = torch.get_rng_state()
    found["threads"] = torch.get_num_threads()
    found["dtype"] = torch.get_default_dtype()
    found["grad mode"] = torch.is_grad_enabled()
    found["deterministic"] = torch.are_deterministic_algorithms_enabled()
    found["mkldnn"] = torch.backends.mkldnn.enabled
    found["fast path"] = torch.backends.mha.get_fastpath_enabled()
    return found
