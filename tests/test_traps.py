"""Silent traps: each was found in a released package of the field. Here the result is right, or the call says why not."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dlbt_core as dlbt
from zoo import make, widen


def biasless(*sizes: int, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after, bias=False, dtype=torch.float64), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


def gradient_times_input(model: Callable[[Tensor], Tensor], x: Tensor, target: int) -> Tensor:
    x = x.clone().requires_grad_()
    return (torch.autograd.grad(model(x)[:, target].sum(), x)[0] * x).detach()


X = torch.randn(3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def test_no_target_is_the_largest_class_not_the_sum() -> None:
    model = biasless(8, 6, 4)
    found = dlbt.explain(model, X)
    assert torch.equal(found.score, model(X).amax(1).detach())
    assert found.picked == model(X).argmax(1).tolist()


def test_functional_residual_conserves() -> None:
    inner, head = biasless(8, 8, 8), biasless(8, 4, seed=1)

    def model(x: Tensor) -> Tensor:
        return head(x + inner(x))  # type: ignore[no-any-return]

    found = dlbt.explain(model, X, target=1)
    assert torch.allclose(found.relevance.sum(1), found.score)
    assert torch.allclose(found.relevance, gradient_times_input(model, X, 1))


def test_a_module_called_twice() -> None:
    shared, head = biasless(8, 8), biasless(8, 4, seed=1)

    def model(x: Tensor) -> Tensor:
        return head(torch.relu(shared(torch.relu(shared(x)))))  # type: ignore[no-any-return]

    found = dlbt.explain(model, X, target=2)
    assert torch.allclose(found.relevance, gradient_times_input(model, X, 2))


def test_functional_relu_is_the_module_relu() -> None:
    model = biasless(8, 6, 4)
    first, _, second = model

    def functional(x: Tensor) -> Tensor:
        return F.linear(F.relu(F.linear(x, first.weight)), second.weight)  # type: ignore[arg-type]

    assert torch.equal(dlbt.explain(model, X, target=0).relevance, dlbt.explain(functional, X, target=0).relevance)


def test_forward_before_the_explanation_changes_nothing() -> None:
    model = biasless(8, 6, 4)
    explainer = dlbt.Explainer(model, "epsilon")
    expected = explainer(X).relevance
    model(X)
    assert torch.equal(explainer(X).relevance, expected)


def test_explaining_twice_and_with_another_composite_in_between() -> None:
    explainer = dlbt.Explainer(biasless(8, 6, 4))
    expected = explainer(X).relevance
    explainer(X, composite="gradient_times_input")
    assert torch.equal(explainer(X).relevance, expected)


def test_the_result_outlives_explainer_and_model() -> None:
    model = biasless(8, 6, 4)
    explainer = dlbt.Explainer(model)
    found = explainer(X)
    copy = found.relevance.clone()
    del explainer, model
    gc.collect()
    assert torch.equal(found.relevance, copy)
    assert len(found.plan.steps) == 3
    assert found.ledger.error < 1e-12


def test_a_recording_of_one_sample_serves_two() -> None:
    model, inputs, target = make("bert", 2)
    explainer = dlbt.Explainer(model)
    one = explainer(input_ids=inputs["input_ids"][:1], target=target)
    two = explainer(**inputs, target=target)
    assert two.inputs["input_ids"].shape == (2, 7)
    assert torch.allclose(two.inputs["input_ids"][:1], one.inputs["input_ids"], rtol=1e-4, atol=1e-6)


def test_token_relevance_is_the_sum_over_the_embedding() -> None:
    model, inputs, _ = make("bert", 2, torch.float64)
    by_id = dlbt.explain(model, **inputs)
    embedded = model.get_input_embeddings()(inputs["input_ids"])  # type: ignore[operator]
    by_vector = dlbt.explain(model, inputs_embeds=embedded, target=torch.tensor(by_id.picked))
    assert torch.allclose(by_id.inputs["input_ids"], by_vector.inputs["inputs_embeds"].sum(-1), atol=1e-12)


def test_the_mean_over_tokens_does_not_multiply_relevance() -> None:
    x = torch.randn(2, 50, 8, dtype=torch.float64)
    head = biasless(8, 4)
    found = dlbt.explain(lambda x: head(x.mean(1)), x, target=0)
    assert torch.allclose(found.relevance.sum((1, 2)), found.score)


def test_attention_weights_matter() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 1, 4, 8, dtype=torch.float64) for _ in range(3))

    def model(v: Tensor, sharp: float) -> Tensor:
        return F.scaled_dot_product_attention(q * sharp, k, v)[:, 0, 0]

    flat = dlbt.explain(lambda v: model(v, 0.0), v, target=0).relevance[0, 0].sum(-1)
    sharp = dlbt.explain(lambda v: model(v, 20.0), v, target=0).relevance[0, 0].sum(-1)
    assert torch.allclose(flat, v[0, 0, :, 0] / 4)
    weights = torch.softmax((q * 20) @ k.transpose(-1, -2) / 8**0.5, -1)[0, 0, 0]
    assert torch.allclose(sharp, weights * v[0, 0, :, 0])


def test_maps_of_different_classes_differ_and_have_both_signs() -> None:
    model, inputs, _ = make("resnet18" if _has_torchvision() else "hf_resnet", 1)
    maps = [e.relevance.flatten() for e in dlbt.explain(model, **inputs, targets=[0, 1])]
    assert F.cosine_similarity(maps[0], maps[1], dim=0) < 0.99
    assert all((m > 0).any() and (m < 0).any() for m in maps)


def _has_torchvision() -> bool:
    import importlib.util

    return importlib.util.find_spec("torchvision") is not None


FORWARD: dict[str, Callable[[Tensor], Tensor]] = {
    "x + x": lambda x: x + x,
    "add alpha": lambda x: torch.add(x, x.flip(1), alpha=3),
    "rsub": lambda x: torch.rsub(x, 2.0, alpha=0.5),
    "masked_fill": lambda x: x.masked_fill(x < 0, 0.5),
    "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu": F.gelu,
    "attention scale": lambda x: F.scaled_dot_product_attention(*[x.view(3, 1, 2, 4)] * 3, scale=3.0).view(3, 8),
    "layer norm without affine": lambda x: F.layer_norm(x, (8,)),
    "leaky relu": lambda x: F.leaky_relu(x, 0.3),
    "elu alpha": lambda x: F.elu(x, 0.7),
    "softmax": lambda x: torch.softmax(x, -1) * x,
    "clamp": lambda x: x.clamp(-0.5, 0.7),
    "dropout in eval": lambda x: F.dropout(x, 0.5, training=False),
}


@pytest.mark.parametrize("name", FORWARD)
def test_forward_values(name: str) -> None:
    found = dlbt.explain(FORWARD[name], X, target=3, audit=True)
    assert torch.equal(found.outputs[""], FORWARD[name](X))
    assert found.ledger.error < 1e-9


def test_a_float32_norm_in_a_float64_model() -> None:
    model, inputs, target = make("llama", 2, torch.float64)
    found = dlbt.explain(model, **inputs, target=target)
    assert found.score.dtype == torch.float64
    assert found.ledger.error < 1e-6


def test_the_embedding_of_a_tied_head() -> None:
    """The head shares the embedding's weight; only where ids enter does relevance become that of tokens."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=32, n_positions=16, bos_token_id=0, eos_token_id=0)
    torch.manual_seed(0)
    model = widen(GPT2LMHeadModel(config), 0.3)
    assert model.lm_head.weight is model.transformer.wte.weight  # type: ignore[union-attr]
    found = dlbt.explain(model, input_ids=torch.randint(0, 32, (2, 5)), target=dlbt.target.token(-1))
    assert found.inputs["input_ids"].shape == (2, 5)
    assert found.ledger.error < 1e-4


SILENT = """
import sys, logging, warnings
warnings.simplefilter("error")
import torch, random
state, python_state, handlers = torch.get_rng_state(), random.getstate(), list(logging.root.handlers)
threads, before = torch.get_num_threads(), set(sys.modules)
import time
start = time.perf_counter()
import dlbt_core
taken = time.perf_counter() - start
dlbt_core.default_plugins()
assert torch.equal(state, torch.get_rng_state()) and random.getstate() == python_state
assert logging.root.handlers == handlers and torch.get_num_threads() == threads
assert not {"transformers", "torchvision", "matplotlib", "sklearn"} & set(sys.modules), "heavy import"
print(f"{taken:.3f}", file=sys.stderr)
"""


def test_importing_is_silent_and_light() -> None:
    done = subprocess.run([sys.executable, "-c", SILENT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert float(done.stderr) < 3.0
