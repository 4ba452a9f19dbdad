"""What the rollouts of a scenario look at after an update, of each fleet: only that is simulated, because it costs."""

from collections.abc import Iterator
from datetime import timedelta

from protocol.plan import ControlGate, EvidenceGates, HealthEvent, MeanGate
from protocol.scenario import Scenario
from protocol.scenario.fleets import Fleet
from protocol.scenario.rollouts import VirtualRollout


def looks_at_windows(scenario: Scenario, fleet: Fleet) -> bool:
    """Whether a plan looks at how models do, so that devices of a fleet tell of it."""
    return any(gate_looks_at_windows(gate) for rollout in _rollouts(scenario, fleet) for gate in gates_of(rollout))


def shortest_silence(scenario: Scenario, fleet: Fleet) -> timedelta | None:
    """Return after what time a plan first takes a device of a fleet for offline; None: no plan looks."""
    found = [
        rollout.plan.device_timeout
        for rollout in _rollouts(scenario, fleet)
        for gate in gates_of(rollout)
        if rollout.plan is not None and isinstance(gate, ControlGate) and HealthEvent.OFFLINE in gate.events
    ]
    return min(found, default=None)


def gates_of(rollout: VirtualRollout) -> tuple[ControlGate | MeanGate, ...]:
    """Return the gates of a rollout that look at devices after their update."""
    gates = None if rollout.plan is None else rollout.plan.gates
    return (*gates.control, *gates.means) if isinstance(gates, EvidenceGates) else ()


def gate_looks_at_windows(gate: ControlGate | MeanGate) -> bool:
    """Whether a gate looks at anything but silence."""
    return isinstance(gate, MeanGate) or set(gate.events) != {HealthEvent.OFFLINE}


def _rollouts(scenario: Scenario, fleet: Fleet) -> Iterator[VirtualRollout]:
    for rollout in scenario.rollouts:
        if (rollout.product, rollout.group) == (fleet.product, fleet.group):
            yield rollout
