"""The error budget of a rollout: α is one number in the plan, split over its gates by fixed weights.

The chance that a release which is as good as the plan demands is halted by any gate is at most the sum of the gates'
parts (union bound), and so at most α. The weights are fixed before the rollout starts; a part that a gate does not use
is not given to another.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from service.domain.gates.failure_rate import InvalidGateError


@dataclass(frozen=True, slots=True)
class ErrorBudget:
    """α and its split.

    Attributes:
        alpha: chance of a false halt over the whole rollout, above 0 to below 1.
        weights: of each gate, above 0; only their proportions count.
    """

    alpha: float
    weights: Mapping[str, float]

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise InvalidGateError(f"alpha: expected above 0 to below 1, found {self.alpha}")
        for gate, weight in self.weights.items():
            if not weight > 0:
                raise InvalidGateError(f"weight of {gate}: expected above 0, found {weight}")

    def part(self, gate: str) -> float:
        """Return a gate's part of α.

        Raises:
            InvalidGateError: the budget has none for it.
        """
        if gate not in self.weights:
            raise InvalidGateError(f"gate {gate}: expected one of {', '.join(self.weights)}, found none for it")
        return self.alpha * self.weights[gate] / sum(self.weights.values())
