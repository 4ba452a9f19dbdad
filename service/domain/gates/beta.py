"""Logarithms of the two parts of a beta integral, ∫ pᵃ⁻¹(1−p)ᵇ⁻¹ dp from 0 to x and from x to 1.

scipy's regularised functions underflow where a part is negligible beside the whole. There the integrand is largest at
x and falls off exponentially, and the first term of Laplace's expansion at the end point takes over.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc, betaincc, betaln

Floats = NDArray[np.float64]
_SMALLEST = 1e-280  # of a regularised integral; below it scipy's relative accuracy goes


def log_below(a: ArrayLike, b: ArrayLike, x: float) -> Floats:
    """Return ln ∫₀ˣ pᵃ⁻¹(1−p)ᵇ⁻¹ dp; a, b > 0 and 0 < x < 1, arrays of one shape or scalars."""
    return _log_part(np.asarray(a, float), np.asarray(b, float), x, betainc)


def log_above(a: ArrayLike, b: ArrayLike, x: float) -> Floats:
    """Return ln ∫ₓ¹ pᵃ⁻¹(1−p)ᵇ⁻¹ dp, as `log_below`."""
    return _log_part(np.asarray(a, float), np.asarray(b, float), x, betaincc)


def _log_part(a: Floats, b: Floats, x: float, regularised: np.ufunc) -> Floats:
    part = regularised(a, b, x)
    is_small = part < _SMALLEST
    ordinary = betaln(a, b) + np.log(np.where(is_small, 1.0, part))
    slope = np.abs((a - 1) / x - (b - 1) / (1 - x))  # of the logarithm of the integrand at x
    at_end = (a - 1) * np.log(x) + (b - 1) * np.log1p(-x) - np.log(np.where(is_small, slope, 1.0))
    return np.asarray(np.where(is_small, at_end, ordinary), float)
