"""MambaLRP: parity with the authors' slow path, edited gradients for every family, and what is a parameter of a scan."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dlbt_core as dlbt
from dlbt_core.graph.facts import analyse
from dlbt_rules_nlp.scans import selective
from graph.replaying import recorded
from test_peers import distance, load

transformers = pytest.importorskip("transformers")

SIZES = {
    "vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
SCAN = {"state_size": 4, "conv_kernel": 4, "time_step_rank": 2}
JAMBA = {
    "intermediate_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 2, "num_experts": 2,
    "num_experts_per_tok": 1, "mamba_d_state": 4, "mamba_dt_rank": 2,
}  # fmt: skip
ATTENTION = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 24}
HEADS = {**ATTENTION, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 4, "mamba_chunk_size": 4}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "mamba": ("Mamba", SCAN),
    "falcon_mamba": ("FalconMamba", SCAN),
    "mamba2": ("Mamba2", {"state_size": 4, "num_heads": 4, "head_dim": 8, "n_groups": 2, "chunk_size": 4, "expand": 2}),
    "jamba": ("Jamba", {**JAMBA, "attn_layer_period": 8, "expert_layer_period": 8, "expert_layer_offset": 7}),
    "rwkv": ("Rwkv", {"attention_hidden_size": 16, "intermediate_size": 24, "context_length": 32}),
    "jamba_with_attention_and_experts": (
        "Jamba",
        {**JAMBA, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    ),
    "bamba_with_attention": ("Bamba", {**HEADS, "attn_layer_indices": [1]}),
    "falcon_h1_with_attention": ("FalconH1", {**HEADS, "mamba_d_ssm": 32, "head_dim": 4}),
    "nemotron_h_with_attention": (
        "NemotronH",
        {**ATTENTION, "mamba_num_heads": 4, "mamba_head_dim": 8, "ssm_state_size": 4, "chunk_size": 4, "n_groups": 2,
         "head_dim": 4, "layers_block_type": ["mamba", "attention"]},
    ),
}  # fmt: skip
PURE = [name for name in FAMILIES if "with" not in name]
AS_DRAWN = ("A_log", ".D", "dt_bias", "dt_proj.bias", "time_decay", "time_first")
"""Parameters of the scan keep what the model drew: step sizes and decays make sense in a small range only."""


def family(name: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Tensor]:
    """A tiny random model, wide enough that activations do not vanish, and ids for it: seven, two chunks of Mamba-2."""
    kind, options = FAMILIES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = getattr(transformers, f"{kind}Config")(**SIZES, **options)
        config._experts_implementation = "eager"
        config.use_cache = name != "jamba"  # its cache wants an attention layer
        model = getattr(transformers, f"{kind}ForCausalLM")(config).to(dtype).eval()
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if not key.endswith(AS_DRAWN) and "time_mix" not in key:
                    if parameter.dim() > 1:
                        parameter.normal_(0.0, max(0.1, 0.7 * parameter[0].numel() ** -0.5))
                    else:
                        parameter.uniform_(0.7, 1.3) if "weight" in key else parameter.normal_(0.0, 0.1)
        return model, torch.randint(4, 64, (2, 7))


def test_the_authors_arrays() -> None:
    arrays = load("mambalrp_tiny")
    config = transformers.MambaConfig(**{**SIZES, **SCAN})
    model = transformers.MambaForCausalLM(config).eval()
    model.load_state_dict({k[2:]: torch.tensor(v) for k, v in arrays.items() if k.startswith("w/")})
    target = dlbt.target.token(-1, int(arrays["target"]))
    found = dlbt.explain(model, inputs_embeds=torch.tensor(arrays["x"]), target=target, composite="mamba_lrp")
    assert distance(found.outputs["logits"][0, -1], arrays["logits"]) <= 1e-5
    assert distance(found.relevance, arrays["R/mambalrp"]) <= 1e-5


@pytest.mark.parametrize("name", FAMILIES)
def test_books_and_causality(name: str) -> None:
    model, ids = family(name)
    found = dlbt.explain(model, input_ids=ids, target=dlbt.target.token(4), composite="mamba_lrp")
    relevance = found.inputs["input_ids"]
    assert found.ledger.error <= 1e-5
    assert (relevance[:, 5:] == 0).all()
    assert (relevance[:, :5] != 0).all()
    allowed = {"bias", "constant", *(["softmax"] if "attention" in name else [])}
    absorbed = {key for key, amount in found.ledger.absorbed.items() if float(amount.abs().max()) > 1e-6}
    assert absorbed <= allowed


@pytest.mark.parametrize("name", ["mamba", "mamba2", "jamba_with_attention_and_experts"])
def test_padding(name: str) -> None:
    model, ids = family(name)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    found = dlbt.explain(model, input_ids=ids, attention_mask=mask, target=dlbt.target.token(-1), composite="mamba_lrp")
    relevance = found.inputs["input_ids"]
    assert (relevance[0, :3] == 0).all()
    assert (relevance[0, 3:] != 0).all()
    assert (relevance[1] != 0).all()
    assert found.ledger.error <= 1e-5


@pytest.mark.parametrize("name", PURE)
def test_no_parameter_of_a_scan_carries(name: str) -> None:
    """Of products of two values only gates are left."""
    model, ids = family(name)
    plan = dlbt.explain(model, input_ids=ids, target=dlbt.target.token(-1), composite="mamba_lrp").plan
    products = [s for s in plan.steps if s.node.op.split(".")[1] in ("mul", "div", "matmul", "bmm", "einsum")]
    assert len([s for s in products if len(s.slots) > 1]) == (4 if name in ("rwkv", "jamba") else 2)


def _identity(function: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """f(x) = x (f(x) / x) with the quotient cut off."""
    return lambda x, *args: x * torch.where(x == 0, 0.5, function(x) / torch.where(x == 0, 1.0, x)).detach()


def _half(product: Tensor) -> Tensor:
    """The half rule: y / 2 + (y / 2 cut off)."""
    return product / 2 + (product / 2).detach()


def _layer_norm(x: Tensor, shape: Any, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    std = (x.var(-1, unbiased=False, keepdim=True) + eps).sqrt().detach()
    return (x - x.mean(-1, keepdim=True)) / std * weight + bias


def _with_edits(name: str, patch: pytest.MonkeyPatch) -> None:
    """Cut off in the gradient what MambaLRP holds constant.  Jafari et al. 2024."""
    module = importlib.import_module(f"transformers.models.{name}.modeling_{name}")

    def cut(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *args, **kwargs: function(*args, **kwargs).detach()

    for owner, op in ((torch, "rsqrt"), (torch, "exp"), (torch, "sigmoid"), (F, "softplus")):
        patch.setattr(owner, op, cut(getattr(owner, op)))
    silu = F.silu
    patch.setattr(F, "silu", _identity(silu))
    patch.setattr(F, "layer_norm", _layer_norm)
    patch.setattr(torch, "square", lambda x: x * x.detach())
    if name in ("mamba", "falcon_mamba", "jamba"):
        scan = module.mamba_selective_scan

        def scanned(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, z: Tensor, **more: Any) -> Any:
            more["D"] = more["D"].detach()
            found = scan(x, dt, A, B.detach(), C.detach(), z=None, **more)
            y, *state = found if isinstance(found, tuple) else (found,)
            y = _half(y * F.silu(z))
            return (y, *state) if state else y

        patch.setattr(module, "mamba_selective_scan", scanned)
    if name == "mamba2":
        patch.setattr(module, "mamba2_chunk_scan", _recurrence)
        norm = module.MambaRMSNormGated.forward
        patch.setattr(
            module.MambaRMSNormGated, "forward", lambda self, x, gate: norm(self, _half(x * F.silu(gate)), None)
        )
    if name == "jamba":
        patch.setattr(
            module.JambaMLP, "forward",
            lambda self, x: self.down_proj(_half(F.silu(self.gate_proj(x)) * self.up_proj(x))),
        )  # fmt: skip


def _recurrence(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, *, D: Tensor, dt_bias: Tensor,
    return_final_states: bool = False, **more: Any,
) -> Any:  # fmt: skip
    """Mamba-2's scan as a loop over time: h_t = exp(A d_t) h_(t-1) + d_t B_t x_t, y_t = C_t h_t + D x_t."""
    dt = F.softplus(dt + dt_bias)
    repeats = x.shape[2] // B.shape[2]
    B, C = (t.detach().repeat_interleave(repeats, 2) for t in (B, C))
    state, outputs = torch.zeros(()), []
    for t in range(x.shape[1]):
        decay = torch.exp(A * dt[:, t])[:, :, None, None]
        state = decay * state + (dt[:, t, :, None] * x[:, t])[..., None] * B[:, t, :, None]
        outputs.append((state * C[:, t, :, None]).sum(-1) + D[:, None] * x[:, t])
    y = torch.stack(outputs, 1)
    return (y, state) if return_final_states else y


@pytest.mark.parametrize("name", PURE)
def test_edited_gradients(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Input times the gradient of the same model with what is held constant cut off, scans as a plain loop."""
    model, ids = family(name)
    x = model.get_input_embeddings()(ids).detach()  # type: ignore[operator]
    found = dlbt.explain(model, inputs_embeds=x, target=dlbt.target.token(-1), composite="mamba_lrp")
    _with_edits(name, monkeypatch)
    model, _ = family(name)
    x.requires_grad_()
    score = model(inputs_embeds=x).logits[:, -1].max(-1).values
    torch.testing.assert_close(score.detach(), found.score, rtol=1e-5, atol=1e-5)
    (gradient,) = torch.autograd.grad(score.sum(), x)
    assert distance(found.relevance, (x * gradient).detach().numpy()) <= 1e-5


def test_auto_says_why() -> None:
    model, ids = family("mamba")
    plan = dlbt.Explainer(model).plan(input_ids=ids, target=dlbt.target.token(-1))
    assert plan.composite_name == "auto -> mamba_lrp (the model has a selective scan)"


def test_gamma() -> None:
    model, ids = family("mamba")
    plain, gamma = (
        dlbt.explain(model, input_ids=ids, target=dlbt.target.token(-1), composite=dlbt.composite("mamba_lrp", gamma=g))
        for g in (0.0, 0.25)
    )
    used = {s.node.op: s.rule.variant for s in gamma.plan.steps}
    assert (used["aten.conv1d.default"], used["aten.linear.default"]) == ("gamma", "gamma")
    assert gamma.ledger.error <= 1e-4
    assert not torch.allclose(plain.relevance, gamma.relevance)


# -- the fact ------------------------------------------------------------------------------------------------------------

G = torch.Generator().manual_seed(0)
A, TO_STEP, TO_B, TO_C = -torch.rand(6, 4, generator=G), *(torch.randn(n, 6, generator=G) for n in (6, 4, 4))


def _scan(x: Tensor) -> Tensor:
    """Mamba's loop over two steps."""
    step, B, C = F.softplus(F.linear(x, TO_STEP)), F.linear(x, TO_B), F.linear(x, TO_C)
    decay, given = torch.exp(A * step[..., None]), step[..., None] * B[:, :, None] * x[..., None]
    state = decay[:, 0] * torch.zeros(6, 4) + given[:, 0]
    state = decay[:, 1] * state + given[:, 1]
    return (state * C[:, 1, None]).sum(-1) * F.silu(x[:, 1])


def _nodes(model: Callable[[Tensor], Tensor], x: Tensor) -> set[str]:
    graph = recorded(model, x).graph
    found = selective(graph)["selective"]
    return {n.name for n in graph.nodes if found.intersection(o for o in n.outputs if o is not None)}


def test_what_is_a_parameter() -> None:
    """Step, decay, d B and C; neither the state nor the gate behind the scan."""
    assert _nodes(_scan, torch.randn(2, 2, 6)) == {"softplus", "exp", "mul_1", "unsqueeze_4"}


NO_SCAN: dict[str, Callable[[Tensor], Tensor]] = {
    "a softplus that is no step": lambda x: F.softplus(F.linear(x, TO_STEP)) * x,
    "mish": lambda x: x * torch.tanh(F.softplus(x)),
    "noise": lambda x: torch.exp(x) * torch.ones(6),
    "a softmax by hand": lambda x: torch.exp(x - x.amax(-1, keepdim=True)) / torch.exp(x).sum(-1, keepdim=True),
    "the size of a box": lambda x: torch.stack([torch.tanh(x) - 0.5 * torch.exp(x) * x, torch.exp(x) * x], -1).clamp(max=9.0),
    "attention": lambda x: torch.softmax(x @ x.transpose(-1, -2), -1) @ x,
}


@pytest.mark.parametrize("name", NO_SCAN)
def test_what_is_no_scan(name: str) -> None:
    assert _nodes(NO_SCAN[name], torch.randn(2, 3, 6)) == set()


def test_one_of_several_results_is_not_held() -> None:
    """C as a part of a split: to hold it would hold the signal, too; it shares evenly instead."""

    def model(x: Tensor) -> Tensor:
        step = F.softplus(F.linear(x, TO_STEP))
        signal, B, C = torch.split(torch.cat([x, x * 2.0, x * 3.0], -1), 6, -1)
        state = torch.exp(-step) * (step * B * signal)
        return (state * C).sum(-1)

    assert _nodes(model, torch.randn(2, 6)) == {"softplus", "exp", "mul_2"}
    found = dlbt.explain(model, torch.randn(2, 6), target=dlbt.target.function(lambda y: y), composite="mamba_lrp")
    assert found.ledger.error <= 1e-6


def test_a_signal_that_is_read_elsewhere_is_not_held() -> None:
    def model(x: Tensor) -> Tensor:
        step, C = F.softplus(F.linear(x, TO_STEP)), torch.tanh(x)
        state = torch.exp(-step) * (step * F.linear(x, TO_STEP) * x)
        return (state * C).sum(-1) + C.sum(-1)

    assert _nodes(model, torch.randn(2, 6)) == {"softplus", "exp", "mul"}


def test_the_fact_is_found_by_the_plugin() -> None:
    graph = recorded(_scan, torch.randn(2, 2, 6)).graph
    facts = analyse(graph, [analyser for _, analyser in dlbt.default_plugins().analysers.items()])
    assert facts.named["selective"] == selective(graph)["selective"]
    assert facts.named["selective"]
