"""Logarithms of the two parts of a beta integral, ∫ pᵃ⁻¹(1−p)ᵇ⁻¹ dp from 0 to x and from x to 1.

scipy's regularised functions underflow where a part is negligible beside the whole. There the integrand is largest at
x and falls off exponentially, and the first term of Laplace's expansion at the end point takes over.
"""

from math import log, log1p

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, betaincc, betaln

Floats = NDArray[np.float64]
_SMALLEST = 1e-280  # of a regularised integral; below it scipy's relative accuracy goes


def log_below(a: float, b: float, x: float) -> float:
    """Return ln ∫₀ˣ pᵃ⁻¹(1−p)ᵇ⁻¹ dp; a, b > 0 and 0 < x < 1."""
    part = float(betainc(a, b, x))
    return float(betaln(a, b)) + log(part) if part >= _SMALLEST else _log_at_end(a, b, x)


def log_above(a: float, b: float, x: float) -> float:
    """Return ln ∫ₓ¹ pᵃ⁻¹(1−p)ᵇ⁻¹ dp, as `log_below`."""
    part = float(betaincc(a, b, x))
    return float(betaln(a, b)) + log(part) if part >= _SMALLEST else _log_at_end(a, b, x)


def log_below_each(a: Floats, b: Floats, x: float) -> Floats:
    """Return `log_below` of each pair of two arrays of one shape."""
    return _each(a, b, x, betainc(a, b, x))


def log_above_each(a: Floats, b: Floats, x: float) -> Floats:
    """Return `log_above` of each pair of two arrays of one shape."""
    return _each(a, b, x, betaincc(a, b, x))


def _log_at_end(a: float, b: float, x: float) -> float:
    slope = abs((a - 1) / x - (b - 1) / (1 - x))  # of the logarithm of the integrand at x
    return (a - 1) * log(x) + (b - 1) * log1p(-x) - log(slope)


def _each(a: Floats, b: Floats, x: float, part: Floats) -> Floats:
    is_small = part < _SMALLEST
    ordinary = betaln(a, b) + np.log(np.where(is_small, 1.0, part))
    slope = np.abs((a - 1) / x - (b - 1) / (1 - x))
    at_end = (a - 1) * log(x) + (b - 1) * log1p(-x) - np.log(np.where(is_small, slope, 1.0))
    return np.asarray(np.where(is_small, at_end, ordinary), float)
