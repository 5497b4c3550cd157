"""Fourier transforms and complex numbers, against tables of coefficients and the DFT matrix."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dlbt_core as dlbt
from oracles.cases.spectral import CHECKS, WINDOW
from oracles.harness import Check, check_books, check_near, check_rule, source

rand = source(42)


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.id)
def test_spectral(check: Check) -> None:
    check_rule(check)


def _explained(model: Any, *inputs: Tensor, mask: Tensor, **more: Any) -> Any:
    return dlbt.explain(
        model, *inputs, target=dlbt.target.logits(mask), composite="attnlrp", layers="none", audit=True, **more
    )  # fmt: skip


def _dft(n: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines: ``Re X_k = sum_t x_t cos(2 pi k t / n)``, ``Im X_k = -sum_t x_t sin(2 pi k t / n)``."""
    angles = 2 * math.pi * torch.outer(torch.arange(n), torch.arange(n)).double() / n
    return angles.cos(), -angles.sin()


def test_dft_matrix() -> None:
    """The mixing of FNet: the real part of a transform over tokens and features."""
    x, mask = rand(2, 6, 8), rand(2, 6, 8)
    explanation = _explained(lambda x: torch.fft.fftn(x, dim=(1, 2)).real, x, mask=mask)
    (ct, st), (cf, sf) = _dft(6), _dft(8)
    coefficients = torch.einsum("ka,lb->klab", ct, cf) - torch.einsum("ka,lb->klab", st, sf)
    want = torch.einsum("bkl,klac,bac->bac", mask, coefficients, x)
    check_near(explanation.inputs["x"], want, float(want.abs().max()), "fftn")
    check_books(explanation, "fftn")


def test_filter_in_the_spectrum() -> None:
    """A circular convolution by way of the spectrum is the same linear map as the convolution itself."""
    x, mask, kernel = rand(2, 8), rand(2, 8), rand(8)
    explanation = _explained(lambda x: torch.fft.irfft(torch.fft.rfft(x) * torch.fft.rfft(kernel)), x, mask=mask)
    circulant = torch.stack([kernel.roll(t) for t in range(8)])
    want = x * (mask @ circulant.T)
    check_near(explanation.inputs["x"], want, float(want.abs().max()), "filter")
    check_books(explanation, "filter")


def test_inverse_transform_of_short_times() -> None:
    """There and back again is the same signal, so that each sample of it gets its own relevance."""
    x, mask = rand(2, 16), rand(2, 16)

    def model(x: Tensor) -> Tensor:
        found = torch.stft(x, 4, 2, window=WINDOW, return_complex=True)
        return torch.istft(found, 4, 2, window=WINDOW, length=16)

    explanation = _explained(model, x, mask=mask)
    check_near(explanation.inputs["x"], x * mask, float((x * mask).abs().max()), "signal")
    check_books(explanation, "istft")


def test_product_of_spectra() -> None:
    """Of two spectra that carry each gets half, Achtibat et al. 2024, prop. 3.2: a bilinear map of the two signals."""
    x, y, mask = rand(2, 5), rand(2, 5), rand(2, 5)
    explanation = _explained(lambda x, y: torch.fft.ifft(torch.fft.fft(x) * torch.fft.fft(y)).real, x, y, mask=mask)
    place = (torch.arange(5)[:, None] + torch.arange(5)) % 5
    parts = x[:, :, None] * y[:, None, :] * mask[:, place] / 2
    check_near(explanation.inputs["x"], parts.sum(2), 1.0, "first")
    check_near(explanation.inputs["y"], parts.sum(1), 1.0, "second")
    check_books(explanation, "spectra")


class _Rotary(nn.Module):
    """Attention scores of queries and keys that are rotated as complex numbers."""

    def __init__(self, as_complex: bool) -> None:
        super().__init__()
        self.as_complex = as_complex
        angles = torch.outer(torch.arange(3.0, dtype=torch.float64), torch.tensor([1.0, 0.1], dtype=torch.float64))
        self.register_buffer("turns", torch.polar(torch.ones_like(angles), angles))

    def _turn(self, x: Tensor) -> Tensor:
        pairs = x.unflatten(-1, (-1, 2))
        if self.as_complex:
            return torch.view_as_real(torch.view_as_complex(pairs) * self.turns).flatten(-2)
        (a, b), (c, s) = pairs.unbind(-1), (self.turns.real, self.turns.imag)
        return torch.stack([a * c - b * s, a * s + b * c], -1).flatten(-2)

    def forward(self, q: Tensor, k: Tensor) -> Tensor:
        return (self._turn(q) @ self._turn(k).mT).flatten(1)


@pytest.mark.parametrize("composite", ["attnlrp", "epsilon", "gradient_times_input"])
def test_rotation_by_complex_numbers_is_that_by_cosines(composite: str) -> None:
    q, k, mask = rand(2, 3, 4), rand(2, 3, 4), rand(2, 9)
    given = {"target": dlbt.target.logits(mask), "composite": composite, "audit": True, "layers": "none"}
    one, two = (dlbt.explain(_Rotary(as_complex), q, k, **given) for as_complex in (True, False))
    tolerance = 1e-4 if composite == "epsilon" else 1e-10  # epsilon stabilises other sums there
    for name in ("q", "k"):
        check_near(one.inputs[name], two.inputs[name], 1.0, name, tolerance)
    check_books(one, composite)


ACTIVATIONS = {
    "abs": (torch.abs, {}),
    "angle": (torch.angle, {"epsilon": 1e-6}),
    "tanh": (lambda z: torch.tanh(z).imag, {}),
    "square": (lambda z: torch.square(z).real, {}),
    "reciprocal": (lambda z: torch.reciprocal(z).real, {}),
    "silu": (lambda z: torch.nn.functional.silu(z).real, {}),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_functions_of_complex_numbers(name: str) -> None:
    """R = Re(conj(z) m) passes a function of z unchanged: Achtibat et al. 2024, prop. 3.4, eq. 9."""
    fn, stabilised = ACTIVATIONS[name]
    x, mask = rand(2, 3, 2), rand(2, 3)
    explanation = _explained(lambda x: fn(torch.view_as_complex(x)), x, mask=mask)
    z = torch.view_as_complex(x)
    R = mask * fn(z)
    if stabilised:
        R = R * z.abs() / (z.abs() + stabilised["epsilon"])
    check_near(explanation.inputs["x"].sum(-1), R, 1.0, name)
    check_books(explanation, name)


def test_exponential_of_complex_numbers() -> None:
    """The Taylor expansion at z, f'(z) = f(z): R = Re(z f(z) m) for the real part of f."""
    x, mask = rand(2, 3, 2), rand(2, 3)
    explanation = _explained(lambda x: torch.exp(torch.view_as_complex(x)).real, x, mask=mask)
    z = torch.view_as_complex(x)
    check_near(explanation.inputs["x"].sum(-1), (z * z.exp()).real * mask, 1.0, "exp")
    check_books(explanation, "exp")


def test_a_complex_input_is_explained_by_real_numbers() -> None:
    x, mask = rand(2, 3, 2), rand(2, 3)
    whole = _explained(lambda z: (z * (1 - 2j)).real, torch.view_as_complex(x), mask=mask)
    parts = x * mask[..., None] * torch.tensor([1.0, 2.0], dtype=torch.float64)
    check_near(whole.inputs["z"], parts.sum(-1), 1.0, "z")
    check_books(whole, "complex input")


def test_constants_of_complex_sums_take_their_part() -> None:
    x, mask, shift = rand(2, 3, 2), rand(2, 3, 2), torch.view_as_complex(rand(3, 2))
    explanation = _explained(lambda x: torch.view_as_real(torch.view_as_complex(x) + shift), x, mask=mask)
    check_near(explanation.inputs["x"], x * mask, 1.0, "x")
    want = (torch.view_as_real(shift) * mask).sum((1, 2))
    check_near(explanation.ledger.absorbed["constant"], want, 1.0, "constant")
    check_books(explanation, "shift")
