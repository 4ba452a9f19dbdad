"""The whole fleet at a glance: counts by index, never a scan of rows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from service.application.messaging import TelemetryStore
from service.application.unit_of_work import UnitOfWorkFactory
from service.domain.attestation import Verdict
from service.domain.device import DeviceState
from service.domain.rollout import RolloutState


@dataclass(frozen=True, slots=True)
class FleetSummary:
    """Counts.

    Attributes:
        connected: devices with an MQTT connection to this process.
        attestations: devices by the last result that judged them; those that were never judged by their last refusal.
        suspected_clones: devices that two live ones seem to be.
        held: actions of rollouts that are not over which wait for a window, their device's user or its place.
    """

    devices: Mapping[DeviceState, int]
    connected: int
    attestations: Mapping[Verdict, int]
    suspected_clones: int
    rollouts: Mapping[RolloutState, int]
    held: int
    highest_release: int
    telemetry_stored: int


class Fleet:
    """Counts of the fleet.

    Args:
        connected: returns how many devices are connected.
    """

    def __init__(
        self, unit_of_work: UnitOfWorkFactory, *, telemetry: TelemetryStore, connected: Callable[[], int]
    ) -> None:
        self._unit_of_work = unit_of_work
        self._telemetry = telemetry
        self._connected = connected

    async def summary(self) -> FleetSummary:
        """Return the counts."""
        async with self._unit_of_work(read_only=True) as work:
            devices = await work.devices.counts()
            suspected_clones = await work.devices.count_suspected()
            attestations = await work.attestations.counts()
            rollouts = await work.rollouts.counts()
            held = await work.rollouts.held()
            highest_release = await work.releases.highest_counter()
        return FleetSummary(
            devices=devices,
            connected=self._connected(),
            attestations=attestations,
            suspected_clones=suspected_clones,
            rollouts=rollouts,
            held=held,
            highest_release=highest_release,
            telemetry_stored=await self._telemetry.count(),
        )
