"""CP-LRP: parity with LXT, conservation without biases, and which branch of a gated MLP is the gate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dlbt_core as dlbt
from dlbt_core.graph.facts import analyse
from graph.replaying import recorded
from test_peers import LAYERS, distance, load, transformer
from zoo import widen

transformers = pytest.importorskip("transformers")

SIZES = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "intermediate_size": 48, "vocab_size": 64, "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
EXPERTS = {"num_experts_per_tok": 2, "experts_implementation": "eager"}
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Qwen3": {},
    "Gemma3": {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
    "Phi3": {},
    "Mixtral": {"num_local_experts": 4, **EXPERTS},
    "Qwen3Moe": {"num_experts": 4, "moe_intermediate_size": 24, **EXPERTS},
    "GptOss": {"num_local_experts": 4, "sliding_window": 4, **EXPERTS},
}
BIAS_FREE = ("Llama", "Qwen3", "Gemma3", "Phi3")


def family(name: str, implementation: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Tensor]:
    """A tiny random model, wide enough that activations do not vanish, and ids for it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        options = dict(FAMILIES[name])
        experts = options.pop("experts_implementation", None)
        config = getattr(transformers, f"{name}TextConfig" if name == "Gemma3" else f"{name}Config")(**SIZES, **options)
        config._attn_implementation = implementation
        if experts is not None:
            config._experts_implementation = experts
        model = widen(getattr(transformers, f"{name}ForCausalLM")(config)).to(dtype)
        return model, torch.randint(4, 64, (2, 7))


def explained(name: str, implementation: str, **more: Any) -> dlbt.Explanation:
    model, ids = family(name, implementation)
    return dlbt.explain(model, input_ids=ids, target=dlbt.target.token(4), composite="cp_lrp", **more)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize(("precision", "limit"), [("f64", 1e-6), ("f32", 1e-5)])
def test_lxt(implementation: str, precision: str, limit: float) -> None:
    """At the input embeddings and at each layer whose relevance was stored."""
    arrays = load("lxt_llama_cplrp_eager")
    dtype = torch.float64 if precision == "f64" else torch.float32
    model = transformer(arrays, "llama", dtype)
    model.set_attn_implementation(implementation)  # type: ignore[operator]
    target = dlbt.target.token(-1, torch.tensor(arrays["target"]))
    embeddings = torch.tensor(arrays["x"]).to(dtype)
    found = dlbt.explain(model, inputs_embeds=embeddings, target=target, composite="cp_lrp", layers="all")
    assert distance(found.outputs["logits"][:, -1], arrays[f"logits/{precision}"]) <= limit
    assert distance(found.relevance, arrays[f"R/{precision}"]) <= limit
    for index, layer in enumerate(LAYERS["llama"]):
        relevance = found.at(layer) if layer else found.relevance
        assert distance(relevance, arrays[f"Rlayer/{precision}/{index}"]) <= limit, layer


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("name", BIAS_FREE)
def test_all_of_the_score_reaches_the_inputs(name: str, implementation: str) -> None:
    """Nothing has a bias, and nothing else is absorbed. Norms compute in float32, whatever the model's dtype."""
    found = explained(name, implementation)
    relevance = found.inputs["input_ids"]
    torch.testing.assert_close(relevance.sum(1), found.score, rtol=1e-6, atol=0)
    assert all(float(amount.abs().max()) <= 1e-12 for amount in found.ledger.absorbed.values())
    assert (relevance[:, 5:] == 0).all()
    assert (relevance[:, :5] != 0).all()


@pytest.mark.parametrize("name", BIAS_FREE)
def test_the_attention_implementation_makes_no_difference(name: str) -> None:
    eager, fused = (explained(name, which).inputs["input_ids"] for which in ("eager", "sdpa"))
    assert float((eager - fused).abs().max() / eager.abs().max()) <= 1e-5


@pytest.mark.parametrize("name", BIAS_FREE)
def test_edited_gradients(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Input times the gradient of the same model with softmax, rsqrt and the gates' activations cut off."""
    model, ids = family(name, "eager")
    embeddings = model.get_input_embeddings()(ids).detach()  # type: ignore[operator]
    found = dlbt.explain(model, inputs_embeds=embeddings, target=dlbt.target.token(4), composite="cp_lrp")

    def cut(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *args, **kwargs: function(*args, **kwargs).detach()

    for owner, op in ((F, "softmax"), (torch, "rsqrt"), (F, "silu"), (F, "gelu")):
        monkeypatch.setattr(owner, op, cut(getattr(owner, op)))
    model, _ = family(name, "eager")
    x = embeddings.clone().requires_grad_()
    score = model(inputs_embeds=x).logits[:, 4].max(-1).values
    torch.testing.assert_close(score.detach(), found.score, rtol=1e-6, atol=1e-6)
    (gradient,) = torch.autograd.grad(score.sum(), x)
    assert distance(found.relevance, (x * gradient).detach().numpy()) <= 1e-6


@pytest.mark.parametrize("name", ["Mixtral", "Qwen3Moe", "GptOss"])
def test_gates_of_experts(name: str) -> None:
    """Each expert's gate is held, in whatever spelling; what the router keeps is booked."""
    found = explained(name, "eager", layers="none")
    held = Counter(why.partition("fact=")[2] for why in found.plan.held.values())
    assert held["'activated_gate')"] >= 4
    assert found.ledger.error <= 1e-6
    assert (found.inputs["input_ids"][:, 5:] == 0).all()


# -- the fact ------------------------------------------------------------------------------------------------------------

W, V = (
    torch.randn(6, 6, generator=torch.Generator().manual_seed(0)),
    torch.randn(6, 6, generator=torch.Generator().manual_seed(1)),
)
BOTH = torch.cat([W, V])
A_MASK = torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0, 0.0])


def _chunked(x: Tensor) -> Tensor:
    gate, up = F.linear(x, BOTH).chunk(2, -1)
    return up * F.silu(gate)


def _interleaved(x: Tensor) -> Tensor:
    """As in GPT-OSS: limits, and a SiLU with a factor of its own."""
    both = F.linear(x, BOTH)
    gate, up = both[..., ::2].clamp(max=7.0), both[..., 1::2].clamp(-7.0, 7.0)
    return (up + 1) * (gate * torch.sigmoid(gate * 1.702))


def _spelled_gelu(x: Tensor) -> Tensor:
    gate = F.linear(x, W)
    inner = 0.79788456 * (gate + 0.044715 * torch.pow(gate, 3.0))
    return 0.5 * gate * (1.0 + torch.tanh(inner)) * F.linear(x, V)


def _cast(x: Tensor) -> Tensor:
    return F.relu(F.linear(x, W).double()).float() * F.dropout(F.linear(x, V), 0.5, False)


def _read_twice(x: Tensor) -> Tensor:
    gate = F.silu(F.linear(x, W))
    return gate * F.linear(x, V) + gate


def _two_sources(x: Tensor) -> Tensor:
    return F.silu(F.linear(x, W)) * F.linear(torch.tanh(x), V)


GATED: dict[str, tuple[Callable[[Tensor], Tensor], set[str]]] = {
    "two maps": (lambda x: F.silu(F.linear(x, W)) * F.linear(x, V), {"silu"}),
    "two matrix products": (lambda x: F.gelu(x @ W + 0.5) * (x.contiguous() @ V), {"gelu"}),
    "one map in halves": (_chunked, {"silu"}),
    "one map interleaved": (_interleaved, {"mul_1"}),
    "an activation spelled out": (_spelled_gelu, {"mul_3"}),
    "casts": (_cast, {"to_1"}),
    "a gate that is read elsewhere": (_read_twice, set()),
    "maps of two values": (_two_sources, set()),
    "a mask": (lambda x: F.silu(F.linear(x, W)) * A_MASK, set()),
    "a residual scale": (lambda x: F.silu(F.linear(x, W)) * x, set()),
    "an activation alone": (lambda x: F.linear(x, W) * torch.sigmoid(F.linear(x, W)), set()),
    "two activated branches": (lambda x: F.silu(F.linear(x, W)) * F.relu(F.linear(x, V)), set()),
}


@pytest.mark.parametrize("name", GATED)
def test_the_activated_branch(name: str) -> None:
    model, expected = GATED[name]
    graph = recorded(model, torch.randn(2, 3, 6)).graph
    facts = analyse(graph)
    assert {n.name for n in graph.nodes if any(facts.has(o, "activated_gate") for o in n.outputs)} == expected


@pytest.mark.parametrize("name", [name for name, (_, expected) in GATED.items() if expected])
def test_all_to_the_other_branch(name: str) -> None:
    """The gate's linear map gets nothing, and the books close."""
    model, _ = GATED[name]
    x = torch.randn(2, 6, generator=torch.Generator().manual_seed(2))
    found = dlbt.explain(model, x, target=1, composite="cp_lrp")
    products = [s for s in found.plan.steps if s.node.op == "aten.mul.Tensor" and len(s.slots) > 1]
    assert not products
    assert found.ledger.error <= 1e-6


def test_the_value_of_the_gate_counts() -> None:
    x = torch.randn(2, 6, generator=torch.Generator().manual_seed(2))
    found = dlbt.explain(GATED["two maps"][0], x, target=1, composite="cp_lrp")
    expected = F.silu(x @ W[1])[:, None] * V[1] * x
    torch.testing.assert_close(found.relevance, expected)


# -- softmax, stopped ----------------------------------------------------------------------------------------------------


def test_a_router_that_is_stopped() -> None:
    """Half of a mixture goes to the softmax, which hands nothing on: what it keeps is booked by name."""

    def mixture(x: Tensor) -> Tensor:
        weights = torch.softmax(F.linear(x, W[:2]), -1)
        return weights[:, :1] * F.linear(x, W) + weights[:, 1:] * F.linear(x, V)

    x = torch.randn(2, 6, generator=torch.Generator().manual_seed(3))
    rules = [(dlbt.Select(op="aten.softmax"), dlbt.Use("detach"))]
    found = dlbt.explain(mixture, x, target=0, composite="attnlrp", rules=rules)
    torch.testing.assert_close(found.ledger.absorbed["stopped"].float(), found.score / 2)
    torch.testing.assert_close(found.relevance.sum(1), found.score / 2)
