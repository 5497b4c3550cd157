"""One layer of experts against the formula, in float64: in all spellings, with all routers, under all variants."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dlbt_core as dlbt

TOKENS, WIDTH, HIDDEN, EXPERTS, CHOSEN = 5, 6, 7, 4, 2


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


ROUTER, GATE, UP, DOWN = (
    drawn(EXPERTS, WIDTH, seed=1), drawn(EXPERTS, HIDDEN, WIDTH, seed=2), drawn(EXPERTS, HIDDEN, WIDTH, seed=3),
    drawn(EXPERTS, WIDTH, HIDDEN, seed=4),
)  # fmt: skip
CORRECTION = torch.tensor([0.3, -0.2, 0.1, 0.0], dtype=torch.float64)


def softmax_first(logits: Tensor) -> tuple[Tensor, Tensor]:
    """As in Mixtral."""
    weights, ids = torch.topk(logits.softmax(-1), CHOSEN, -1)
    return weights / weights.sum(-1, keepdim=True), ids


def softmax_last(logits: Tensor) -> tuple[Tensor, Tensor]:
    """As in GPT-OSS and JetMoE."""
    best, ids = torch.topk(logits, CHOSEN, -1)
    return best.softmax(-1), ids


def sigmoid(logits: Tensor) -> tuple[Tensor, Tensor]:
    """As in DeepSeek-V3: chosen with a correction, weighted without."""
    scores = logits.sigmoid()
    ids = (scores + CORRECTION).topk(CHOSEN, -1, sorted=False)[1]
    weights = scores.gather(-1, ids)
    weights /= weights.sum(-1, keepdim=True) + 1e-20
    return weights * 2.5, ids


def loop_over_modules(x: Tensor, weights: Tensor, ids: Tensor) -> Tensor:
    experts = [
        lambda h, e=e: F.linear(F.silu(F.linear(h, GATE[e])) * F.linear(h, UP[e]), DOWN[e]) for e in range(EXPERTS)
    ]
    out = torch.zeros_like(x)
    for number, expert in enumerate(experts):
        token, place = torch.where(ids == number)
        if len(token):
            out.index_add_(0, token, expert(x[token]) * weights[token, place, None])
    return out


def slices_of_sorted(x: Tensor, weights: Tensor, ids: Tensor) -> Tensor:
    """Rows sorted by expert, cut at the counts, and put together again, as in JetMoE."""
    order = ids.flatten().argsort(stable=True)
    token = order.div(CHOSEN, rounding_mode="floor")
    counts = ids.flatten().bincount(minlength=EXPERTS).tolist()
    hidden = torch.cat([F.silu(h @ GATE[e].T) * (h @ UP[e].T) for e, h in enumerate(x[token].split(counts))])
    out = torch.cat([h @ DOWN[e].T for e, h in enumerate(hidden.split(counts))]) * weights.flatten()[order][:, None]
    return torch.zeros_like(x).index_add(0, token, out)


def gathered_weights(x: Tensor, weights: Tensor, ids: Tensor) -> Tensor:
    rows, chosen = x.repeat_interleave(CHOSEN, 0).unsqueeze(-1), ids.flatten()
    hidden = F.silu(torch.bmm(GATE[chosen], rows)) * torch.bmm(UP[chosen], rows)
    out = torch.bmm(DOWN[chosen], hidden).squeeze(-1) * weights.reshape(-1, 1)
    return out.view(-1, CHOSEN, WIDTH).sum(1)


def all_experts(x: Tensor, weights: Tensor, ids: Tensor) -> Tensor:
    """Each expert on each token; the weights of those not chosen are 0."""
    spread = torch.zeros(len(x), EXPERTS, dtype=x.dtype).scatter(1, ids, weights)
    hidden = F.silu(torch.einsum("td,ehd->teh", x, GATE)) * torch.einsum("td,ehd->teh", x, UP)
    return (torch.einsum("teh,edh->ted", hidden, DOWN) * spread[..., None]).sum(1)


FORMS = (loop_over_modules, slices_of_sorted, gathered_weights, all_experts)
Rate = Callable[[Tensor], tuple[Tensor, Tensor]]
Form = Callable[[Tensor, Tensor, Tensor], Tensor]


class Layer(nn.Module):
    """A mixture of experts alone; the score is one feature of its output, summed over tokens."""

    def __init__(self, rate: Rate, form: Form) -> None:
        super().__init__()
        self.rate, self.form = rate, form

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, WIDTH)
        return self.form(rows, *self.rate(F.linear(rows, ROUTER))).view(x.shape).sum(1)


def formula(x: Tensor, rate: Rate, variant: str, feature: int) -> tuple[Tensor, Tensor, Tensor]:
    """Relevance of one token x, of each expert, and of each logit; in loops, by the rules as they are published.

    Half of an expert's weighted output goes to the expert and half to its weight (prop. 3.2); of a gated unit half to each
    branch, with the identity rule for the activation (prop. 3.2 and 3.4); linear maps by LRP-0; a softmax by its expansion
    (prop. 3.1), a sigmoid as the softmax of its argument and 0; the weights' sum is a constant.
    """
    logits = ROUTER @ x
    weights, ids = rate(logits[None])
    relevance, of_experts = torch.zeros(WIDTH, dtype=x.dtype), torch.zeros(EXPERTS, dtype=x.dtype)
    to_weights = torch.zeros(EXPERTS, dtype=x.dtype)
    share = 1.0 if variant == "constant" else 0.5
    for weight, number in zip(weights[0], ids[0].tolist(), strict=True):
        gate, up = GATE[number] @ x, UP[number] @ x
        hidden = gate * torch.sigmoid(gate) * up
        of_experts[number] = weight * (DOWN[number, feature] @ hidden)
        to_weights[number] = of_experts[number] / 2
        for unit in range(HIDDEN):
            arrived = share * weight * DOWN[number, feature, unit] * hidden[unit]
            relevance += arrived / 2 * GATE[number, unit] * x / gate[unit]
            relevance += arrived / 2 * UP[number, unit] * x / up[unit]
    of_logits = torch.zeros(EXPERTS, dtype=x.dtype)
    if variant == "taylor":
        chosen = ids[0].sort().values.tolist()
        if rate is sigmoid:
            of_logits = logits * (1 - logits.sigmoid()) * to_weights
        elif rate is softmax_first:
            of_logits = logits * (to_weights - logits.softmax(-1) * to_weights.sum())
        else:
            among = logits[chosen].softmax(-1)
            of_logits[chosen] = logits[chosen] * (to_weights[chosen] - among * to_weights.sum())
        for number in range(EXPERTS):
            relevance += of_logits[number] * ROUTER[number] * x / logits[number]
    return relevance, of_experts, of_logits


@pytest.mark.parametrize("variant", ["taylor", "detach", "constant"])
@pytest.mark.parametrize("rate", [softmax_first, softmax_last, sigmoid], ids=lambda f: f.__name__)
@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.__name__)
def test_a_layer_by_the_formula(form: Form, rate: Rate, variant: str) -> None:
    x = drawn(2, TOKENS, WIDTH, seed=5)
    rules = [(dlbt.Select(fact="router"), dlbt.Use(variant))]
    found = dlbt.explain(Layer(rate, form).eval(), x, target=3, composite="attnlrp", rules=rules)
    tokens = [[formula(token, rate, variant, 3) for token in sample] for sample in x]
    expected = [torch.stack([torch.stack([t[part] for t in sample]) for sample in tokens]) for part in range(3)]
    (layer,) = found.experts.values()
    assert float((found.relevance - expected[0]).abs().max()) <= 1e-9
    assert float((layer.per_token - expected[1]).abs().max()) <= 1e-9
    assert float((layer.router - expected[2]).abs().max()) <= 1e-9
    assert found.ledger.error <= 1e-9
    torch.testing.assert_close(layer.per_token.sum((1, 2)), found.score, rtol=1e-12, atol=1e-12)


def test_the_default_is_the_expansion() -> None:
    """Also where a sigmoid's weights are not normalised, and would else be a gate that gets nothing."""

    def plain(logits: Tensor) -> tuple[Tensor, Tensor]:
        weights, ids = logits.sigmoid().topk(CHOSEN, -1)
        return weights, ids

    x = drawn(2, TOKENS, WIDTH, seed=5)
    model = Layer(plain, gathered_weights).eval()
    default = dlbt.explain(model, x, target=3)
    chosen = dlbt.explain(model, x, target=3, rules=[(dlbt.Select(fact="router"), dlbt.Use("taylor"))])
    assert default.plan.composite_name.startswith("auto")
    torch.testing.assert_close(default.relevance, chosen.relevance, rtol=1e-12, atol=1e-12)
    assert bool((next(iter(default.experts.values())).router != 0).any())


def test_a_layer_that_is_called_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Layer(softmax_first, gathered_weights)

        def forward(self, x: Tensor) -> Tensor:
            once = self.block(x)[:, None] + x
            return self.block(once)  # type: ignore[no-any-return]

    found = dlbt.explain(Twice().eval(), drawn(2, TOKENS, WIDTH), target=0)
    assert list(found.experts) == ["block", "block#1"]
    torch.testing.assert_close(found.experts["block#1"].per_token.sum((1, 2)), found.score)
