"""The composites of the literature: which published rule for which kind of layer."""

from __future__ import annotations

from typing import Literal

from dlbt_core.composites.composite import Composite, CompositeSet
from dlbt_core.composites.presets import HELD
from dlbt_core.composites.select import Choice, Select, Use

__all__ = ["declare"]

Bias = Literal["denominator", "dropped"]
Bound = float | tuple[float, ...] | None

CONVOLUTION = tuple(f"aten.conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3))
LINEAR = ("aten.linear", "aten.addmm", "aten.bilinear")
AVERAGE = tuple(f"aten.{kind}{n}d" for kind in ("avg_pool", "adaptive_avg_pool") for n in (1, 2, 3))
SUM = ("aten.add", "aten.sub", "aten.rsub", "aten.subtract")
BATCH_NORM = "aten.batch_norm"
FOLDED = ("fold_batch_norm",)

CONV = Select(op=CONVOLUTION)
FIRST_CONV = Select(op=CONVOLUTION, first=True)
FIRST = Select(op=CONVOLUTION + LINEAR, first=True)


def _layers(*choices: Choice, epsilon: float, stabiliser: float, bias: Bias) -> tuple[Choice, ...]:
    """What Zennit's composites have in common, behind the choices of their own."""
    return (
        *choices,
        *HELD,
        (Select(op=BATCH_NORM), Use("pass")),
        (Select(op=AVERAGE, has="norm"), Use("norm", epsilon=stabiliser)),
        (Select(op=SUM), Use("epsilon", epsilon=stabiliser)),
        (Select(op=LINEAR), Use("epsilon", epsilon=epsilon, bias=bias)),
        (Select(has="epsilon"), Use("epsilon", epsilon=epsilon)),
    )


def declare(add: CompositeSet) -> None:
    """Declare them."""

    @add.recipe("epsilon_plus", plugin="core")
    def epsilon_plus(epsilon: float = 1e-6, stabiliser: float = 1e-6, bias: Bias = "denominator") -> Composite:
        """z+ for convolutions, epsilon for linear maps (Montavon et al. 2019; Zennit's EpsilonPlus)"""
        plus = (CONV, Use("zplus", epsilon=stabiliser, bias=bias))
        choices = _layers(plus, epsilon=epsilon, stabiliser=stabiliser, bias=bias)
        return Composite("epsilon_plus", choices, passes=FOLDED)

    @add.recipe("epsilon_plus_flat", plugin="core")
    def epsilon_plus_flat(epsilon: float = 1e-6, stabiliser: float = 1e-6, bias: Bias = "denominator") -> Composite:
        """epsilon_plus with the flat rule for the first layer (Bach et al. 2016; Zennit's EpsilonPlusFlat)"""
        flat = (FIRST, Use("flat", epsilon=stabiliser))
        plus = (CONV, Use("zplus", epsilon=stabiliser, bias=bias))
        choices = _layers(flat, plus, epsilon=epsilon, stabiliser=stabiliser, bias=bias)
        return Composite("epsilon_plus_flat", choices, passes=FOLDED)

    @add.recipe("epsilon_alpha2_beta1", plugin="core")
    def epsilon_alpha2_beta1(epsilon: float = 1e-6, stabiliser: float = 1e-6, bias: Bias = "denominator") -> Composite:
        """alpha = 2, beta = 1 for convolutions, epsilon for linear maps (Bach et al. 2015; Zennit's EpsilonAlpha2Beta1)"""
        choices = _layers(_alpha2_beta1(stabiliser, bias), epsilon=epsilon, stabiliser=stabiliser, bias=bias)
        return Composite("epsilon_alpha2_beta1", choices, passes=FOLDED)

    @add.recipe("epsilon_alpha2_beta1_flat", plugin="core")
    def epsilon_alpha2_beta1_flat(
        epsilon: float = 1e-6, stabiliser: float = 1e-6, bias: Bias = "denominator"
    ) -> Composite:
        """epsilon_alpha2_beta1 with the flat rule for the first layer (Bach et al. 2016; Zennit's EpsilonAlpha2Beta1Flat)"""
        flat = (FIRST, Use("flat", epsilon=stabiliser))
        choices = _layers(flat, _alpha2_beta1(stabiliser, bias), epsilon=epsilon, stabiliser=stabiliser, bias=bias)
        return Composite("epsilon_alpha2_beta1_flat", choices, passes=FOLDED)

    @add.recipe("epsilon_gamma_box", plugin="core")
    def epsilon_gamma_box(
        low: Bound = None, high: Bound = None, gamma: float = 0.25, epsilon: float = 1e-6, stabiliser: float = 1e-6,
        bias: Bias = "denominator",
    ) -> Composite:  # fmt: skip
        """z^B for the first convolution, gamma for the others, epsilon for linear maps (Montavon et al. 2019; Zennit's)"""
        bounds = {name: bound for name, bound in (("low", low), ("high", high)) if bound is not None}
        box = (FIRST_CONV, Use("zbox", **bounds, epsilon=stabiliser))
        excite = (CONV, Use("gamma", gamma=gamma, epsilon=stabiliser, bias=bias))
        choices = _layers(box, excite, epsilon=epsilon, stabiliser=stabiliser, bias=bias)
        return Composite("epsilon_gamma_box", choices, passes=FOLDED)

    @add.recipe("excitation_backprop", plugin="core")
    def excitation_backprop(stabiliser: float = 1e-6, bias: Bias = "denominator") -> Composite:
        """z+ for convolutions and linear maps (Zhang et al. 2016; Zennit's ExcitationBackprop)"""
        plus = (Select(op=CONVOLUTION + LINEAR), Use("zplus", epsilon=stabiliser, bias=bias))
        choices = _layers(plus, epsilon=stabiliser, stabiliser=stabiliser, bias=bias)
        return Composite("excitation_backprop", choices, passes=FOLDED)

    add.add(
        _gradient_but("guided_backprop"),
        "the gradient, ReLUs pass only what is positive (Springenberg et al. 2015)",
        "core",
    )
    add.add(_gradient_but("deconvnet"), "the gradient, ReLUs act on the gradient itself (Zeiler & Fergus 2014)", "core")

    @add.recipe("beta_smooth", plugin="core")
    def beta_smooth(beta: float = 10.0) -> Composite:
        """the gradient, ReLUs as if they were softplus (Dombrowski et al. 2019)"""
        return _gradient_but("beta_smooth", beta=beta)

    @add.recipe("vit_gamma", plugin="core")
    def vit_gamma(gamma_conv: float = 0.25, gamma_linear: float = 0.05, stabiliser: float = 1e-6) -> Composite:
        """gamma for convolutions and linear maps, attention weights held constant (Achtibat et al. 2024, A.2.3; CP-LRP)"""
        return Composite(
            "vit_gamma",
            (
                (Select(fact="attention_weights"), Use("constant")),
                (Select(op="aten.scaled_dot_product_attention", has="detach"), Use("detach")),
                (CONV, Use("gamma", gamma=gamma_conv, epsilon=stabiliser)),
                (Select(op=LINEAR), Use("gamma", gamma=gamma_linear, epsilon=stabiliser)),
                *HELD,
            ),
            passes=FOLDED,
        )

    add.add(
        Composite("dlb_default", _dlb(), passes=FOLDED), "shares by |x w| (DLBacktrace, Sankarapu et al. 2024)", "core"
    )
    contrastive = (Select(has="dlb_contrastive"), Use("dlb_contrastive"))
    add.add(
        Composite("dlb_contrastive", _dlb(contrastive), passes=FOLDED, streams=("for", "against")),
        "relevance for the class and against it, in two streams (DLBacktrace, Sankarapu et al. 2024)",
        "core",
    )


def _alpha2_beta1(stabiliser: float, bias: Bias) -> Choice:
    return (CONV, Use("alpha_beta", alpha=2.0, beta=1.0, epsilon=stabiliser, bias=bias))


def _gradient_but(variant: str, **parameters: float) -> Composite:
    return Composite(variant, ((Select(op="aten.relu"), Use(variant, **parameters)), (Select(), Use("gradient"))))


_RANGES = {
    "relu": {"low": 0.0}, "tanh": {"low": -2.0, "high": 2.0}, "sigmoid": {"low": -4.0, "high": 4.0}, "swish": {"low": -6.0},
}  # fmt: skip
"""Below and above which input an activation is flat."""


def _dlb(*front: Choice) -> tuple[Choice, ...]:
    """The choices of DLBacktrace; `front` stands before those that share by size."""
    ranged = tuple(
        (Select(op=CONVOLUTION + LINEAR, fact=f"before_{name}"), Use("dlb_default", **given))
        for name, given in _RANGES.items()
    )
    return (
        *HELD,
        (Select(op=BATCH_NORM), Use("pass")),
        (Select(op=("aten.layer_norm", "aten.rms_norm", "aten.group_norm"), has="pass"), Use("pass")),
        *front,
        *ranged,
        (Select(has="dlb_default"), Use("dlb_default")),
    )
