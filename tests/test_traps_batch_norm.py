"""Silent traps of the field around batch norm: what folds, what does not, and a model that stays as it was."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dlbt_core as dlbt
from test_traps_vision import COMPOSITES, close, drawn, image

X = image(3, 3, 12, 12)


def normed(eps: float = 1e-5) -> Any:
    """Registered in another order than run."""

    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.n2, self.c2 = nn.BatchNorm2d(6, eps=eps), nn.Conv2d(4, 6, 3, bias=False)
            self.head, self.c1, self.n1 = nn.Linear(6, 5), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=eps)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.relu(self.n2(self.c2(F.relu(self.n1(self.c1(x)))))).mean((2, 3)))

    return drawn(Normed())


def folded_by_hand(model: Any) -> Any:
    model = deepcopy(model)
    for conv, name in ((model.c1, "n1"), (model.c2, "n2")):
        norm = getattr(model, name)
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        bias = 0.0 if conv.bias is None else conv.bias
        conv.bias = nn.Parameter((bias - norm.running_mean) * scale + norm.bias)
        conv.weight = nn.Parameter(conv.weight * scale.view(-1, 1, 1, 1))
        setattr(model, name, nn.Identity())
    return model


@pytest.mark.parametrize("eps", [1e-5, 0.1])
@pytest.mark.parametrize("composite", COMPOSITES[1:])
def test_batch_norm_is_folded_exactly_whatever_its_eps(composite: str, eps: float) -> None:
    model = normed(eps)
    found = dlbt.explain(model, X, composite=composite, target=1)
    by_hand = dlbt.explain(folded_by_hand(model), X, composite=composite, target=1)
    assert close(found.score, model(X)[:, 1], 1e-12)
    assert close(found.relevance, by_hand.relevance)
    assert not any("batch_norm" in step.node.op for step in found.plan.steps)


class PreActivation(nn.Module):
    """Norm, ReLU, convolution, concatenated to what came in, as in DenseNet: no norm follows a convolution of its width."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm_a = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.a, self.norm_b, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([x, self.a(F.relu(self.norm_a(x)))], 1)
        return self.head(F.relu(self.norm_b(x)).mean((2, 3)))


@pytest.mark.parametrize("composite", [*COMPOSITES, "auto", "guided_backprop", "dlb_default"])
@pytest.mark.parametrize("build", [PreActivation, normed])
def test_a_model_with_batch_norm_stays_as_it_was(build: Any, composite: str) -> None:
    model = build()
    model = model if build is normed else drawn(model)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    parameters = dict(model.named_parameters())
    logits = model(X)
    found = dlbt.explain(model, X, composite=composite)
    assert found.ledger.error <= 1e-9
    assert torch.isfinite(found.relevance).all()
    assert torch.equal(model(X), logits)
    assert all(model.get_parameter(name) is p for name, p in parameters.items())
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.torchvision
@pytest.mark.parametrize("composite", [*COMPOSITES, "auto"])
@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_untrained_models_of_torchvision_keep_sum_and_logit_together(name: str, composite: str) -> None:
    """Norms as they are built, with running statistics that never ran."""
    from torchvision import models

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(models, name)(weights=None).eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x = image(1, 3, 64, 64).float()
    found = dlbt.explain(model, x, composite=composite)
    assert found.ledger.error <= 1e-3
    assert abs(found.relevance.sum() / found.score) < 10
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


class Tokens(nn.Module):
    """Normalised patches as tokens behind a class token: what comes back to the norm is a slice, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(4)
        self.first = nn.Parameter(torch.ones(1, 1, 4))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).mT
        return torch.cat([self.first.expand(len(x), 1, 4), tokens], 1)


@pytest.mark.parametrize("composite", ["attnlrp", "gradient_times_input", "auto"])
def test_a_message_that_is_a_transposed_slice(composite: str) -> None:
    """torch's own derivative of a batch norm is wrong for such a one, of one sample: torch 2.15, NCHW taken for NHWC."""
    model = drawn(Tokens())
    x, mask = image(2, 4, 3, 3), torch.linspace(-1, 1, 2 * 10 * 4, dtype=torch.float64).reshape(2, 10, 4)
    scale = model.norm.weight / (model.norm.running_var + model.norm.eps).sqrt()
    want = (x * scale[:, None, None]).flatten(2).mT * mask[:, 1:]
    for rows in (slice(0, 2), slice(0, 1), slice(1, 2)):
        found = dlbt.explain(model, x[rows], target=dlbt.target.logits(mask[rows]), composite=composite)
        got = found.relevance.flatten(2).mT
        assert torch.allclose(got, want[rows].detach(), rtol=0, atol=1e-10)
        assert found.ledger.error <= 1e-9


def test_features_normalised_across_another_dimension() -> None:
    """Input and message lie in memory differently, as in audio models that normalise over frequencies."""

    class Spectrum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(8)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(x.transpose(1, 3)).transpose(1, 3).flatten(1)

    model, x = drawn(Spectrum()), image(2, 1, 4, 8)
    for composite in ("attnlrp", "gradient_times_input", "epsilon_plus"):
        found = dlbt.explain(model, x, composite=composite, target=dlbt.target.logits(image(2, 32, seed=9)), audit=True)
        assert found.ledger.error <= 1e-9
        scale = model.norm.weight / (model.norm.running_var + model.norm.eps).sqrt()
        if composite != "epsilon_plus":
            assert close(found.relevance, (x * scale * image(2, 32, seed=9).reshape(2, 1, 4, 8)).detach())


def test_a_message_whose_strides_fit_two_layouts() -> None:
    """One sample whose features come back as tokens do: torch's own backward pass of batch norm mixes up its elements."""

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(8)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(x).view(len(x), 8, 4).permute(0, 2, 1)

    model, x, weights = drawn(Tokens()), image(2, 8, 2, 2), image(4, 8)
    target = dlbt.target.function(lambda tokens: (tokens * weights).sum((1, 2)))
    together = dlbt.explain(model, x, composite="epsilon", target=target).relevance
    for row in range(2):
        alone = dlbt.explain(model, x[row : row + 1], composite="epsilon", target=target).relevance
        assert close(alone[0], together[row])
