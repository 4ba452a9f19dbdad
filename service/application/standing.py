"""Which devices may connect: an in-memory copy of the registry, so that a check-in reads no row.

Loaded at start and kept current by the event feed, changes of other processes included. The use case that blocks a
device also tells this process's copy and the open connections directly, right after its commit.
"""

from collections.abc import Callable

from protocol.identity import DeviceId
from service.application.events import EventType, StoredEvent
from service.application.identity import CertificateRefusedError
from service.application.messaging import RefusalReason
from service.application.unit_of_work import UnitOfWorkFactory

Kick = Callable[[str], object]


class BlockedDeviceError(CertificateRefusedError):
    """The device is blocked."""


class UnclaimedDeviceError(CertificateRefusedError):
    """No catalog of this service has claimed the device."""


class Standings:
    """What the registry says of every device; implements `DeviceStanding` of the gateway."""

    def __init__(self) -> None:
        self._blocked: dict[str, bool] = {}  # by device id
        self._sequences: dict[str, int] = {}  # of the event that a device's entry stands for
        self._loaded_sequence = 0
        self._kicks: list[Kick] = []

    async def load(self, unit_of_work: UnitOfWorkFactory) -> None:
        """Read the registry; at start."""
        async with unit_of_work(read_only=True) as work:
            self._loaded_sequence = await work.events.last_sequence()
            self._blocked = dict(await work.devices.standings())

    def on_block(self, kick: Kick) -> None:
        """Call `kick` with the id of each device that is blocked from now on; it closes the connections."""
        self._kicks.append(kick)

    async def refusal(self, device_id: str) -> RefusalReason | None:
        """See `DeviceStanding.refusal`."""
        blocked = self._blocked.get(device_id)
        if blocked is None:
            return RefusalReason.UNKNOWN_DEVICE
        return RefusalReason.BLOCKED if blocked else None

    def count(self) -> int:
        """Return how many devices the catalog has."""
        return len(self._blocked)

    def check(self, device_id: DeviceId) -> None:
        """Let a device in good standing pass.

        Raises:
            UnclaimedDeviceError: it is not in the catalog.
            BlockedDeviceError: it is blocked.
        """
        blocked = self._blocked.get(device_id)
        if blocked is None:
            raise UnclaimedDeviceError(f"device {device_id[:16]}…: expected a claimed device, found it unclaimed")
        if blocked:
            raise BlockedDeviceError(f"device {device_id[:16]}…: expected in good standing, found it blocked")

    def change(self, device_id: str, *, blocked: bool, sequence: int) -> None:
        """Take over a change that is committed; an older one than the last changes nothing.

        Args:
            device_id: whose connections are closed if it is blocked now.
            blocked: as it stands since the change.
            sequence: of the change's event.
        """
        if sequence <= self._sequences.get(device_id, self._loaded_sequence):
            return
        self._blocked[device_id] = blocked
        self._sequences[device_id] = sequence
        if blocked:
            for kick in self._kicks:
                kick(device_id)

    def hear(self, stored: StoredEvent) -> None:
        """Follow the event feed."""
        event = stored.event
        if event.type is EventType.DEVICE and event.change in {"claimed", "blocked", "unblocked"}:
            self.change(event.subject_id, blocked=event.change == "blocked", sequence=stored.sequence)
