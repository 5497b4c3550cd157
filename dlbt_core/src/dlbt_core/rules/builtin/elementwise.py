"""Activations and other functions of one tensor: one formula, ``R_in = R_out``, so ``m_in = m * f(x) / x``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from dlbt_core.rules.context import RuleContext, share_of_epsilon, stabilise
from dlbt_core.rules.parameter import NotNegative
from dlbt_core.rules.rule import Asked, RuleSet

__all__ = ["declare"]

Degree = Callable[[RuleContext], float]
Slope = Callable[[RuleContext], Tensor]


def _norm_degree(ctx: RuleContext) -> float:
    order = ctx.args["ord"] if "ord" in ctx.args else ctx.args.get("p")
    return 0.0 if order == 0 else 1.0


HOMOGENEOUS: Mapping[str, Degree] = {
    **{f"aten.{name}": lambda ctx: 1.0 for name in ("relu", "leaky_relu", "rrelu", "abs", "absolute")},
    "aten.square": lambda ctx: 2.0,
}
"""Functions of one number with f(tx) = t^k f(x) for t > 0, by degree k. By Euler's theorem x f'(x) = k f(x)."""

NORMS: Mapping[str, Degree] = {
    "aten.std": lambda ctx: 1.0,
    "aten.var": lambda ctx: 2.0,
    "aten.linalg_vector_norm": _norm_degree,
    "aten.norm": _norm_degree,
}
"""The same, of many numbers."""

POWERS: Mapping[str, Degree] = {
    "aten.sqrt": lambda ctx: 0.5,
    "aten.rsqrt": lambda ctx: -0.5,
    "aten.reciprocal": lambda ctx: -1.0,
    "aten.pow.Tensor_Scalar": lambda ctx: float(ctx.args["exponent"]),
}
"""Powers of x, by exponent: homogeneous too, but their derivative at 0 may be infinite."""


def _x(ctx: RuleContext) -> Tensor:
    """The one argument that carries."""
    (name,) = ctx.carries
    argument: Tensor = ctx.args[name]
    return argument


def _silu(ctx: RuleContext) -> Tensor:
    return torch.sigmoid(_x(ctx))


def _gelu(ctx: RuleContext) -> Tensor:
    x = _x(ctx)
    if ctx.args["approximate"] == "tanh":
        return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * (1 + torch.erf(x * math.sqrt(0.5)))


def _hardswish(ctx: RuleContext) -> Tensor:
    return torch.clamp(_x(ctx) + 3, 0, 6) / 6


def _mish(ctx: RuleContext) -> Tensor:
    return torch.tanh(torch.nn.functional.softplus(_x(ctx)))


CLOSED: Mapping[str, Slope] = {
    "aten.silu": _silu, "aten.gelu": _gelu, "aten.hardswish": _hardswish, "aten.mish": _mish,
}  # fmt: skip
"""f(x) / x where it has a form of its own."""

VANISHING: Mapping[str, Callable[[RuleContext], float]] = {
    "aten.tanh": lambda ctx: 1.0,
    "aten.sin": lambda ctx: 1.0,
    "aten.tan": lambda ctx: 1.0,
    "aten.asin": lambda ctx: 1.0,
    "aten.atan": lambda ctx: 1.0,
    "aten.sinh": lambda ctx: 1.0,
    "aten.asinh": lambda ctx: 1.0,
    "aten.atanh": lambda ctx: 1.0,
    "aten.erf": lambda ctx: 2 / math.sqrt(math.pi),
    "aten.expm1": lambda ctx: 1.0,
    "aten.log1p": lambda ctx: 1.0,
    "aten.elu": lambda ctx: float(ctx.args["scale"]),
    "aten.celu": lambda ctx: 1.0,
    "aten.selu": lambda ctx: 1.0507009873554805,
    "aten.relu6": lambda ctx: 0.0,
    "aten.hardtanh": lambda ctx: 1.0,
    "aten.hardshrink": lambda ctx: 0.0,
    "aten.softshrink": lambda ctx: 0.0,
}
"""Functions with f(0) = 0, by f'(0), which is the limit of f(x) / x."""

OFFSET = tuple(
    f"aten.{name}"
    for name in (
        "sigmoid log_sigmoid hardsigmoid softplus log log2 log10 cos cosh acos erfc erfinv clamp clamp_min "
        "clamp_max clip threshold logit angle pow.Scalar"
    ).split()
)
"""Functions that are not 0 at 0, or may not be: f(x) / x is stabilised."""

EXPONENTIALS: Mapping[str, float] = {"aten.exp": 1.0, "aten.exp2": math.log(2)}
"""Functions ``exp(rate x)``, by rate."""


def _unless_relevance(*names: str) -> Callable[[Asked], tuple[str, ...]]:
    """What a rule reads of the forward pass; nothing for relevance, which passes unchanged."""
    return lambda asked: () if asked.form == "relevance" else names


def declare(add: RuleSet) -> None:
    """Declare the rules of this module."""

    @add.rule(*HOMOGENEOUS, variant="identity", takes="either", default=True, reads=_unless_relevance("pullback"))
    def homogeneous(ctx: RuleContext, m: Tensor) -> dict[str, Any]:
        """R_i = R_i: on multipliers the gradient over the degree k of homogeneity.  Achtibat et al. 2024, prop. 3.4, eq. 9."""
        if ctx.form == "relevance":
            return _to_argument(ctx, m)
        degree = HOMOGENEOUS[ctx.packet](ctx)
        return {name: given if degree == 1 else given / degree for name, given in ctx.vjp(m).items()}

    @add.rule(*NORMS, variant="identity", absorbs=("stopped",), default=True, reads=("pullback", "output"))
    def norm(ctx: RuleContext, m: Tensor) -> dict[str, Any]:
        """R_i = x_i f'_i / k f R. Convention: gradient over the degree k of homogeneity; shares sum to 1 by Euler's theorem."""
        degree = NORMS[ctx.packet](ctx)
        if degree == 0:
            ctx.absorb("stopped", m, ctx.output)
            return {}
        return {name: given if degree == 1 else given / degree for name, given in ctx.vjp(m).items()}

    @add.rule(*POWERS, variant="identity", takes="either", absorbs=("epsilon",), default=True,
              reads=_unless_relevance("carrying", "output"))  # fmt: skip
    def power(ctx: RuleContext, m: Tensor) -> dict[str, Any]:
        """R_i = R_i: m_in = m x^(k - 1), and 0 at x = 0.  Achtibat et al. 2024, prop. 3.4, eq. 9."""
        if ctx.form == "relevance":
            return _to_argument(ctx, m)
        x, y = _x(ctx), ctx.output
        zero = x == 0
        if POWERS[_key(ctx, POWERS)](ctx) == 0:
            ctx.absorb("epsilon", torch.where(zero, m * y, torch.zeros_like(y)))
        slope = torch.where(zero, torch.zeros_like(y), y / torch.where(zero, torch.ones_like(x), x))
        return _to_argument(ctx, m * slope.conj())

    @add.rule(
        *HOMOGENEOUS, *NORMS, *POWERS, variant="gradient", absorbs=("nonlinearity",), reads=("pullback", "output")
    )
    def homogeneous_gradient(ctx: RuleContext, m: Tensor) -> dict[str, Any]:
        """m_in = m f'(x): the op's gradient, which hands on k times what it got."""
        table: Mapping[str, Degree] = next(t for t in (HOMOGENEOUS, NORMS, POWERS) if _key(ctx, t) in t)
        degree = table[_key(ctx, table)](ctx)
        if degree != 1:
            ctx.absorb("nonlinearity", m * (1 - degree), ctx.output)
        return ctx.vjp(m)

    @add.rule("aten.prelu", variant="identity", absorbs=("constant",), default=True, reads=("carrying", "constants"))
    def prelu(ctx: RuleContext, m: Tensor) -> dict[str, Any]:
        """R_x = R, of which a slope that carries gets half where x < 0: a product there.  Achtibat et al. 2024, eq. 7, 9."""
        handed = ctx.vjp(m)
        if len(ctx.carries) == 2:
            half = torch.where(ctx.args["self"] < 0, 0.5, 1.0).to(m.dtype)
            handed = {"self": handed["self"] * half, "weight": handed["weight"] / 2}
        elif "self" not in ctx.carries:
            ctx.absorb_offset("constant", m)
        return handed

    @add.rule(
        "aten.prelu", variant="gradient", absorbs=("constant", "product"), reads=("carrying", "constants", "output")
    )
    def prelu_gradient(ctx: RuleContext, m: Tensor) -> dict[str, Any]:
        """m_in = m f'(x): the op's gradient; where x < 0 a slope that carries makes it a product, handed on twice."""
        if len(ctx.carries) == 2:
            ctx.absorb("product", torch.where(ctx.args["self"] < 0, -m, torch.zeros_like(m)), ctx.output)
        elif "self" not in ctx.carries:
            ctx.absorb_offset("constant", m)
        return ctx.vjp(m)

    @add.rule(*CLOSED, variant="identity", takes="either", default=True, reads=_unless_relevance("carrying"))
    def identity_closed(ctx: RuleContext, m: Tensor) -> dict[str, Any]:
        """R_i = R_i: m_in = m f(x) / x in closed form.  Achtibat et al. 2024, prop. 3.4, eq. 9."""
        if ctx.form == "relevance":
            return _to_argument(ctx, m)
        return _to_argument(ctx, m * CLOSED[ctx.packet](ctx).conj())

    @add.rule(*VANISHING, variant="identity", takes="either", default=True,
              reads=_unless_relevance("carrying", "output"))  # fmt: skip
    def identity_vanishing(ctx: RuleContext, m: Tensor) -> dict[str, Any]:
        """R_i = R_i: m_in = m f(x) / x, and m f'(0) at x = 0.  Achtibat et al. 2024, prop. 3.4, eq. 9."""
        if ctx.form == "relevance":
            return _to_argument(ctx, m)
        x, at_zero = _x(ctx), VANISHING[ctx.packet](ctx)
        slope = torch.where(x == 0, at_zero, ctx.output / torch.where(x == 0, torch.ones_like(x), x))
        return _to_argument(ctx, m * slope.conj())

    @add.rule(*EXPONENTIALS, variant="taylor", absorbs=("constant",), default=True, reads=("carrying", "output"))
    def taylor(ctx: RuleContext, m: Tensor) -> dict[str, Any]:
        """R_i = x f'(x) m: the Taylor expansion at x, whose constant f(x) - x f'(x) absorbs.  Achtibat et al. 2024, eq. 4-5.

        As in the softmax. Exponents of decays are differences of sums that nearly cancel: f(x) / x has no bound there.
        """
        y, slope = ctx.output, ctx.output * EXPONENTIALS[ctx.packet]
        ctx.absorb("constant", m, torch.where(y == 0, y, y - _x(ctx) * slope))
        return _to_argument(ctx, m * slope.conj())

    @add.rule(*EXPONENTIALS, variant="identity", takes="either", absorbs=("epsilon",),
              reads=_unless_relevance("carrying", "output"))  # fmt: skip
    @add.rule(*OFFSET, variant="identity", takes="either", absorbs=("epsilon",), default=True,
              reads=_unless_relevance("carrying", "output"))  # fmt: skip
    def identity_stabilised(ctx: RuleContext, m: Tensor, *, epsilon: NotNegative = 1e-6) -> dict[str, Any]:
        """R_i = R_i; on multipliers x_i / (x_i + eps sgn x_i) R_i, for functions not 0 at 0.  Achtibat et al. 2024, eq. 9."""
        if ctx.form == "relevance":
            return _to_argument(ctx, m)
        x = _x(ctx)
        ctx.absorb("epsilon", m * share_of_epsilon(x, epsilon), ctx.output)
        return _to_argument(ctx, m * (ctx.output / stabilise(x, epsilon)).conj())

    @add.rule(
        "aten.pow.Tensor_Tensor", variant="identity", absorbs=("epsilon",), default=True, reads=("carrying", "output")
    )
    def power_of_tensors(ctx: RuleContext, m: Tensor, *, epsilon: NotNegative = 1e-6) -> dict[str, Any]:
        """R_i = R / n for base and exponent, as many as carry; each x by x / (x + eps sgn x).  Achtibat et al. 2024, eq. 7."""
        share = m * ctx.output / len(ctx.carries)
        handed = {}
        for name in sorted(ctx.carries):
            x = ctx.args[name]
            ctx.absorb("epsilon", share * share_of_epsilon(x, epsilon))
            handed[name] = (share / stabilise(x, epsilon)).sum_to_size(ctx.shape(name))
        return handed

    @add.rule(*CLOSED, *VANISHING, *OFFSET, *EXPONENTIALS, "aten.pow.Tensor_Tensor", "aten.logsumexp", "aten.prod",
              variant="gradient", absorbs=("nonlinearity",), reads=("pullback", "carrying", "output"))  # fmt: skip
    def gradient(ctx: RuleContext, m: Tensor) -> dict[str, Any]:
        """m_in = m f'(x): the op's gradient."""
        return ctx.gradient(m, "nonlinearity")

    @add.rule("aten.relu", variant="guided_backprop", linear=False, absorbs=("clipped",), reads=("carrying", "output"))
    def guided_backprop(ctx: RuleContext, m: Tensor) -> dict[str, Any]:
        """m_in = m where x > 0 and m > 0, else 0.  Springenberg et al. 2015."""
        ctx.absorb("clipped", m.clamp(max=0), ctx.output)
        return {"self": torch.where(ctx.args["self"] > 0, m.clamp(min=0), torch.zeros_like(m))}

    @add.rule("aten.relu", variant="deconvnet", linear=False, absorbs=("clipped",), reads=("carrying", "output"))
    def deconvnet(ctx: RuleContext, m: Tensor) -> dict[str, Any]:
        """m_in = m where m > 0, else 0, whatever x was.  Zeiler & Fergus 2014, sec. 2.1."""
        handed = m.clamp(min=0)
        ctx.absorb("clipped", ctx.output * m - ctx.args["self"] * handed)
        return {"self": handed}

    @add.rule("aten.relu", variant="beta_smooth", absorbs=("smoothing",), reads=("carrying", "output"))
    def beta_smooth(ctx: RuleContext, m: Tensor, *, beta: float = 10.0) -> dict[str, Any]:
        """m_in = m sigmoid(beta x): the gradient of a softplus in place of the ReLU.  Dombrowski et al. 2019, sec. 4."""
        x = ctx.args["self"]
        slope = torch.sigmoid(beta * x)
        ctx.absorb("smoothing", m, ctx.output - x * slope)
        return {"self": m * slope}


def _key(ctx: RuleContext, table: Mapping[str, Any]) -> str:
    return ctx.node.op if ctx.node.op in table else ctx.packet


def _to_argument(ctx: RuleContext, message: Tensor) -> dict[str, Any]:
    """The message for the one argument that carries, which may have been broadcast."""
    (name,) = ctx.carries
    return {name: message.sum_to_size(ctx.shape(name))}
