"""What devices say of themselves once they have confirmed, for the gates that compare them with the others.

A window an hour of each device, in which something strikes a small share of them anyway; devices with the release that
drifts, slows down or crashes say so with the first window after it began. A device counts once, in either arm.
"""

from collections.abc import Mapping, Sequence

from protocol.plan import HealthEvent
from service.domain.gates.arms import Arm, EventGate, Tally
from service.domain.gates.kept import AllKept
from simulation.what_if.sampling import Sampler

WINDOW_SECONDS = 3600.0
STRUCK_ANYWAY = 0.001  # of the windows of any device


class Health:
    """Follows one rollout.

    Args:
        gates: that compare events.
        sampler: draws what strikes devices anyway.
    """

    def __init__(self, gates: Sequence[EventGate], sampler: Sampler) -> None:
        self._gates = gates
        self._sampler = sampler
        self._seen = dict.fromkeys((gate.name for gate in gates), 0)  # devices that the release struck
        self._spared = 1.0  # share of the devices that nothing has struck yet
        self._told_at = 0.0

    def tell(
        self, kept: AllKept, *, at: float, confirmed: int, struck: Sequence[Mapping[HealthEvent, int]], untouched: int
    ) -> AllKept:
        """Return what the gates keep once they were told the windows since the last call.

        Args:
            kept: until now.
            at: seconds from the scenario's start.
            confirmed: devices that run the release by now.
            struck: of these, the ones that something of the release has struck, by stage and what.
            untouched: devices that were not given it.
        """
        windows = (at - self._told_at) / WINDOW_SECONDS
        found = dict(kept)
        for gate in self._gates:
            total = sum(of_stage.get(event, 0) for of_stage in struck for event in gate.events)
            new, self._seen[gate.name] = total - self._seen[gate.name], total
            canary = self._tally(confirmed - total, windows).plus(Tally(new, new))
            control = self._tally(untouched, windows)
            found[gate.name] = gate.weighed(kept.get(gate.name, {}), {Arm.CANARY: canary, Arm.CONTROL: control})
        self._spared *= (1 - STRUCK_ANYWAY) ** windows
        self._told_at = at
        return found

    def says_something(self, kept: AllKept) -> bool:
        """Whether any gate has evidence above 1: without it none can halt."""
        found = ((gate, kept.get(gate.name, {})) for gate in self._gates)
        return any(gate.may_halt(of_gate) and gate.log_evidence(of_gate) > 0 for gate, of_gate in found)

    def _tally(self, devices: int, windows: float) -> Tally:
        at_risk = round(devices * self._spared * windows)
        return Tally(at_risk, self._sampler.hits(at_risk, STRUCK_ANYWAY))
