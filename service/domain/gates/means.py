"""Means per device: latency, confidence, arena; a mixture sequential probability ratio test.

    Λ = √(V/(V+nτ²)) · exp(n²τ²Δ² / (2V(V+nτ²)))

over n devices, where Δ is how far their mean lies beyond what the plan allows and V the variance of a device's own
average, estimated beforehand on at least 30 devices: estimated on the way it would halt a fifth of the healthy
releases, and counting frames of one device as n nearly all. A new model is expected to shift confidence, so the plan
states the expected change. Source: Johari, Koomen, Pekelis & Walsh, Peeking at A/B tests (KDD 2017).
"""

from dataclasses import dataclass
from math import log

from service.domain.gates.failure_rate import InvalidGateError

SMALLEST_SAMPLE = 30  # devices that a variance is estimated from


@dataclass(frozen=True, slots=True)
class Baseline:
    """What devices were like before the release.

    Attributes:
        devices: how many averages it is made of.
        mean: of the devices' averages.
        variance: of them, above 0.
    """

    devices: int
    mean: float
    variance: float

    @property
    def is_enough(self) -> bool:
        """Whether a test may stand on it."""
        return self.devices >= SMALLEST_SAMPLE and self.variance > 0


@dataclass(frozen=True, slots=True)
class MeanGate:
    """How far a mean may move.

    Attributes:
        expected_change: that the release is meant to bring.
        margin: beyond it, that is tolerated; above 0.
        higher_is_worse: latency, or lower is worse: confidence.
    """

    margin: float
    expected_change: float = 0.0
    higher_is_worse: bool = True

    def __post_init__(self) -> None:
        if not self.margin > 0:
            raise InvalidGateError(f"margin: expected above 0, found {self.margin}")

    def excess(self, baseline: Baseline, mean: float) -> float:
        """Return Δ: how far a mean lies beyond what is allowed; 0 within it."""
        change = mean - baseline.mean - self.expected_change
        return max(0.0, (change if self.higher_is_worse else -change) - self.margin)

    def log_evidence(self, baseline: Baseline, devices: int, mean: float) -> float:
        """Return ln Λ; at most 0 while the mean is within its margin.

        Args:
            baseline: `is_enough`.
            devices: n, that have the release and an average.
            mean: of their averages.

        Raises:
            InvalidGateError: the baseline is of too few devices.
        """
        if not baseline.is_enough:
            raise InvalidGateError(
                f"baseline: expected at least {SMALLEST_SAMPLE} devices that differ, found {baseline.devices}"
            )
        variance, spread = baseline.variance, self.margin**2  # τ: differences of the margin's size are looked for
        total = variance + devices * spread
        excess = self.excess(baseline, mean)
        return 0.5 * log(variance / total) + devices**2 * spread * excess**2 / (2 * variance * total)
