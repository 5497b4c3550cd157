"""Facts: normalisations, gates and attention are known by what they do, however the model spells them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dlbt_core as dlbt
from dlbt_core.graph.facts import Facts, analyse, carriers, explainable, infinite_values, on_path
from dlbt_core.graph.ir import Graph
from graph.replaying import node_of, recorded

F = nn.functional
Spelling = Callable[[Tensor], Any]
W = torch.rand(8, generator=torch.Generator().manual_seed(1)) + 0.5
A, B = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(2))


def _named(model: Any, fact: str, *args: Tensor) -> list[str]:
    graph = recorded(model, *(args or (torch.randn(3, 5, 8),))).graph
    return sorted(graph.values[value].name for value in analyse(graph).named.get(fact, ()))


# -- statistic ----------------------------------------------------------------------------------------------------------


def _mean(x: Tensor) -> Tensor:
    return x.mean(-1, keepdim=True)


def _centred_then_squared(x: Tensor) -> Tensor:
    d = x - _mean(x)
    return d * torch.rsqrt(_mean(d.pow(2)) + 1e-5) * W + W


def _var_mean(x: Tensor) -> Tensor:
    variance, mean = torch.var_mean(x, -1, keepdim=True, correction=0)
    return (x - mean) * torch.rsqrt(variance + 1e-5)


def _std_mean(x: Tensor) -> Tensor:
    std, mean = torch.std_mean(x, -1, keepdim=True)
    return (x - mean) / (std + 1e-5)


def _fast_variance(x: Tensor) -> Tensor:
    mean = _mean(x)
    return (x - mean) * torch.rsqrt(_mean(x * x) - mean * mean + 1e-5)


def _in_float64(x: Tensor) -> Tensor:
    h = x.to(torch.float64)
    return W * (h * torch.rsqrt(_mean(h.pow(2)) + 1e-6)).to(x.dtype)


def _per_head(x: Tensor) -> Tensor:
    heads = x.view(3, 5, 2, 4)
    return (heads / heads.norm(dim=-1, keepdim=True)).view(3, 5, 8)


def _after_residual(x: Tensor) -> Tensor:
    y = x + torch.tanh(x)
    return y * torch.rsqrt(_mean(y.pow(2)) + 1e-6)


STATISTICS: dict[str, tuple[Spelling, str]] = {
    "rms_pow": (lambda x: x * torch.rsqrt(_mean(x.pow(2)) + 1e-6), "rsqrt"),
    "rms_product": (lambda x: W * (x * torch.rsqrt(_mean(x * x) + 1e-6)), "rsqrt"),
    "rms_divided": (lambda x: x / torch.sqrt(_mean(x**2) + 1e-6), "sqrt"),
    "rms_sum": (lambda x: x / torch.sqrt(torch.square(x).sum(-1, keepdim=True) / 8 + 1e-6), "sqrt"),
    "rms_float64": (_in_float64, "rsqrt"),
    "rms_type_as": (lambda x: x * torch.rsqrt(_mean(x.double().pow(2)) + 1e-6).type_as(x), "type_as"),
    "rms_times_sqrt_d": (lambda x: 8**0.5 * x / x.norm(dim=-1, keepdim=True) * (W + 1), "linalg_vector_norm"),
    "norm": (lambda x: x / x.norm(dim=-1, keepdim=True), "linalg_vector_norm"),
    "norm_clamped": (lambda x: x / (x.norm(dim=-1, keepdim=True) * 8**-0.5).clamp(min=1e-6) * W, "clamp"),
    "norm_maximum": (lambda x: x / torch.maximum(x.norm(dim=-1, keepdim=True), torch.tensor(1e-6)), "maximum"),
    "norm_unsqueezed": (lambda x: x / x.norm(dim=-1)[..., None], "unsqueeze"),
    "norm_expanded": (lambda x: x / x.norm(dim=-1, keepdim=True).expand_as(x), "expand_as"),
    "linalg_norm": (lambda x: x / torch.linalg.norm(x, dim=-1, keepdim=True), "linalg_norm"),
    "normalize": (lambda x: F.normalize(x, dim=-1), "expand_as"),
    "power_of_sum": (lambda x: x * x.pow(2).sum(-1, keepdim=True).pow(-0.5), "pow_1"),
    "per_head": (_per_head, "linalg_vector_norm"),
    "in_place": (lambda x: (x * 1).div_(x.norm(dim=-1, keepdim=True)), "linalg_vector_norm"),
    "after_residual": (_after_residual, "rsqrt"),
    "l1": (lambda x: x / x.abs().sum(-1, keepdim=True), "sum"),
    "largest": (lambda x: x / x.abs().amax(-1, keepdim=True), "amax"),
    "layer_var": (lambda x: (x - _mean(x)) / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-5), "sqrt"),
    "layer_centred": (_centred_then_squared, "rsqrt"),
    "layer_twice": (lambda x: (x - _mean(x)) / torch.sqrt(_mean((x - _mean(x)) ** 2) + 1e-5), "sqrt"),
    "layer_std": (lambda x: (x - _mean(x)) / (torch.std(x, -1, keepdim=True) + 1e-5), "add"),
    "layer_var_mean": (_var_mean, "rsqrt"),
    "layer_std_mean": (_std_mean, "add"),
    "layer_fast_variance": (_fast_variance, "rsqrt"),
    "einsum_with_itself": (lambda x: x * torch.rsqrt(torch.einsum("btd,btd->bt", x, x)[..., None] + 1e-6), "rsqrt"),
    "matmul_with_itself": (lambda x: x / torch.sqrt(x[..., None, :] @ x[..., None] + 1e-6).squeeze(-1), "squeeze"),
}


@pytest.mark.parametrize("name", list(STATISTICS))
def test_a_normalisation_has_a_statistic(name: str) -> None:
    model, value = STATISTICS[name]
    assert _named(model, "statistic") == [value]


def test_norms_of_transformers_have_a_statistic() -> None:
    from transformers.models.llama.modeling_llama import LlamaRMSNorm
    from transformers.models.t5.modeling_t5 import T5LayerNorm

    assert _named(LlamaRMSNorm(8), "statistic") == ["rsqrt"]
    assert _named(T5LayerNorm(8), "statistic") == ["rsqrt"]


def _softmax_by_hand(x: Tensor) -> Tensor:
    e = (x - x.amax(-1, keepdim=True)).exp()
    return e / e.sum(-1, keepdim=True)


def _other_half(x: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return b * torch.rsqrt(_mean(a * a) + 1e-6)


NO_STATISTICS: dict[str, Spelling] = {
    "mean_pooling": lambda x: x.mean(1),
    "masked_pooling": lambda x: (x * (x > 0)).sum(1) / (x > 0).sum(1),
    "softmax": lambda x: x.exp() / x.exp().sum(-1, keepdim=True),
    "softmax_shifted": _softmax_by_hand,
    "times_mean": lambda x: x * _mean(x),
    "over_sum": lambda x: x / x.sum(-1, keepdim=True),
    "over_largest": lambda x: x / x.amax(-1, keepdim=True),
    "over_relu_sum": lambda x: F.relu(x) / (F.relu(x).sum(-1, keepdim=True) + 1e-6),
    "squeeze_excite": lambda x: x * torch.sigmoid(x.mean(1, keepdim=True)),
    "gate_of_energy": lambda x: x * torch.sigmoid(_mean(x**2)),
    "norm_of_something_else": lambda x: (x @ A) / x.norm(dim=-1, keepdim=True),
    "norm_of_the_input_of_tanh": lambda x: torch.tanh(x) / x.norm(dim=-1, keepdim=True),
    "norm_of_the_other_half": _other_half,
    "batch_norm": nn.BatchNorm1d(5).eval(),
    "batch_norm_by_hand": lambda x: (x - W) / torch.sqrt(W + 1e-5) * W,
    "square": lambda x: x * x,
    "cube": lambda x: x * x.pow(2),
    "product_of_all_rows": lambda x: x[:, :, :5] / (x @ x.mT),
    "einsum_of_all_rows": lambda x: x[:, :, :5] / torch.einsum("bid,bjd->bij", x, x),
    "norm_as_output": lambda x: x.norm(dim=-1),
    "deviation_pooling": lambda x: torch.cat([x.mean(1), x.std(1)], -1),
}


@pytest.mark.parametrize("name", list(NO_STATISTICS))
def test_what_is_no_normalisation_has_no_statistic(name: str) -> None:
    assert _named(NO_STATISTICS[name], "statistic") == []


# -- self_gate ----------------------------------------------------------------------------------------------------------


def _tanh_gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x.pow(3))))


GATES: dict[str, tuple[Spelling, str]] = {
    "silu": (lambda x: x * torch.sigmoid(x), "sigmoid"),
    "silu_gate_first": (lambda x: torch.sigmoid(x).mul(x), "sigmoid"),
    "silu_divided": (lambda x: x / (1 + torch.exp(-x)), "add"),
    "silu_in_place": (lambda x: x.mul_(torch.sigmoid(x)), "sigmoid"),
    "silu_cast": (lambda x: x * torch.sigmoid(x.double()).to(x.dtype), "to_1"),
    "swish_beta": (lambda x: x * torch.sigmoid(W * x), "sigmoid"),
    "quick_gelu": (lambda x: x * torch.sigmoid(1.702 * x), "sigmoid"),
    "tanh_gelu": (_tanh_gelu, "add_1"),
    "erf_gelu": (lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5)), "add"),
    "mish": (lambda x: x * torch.tanh(F.softplus(x)), "tanh"),
    "hard_swish": (lambda x: x * F.hardsigmoid(x), "hardsigmoid"),
}


@pytest.mark.parametrize("name", list(GATES))
def test_an_activation_that_is_spelled_out_has_a_gate(name: str) -> None:
    model, value = GATES[name]
    assert _named(model, "self_gate") == [value]


@pytest.mark.parametrize(
    ("name", "gates"),
    [("gelu_new", ["add_1"]), ("gelu_fast", ["add", "add_1"]), ("quick_gelu", ["sigmoid"]), ("gelu_python", ["add"])],
)
def test_activations_of_transformers_have_a_gate(name: str, gates: list[str]) -> None:
    """The one that scales x; that of ``gelu_fast`` is made of another such product."""
    from transformers.activations import ACT2FN

    assert _named(ACT2FN[name], "self_gate") == gates


def _halves(x: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return a * torch.sigmoid(b)


def _used_again(x: Tensor) -> Tensor:
    g = torch.sigmoid(x)
    return x * g + g


def _returned(x: Tensor) -> tuple[Tensor, Tensor]:
    g = torch.sigmoid(x)
    return x * g, g


NO_GATES: dict[str, Spelling] = {
    "glu": lambda x: torch.sigmoid(x @ A) * (x @ B),
    "swiglu": lambda x: F.silu(x @ A) * (x @ B),
    "halves": _halves,
    "used_again": _used_again,
    "returned": _returned,
    "square": lambda x: x * x,
    "softmax": lambda x: x * torch.softmax(x, -1),
    "norm": lambda x: x * torch.rsqrt(_mean(x.pow(2))),
    "squeeze_excite": lambda x: x * torch.sigmoid(x.mean(1, keepdim=True)),
    "two_activations": lambda x: F.relu(x) * torch.sigmoid(x),
    "of_other_rows": lambda x: x * torch.sigmoid(x.flip(0)),
    "shifted": lambda x: x[:, 1:] * torch.sigmoid(x[:, :-1]),
    "reciprocal": lambda x: torch.sigmoid(x) / x,
}


@pytest.mark.parametrize("name", list(NO_GATES))
def test_what_is_no_activation_has_no_gate(name: str) -> None:
    assert _named(NO_GATES[name], "self_gate") == []


# -- attention_weights --------------------------------------------------------------------------------------------------


def _scores(q: Tensor) -> Tensor:
    return q @ q.mT / 8**0.5


def _flat(q: Tensor) -> Tensor:
    return q.flatten(0, 1)


ATTENTIONS: dict[str, Spelling] = {
    "matmul": lambda q: torch.softmax(_scores(q), -1) @ q,
    "dropout": lambda q: F.dropout(torch.softmax(_scores(q), -1), 0.1, False) @ q,
    "cast": lambda q: torch.softmax(_scores(q), -1, dtype=torch.float64).to(q.dtype) @ q,
    "masked": lambda q: torch.softmax(_scores(q).masked_fill(q[0, 0, :, :5] > 0, -1e9), -1) @ q,
    "bmm": lambda q: torch.bmm(torch.softmax(torch.bmm(_flat(q), _flat(q).mT), -1), _flat(q)),
    "baddbmm": lambda q: torch.baddbmm(torch.zeros(8, 5, 8), torch.softmax(_flat(q) @ _flat(q).mT, -1), _flat(q)),
    "einsum": lambda q: torch.einsum("bhij,bhjd->bhid", torch.einsum("bhid,bhjd->bhij", q, q).softmax(-1), q),
    "view": lambda q: torch.softmax(_scores(q), -1).view(8, 5, 5) @ q.view(8, 5, 8),
    "head_mask": lambda q: (torch.softmax(_scores(q), -1) * torch.ones(4, 1, 1)) @ q,
    "pooling": lambda q: torch.softmax(q.mean(-1), -1).unsqueeze(-2) @ q,
    "pooling_by_sum": lambda q: (torch.softmax(q.mean(-1), -1).unsqueeze(-1) * q).sum(-2),
    "product_and_sum": lambda q: (torch.softmax(_scores(q), -1)[..., None] * q.unsqueeze(-3)).sum(-2),
    "where": lambda q: torch.where(q[..., :5] > 9, 0.0, torch.softmax(_scores(q), -1)) @ q,
    "linear": lambda q: F.linear(torch.softmax(q[0, 0] @ q[0, 0].mT, -1), q[0, 0].mT),
    "mm": lambda q: torch.softmax(q[0, 0] @ q[0, 0].mT, -1).mm(q[0, 0]),
    "no_nan": lambda q: torch.nan_to_num(torch.softmax(_scores(q), -1)) @ q,
}
NO_ATTENTIONS: dict[str, Spelling] = {
    "class_probabilities": lambda q: torch.softmax(q, -1),
    "head_behind_softmax": lambda q: F.linear(torch.softmax(q, -1), A),
    "memory_of_constants": lambda q: torch.softmax(q, -1) @ A,
    "sigmoid": lambda q: torch.sigmoid(_scores(q)) @ q,
    "picked_experts": lambda q: (torch.softmax(q, -1).gather(-1, q.argsort(-1)[..., :2])[..., None] * q[..., None, :]).sum(-2),
    "a_sum_of_something_else": lambda q: torch.softmax(_scores(q), -1)[..., :1] * q + q.sum(-1, keepdim=True),
}


@pytest.mark.parametrize("name", list(ATTENTIONS) + list(NO_ATTENTIONS))
def test_attention_weights_mix_other_values(name: str) -> None:
    model = {**ATTENTIONS, **NO_ATTENTIONS}[name]
    assert _named(model, "attention_weights", torch.randn(2, 4, 5, 8)) == (["softmax"] if name in ATTENTIONS else [])


def _by_hand(x: Tensor) -> Tensor:
    e = (x - x.amax(-1, keepdim=True)).exp()
    return e / e.sum(-1, keepdim=True)


def _masked_by_hand(x: Tensor) -> Tensor:
    e = torch.exp(x) * torch.ones(5, 5).tril(3)
    return e / (e.sum(-1, keepdim=True) + 1e-9)


def _renormalised(x: Tensor) -> Tensor:
    weights = torch.softmax(x, -1).masked_fill(torch.eye(5).bool(), 0.0)
    return weights / weights.sum(-1, keepdim=True).clamp(min=1e-9)


SPELLED: dict[str, tuple[Spelling, list[str]]] = {
    "by_hand": (_by_hand, ["div", "exp"]),
    "masked": (_masked_by_hand, ["div", "exp"]),
    "twice": (lambda x: x.exp() / x.exp().sum(-1, keepdim=True), ["div", "exp", "exp_1"]),
    "of_logs": (lambda x: torch.log_softmax(x, -1).exp(), ["exp"]),
    "logsumexp": (lambda x: torch.exp(x - torch.logsumexp(x, -1, keepdim=True)), ["exp"]),
    "renormalised": (_renormalised, ["div"]),
}


@pytest.mark.parametrize("name", list(SPELLED))
def test_a_softmax_that_is_spelled_out_has_steps(name: str) -> None:
    """Its last step is what attention's weights are then; and no exponential of it is a decay of a state space model."""
    softmax, steps = SPELLED[name]
    q = torch.randn(2, 4, 5, 8)

    def attention(q: Tensor) -> Tensor:
        return (softmax(q @ q.mT) @ q).sum((1, 2))

    assert _named(attention, "softmax_step", q) == steps
    assert _named(attention, "attention_weights", q) == steps[:1]
    assert dlbt.explain(attention, q).plan.composite.name == "auto -> attnlrp"


NO_SOFTMAXES: dict[str, Spelling] = {
    "of_something_else": lambda x: x.exp() / (2 * x).exp().sum(-1, keepdim=True),
    "over_the_largest": lambda x: x.exp() / x.exp().amax(-1, keepdim=True),
    "a_sigmoid": lambda x: x.exp() / (1 + x.exp()),
    "upside_down": lambda x: x.exp().sum(-1, keepdim=True) / x.exp(),
    "squares": lambda x: x.exp().pow(2) / x.exp().sum(-1, keepdim=True),
    "in_one_op": lambda x: torch.softmax(x, -1),
}


@pytest.mark.parametrize("name", list(NO_SOFTMAXES))
def test_what_is_no_softmax_has_no_steps(name: str) -> None:
    assert _named(NO_SOFTMAXES[name], "softmax_step") == []


# -- carries ------------------------------------------------------------------------------------------------------------


class _Text(nn.Module):
    """Token ids with a mask made of them, padding, and an argmax."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(16, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, ids: Tensor) -> Tensor:
        mask = (ids != 0).float()
        hidden = self.embedding(ids.view(-1, 5).long().clone()) * mask.unsqueeze(-1)
        scale = torch.zeros_like(hidden).sum() + hidden.argmax().float() + torch.ones_like(hidden).mean()
        return self.head(hidden).sum(1) * scale


def _carrying(graph: Graph, *names: str, held: frozenset[int] = frozenset()) -> list[bool]:
    carries = carriers(graph, graph.inputs.values(), held)
    by_name = {graph.values[v].name: v for v in carries}
    return [name in by_name for name in names]


def test_ids_carry_through_views_to_the_embedding_and_masks_do_not() -> None:
    graph = recorded(_Text().eval(), torch.tensor([[1, 2, 3, 0, 0]])).graph
    assert all(_carrying(graph, "ids", "view", "clone", "embedding", "mul", "linear"))
    assert not any(_carrying(graph, "ne", "to", "unsqueeze", "zeros_like", "argmax", "ones_like", "mean"))
    path = on_path(graph, carriers(graph, graph.inputs.values()), graph.outputs.values())
    ops = [graph.nodes[index].name for index in path]
    assert ops[0] == "view"
    assert not {"ne", "to", "argmax"} & set(ops)


def test_held_nodes_cut() -> None:
    graph = recorded(lambda x: torch.tanh(x) * torch.sigmoid(x), torch.randn(3, 8)).graph
    tanh = node_of(graph, "aten.tanh").index
    assert _carrying(graph, "tanh", "sigmoid", "mul", held=frozenset({tanh})) == [False, True, True]
    both = frozenset({tanh, node_of(graph, "aten.sigmoid").index})
    assert _carrying(graph, "mul", held=both) == [False]


def test_the_path_leaves_out_what_leads_nowhere() -> None:
    def model(x: Tensor) -> Tensor:
        torch.tanh(x)
        return torch.relu(x) + torch.sigmoid(torch.ones(8))

    graph = recorded(model, torch.randn(3, 8)).graph
    path = on_path(graph, carriers(graph, graph.inputs.values()), graph.outputs.values())
    assert [graph.nodes[index].name for index in path] == ["relu", "add"]


def test_integers_are_explained_only_where_they_enter_an_embedding() -> None:
    model = _Text().eval()

    def call(ids: Tensor, steps: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
        return model(ids) * steps.sum() * weight * mask.sum()

    ids = torch.tensor([[1, 2, 3, 0, 0]])
    graph = recorded(call, ids, torch.tensor(3), torch.ones(4), torch.ones(3)).graph
    assert list(explainable(graph, None, lambda path: "mask" in path)) == ["ids", "weight"]
    assert list(explainable(graph, ["mask"], lambda path: True)) == ["mask"]


def test_masked_logits_may_be_infinite_and_softmax_ends_that() -> None:
    mask = torch.zeros(5, 5).masked_fill(torch.ones(5, 5).triu(1).bool(), float("-inf"))
    graph = recorded(lambda q: torch.softmax(q @ q.mT + mask, -1) @ q, torch.randn(2, 5, 8)).graph
    found = {graph.values[v].name for v in infinite_values(graph)["infinite"]}
    assert "add" in found
    assert not found & {"softmax", "matmul", "matmul_1"}


def test_facts_of_plugins_are_added() -> None:
    graph = recorded(lambda x: x * torch.sigmoid(x), torch.randn(3, 8)).graph
    gate = node_of(graph, "aten.sigmoid").outputs[0]
    facts: Facts = analyse(graph, [lambda g: {"mine": [v.index for v in g.values], "self_gate": [0]}])
    assert facts.of(gate or 0) == {"mine", "self_gate", "gate", "nonnegative"}
    assert facts.has(0, "self_gate")
    assert not facts.has(None, "self_gate")


def test_held_statistics_make_a_norm_conserve() -> None:
    """The use of it all: LRP through a handwritten norm hands on the whole score."""
    x = torch.randn(3, 8, dtype=torch.float64)
    for name in ("rms_pow", "norm", "normalize", "power_of_sum"):
        found = dlbt.explain(lambda x, name=name: STATISTICS[name][0](x) @ A.double(), x)
        torch.testing.assert_close(found.inputs["x"].sum(-1), found.score)
