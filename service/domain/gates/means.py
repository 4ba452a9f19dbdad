"""Means per device: latency, confidence, arena; a bet on bounded differences.

The difference of a pair of devices, one with the release and one without, is measured beyond what the plan allows and
cut at a bound that the plan states:

    x = clip((change with − change without − expected change − margin) / bound, −1, 1), turned where lower is worse
    E = average over λ of  Π (1 + λx),    0 < λ < 1.

H₀: E[x | pairs before] ≤ 0, so each factor is at most 1 in expectation, however far the differences spread, and though
canaries spread more than the others: no variance is needed, and none is estimated. The bound makes H₀ one about the
mean of the *cut* differences: what few devices do beyond it weighs no more than the bound. One pair, one lying device,
multiplies E by less than 2. A new model is expected to shift confidence, so the plan states the expected change.

Source: Waudby-Smith & Ramdas, Estimating means of bounded random variables by betting (JRSS B 2023).
"""

from dataclasses import dataclass

import numpy as np

from service.domain.gates.beta import Floats
from service.domain.gates.failure_rate import InvalidGateError

STAKES = np.geomspace(0.02, 0.98, 12)  # λ, averaged over evenly
USUAL_BOUND = 4.0  # margins


@dataclass(frozen=True, slots=True)
class MeanGate:
    """How far a mean may move.

    Attributes:
        margin: beyond the expected change, that is tolerated; above 0.
        expected_change: that the release is meant to bring.
        higher_is_worse: latency, or lower is worse: confidence.
        bound: beyond what is allowed, at which a difference is cut, either way; above 0. 0: four margins.
    """

    margin: float
    expected_change: float = 0.0
    higher_is_worse: bool = True
    bound: float = 0.0

    def __post_init__(self) -> None:
        if not self.margin > 0:
            raise InvalidGateError(f"margin: expected above 0, found {self.margin}")
        if self.bound < 0:
            raise InvalidGateError(f"bound: expected at least 0, found {self.bound}")

    @property
    def cut(self) -> float:
        """The bound in force."""
        return self.bound or USUAL_BOUND * self.margin

    def excess(self, difference: float) -> float:
        """Return x of a pair: how far it is beyond what is allowed, −1 to 1."""
        change = difference - self.expected_change
        beyond = (change if self.higher_is_worse else -change) - self.margin
        return min(max(beyond / self.cut, -1.0), 1.0)

    @staticmethod
    def start() -> Floats:
        """Return the logarithms by stake before the first pair."""
        return np.zeros(STAKES.size)

    @staticmethod
    def after(wealth: Floats, excess: float) -> Floats:
        """Return the logarithms by stake after one more pair.

        Args:
            wealth: as the last call returned them; `start` at first.
            excess: of the pair, −1 to 1.
        """
        return np.asarray(wealth + np.log1p(STAKES * excess), float)

    @staticmethod
    def log_evidence(wealth: Floats) -> float:
        """Return ln E: of the average over the stakes."""
        return float(np.logaddexp.reduce(wealth) - np.log(STAKES.size))
