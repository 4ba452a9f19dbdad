"""Logarithms of the two parts of a beta integral, ∫ pᵃ⁻¹(1−p)ᵇ⁻¹ dp from 0 to x and from x to 1.

scipy's regularised functions underflow where a part is negligible beside the whole. There the integrand eʰ is largest
at x and falls off exponentially, and Laplace's expansion at the end point takes over, with h's derivatives at x:

    eʰ / |h'| · ( 1 + h″/h'² + 3·h″²/h'⁴ − h‴/h'³ + … )

(Olver, Asymptotics and Special Functions, 1974, ch. 3 §7). What is left out is far less than what one more failure
changes, so that evidence still rises and falls with each where one form follows the other.
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
    return float(_at_end(np.asarray(a, float), np.asarray(b, float), x))


def _each(a: Floats, b: Floats, x: float, part: Floats) -> Floats:
    is_small = part < _SMALLEST
    log_part = betaln(a, b) + np.log(np.where(is_small, 1.0, part))
    with np.errstate(all="ignore"):  # the expansion holds for small parts alone, and no other is taken
        return np.asarray(np.where(is_small, _at_end(a, b, x), log_part), float)


def _at_end(a: Floats, b: Floats, x: float) -> Floats:
    below, above, y = a - 1, b - 1, 1 - x
    first = below / x - above / y
    second = -below / x**2 - above / y**2
    third = 2 * below / x**3 - 2 * above / y**3
    rest = second / first**2 + 3 * second**2 / first**4 - third / first**3
    return np.asarray(below * log(x) + above * log1p(-x) - np.log(np.abs(first)) + np.log1p(rest), float)
