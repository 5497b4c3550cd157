"""Attention is what it computes, not how it is written: every spelling of a form has the same relevance."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dlbt_core as dlbt
from oracles.attention_block import Form, Weights, attention_block, linear_attention_block, weights_for
from oracles.cases.spellings import FORMS, LINEAR, SPELLINGS
from oracles.harness import check_books, source

COMPOSITES = ("attnlrp", "cp_lrp", "auto")
EACH = [(form, name) for form, spellings in SPELLINGS.items() for name in spellings]
TOKENS = 5


class Block(nn.Module):
    """Projections, an attention in some spelling, and an output."""

    def __init__(self, form: Form, spelling: Callable[..., Tensor]) -> None:
        super().__init__()
        self.form, self.spelling, self.w = form, spelling, weights_for(form)

    def forward(self, x: Tensor) -> Tensor:
        form, w = self.form, as_dtype(self.w, x.dtype)
        q = F.linear(x, *w.q).unflatten(-1, (form.heads, -1)).transpose(1, 2)
        k, v = (F.linear(x, *p).unflatten(-1, (form.groups, -1)).transpose(1, 2) for p in (w.k, w.v))
        return F.linear(self.spelling(q, k, v, form, w).transpose(1, 2).flatten(2), *w.o)


def as_dtype(w: Weights, dtype: torch.dtype) -> Weights:
    def to(value: Any) -> Any:
        return tuple(t.to(dtype) for t in value) if isinstance(value, tuple) else value.to(dtype)

    return Weights(*(to(value) for value in vars(w).values()))


def sample(seed: int = 200) -> tuple[Tensor, Tensor]:
    """Input (B, T, D), and multipliers of the output (B, T, E)."""
    rand = source(seed)
    return rand(2, TOKENS, 6), rand(2, TOKENS, 5)


def at_token(m: Tensor, position: int) -> Tensor:
    """The multipliers of one token's output alone."""
    return torch.zeros_like(m).index_copy(1, torch.tensor([position]), m[:, position : position + 1])


def only(outputs: Any) -> Tensor:
    (found,) = outputs.values()
    return found


def gap(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).abs().max() / expected.abs().max())


def assert_relevance(found: Any, expected: Tensor, limit: float) -> None:
    assert gap(found.relevance, expected) <= limit
    check_books(found, "attention", audit=False, tolerance=limit)


@pytest.mark.parametrize(("form_name", "name"), EACH)
def test_a_spelling(form_name: str, name: str) -> None:
    """In each composite the relevance is the dense oracle's, so that all spellings of a form have the same."""
    form = FORMS[form_name]
    block, (x, m) = Block(form, SPELLINGS[form_name][name]), sample()
    explainer = dlbt.Explainer(block, layers="none")
    for composite in COMPOSITES:
        found = explainer(x, target=dlbt.target.logits(m), composite=composite)
        out, R = attention_block(x, block.w, form, m, held=composite == "cp_lrp")
        torch.testing.assert_close(only(found.outputs), out, rtol=1e-12, atol=1e-12)
        assert_relevance(found, R, 1e-9)
    if composite_hides(form):
        assert_zeros(explainer, x, m, form)


def composite_hides(form: Form) -> bool:
    return not bool(form.allowed(TOKENS).all())


def assert_zeros(explainer: Any, x: Tensor, m: Tensor, form: Form) -> None:
    """A token that cannot be seen gets exactly 0; all others get something."""
    for composite in ("attnlrp", "cp_lrp"):
        found = explainer(x, target=dlbt.target.logits(at_token(m, 2)), composite=composite).relevance
        seen = form.allowed(TOKENS)[2]
        assert (found[:, ~seen] == 0).all()
        assert (found[:, seen] != 0).all()


@pytest.mark.parametrize("form_name", FORMS)
def test_single_precision(form_name: str) -> None:
    """To 1e-5 of the largest relevance, in each spelling."""
    form, (x, m) = FORMS[form_name], sample()
    _, R = attention_block(x, weights_for(form), form, m, held=False)
    for name, spelling in SPELLINGS[form_name].items():
        found = dlbt.explain(Block(form, spelling), x.float(), target=dlbt.target.logits(m.float()), layers="none")
        assert gap(found.relevance, R) <= 1e-5, name
        check_books(found, name, audit=False, tolerance=1e-4)


@pytest.mark.parametrize("name", LINEAR)
def test_linear_attention(name: str) -> None:
    form, keys_first, spelling = LINEAR[name]
    block, (x, m) = Block(form, spelling), sample()
    explainer = dlbt.Explainer(block, layers="none")
    out, R = linear_attention_block(x, block.w, form, m, keys_first)
    for composite in COMPOSITES:
        found = explainer(x, target=dlbt.target.logits(m), composite=composite)
        torch.testing.assert_close(only(found.outputs), out, rtol=1e-12, atol=1e-12)
        assert_relevance(found, R, 1e-9)
    if composite_hides(form):
        assert_zeros(explainer, x, m, form)


# -- nn.MultiheadAttention -----------------------------------------------------------------------------------------------

TWO_HEADS = Form(heads=2, groups=2)
MULTIHEAD: dict[str, tuple[Form, dict[str, Any]]] = {
    "weights": (TWO_HEADS, {}),
    "no weights": (TWO_HEADS, {"need_weights": False}),
    "weights of each head": (TWO_HEADS, {"average_attn_weights": False}),
    "truth mask": (replace(TWO_HEADS, causal=True), {"attn_mask": ~replace(TWO_HEADS, causal=True).allowed(TOKENS)}),
    "causal": (
        replace(TWO_HEADS, causal=True),
        {"attn_mask": ~replace(TWO_HEADS, causal=True).allowed(TOKENS), "is_causal": True, "need_weights": False},
    ),
    "float mask": (
        replace(TWO_HEADS, causal=True, window=2),
        {"attn_mask": torch.zeros(TOKENS, TOKENS, dtype=torch.float64).masked_fill(
            ~replace(TWO_HEADS, causal=True, window=2).allowed(TOKENS), -torch.inf)},
    ),
}  # fmt: skip


def multihead(w: Weights, batch_first: bool = True) -> nn.MultiheadAttention:
    module = nn.MultiheadAttention(6, 2, batch_first=batch_first).double().eval().requires_grad_(False)
    module.in_proj_weight.copy_(torch.cat([w.q[0], w.k[0], w.v[0]]))
    assert module.in_proj_bias is not None
    module.in_proj_bias.copy_(torch.cat([w.q[1], w.k[1], w.v[1]]))
    module.out_proj.weight.copy_(w.o[0])
    module.out_proj.bias.copy_(w.o[1])
    return module


@pytest.fixture(params=[True, False], ids=["fast path", "no fast path"])
def fast_path(request: pytest.FixtureRequest) -> Iterator[bool]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(request.param)
    yield request.param
    torch.backends.mha.set_fastpath_enabled(before)


@pytest.mark.parametrize("name", MULTIHEAD)
def test_multihead_attention(name: str, fast_path: bool) -> None:
    form, options = MULTIHEAD[name]
    w, (x, m) = weights_for(form, outputs=6), (sample()[0], source(201)(2, TOKENS, 6))
    first, second = multihead(w), multihead(w, batch_first=False)

    def turned(x: Tensor) -> Tensor:
        """Tokens first."""
        t = x.transpose(0, 1)
        return second(t, t, t, **options)[0].transpose(0, 1)

    for model in (lambda x: first(x, x, x, **options)[0], turned):
        explainer = dlbt.Explainer(model, layers="none")
        for composite in COMPOSITES:
            out, R = attention_block(x, w, form, m, held=composite == "cp_lrp")
            found = explainer(x, target=dlbt.target.logits(m), composite=composite)
            torch.testing.assert_close(only(found.outputs), out, rtol=1e-12, atol=1e-12)
            assert_relevance(found, R, 1e-9)
        whole = explainer(x, target=dlbt.target.logits(m), composite="gradient_times_input")
        check_books(whole, "a mask with infinities", audit=False, tolerance=1e-9)


def test_padding_of_keys(fast_path: bool) -> None:
    """Hidden keys get exactly 0, and the rest what it gets without them."""
    w, (x, m) = weights_for(TWO_HEADS, outputs=6), (sample()[0], source(201)(2, TOKENS, 6))
    module = multihead(w)
    hidden = torch.zeros(2, TOKENS, dtype=torch.bool)
    hidden[:, 3:] = True
    m = m * ~hidden[..., None]
    for composite in COMPOSITES:
        found = dlbt.explain(
            lambda x: module(x, x, x, key_padding_mask=hidden)[0], x, target=dlbt.target.logits(m), composite=composite
        )
        _, R = attention_block(x[:, :3], w, TWO_HEADS, m[:, :3], held=composite == "cp_lrp")
        assert (found.relevance[:, 3:] == 0).all()
        assert gap(found.relevance[:, :3], R) <= 1e-9


@pytest.mark.parametrize("norm_first", [True, False])
def test_encoder_layer_on_its_fast_path(norm_first: bool) -> None:
    """One op for a whole layer where the fast path is taken: explained as without it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(6, 2, 8, activation="gelu", batch_first=True, norm_first=norm_first)
    encoder = nn.TransformerEncoder(layer.double().eval(), 2, enable_nested_tensor=False).requires_grad_(False)
    x, m = sample()[0], source(201)(2, TOKENS, 6)
    before = torch.backends.mha.get_fastpath_enabled()
    try:
        both = []
        for enabled in (True, False):
            torch.backends.mha.set_fastpath_enabled(enabled)
            with torch.inference_mode():
                out = encoder(x)
            found = dlbt.explain(encoder, x, target=dlbt.target.logits(m), composite="attnlrp", layers="none")
            torch.testing.assert_close(only(found.outputs), out, rtol=1e-10, atol=1e-10)
            both.append(found.relevance)
            assert found.ledger.error <= 1e-9
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
    assert gap(both[0], both[1]) <= 1e-12
