"""Which devices may connect: an in-memory copy of the registry, so that a check-in reads no row.

Loaded at start and kept current by the event feed, changes of other processes included. The use case that shuts a
device out also tells this process's copy and the open connections directly, right after its commit.
"""

from collections.abc import Callable

from protocol.identity import Access, DeviceId
from service.application.events import EventType, StoredEvent
from service.application.identity import CertificateRefusedError
from service.application.messaging import RefusalReason
from service.application.unit_of_work import UnitOfWorkFactory
from service.domain.device import DeviceState

Kick = Callable[[str], object]


class BlockedDeviceError(CertificateRefusedError):
    """The device is blocked."""


class MovedDeviceError(CertificateRefusedError):
    """The device belongs to another catalog now."""


class DecommissionedDeviceError(CertificateRefusedError):
    """The device is out of service for good."""


class UnclaimedDeviceError(CertificateRefusedError):
    """No catalog of this service has claimed the device."""


class RefusedDeviceError(CertificateRefusedError):
    """What the device booted was refused; it may attest again."""


_RESTRICTED = frozenset({DeviceState.QUARANTINED, DeviceState.REFUSED})
_REFUSALS = {
    DeviceState.REFUSED: (RefusalReason.REFUSED, RefusedDeviceError),
    DeviceState.BLOCKED: (RefusalReason.BLOCKED, BlockedDeviceError),
    DeviceState.MOVED: (RefusalReason.MOVED, MovedDeviceError),
    DeviceState.DECOMMISSIONED: (RefusalReason.DECOMMISSIONED, DecommissionedDeviceError),
}


class Standings:
    """What the registry says of every device; implements `DeviceStanding` of the gateway."""

    def __init__(self) -> None:
        self._states: dict[str, DeviceState] = {}  # by device id
        self._sequences: dict[str, int] = {}  # of the event that a device's entry stands for
        self._loaded_sequence = 0
        self._kicks: list[Kick] = []
        self._restrictions: list[Kick] = []

    async def load(self, unit_of_work: UnitOfWorkFactory) -> None:
        """Read the registry; at start."""
        async with unit_of_work(read_only=True) as work:
            self._loaded_sequence = await work.events.last_sequence()
            self._states = dict(await work.devices.standings())

    def on_shut_out(self, kick: Kick) -> None:
        """Call `kick` with the id of each device that may not connect from now on; it closes the connections."""
        self._kicks.append(kick)

    def on_restricted(self, kick: Kick) -> None:
        """Call `kick` with the id of each device that reaches the update path at most from now on; it ends the rest."""
        self._restrictions.append(kick)

    async def refusal(self, device_id: str) -> RefusalReason | None:
        """See `DeviceStanding.refusal`."""
        state = self._states.get(device_id)
        if state is None:
            return RefusalReason.UNKNOWN_DEVICE
        if state is DeviceState.QUARANTINED:
            return RefusalReason.UPDATE_ONLY
        refused = _REFUSALS.get(state)
        return None if refused is None else refused[0]

    def access(self, device_id: str) -> Access:
        """Return how far the device reaches at most, whatever certificate it shows."""
        return Access.UPDATE_ONLY if self._states.get(device_id) is DeviceState.QUARANTINED else Access.FULL

    def count(self) -> int:
        """Return how many devices the catalog has."""
        return len(self._states)

    def check(self, device_id: DeviceId) -> None:
        """Let a device in good standing pass.

        Raises:
            UnclaimedDeviceError: it is not in the catalog.
            BlockedDeviceError: it is blocked.
            MovedDeviceError: it belongs to another catalog.
            DecommissionedDeviceError: it is out of service for good.
            RefusedDeviceError: what it booted was refused.
        """
        state = self._states.get(device_id)
        if state is None:
            raise UnclaimedDeviceError(f"device {device_id[:16]}…: expected a claimed device, found it unclaimed")
        refused = _REFUSALS.get(state)
        if refused is not None:
            raise refused[1](f"device {device_id[:16]}…: expected in good standing, found it {state}")

    def change(self, device_id: str, state: DeviceState, *, sequence: int) -> None:
        """Take over a change that is committed; an older one than the last changes nothing.

        Args:
            device_id: whose connections are closed if it may not connect now.
            state: as it stands since the change.
            sequence: of the change's event.
        """
        if sequence <= self._sequences.get(device_id, self._loaded_sequence):
            return
        self._states[device_id] = state
        self._sequences[device_id] = sequence
        for kick in self._restrictions if state in _RESTRICTED else ():
            kick(device_id)
        for kick in () if state.may_connect else self._kicks:
            kick(device_id)

    def hear(self, stored: StoredEvent) -> None:
        """Follow the event feed: every event of a device whose state changed says which it is in now."""
        state = stored.event.data.get("state")
        if stored.event.type is EventType.DEVICE and isinstance(state, str):
            self.change(stored.event.subject_id, DeviceState(state), sequence=stored.sequence)
