"""Complex numbers and Fourier transforms: linear maps of real and imaginary parts.

The multiplier of a complex value is complex, ``m = m_re + i m_im``, and its relevance is real: ``R = Re(conj(z) m)``, that
is ``Re z m_re + Im z m_im``, the relevance of its two parts taken together. This is also how autograd writes the gradient
of a real number by a complex one, so that an op's vector-Jacobian product is its adjoint here as well.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dlbt_core.rules.builtin.arithmetic import declare_linear_maps
from dlbt_core.rules.context import RuleContext
from dlbt_core.rules.rule import RuleSet

__all__ = ["declare"]

_PARTS = tuple(
    f"aten.{name}" for name in "view_as_real view_as_complex complex real imag _conj conj_physical _neg_view".split()
)
_FOURIER = (
    *(f"aten._fft_{kind}" for kind in ("c2c", "r2c", "c2r")),
    *(f"aten.fft_{kind}{over}" for kind in "fft ifft rfft irfft ihfft".split() for over in ("", "2", "n")),
    "aten.fft_fftshift",
    "aten.fft_ifftshift",
    "aten.unfold_backward",  # overlapping frames, summed up: what an inverse transform of short times comes down to
)


def declare(add: RuleSet) -> None:
    """Declare the rules of this module."""
    declare_linear_maps(add, _PARTS + _FOURIER)

    @add.rule("aten.stft", variant="gradient", absorbs=("constant",), default=True,
              reads=("pullback", "constants", "output"))  # fmt: skip
    def windowed(ctx: RuleContext, m: Tensor) -> dict[str, Any]:
        """R_i = sum_j x_i w_ji / z_j R_j: the adjoint of a linear map of the signal.  Bach et al. 2015, eq. 56.

        A window that carries is held constant, as weights are; if only it carries, the signal is the constant.
        """
        if "self" not in ctx.carries:
            ctx.absorb("constant", m, ctx.output)
            return {}
        return {"self": ctx.vjp(m)["self"]}
