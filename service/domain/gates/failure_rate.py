"""Gates on the share of devices that fail: one that halts a bad release, one that passes a good one.

Halt (H₀: p ≤ p₀): the likelihood ratio against p₀, averaged over Beta(a, b) cut off below p₀,

    E = B(a+f, b+s)·[1 − I_p₀(a+f, b+s)] / { B(a, b)·[1 − I_p₀(a, b)]·p₀ᶠ·(1−p₀)ˢ },    halt at E ≥ 1/α.

Devices are counted in the order of their starts, and one without a result counts as a success: E rises with f, so that
only delays a halt. Counting results as they come in would not be valid: failures report first.

Pass (H₀: p ≥ p₁): the same averaged evenly over [0, p₁),

    E′ = ∫₀^p₁ (p/p₁)ᶠ((1−p)/(1−p₁))ˢ dp / p₁,    pass at E′ ≥ 1/β,

and here one without a result counts as a failure.

Both count devices, never frames or retries. Sources: Ville 1939; Robbins 1970, mixtures; truncation keeps the mixture
on the alternative, see Lindon & Malek, Anytime-valid inference for multinomial count data (NeurIPS 2022).
"""

from dataclasses import dataclass
from functools import lru_cache
from math import exp, log, log1p

import numpy as np

from service.domain.errors import InvalidError
from service.domain.gates.beta import Floats, log_above, log_above_each, log_below, log_below_each


class InvalidGateError(InvalidError):
    """A gate's numbers make no test."""


@dataclass(frozen=True, slots=True)
class FailureRateGate:
    """Which failure rates are acceptable.

    Attributes:
        acceptable: p₀; a release that fails no more often is halted with probability α at most.
        worst: p₁; one that fails as often or more passes with probability β at most.
        prior_failures, prior_successes: a and b of the mixture; 1 and 9 look for rates of about a tenth.
    """

    acceptable: float = 0.02
    worst: float = 0.05
    prior_failures: float = 1.0
    prior_successes: float = 9.0

    def __post_init__(self) -> None:
        check_rates(self.acceptable, self.worst)
        if min(self.prior_failures, self.prior_successes) < 1:
            raise InvalidGateError(
                f"prior: expected at least 1 and 1, found {self.prior_failures:g} and {self.prior_successes:g}"
            )

    def log_halt(self, failed: int, started: int) -> float:
        """Return ln E.

        Args:
            failed: devices that have failed.
            started: devices that were given the release, those without a result included.

        Raises:
            InvalidGateError: more failures than devices, or a negative count.
        """
        _check_counts(failed, started)
        a, b, p = self.prior_failures, self.prior_successes, self.acceptable
        mixture = log_above(a + failed, b + started - failed, p) - _log_prior(a, b, p)
        return mixture - failed * log(p) - (started - failed) * log1p(-p)

    def log_pass(self, failed_or_unresolved: int, started: int) -> float:
        """Return ln E′, as `log_halt`.

        Args:
            failed_or_unresolved: devices that have not succeeded.
            started: all that were given the release.
        """
        _check_counts(failed_or_unresolved, started)
        f, s, p = failed_or_unresolved, started - failed_or_unresolved, self.worst
        return log_below(1 + f, 1 + s, p) - log(p) - f * log(p) - s * log1p(-p)

    def log_halt_each(self, failed: Floats, started: Floats) -> Floats:
        """Return `log_halt` of each pair of two arrays of one shape."""
        a, b, p = self.prior_failures, self.prior_successes, self.acceptable
        mixture = log_above_each(a + failed, b + started - failed, p) - log_above(a, b, p)
        return np.asarray(mixture - failed * log(p) - (started - failed) * log1p(-p), float)

    def log_pass_each(self, failed_or_unresolved: Floats, started: Floats) -> Floats:
        """Return `log_pass` of each pair of two arrays of one shape."""
        f, s, p = failed_or_unresolved, started - failed_or_unresolved, self.worst
        return np.asarray(log_below_each(1 + f, 1 + s, p) - log(p) - f * log(p) - s * log1p(-p), float)


def check_rates(acceptable: float, worst: float) -> None:
    """Refuse rates that make no test.

    Raises:
        InvalidGateError: they do not rise from above 0 to below 1.
    """
    if not 0 < acceptable < 1:
        raise InvalidGateError(f"acceptable failure rate: expected above 0 to below 1, found {acceptable}")
    if not acceptable < worst < 1:
        raise InvalidGateError(
            f"worst failure rate: expected above the acceptable {acceptable:g} to below 1, found {worst}"
        )


def threshold(error_probability: float) -> float:
    """Return ln(1/α), which an e-process has to reach.

    Raises:
        InvalidGateError: not a probability.
    """
    if not 0 < error_probability < 1:
        raise InvalidGateError(f"error probability: expected above 0 to below 1, found {error_probability}")
    return -log(error_probability)


def in_words(log_evidence: float) -> str:
    """Return evidence for people: `E = 137`, or a power of ten where it is long."""
    if abs(log_evidence) < 20:  # noqa: PLR2004 - e²⁰ has nine digits
        return f"E = {exp(log_evidence):.3g}"
    return f"E = 10^{log_evidence / log(10):.1f}"


@lru_cache
def _log_prior(a: float, b: float, p: float) -> float:
    """Return what the mixture over rates above p is divided by; the same for a gate's whole life."""
    return log_above(a, b, p)


def _check_counts(failed: int, started: int) -> None:
    if not 0 <= failed <= started:
        raise InvalidGateError(f"counts: expected 0 to {started} failures, found {failed}")
