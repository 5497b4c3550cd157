"""Activations and other functions of one tensor."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F

from oracles import pointwise as P
from oracles.harness import TOLERANCE, Case, Check, source

__all__ = ["ABSENT", "AT_ZERO", "CHECKS"]

T = torch.ops.aten
rand = source(6)

ABSENT = frozenset({"aten.softsign", "aten.tanhshrink"})
"""Functions that torch runs as several other ops; no op of that name exists."""

EVERYWHERE = torch.tensor(
    [[-2.5, -1.0, -0.3, 0.0, 0.2, 1.5, 4.0], [3.2, 0.7, -0.9, 7.0, -4.0, 0.0, -0.05]], dtype=torch.float64
)
POSITIVE = torch.tensor([[0.2, 1.5, 1.0, 30.0], [0.9, 0.01, 2.0, 5.0]], dtype=torch.float64)
INSIDE = torch.tensor([[-0.8, 0.3, 0.05], [0.7, -0.2, 0.5]], dtype=torch.float64)
UNIT = torch.tensor([[0.8, 0.3, 0.05], [0.7, 0.2, 0.5]], dtype=torch.float64)
LARGE = torch.tensor([[-60.0, 60.0, 1e4], [-1e4, 25.0, -25.0]], dtype=torch.float64)
MILD = torch.tensor([[-20.0, 12.0], [9.0, -12.0]], dtype=torch.float64)
MASKED = torch.tensor([[-5e4, 0.5, -1e-7], [0.0, -1e4, 2.0]], dtype=torch.float64)
ZERO = torch.tensor([[0.0, 0.5], [0.25, 0.0]], dtype=torch.float64)

log2, log10 = math.log(2), math.log(10)
SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772


def _elu(x: Any, alpha: float = 1.0, scale: float = 1.0, inner: float = 1.0) -> Any:
    return P.choose(x > 0, scale, scale * alpha * inner * torch.exp(inner * x))


# op: name, function, derivative, points
_TABLE: list[tuple[str, str, Any, Any, tuple[Any, ...]]] = [
    ("relu", "", torch.relu, P.step, (EVERYWHERE, LARGE)),
    ("leaky_relu", "", lambda x: F.leaky_relu(x, 0.2), lambda x: P.choose(x > 0, 1.0, 0.2), (EVERYWHERE, LARGE)),
    ("rrelu", "eval", lambda x: T.rrelu(x, 0.1, 0.3, False), lambda x: P.choose(x > 0, 1.0, 0.2), (EVERYWHERE,)),
    ("abs", "", torch.abs, torch.sign, (EVERYWHERE, LARGE)),
    ("absolute", "", torch.absolute, torch.sign, (EVERYWHERE,)),
    ("square", "", torch.square, lambda x: 2 * x, (EVERYWHERE,)),
    ("sqrt", "", torch.sqrt, lambda x: 0.5 / x.sqrt(), (POSITIVE,)),
    ("rsqrt", "", torch.rsqrt, lambda x: -0.5 * x**-1.5, (POSITIVE,)),
    ("reciprocal", "", torch.reciprocal, lambda x: -1 / x**2, (POSITIVE, -POSITIVE)),
    ("silu", "", F.silu, P.silu, (EVERYWHERE, LARGE)),
    ("gelu", "", F.gelu, P.gelu, (EVERYWHERE, LARGE)),
    ("gelu", "tanh", lambda x: F.gelu(x, approximate="tanh"), P.gelu_tanh, (EVERYWHERE, LARGE)),
    ("hardswish", "", F.hardswish, P.hardswish, (EVERYWHERE, LARGE)),
    ("mish", "", F.mish, P.mish, (EVERYWHERE, MILD)),
    ("tanh", "", torch.tanh, lambda x: 1 - torch.tanh(x) ** 2, (EVERYWHERE, LARGE)),
    ("sin", "", torch.sin, torch.cos, (EVERYWHERE,)),
    ("tan", "", torch.tan, lambda x: 1 / torch.cos(x) ** 2, (EVERYWHERE,)),
    ("asin", "", torch.asin, lambda x: (1 - x * x) ** -0.5, (INSIDE, ZERO)),
    ("atan", "", torch.atan, lambda x: 1 / (1 + x * x), (EVERYWHERE, LARGE)),
    ("sinh", "", torch.sinh, torch.cosh, (EVERYWHERE,)),
    ("asinh", "", torch.asinh, lambda x: (1 + x * x) ** -0.5, (EVERYWHERE, LARGE)),
    ("atanh", "", torch.atanh, lambda x: 1 / (1 - x * x), (INSIDE, ZERO)),
    ("erf", "", torch.erf, lambda x: 2 / math.sqrt(math.pi) * torch.exp(-x * x), (EVERYWHERE,)),
    ("expm1", "", torch.expm1, torch.exp, (EVERYWHERE,)),
    ("log1p", "", torch.log1p, lambda x: 1 / (1 + x), (INSIDE, ZERO)),
    ("elu", "alpha", lambda x: F.elu(x, 0.7), partial(_elu, alpha=0.7), (EVERYWHERE, LARGE)),
    ("elu", "scales", lambda x: T.elu(x, 0.7, 1.3, 0.6), partial(_elu, alpha=0.7, scale=1.3, inner=0.6), (EVERYWHERE,)),
    ("celu", "", lambda x: F.celu(x, 0.5), lambda x: P.choose(x > 0, 1.0, torch.exp(x / 0.5)), (EVERYWHERE,)),
    ("selu", "", F.selu, partial(_elu, alpha=SELU_ALPHA, scale=SELU_SCALE), (EVERYWHERE,)),
    ("relu6", "", lambda x: T.relu6(x), partial(P.step, high=6.0), (EVERYWHERE,)),
    ("hardtanh", "", F.hardtanh, partial(P.step, low=-1.0, high=1.0), (EVERYWHERE,)),
    ("hardtanh", "bounds", lambda x: F.hardtanh(x, -0.5, 2.0), partial(P.step, low=-0.5, high=2.0), (EVERYWHERE,)),
    ("hardshrink", "", lambda x: F.hardshrink(x, 0.4), lambda x: (x.abs() > 0.4).double(), (EVERYWHERE,)),
    ("softshrink", "", lambda x: F.softshrink(x, 0.4), lambda x: (x.abs() > 0.4).double(), (EVERYWHERE,)),
    ("sigmoid", "", torch.sigmoid, lambda x: P.sigmoid(x) * P.sigmoid(-x), (EVERYWHERE, MILD)),
    ("log_sigmoid", "", F.logsigmoid, lambda x: P.sigmoid(-x), (EVERYWHERE, MILD)),
    ("hardsigmoid", "", F.hardsigmoid, lambda x: P.step(x, -3.0, 3.0) / 6, (EVERYWHERE,)),
    ("softplus", "", F.softplus, P.sigmoid, (EVERYWHERE,)),
    (
        "softplus",
        "beta",
        lambda x: F.softplus(x, 2.0, 5.0),
        lambda x: P.choose(2 * x > 5, 1.0, P.sigmoid(2 * x)),
        (EVERYWHERE,),
    ),
    ("exp", "", torch.exp, torch.exp, (EVERYWHERE, MASKED)),
    ("exp2", "", torch.exp2, lambda x: log2 * 2**x, (EVERYWHERE, MASKED)),
    ("log", "", torch.log, lambda x: 1 / x, (POSITIVE,)),
    ("log2", "", torch.log2, lambda x: 1 / (x * log2), (POSITIVE,)),
    ("log10", "", torch.log10, lambda x: 1 / (x * log10), (POSITIVE,)),
    ("cos", "", torch.cos, lambda x: -torch.sin(x), (EVERYWHERE,)),
    ("cosh", "", torch.cosh, torch.sinh, (EVERYWHERE,)),
    ("acos", "", torch.acos, lambda x: -((1 - x * x) ** -0.5), (INSIDE, ZERO)),
    ("erfc", "", torch.erfc, lambda x: -2 / math.sqrt(math.pi) * torch.exp(-x * x), (EVERYWHERE,)),
    ("erfinv", "", torch.erfinv, lambda x: math.sqrt(math.pi) / 2 * torch.exp(torch.erfinv(x) ** 2), (INSIDE, ZERO)),
    ("clamp", "both", lambda x: x.clamp(-0.5, 2.0), partial(P.step, low=-0.5, high=2.0), (EVERYWHERE,)),
    ("clamp", "low", lambda x: x.clamp(min=0.1), partial(P.step, low=0.1), (EVERYWHERE,)),
    (
        "clamp",
        "tensor",
        lambda x: x.clamp(min=torch.full_like(x, -0.5), max=torch.full_like(x, 2.0)),
        partial(P.step, low=-0.5, high=2.0),
        (EVERYWHERE,),
    ),
    ("clip", "both", lambda x: torch.clip(x, -0.5, 2.0), partial(P.step, low=-0.5, high=2.0), (EVERYWHERE,)),
    ("clamp_min", "", lambda x: torch.clamp_min(x, 0.1), partial(P.step, low=0.1), (EVERYWHERE,)),
    ("clamp_max", "", lambda x: torch.clamp_max(x, 0.1), partial(P.step, low=-math.inf, high=0.1), (EVERYWHERE,)),
    ("threshold", "", lambda x: F.threshold(x, 0.1, 0.7), partial(P.step, low=0.1), (EVERYWHERE,)),
    ("logit", "", torch.logit, lambda x: 1 / (x * (1 - x)), (UNIT,)),
    ("logit", "eps", lambda x: torch.logit(x, 0.25), lambda x: P.step(x, 0.25, 0.75) / (x * (1 - x)), (UNIT,)),
    ("pow.Scalar", "", lambda x: torch.pow(1.7, x), lambda x: math.log(1.7) * 1.7**x, (EVERYWHERE,)),
]

OFFSET = (
    "sigmoid log_sigmoid hardsigmoid softplus exp exp2 log log2 log10 cos cosh acos erfc erfinv clamp clamp_min clamp_max "
    "clip threshold logit pow.Scalar"
).split()
EPSILON = 1e-6

AT_ZERO: list[tuple[str, Any, float]] = [
    ("tanh", torch.tanh, 1.0),
    ("sin", torch.sin, 1.0),
    ("tan", torch.tan, 1.0),
    ("asin", torch.asin, 1.0),
    ("atan", torch.atan, 1.0),
    ("sinh", torch.sinh, 1.0),
    ("asinh", torch.asinh, 1.0),
    ("atanh", torch.atanh, 1.0),
    ("erf", torch.erf, 2 / math.sqrt(math.pi)),
    ("expm1", torch.expm1, 1.0),
    ("log1p", torch.log1p, 1.0),
    ("elu", lambda x: F.elu(x, 1.0), 1.0),
    ("elu scaled", lambda x: T.elu(x, 1.0, 1.3), 1.3),
    ("celu", F.celu, 1.0),
    ("relu6", lambda x: T.relu6(x), 0.0),
    ("hardtanh", F.hardtanh, 1.0),
    ("hardshrink", F.hardshrink, 0.0),
    ("softshrink", F.softshrink, 0.0),
    ("silu", F.silu, 0.5),
    ("gelu", F.gelu, 0.5),
    ("gelu tanh", lambda x: F.gelu(x, approximate="tanh"), 0.5),
    ("hardswish", F.hardswish, 0.5),
    ("mish", F.mish, 0.6),
    ("relu", torch.relu, 0.0),
    ("abs", torch.abs, 0.0),
    ("square", torch.square, 0.0),
    ("cube", lambda x: x**3, 0.0),
]
"""Functions with f(0) = 0, and the limit of f(x) / x at 0; where left and right differ, torch's subgradient."""


def _pair(op: str, name: str, fn: Any, derivative: Any, x: Any) -> list[Check]:
    case = Case(f"aten.{op}", name, fn, (x,), batched=True)
    if op in OFFSET:
        identities = [
            Check(case, "identity", partial(P.identity, epsilon=EPSILON)),
            Check(case, "identity", partial(P.identity, epsilon=0.1), {"epsilon": 0.1}),
        ]
    else:
        identities = [Check(case, "identity", P.identity)]
    if op in ("exp", "exp2"):
        identities.append(Check(case, "taylor", partial(P.times_derivative, derivative=derivative, rest="constant")))
    tolerance = 1e-7 if op == "hardsigmoid" else TOLERANCE  # torch's own derivative has 1 / 6 in single precision
    gradient = Check(case, "gradient", partial(P.times_derivative, derivative=derivative), tolerance=tolerance)
    return [*identities, gradient]


def _checks() -> list[Check]:
    found: list[Check] = []
    for op, name, fn, derivative, points in _TABLE:
        for k, x in enumerate(points):
            found += _pair(op, f"{name}-{k}", fn, derivative, x)
    for exponent in (2, 2.0, 3, 1, 0.5, -1, -1.5, 1.7):
        x = EVERYWHERE if float(exponent).is_integer() and exponent > 0 else POSITIVE
        found += _pair(
            "pow.Tensor_Scalar", f"{exponent}", lambda a, k=exponent: a**k, lambda a, k=exponent: k * a ** (k - 1), x
        )
    weight = torch.tensor([0.2, -0.5, 1.5, 0.1, 0.0, 0.3, 0.4], dtype=torch.float64)
    prelu = Case("aten.prelu", "weights", F.prelu, (EVERYWHERE,), (weight,), batched=True)
    one = Case(
        "aten.prelu", "one-weight", F.prelu, (EVERYWHERE,), (torch.tensor([0.25], dtype=torch.float64),), batched=True
    )
    found += [Check(prelu, "gradient", partial(P.times_derivative, derivative=lambda x: P.choose(x > 0, 1.0, weight)))]
    found += [Check(one, "gradient", partial(P.times_derivative, derivative=lambda x: P.choose(x > 0, 1.0, 0.25)))]
    found += [
        Check(
            Case("aten.prelu", "away-from-0", F.prelu, (EVERYWHERE + 0.03,), (weight,), batched=True),
            "identity",
            P.identity,
        ),
        Check(one, "identity", P.identity),
    ]
    return [*found, *_reductions(), *_powers(), *_modified_gradients()]


def _modified_gradients() -> list[Check]:
    """What ReLU alone has."""
    found: list[Check] = []
    for k, x in enumerate((rand(2, 3, 4), EVERYWHERE, LARGE)):
        case = Case("aten.relu", f"modified-{k}", torch.relu, (x,), batched=True)
        found += [Check(case, "guided_backprop", P.guided_backprop), Check(case, "deconvnet", P.deconvnet)]
        for beta in (10.0, 1.0) if k < 2 else (0.001,):
            found.append(Check(case, "beta_smooth", partial(P.beta_smooth, beta=beta), {"beta": beta}))
        found.append(Check(case, "beta_smooth", P.beta_smooth))
    return found


def _powers() -> list[Check]:
    """a^b with tensors on both sides, either or both carrying."""
    a, b = rand(2, 3).abs() + 0.2, rand(3)
    both = Case("aten.pow.Tensor_Tensor", "both", torch.pow, (a, rand(2, 3)), batched=True)
    base = Case("aten.pow.Tensor_Tensor", "base", torch.pow, (a,), (b,), batched=True)
    exponent = Case("aten.pow.Tensor_Tensor", "exponent", lambda y, x: torch.pow(x, y), (b,), (a,))
    places = ((both, 0, 1), (base, 0, None), (exponent, None, 0))
    found = [Check(case, "identity", partial(P.power, epsilon=1e-6)) for case, _, _ in places]
    found += [Check(case, "identity", partial(P.power, epsilon=0.1), {"epsilon": 0.1}) for case, _, _ in places]
    return found + [Check(case, "gradient", partial(P.power_gradient, base=x, exponent=y)) for case, x, y in places]


def _reductions() -> list[Check]:
    x = rand(2, 3, 4)
    found: list[Check] = []

    def centred(t: Any) -> Any:
        return t * (t - t.mean())

    rows: list[tuple[str, str, Any, tuple[int, ...], Any, float]] = [
        ("std", "last", lambda a: a.std(-1), (2,), centred, 1),
        ("std", "biased", lambda a: a.std((1, 2), correction=0), (1, 2), centred, 1),
        ("var", "last", lambda a: a.var(-1, keepdim=True), (2,), centred, 2),
        ("var", "biased", lambda a: a.var((1, 2), unbiased=False), (1, 2), centred, 2),
        ("linalg_vector_norm", "2", lambda a: torch.linalg.vector_norm(a, dim=-1), (2,), torch.square, 1),
        ("linalg_vector_norm", "1", lambda a: torch.linalg.vector_norm(a, 1, dim=(1, 2)), (1, 2), torch.abs, 1),
        (
            "linalg_vector_norm",
            "3",
            lambda a: torch.linalg.vector_norm(a, 3.0, dim=1, keepdim=True),
            (1,),
            lambda t: t.abs() ** 3,
            1,
        ),
        (
            "linalg_vector_norm",
            "inf",
            lambda a: torch.linalg.vector_norm(a, math.inf, dim=1),
            (1,),
            lambda t: (t.abs() == t.abs().max()).double(),
            1,
        ),
        ("norm", "2", lambda a: T.norm(a, 2, [2]), (2,), torch.square, 1),
        ("norm", "3", lambda a: T.norm(a, 3, [1], True), (1,), lambda t: t.abs() ** 3, 1),
    ]
    for op, name, fn, dims, part, degree in rows:
        case = Case(f"aten.{op}", name, fn, (x,), batched=True)
        found.append(Check(case, "identity", partial(P.share_of_reduction, dims=dims, part=part)))
        found.append(Check(case, "gradient", partial(P.share_of_reduction, dims=dims, part=part, degree=degree)))
    whole = Case("aten.norm", "all", lambda a: T.norm(a, 2), (rand(2, 3),))
    found.append(Check(whole, "identity", partial(P.share_of_reduction, dims=(0, 1), part=torch.square)))
    logsumexp = Case("aten.logsumexp", "last", lambda a: a.logsumexp(-1), (x,), batched=True)
    found.append(Check(logsumexp, "gradient", partial(P.logsumexp_gradient, dim=2)))
    product = Case("aten.prod", "last", lambda a: a.prod(-1), (x,), batched=True)
    found.append(Check(product, "gradient", partial(P.prod_gradient, dims=(2,))))
    total = Case("aten.prod", "all", torch.prod, (rand(2, 3),))
    found.append(Check(total, "gradient", partial(P.prod_gradient, dims=(0, 1))))
    return found


CHECKS = _checks()
