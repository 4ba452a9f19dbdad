"""Background work: rollouts, metadata that must not expire, retention; and the wake-up of connected devices.

Several workers may run. A database lease decides which one ticks; the others look now and then whether it is free.
The tick is driven by events and due times: it sleeps until something changes, something is due, or the lease must be
renewed.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from protocol.messages import CHECK_UPDATE, ActionState
from service.application.clock import Clock
from service.application.events import EventType, Signal, StoredEvent, wait_for
from service.application.lease_repository import Lease, LeaseLostError
from service.application.messaging import DeviceMessenger
from service.application.poll import PendingActions
from service.application.repository import ImageRepository
from service.application.rollout_ticks import RolloutTicks
from service.application.unit_of_work import UnitOfWorkFactory

LEASE_NAME = "rollouts"
LEASE_LIFETIME = timedelta(seconds=15)
LARGEST_GAP = timedelta(minutes=1)  # without a worker before it counts as an outage for devices' deadlines
HOUSEKEEPING_INTERVAL = timedelta(hours=1)
_log = structlog.get_logger()

Housekeeping = Callable[[datetime], Awaitable[bool | None]]


@dataclass(frozen=True, slots=True)
class WorkerPorts:
    """What the worker works with.

    Attributes:
        housekeeping: called every hour with the time, for retention, and once more each time it says that it has left
            something; each call must be bounded and harmless to repeat.
    """

    unit_of_work: UnitOfWorkFactory
    ticks: RolloutTicks
    repository: ImageRepository
    clock: Clock
    housekeeping: tuple[Housekeeping, ...] = ()


class Worker:
    """Ticks while it holds the lease.

    Args:
        owner: unique to the process.
        longest_sleep_seconds: between two looks at what is due.
    """

    def __init__(self, ports: WorkerPorts, *, owner: str, longest_sleep_seconds: float) -> None:
        self._ports = ports
        self._owner = owner
        self._longest_sleep_seconds = longest_sleep_seconds
        self._changed = Signal()
        self._lease: Lease | None = None
        self._refresh_at: datetime | None = None
        self._keep_house_at: datetime | None = None
        self._to_keep: deque[Housekeeping] = deque()

    @property
    def leads(self) -> bool:
        """Whether this process holds the lease, and so does what only one is to do."""
        return self._lease is not None and self._ports.clock.now() < self._lease.expires_at

    def hear(self, stored: StoredEvent) -> None:
        """Follow the event feed: a rollout that changes wakes the worker.

        Devices do not, because many change at once; the next look takes all that have changed since the last one.
        """
        if stored.event.type is EventType.ROLLOUT:
            self._changed.set()

    async def run(self) -> None:
        """Work until cancelled; gives the lease up then."""
        try:
            while True:
                ticket = self._changed.ticket()
                if (seconds := await self._work_once()) > 0:
                    await wait_for(ticket, seconds)
        finally:
            await self._release()

    async def _work_once(self) -> float:
        """Do one bounded round and return for how long to sleep, 0 if there is more to do at once.

        A failure is logged and tried again.
        """
        try:
            return 0.0 if await self.work() else await self._sleep_seconds()
        except Exception:  # noqa: BLE001 - a round that failed, on a database that is away, must not be the last one
            _log.exception("worker_failed")
            await asyncio.sleep(self._longest_sleep_seconds)
            return 0.0

    async def work(self) -> bool:
        """Do one bounded round of everything, if this worker holds the lease; True if there is more to do at once."""
        lease = await self._hold_lease()
        if lease is None:
            return False
        now = self._ports.clock.now()
        if self._refresh_at is None or now >= self._refresh_at:
            self._refresh_at = await self._ports.repository.refresh()
        try:
            following = await self._ports.ticks.tick(lease)
        except LeaseLostError:
            self._lease = None  # whoever took over follows the same events
            return False
        self._lease = following or self._lease
        is_more_to_keep = await self._keep_house()
        return following is not None or is_more_to_keep

    async def _keep_house(self) -> bool:
        """Do one step of keeping house, if it is time for that; True if there is more to do at once.

        One step a round: rollouts go on and the lease is renewed in between, however much there is to do.
        """
        now = self._ports.clock.now()
        if self._keep_house_at is None or now >= self._keep_house_at:
            self._to_keep = deque(self._ports.housekeeping)
            self._keep_house_at = now + HOUSEKEEPING_INTERVAL
        if self._to_keep and not await self._to_keep[0](now):
            self._to_keep.popleft()
        return bool(self._to_keep)

    async def _hold_lease(self) -> Lease | None:
        """Return the lease, renewed once half of its life is over; None while another worker holds it."""
        now = self._ports.clock.now()
        if self._lease is not None and now < self._lease.expires_at - LEASE_LIFETIME / 2:
            return self._lease
        async with self._ports.unit_of_work() as work:
            self._lease = await work.leases.acquire(
                LEASE_NAME, self._owner, now=now, lifetime=LEASE_LIFETIME, largest_gap=LARGEST_GAP
            )
            await work.commit()
        return self._lease

    async def _sleep_seconds(self) -> float:
        if self._lease is None:  # what is due is another worker's to do
            return self._longest_sleep_seconds
        due = await self._ports.ticks.next_look()
        if due is None:
            return self._longest_sleep_seconds
        seconds = (due - self._ports.clock.now()).total_seconds()
        return min(max(seconds, 0.0), self._longest_sleep_seconds)

    async def _release(self) -> None:
        if self._lease is None:
            return
        try:
            async with self._ports.unit_of_work() as work:
                await work.leases.release(LEASE_NAME, self._owner, now=self._ports.clock.now())
                await work.commit()
        except Exception as error:  # noqa: BLE001 - on a database that is away: the lease ends by itself
            _log.warning("lease_unreleased", error=repr(error))


class Waker:
    """Tells connected devices to poll when something waits for them; who is not connected polls by itself.

    It follows the event feed, so that each process wakes the devices that are connected to it.
    """

    def __init__(self, pending: PendingActions, messenger: DeviceMessenger) -> None:
        self._pending = pending
        self._messenger = messenger

    def hear(self, stored: StoredEvent) -> None:
        """Wake a device whose action it may have now, and those that waited for a rollout to run again."""
        event = stored.event
        if event.type is EventType.ACTION and event.change == ActionState.SCHEDULED and not event.data.get("is_held"):
            self._messenger.notify(str(event.data["device_id"]), CHECK_UPDATE)
        elif event.type is EventType.ACTION and event.data["is_final"]:
            self._wake(str(event.data["device_id"]))
        elif event.type is EventType.ROLLOUT and event.change == "running":
            for device_id in self._pending.devices_of(event.subject_id):
                self._wake(device_id)

    def _wake(self, device_id: str) -> None:
        if self._pending.waiting(device_id) is not None:
            self._messenger.notify(device_id, CHECK_UPDATE)
