"""Fourier transforms, and the ops that take complex numbers apart and put them together."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from oracles.harness import Case, Check, source
from oracles.spectral import angle_gradient, angle_identity, linear_map, signal_only

__all__ = ["CHECKS", "WINDOW"]

T = torch.ops.aten
rand = source(41)
AS_COMPLEX, AS_REAL = "aten.view_as_complex.default", "aten.view_as_real.default"


def _case(op: str, name: str, fn: Callable[..., Any], *shape: int, inside: bool = True, outside: bool = True) -> Check:
    """An op between real numbers: pairs of them made complex before it, and taken apart after it."""

    def run(x: Tensor) -> Tensor:
        z = fn(torch.view_as_complex(x) if inside else x)
        return torch.view_as_real(z.resolve_conj()) if outside else z

    around = (*((AS_COMPLEX,) if inside else ()), *((AS_REAL, "aten.resolve_conj.default") if outside else ()))
    return Check(Case(op, name, run, (rand(*shape),), batched=True, around=around), "gradient", linear_map)


def _transforms() -> list[Check]:
    found: list[Check] = []
    for name, dims in (("fft", 1), ("fft2", 2), ("fftn", 3)):
        call = partial(getattr(torch.fft, name), norm="ortho")
        inverse, half, back = (getattr(torch.fft, n) for n in (f"i{name}", f"r{name}", f"ir{name}"))
        real = getattr(torch.fft, f"ih{name}")
        over = {} if name == "fft" else {"dim": tuple(range(-dims, 0))}
        shape = (2, 3, 2, 4)[: 1 + max(dims, 2)]
        found += [
            _case(f"aten.fft_{name}", "", partial(call, **over), *shape, 2),
            _case(f"aten.fft_i{name}", "", partial(inverse, **over), *shape, 2),
            _case(f"aten.fft_r{name}", "", partial(half, **over), *shape, inside=False),
            _case(f"aten.fft_ir{name}", "", partial(back, **over), *shape, 2, outside=False),
            _case(f"aten.fft_ih{name}", "", partial(real, **over), *shape, inside=False),
        ]
    for name in ("fftshift", "ifftshift"):
        found.append(_case(f"aten.fft_{name}", "", partial(getattr(torch.fft, name), dim=1), 2, 5, 2))
    for forward in (True, False):
        found.append(_case("aten._fft_c2c", f"{forward}", lambda z, f=forward: T._fft_c2c(z, [1], 1, f), 2, 5, 2))
        for n in (5, 6):
            name = f"{forward}-{n}"
            two = forward
            found.append(_case("aten._fft_r2c", name, lambda x, t=two: T._fft_r2c(x, [1], 0, t), 2, n, inside=False))
            found.append(_case("aten._fft_c2r", name, lambda z, n=n: T._fft_c2r(z, [1], 2, n), 2, n // 2 + 1, 2, outside=False))
    return found


def _parts() -> list[Check]:
    x, y = rand(2, 3), rand(2, 3)
    put_together = [
        Case("aten.complex", "both", lambda a, b: torch.view_as_real(torch.complex(a, b)), (x, y), batched=True,
             around=(AS_REAL,)),
        Case("aten.complex", "imaginary", lambda b, a: torch.view_as_real(torch.complex(a, b)), (y,), (x,), batched=True,
             per_sample=(0,), around=(AS_REAL,)),
    ]  # fmt: skip
    found = [Check(case, "gradient", linear_map) for case in put_together]
    found += [_case(f"aten.{name}", "", getattr(torch, name), 2, 3, 2, outside=False) for name in ("real", "imag")]
    found += [_case(f"aten.{name}", "", getattr(T, name), 2, 3, 2) for name in ("_conj", "conj_physical", "_neg_view")]
    again = Case(AS_COMPLEX, "", lambda x: torch.view_as_real(torch.view_as_complex(x)), (rand(2, 3, 2),), batched=True)
    for op, other in ((AS_COMPLEX, AS_REAL), (AS_REAL, AS_COMPLEX)):
        name = op.removesuffix(".default")
        found.append(Check(Case(name, "", again.fn, again.inputs, batched=True, around=(other,)), "gradient", linear_map))
    return found


WINDOW = torch.tensor([0.5, 1.0, 0.75, 0.25], dtype=torch.float64)


def _short_times() -> list[Check]:
    """Transforms of overlapping frames, and the frames put together again."""

    def spectrum(x: Tensor, window: Tensor) -> Tensor:
        return torch.view_as_real(T.stft.default(x, 4, 2, 4, window, False, True, True))

    x, case = rand(2, 8), partial(Case, "aten.stft", around=(AS_REAL,))
    back = lambda x: T.unfold_backward(x, [len(x), 8], 1, 4, 2)  # noqa: E731
    together = Case("aten.unfold_backward", "", back, (rand(2, 3, 4),), batched=True)
    return [
        Check(case("signal", spectrum, (x,), (WINDOW,), batched=True), "gradient", linear_map),
        Check(case("both", spectrum, (x, WINDOW)), "gradient", partial(signal_only, signal=0)),
        Check(case("window", lambda w, x: spectrum(x, w), (WINDOW,), (x,)), "gradient", partial(signal_only, signal=None)),
        Check(together, "gradient", linear_map),
    ]


def _angles() -> list[Check]:
    """The angle of a complex number, which is no linear map: the identity rule, and the op's gradient."""

    def angle(x: Tensor) -> Tensor:
        return torch.angle(torch.view_as_complex(x))

    case = Case("aten.angle", "", angle, (rand(2, 3, 2),), batched=True, around=(AS_COMPLEX,))
    return [
        Check(case, "identity", partial(angle_identity, epsilon=1e-6)),
        Check(case, "identity", partial(angle_identity, epsilon=0.1), {"epsilon": 0.1}),
        Check(case, "gradient", angle_gradient),
    ]


CHECKS = [*_transforms(), *_parts(), *_short_times(), *_angles()]
