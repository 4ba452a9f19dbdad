"""The record of a run: what `--json` writes, what the live view shows and what `device-sim report` draws.

Times are seconds from the run's start, by the clock that the run lived by: the wall's, or the virtual one. Bytes and
joules of a fleet are sums over its devices.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from protocol.document import Document, Moment

Count = Annotated[int, Field(ge=0, lt=2**63)]
Seconds = Annotated[float, Field(ge=0, le=1e10, allow_inf_nan=False)]
Joules = Annotated[float, Field(ge=0, le=1e18, allow_inf_nan=False)]
MAX_RECORD_BYTES = 64 * 1024 * 1024


class DeviceState(StrEnum):
    """Where a device stands, as its events tell."""

    OFF = "off"  # not started yet, or without power
    STOPPED = "stopped"  # an image was refused at boot; no core runs
    UNCLAIMED = "unclaimed"  # follows no catalog
    BOOTED = "booted"  # not let in yet
    REFUSED = "refused"  # by attestation, or its access was taken away
    QUARANTINED = "quarantined"  # let in for updates alone
    OFFLINE = "offline"  # let in, without a connection to the gateway
    ONLINE = "online"
    UPDATING = "updating"
    CRASHED = "crashed"  # a fault of the simulator itself


class Wire(Document):
    """Traffic between devices and service, bytes and HTTPS requests."""

    bytes_sent: Count = 0
    bytes_received: Count = 0
    requests: Count = 0


class WireOfOne(Document):
    """Bytes of single devices of a fleet, sent and received together: each figure is some device's.

    Attributes:
        median: half of the devices have no more.
        p95: 95 in 100 have no more.
        most: of the device with the most.
    """

    median: Count = 0
    p95: Count = 0
    most: Count = 0


class Energy(Document):
    """Estimated energy, joules, by what used it; see `device_sim.reporting.energy`."""

    standby: Joules = 0.0
    inference: Joules = 0.0
    radio: Joules = 0.0
    flash: Joules = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return self.standby + self.inference + self.radio + self.flash


class FleetRecord(Document):
    """One fleet at the end of the run.

    Attributes:
        states: devices in each state.
        updates: actions that ended, by their last state.
        failures: failed and reverted actions, by cause.
        attacks: refusals that indicate an attack, by kind.
        inferences: of both cores.
        dropped: telemetry messages thrown away because the queue was full.
    """

    name: str
    devices: Count
    states: Mapping[DeviceState, Count] = {}
    updates: Mapping[str, Count] = {}
    failures: Mapping[str, Count] = {}
    attacks: Mapping[str, Count] = {}
    boots: Count = 0
    inferences: Count = 0
    messages_sent: Count = 0
    messages_acknowledged: Count = 0
    dropped: Count = 0
    wire: Wire = Wire()
    wire_of_one: WireOfOne = WireOfOne()
    energy: Energy = Energy()


class TimelinePoint(Document):
    """How many devices were in which state at a time."""

    at: Seconds
    states: Mapping[DeviceState, Count]


class RolloutMoment(Document):
    """A rollout or one of its stages changed."""

    at: Seconds
    rollout: str
    state: str
    detail: str = ""


class HappeningMoment(Document):
    """The scenario made something happen."""

    at: Seconds
    kind: str
    devices: Count = 0


class RunReport(Document):
    """A whole run.

    Attributes:
        ended: whether it ended by itself; a run that was interrupted says what it knew.
        crashed: devices whose step raised: faults of the simulator.
    """

    version: Annotated[int, Field(ge=1, le=1)] = 1
    description: str = ""
    seed: int = 1
    started_at: Moment
    seconds: Seconds
    ended: bool = True
    devices: Count
    events: Count
    crashed: Count = 0
    fleets: tuple[FleetRecord, ...]
    timeline: tuple[TimelinePoint, ...]
    rollouts: tuple[RolloutMoment, ...] = ()
    happenings: tuple[HappeningMoment, ...] = ()
