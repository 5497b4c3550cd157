"""Functions of one tensor: all of R to the argument, or input times gradient with the derivative written out."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from oracles.harness import Arriving, Case, Handed
from oracles.picks import rows_along
from oracles.sums import stabilised, summed_to

Map = Callable[[Tensor], Tensor]


def identity(case: Case, arriving: Arriving, epsilon: float = 0.0) -> Handed:
    """R_i = x_i / (x_i + eps sgn x_i) R_i: Achtibat et al. 2024, prop. 3.4, eq. 9. What is missing goes to epsilon."""
    (x,), (R,) = case.arguments, arriving.R
    if not epsilon:
        return Handed([R])
    given = x / stabilised(x, epsilon) * R
    return Handed([given], {"epsilon": R - given})


def power(case: Case, arriving: Arriving, epsilon: float = 0.0) -> Handed:
    """R / n for base and exponent, as many as carry, each by x / (x + eps sgn x); what is missing goes to epsilon."""
    (R,) = arriving.R
    given = [x / stabilised(x, epsilon) * R / len(case.arguments) for x in case.arguments]
    parts = [summed_to(g, x.shape) for g, x in zip(given, case.arguments, strict=True)]
    return Handed(case.per_input(parts), {"epsilon": R - sum(given)})


def power_gradient(case: Case, arriving: Arriving, base: int | None, exponent: int | None) -> Handed:
    """x dz/dx m for z = a^b: b R to the base, b log(a) R to the exponent."""
    (R,) = arriving.R
    values = [*case.arguments, *case.constants]
    a = values[base] if base is not None else case.constants[0]
    b = values[exponent] if exponent is not None else case.constants[0]
    given = [(b if place == base else b * torch.log(a)) * R for place in range(len(case.arguments))]
    parts = [summed_to(g, x.shape) for g, x in zip(given, case.arguments, strict=True)]
    return Handed(case.per_input(parts), {"nonlinearity": R - sum(given)})


def times_derivative(case: Case, arriving: Arriving, derivative: Map, rest: str = "nonlinearity") -> Handed:
    """R_i = x_i f'(x_i) m_i; the rest of R_i = f(x_i) m_i is the nonlinearity's, or the constant's of a Taylor expansion."""
    (x,), (R,), (m,) = case.arguments, arriving.R, arriving.m
    given = x * derivative(x) * m
    return Handed([given], {rest: R - given})


def share_of_reduction(case: Case, arriving: Arriving, dims: tuple[int, ...], part: Map, degree: float = 1.0) -> Handed:
    """R_i = p_i / sum p R for each row of a reduction, p_i = x_i df/dx_i up to a factor; `degree` times that."""
    (x,) = case.arguments
    handed = torch.zeros(x.numel(), dtype=x.dtype)
    R = arriving.R[0].reshape(-1)
    for j, row in enumerate(rows_along(x.shape, dims).tolist()):
        p = part(x.reshape(-1)[row])
        handed[row] = degree * p / p.sum() * R[j]
    return Handed([handed.reshape(x.shape)], {} if degree == 1.0 else {"nonlinearity": (1.0 - degree) * arriving.R[0]})


def logsumexp_gradient(case: Case, arriving: Arriving, dim: int) -> Handed:
    """R_i = x_i s_i m, s the softmax."""
    (x,) = case.arguments
    handed = torch.zeros(x.numel(), dtype=x.dtype)
    rest = arriving.R[0].reshape(-1).clone()
    for j, row in enumerate(rows_along(x.shape, (dim,)).tolist()):
        e = torch.exp(x.reshape(-1)[row])
        handed[row] = x.reshape(-1)[row] * e / e.sum() * arriving.m[0].reshape(-1)[j]
        rest[j] -= handed[row].sum()
    return Handed([handed.reshape(x.shape)], {"nonlinearity": rest.reshape(arriving.R[0].shape)})


def prod_gradient(case: Case, arriving: Arriving, dims: tuple[int, ...]) -> Handed:
    """x_i times the product of all others is the product: each of n gets all of R."""
    (x,) = case.arguments
    handed = torch.zeros(x.numel(), dtype=x.dtype)
    rows = rows_along(x.shape, dims)
    for j, row in enumerate(rows.tolist()):
        handed[row] = arriving.R[0].reshape(-1)[j]
    return Handed([handed.reshape(x.shape)], {"nonlinearity": (1.0 - rows.shape[1]) * arriving.R[0]})


def guided_backprop(case: Case, arriving: Arriving) -> Handed:
    """m_i = m_j where x > 0 and m > 0, else 0.  Springenberg et al. 2015."""
    (x,), (m,) = case.arguments, arriving.m
    return _rest_to("clipped", arriving, x * choose((x > 0) & (m > 0), m, 0.0))


def deconvnet(case: Case, arriving: Arriving) -> Handed:
    """m_i = max(m_j, 0), whatever x.  Zeiler & Fergus 2014, sec. 2.1."""
    (x,), (m,) = case.arguments, arriving.m
    return _rest_to("clipped", arriving, x * choose(m > 0, m, 0.0))


def beta_smooth(case: Case, arriving: Arriving, beta: float = 10.0) -> Handed:
    """m_i = m_j d/dx log(1 + exp(beta x)) / beta = m_j sigmoid(beta x).  Dombrowski et al. 2019, sec. 4."""
    (x,), (m,) = case.arguments, arriving.m
    return _rest_to("smoothing", arriving, x * sigmoid(beta * x) * m)


def _rest_to(name: str, arriving: Arriving, given: Tensor) -> Handed:
    return Handed([given], {name: arriving.R[0] - given})


# -- derivatives --------------------------------------------------------------------------------------------------------


def choose(condition: Tensor, first: Tensor | float, second: Tensor | float) -> Tensor:
    """`torch.where` in float64: of two Python numbers it makes float32."""
    one, other = (torch.as_tensor(t, dtype=torch.float64) for t in (first, second))
    return torch.where(condition, one, other)


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def step(x: Tensor, low: float = 0.0, high: float = math.inf) -> Tensor:
    return ((x > low) & (x < high)).to(torch.float64)


def normal_cdf(x: Tensor) -> Tensor:
    return 0.5 * torch.erfc(-x / math.sqrt(2))


def gelu(x: Tensor) -> Tensor:
    return normal_cdf(x) + x * torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def gelu_tanh(x: Tensor) -> Tensor:
    c = math.sqrt(2 / math.pi)
    t = torch.tanh(c * (x + 0.044715 * x**3))
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * 0.044715 * x**2)


def silu(x: Tensor) -> Tensor:
    s = sigmoid(x)
    return s + x * s * (1 - s)


def mish(x: Tensor) -> Tensor:
    t = torch.tanh(torch.log1p(torch.exp(x)))
    return t + x * (1 - t * t) * sigmoid(x)


def hardswish(x: Tensor) -> Tensor:
    return choose(x <= -3, 0.0, choose(x >= 3, 1.0, x / 3 + 0.5))
