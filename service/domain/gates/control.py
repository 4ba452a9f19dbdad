"""Events of the devices that have the release against those of a concurrent control arm that has not.

Only for what both arms can have: going offline, crashes, drift, latency. A control cannot fail an update. An outage
that hits everybody hits both arms alike, and moves nothing.

Let ρ be the share of the device-time at risk that the canary arm had when an event came, fixed before it. If canaries
have r times the rate of controls, an event falls in the canary arm with q_r = ρr/(ρr + 1 − ρ). H₀: r ≤ r₀, where r₀ > 1
is the ratio that the plan tolerates:

    E = average over r > r₀ of  Π (q_r/q_r₀)^[canary] · ((1−q_r)/(1−q_r₀))^[control].

The factors are at most 1 in expectation for every true ratio up to r₀, because the expectation is linear in q. With a
tolerated ratio of 1 a healthy release would halt in the long run, for no two arms are quite the same.
"""

from dataclasses import dataclass

import numpy as np

from service.domain.gates.beta import Floats
from service.domain.gates.failure_rate import InvalidGateError

RATIOS = np.geomspace(1.25, 20.0, 12)  # that are averaged over evenly, times the tolerated one


@dataclass(frozen=True, slots=True)
class ControlGate:
    """How much worse than control the release may be.

    Attributes:
        tolerated: r₀, ratio of the rates, above 1.
    """

    tolerated: float = 1.5

    def __post_init__(self) -> None:
        if not self.tolerated > 1:
            raise InvalidGateError(f"tolerated ratio: expected above 1, found {self.tolerated}")

    def log_factors(self, share: float) -> tuple[Floats, Floats]:
        """Return ln of the factors per ratio, of an event in the canary arm and of one in control.

        Args:
            share: ρ, above 0 to below 1: of the device-time at risk that canaries had, fixed before the event.
        """
        if not 0 < share < 1:
            raise InvalidGateError(f"share of the canary arm: expected above 0 to below 1, found {share}")
        before = _canary_share(self.tolerated, share)
        after = _canary_share(self.tolerated * RATIOS, share)
        return np.log(after) - np.log(before), np.log1p(-after) - np.log1p(-before)

    def after(self, wealth: Floats, *, canary: int, control: int, share: float) -> Floats:
        """Return the logarithms per ratio after events that came while the shares were these.

        Args:
            wealth: as the last call returned them; `start` at first.
            canary: events of devices that have the release; the order of events changes nothing.
            control: events of the others.
            share: see `log_factors`.
        """
        in_canary, in_control = self.log_factors(share)
        return wealth + canary * in_canary + control * in_control

    @staticmethod
    def start() -> Floats:
        """Return the logarithms before the first event."""
        return np.zeros(RATIOS.size)

    @staticmethod
    def log_evidence(wealth: Floats) -> float:
        """Return ln E: of the average over the ratios."""
        return float(np.logaddexp.reduce(wealth) - np.log(RATIOS.size))


def _canary_share(ratio: Floats | float, share: float) -> Floats:
    return np.asarray(share * ratio / (share * ratio + 1 - share), float)
