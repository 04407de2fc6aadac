"""Elementary functions that vectorise, as numba functions.

The library's exp and tanh are called number by number; these are polynomials (Cephes' coefficients) that the compiler
turns into vector instructions, accurate to a few units in the last place.
"""

from __future__ import annotations

import math
from typing import Any

import numba as nb
import numpy as np
from numba.extending import overload

FAST = {"reassoc", "contract", "nsz", "arcp"}
"""Sums may be reordered; NaN and infinity keep their meaning, since a diverged member must be seen."""


def compiled(function: Any, fast: set[str] = FAST) -> Any:
    """`numba.njit`, kept on disk where there is a folder for it."""
    options: dict[str, Any] = {"fastmath": fast, "error_model": "numpy", "nogil": True}
    try:
        return nb.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder can be written to
        return nb.njit(**options)(function)


def _in_order(function: Any) -> Any:
    # The two parts of log(2) are subtracted one after the other on purpose.
    return compiled(function, {"contract"})


@_in_order
def _exp32(x: Any) -> Any:
    x = max(min(x, np.float32(88.0)), np.float32(-87.0)) if x == x else x
    n = np.float32(math.floor(x * np.float32(1.44269504088896341) + np.float32(0.5)))
    x = x - n * np.float32(0.693359375)
    x = x + n * np.float32(2.12194440e-4)
    y = np.float32(1.9875691500e-4)
    y = y * x + np.float32(1.3981999507e-3)
    y = y * x + np.float32(8.3334519073e-3)
    y = y * x + np.float32(4.1665795894e-2)
    y = y * x + np.float32(1.6666665459e-1)
    y = y * x + np.float32(5.0000001201e-1)
    y = y * (x * x) + x + np.float32(1.0)
    return y * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)


@_in_order
def _exp64(x: Any) -> Any:
    x = max(min(x, 709.0), -708.0) if x == x else x
    n = math.floor(x * 1.4426950408889634073599 + 0.5)
    x = x - n * 6.93145751953125e-1
    x = x - n * 1.42860682030941723212e-6
    z = x * x
    p = x * ((1.26177193074810590878e-4 * z + 3.02994407707441961300e-2) * z + 9.99999999999999999910e-1)
    q = 3.00198505138664455042e-6 * z + 2.52448340349684104192e-3
    q = (q * z + 2.27265548208155028766e-1) * z + 2.00000000000000000009e0
    y = 1.0 + 2.0 * (p / (q - p))
    return y * np.int64((np.int64(n) + np.int64(1023)) << np.int64(52)).view(np.float64)


@_in_order
def _tanh32(x: Any) -> Any:
    z = x * x
    y = np.float32(-5.70498872745e-3)
    y = y * z + np.float32(2.06390887954e-2)
    y = y * z - np.float32(5.37397155531e-2)
    y = y * z + np.float32(1.33314422036e-1)
    y = y * z - np.float32(3.33332819422e-1)
    near = y * z * x + x
    a = abs(x)
    far = np.float32(1.0) - np.float32(2.0) / (_exp32(a + a) + np.float32(1.0))
    return near if a < np.float32(0.625) else math.copysign(far, x)


@_in_order
def _tanh64(x: Any) -> Any:
    z = x * x
    p = (-9.64399179425052238628e-1 * z - 9.92877231001918586564e1) * z - 1.61468768441708447952e3
    q = ((z + 1.12811678491632931402e2) * z + 2.23548839060100448583e3) * z + 4.84406305325125486048e3
    near = x + x * z * (p / q)
    a = abs(x)
    far = 1.0 - 2.0 / (_exp64(a + a) + 1.0)
    return near if a < 0.625 else math.copysign(far, x)


def exp(x):
    """The exponential; compiled code only."""
    raise NotImplementedError


def tanh(x):
    """The hyperbolic tangent; compiled code only."""
    raise NotImplementedError


@overload(exp)
def _exp(x):
    return (lambda x: _exp32(x)) if x == nb.types.float32 else (lambda x: _exp64(x))


@overload(tanh)
def _tanh(x):
    return (lambda x: _tanh32(x)) if x == nb.types.float32 else (lambda x: _tanh64(x))
