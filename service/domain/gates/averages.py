"""Means of devices in two arms, fed to the test of `means`.

What is compared of a device is a change: the mean of one window less the device's own past. Each device that has the
release is paired with one that has not and reported at about the same time, and the difference of their changes is one
observation: what changes for everybody, such as the light, is in both and cancels out. A device counts once.

The variance of an observation is twice that of a change, estimated on devices without the release before the first
pair, taken at its upper 95 % bound, and then fixed; there is no test before that. A difference counts as at most
`MOST_DEVIATIONS` of its deviations away from what is allowed: one broken sensor is no mean.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import sqrt
from typing import Any

from scipy.special import chdtri

from protocol.geometry import Core
from protocol.plan import Metric
from service.domain.gates.arms import Arm
from service.domain.gates.kept import Kept
from service.domain.gates.means import SMALLEST_SAMPLE, Baseline, MeanGate
from service.domain.verdict import Figure

MOST_IN_SAMPLE = 100  # devices that the variance is estimated on
MOST_WAITING = 64  # devices without the release that may be paired
LONGEST_WAIT = timedelta(hours=2)  # between the windows of a pair
MOST_DEVIATIONS = 3.0
SMALLEST_DEVIATION = 0.1  # of an observation, as a share of the margin: figures that never vary can be tested, too
_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class AverageGate:
    """Halts where a mean moves further than it may; implements `KeptGate`.

    Attributes:
        metric: of what.
        core: that runs the model.
        test: how far it may move.
        weight: of its part of the error budget.
    """

    name: str
    metric: Metric
    core: Core
    test: MeanGate
    weight: float = 1.0

    def seen(self, kept: Kept, arm: Arm, device_id: str, *, change: float, at: datetime) -> tuple[Kept, frozenset[str]]:
        """Return what is kept once a device has told a mean, and which devices have counted by that.

        Args:
            kept: until now.
            arm: of the device.
            device_id: one that has not counted yet.
            change: from its own past.
            at: when it was told, UTC, aware.
        """
        if arm is Arm.CONTROL:
            return self._control(kept, device_id, change=change, at=at)
        fixed = self._with_variance(kept)
        waiting = [each for each in kept.get("waiting", []) if at - datetime.fromisoformat(each[1]) <= LONGEST_WAIT]
        if "variance" not in fixed or not waiting:
            return fixed, frozenset()
        other, _, expected = waiting[-1]
        pairs = fixed.get("pairs", 0) + 1
        mean = fixed.get("mean", 0.0)
        mean += (self._bounded(change - expected, fixed["variance"]) - mean) / pairs
        after = {**fixed, "waiting": waiting[:-1], "pairs": pairs, "mean": mean}
        return after, frozenset({device_id, other})

    def log_evidence(self, kept: Kept) -> float:
        """See `KeptGate.log_evidence`."""
        if "pairs" not in kept:
            return 0.0
        return self.test.log_evidence(self._baseline(kept), kept["pairs"], kept["mean"])

    def finding(self, kept: Kept) -> str:
        """See `KeptGate.finding`."""
        side = "above" if self.test.higher_is_worse else "below"
        return (
            f"expected {self.metric} on {self.core} to move no more than {self.test.margin:g} {side} "
            f"{self.test.expected_change:+g}, found {kept['mean']:+.4g} over {kept['pairs']} pairs of devices"
        )

    def figures(self, kept: Kept) -> Mapping[str, Figure]:
        """See `KeptGate.figures`."""
        found: dict[str, Figure] = {
            "sample": _Sample.of(kept).devices,
            "sample_needed": SMALLEST_SAMPLE,
            "pairs": kept.get("pairs", 0),
            "expected_change": self.test.expected_change,
            "margin": self.test.margin,
        }
        if "pairs" in kept:
            found |= {"change": round(kept["mean"], 6), "deviation": round(sqrt(kept["variance"]), 6)}
        return found

    def next_look(self, kept: Kept) -> datetime | None:
        """See `KeptGate.next_look`: reports tell everything."""
        del kept
        return None

    def _control(self, kept: Kept, device_id: str, *, change: float, at: datetime) -> tuple[Kept, frozenset[str]]:
        sample = _Sample.of(kept)
        if "variance" not in kept and sample.devices < MOST_IN_SAMPLE:
            return {**kept, "sample": sample.after(change)}, frozenset({device_id})
        others = [each for each in kept.get("waiting", []) if each[0] != device_id]
        waiting = [*others, [device_id, at.isoformat(), change]][-MOST_WAITING:]
        return {**kept, "waiting": waiting}, frozenset()

    def _with_variance(self, kept: Kept) -> Kept:
        """Fix the variance of an observation once there are devices enough."""
        sample = _Sample.of(kept)
        if "variance" in kept or sample.devices < SMALLEST_SAMPLE:
            return kept
        smallest = (SMALLEST_DEVIATION * self.test.margin) ** 2
        return {**kept, "variance": max(2 * sample.upper_variance, smallest)}

    def _bounded(self, difference: float, variance: float) -> float:
        side = self.test.margin if self.test.higher_is_worse else -self.test.margin
        allowed, most = self.test.expected_change + side, MOST_DEVIATIONS * sqrt(variance)
        return min(max(difference, allowed - most), allowed + most)

    @staticmethod
    def _baseline(kept: Kept) -> Baseline:
        return Baseline(_Sample.of(kept).devices, 0.0, kept["variance"])


@dataclass(frozen=True, slots=True)
class _Sample:
    """Changes of devices without the release: how many, their mean, and the sum of squares around it."""

    devices: int
    mean: float
    squares: float

    @classmethod
    def of(cls, kept: Kept) -> "_Sample":
        return cls(*kept.get("sample", (0, 0.0, 0.0)))

    @property
    def upper_variance(self) -> float:
        """The variance is smaller with 95 %, where changes are normal."""
        return self.squares / float(chdtri(self.devices - 1, _CONFIDENCE))

    def after(self, change: float) -> list[Any]:
        devices = self.devices + 1
        mean = self.mean + (change - self.mean) / devices
        return [devices, mean, self.squares + (change - self.mean) * (change - mean)]
