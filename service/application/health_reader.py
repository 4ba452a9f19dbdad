"""Reading health reports from what devices published, in the order of its commits, each once.

One process at a time reads, by a lease of its own; how far it came is stored with what it took, so that another one
goes on there after a kill. What is no report, or comes in the name of a device that is gone, is passed over.

Health is found by walking all telemetry behind the last position, 0.2 to 0.4 µs of CPU a row. An index of health alone
would save that, and was measured to cost as much: 2 % of every insert (24 µs a row on SQLite), 5 % where one row in a
thousand is health, 12 % at one in a hundred.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta

import structlog

from protocol.document import DocumentError, parse_document
from protocol.health import HEALTH_STREAM, MAX_HEALTH_BYTES, HealthReport
from service.application.clock import Clock
from service.application.events import Signal, wait_for
from service.application.lease_repository import Lease, LeaseLostError
from service.application.messaging import MessageFilter, MessageKind, StoredMessage, TelemetryStore
from service.application.model_health import ModelHealth, ReadTo, Told
from service.application.unit_of_work import UnitOfWorkFactory

LEASE_NAME = "health"
LEASE_LIFETIME = timedelta(seconds=15)
REPORTS_PER_STEP = 100
LONGEST_WAIT_SECONDS = 5.0
PAUSE_SECONDS = 1.0  # under a stream of telemetry the store is asked this often, and not for each message
_HEALTH = MessageFilter(kind=MessageKind.TELEMETRY, stream=HEALTH_STREAM)
_log = structlog.get_logger()


class HealthReader:
    """Follows the telemetry store.

    Args:
        store: what devices published.
        health: takes their reports.
        arrived: set when something was published in this process.
        owner: unique to the process.
    """

    def __init__(
        self,
        unit_of_work: UnitOfWorkFactory,
        store: TelemetryStore,
        health: ModelHealth,
        *,
        arrived: Signal,
        clock: Clock,
        owner: str,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._store = store
        self._health = health
        self._arrived = arrived
        self._clock = clock
        self._owner = owner
        self._lease: Lease | None = None
        self._position = 0

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            ticket = self._arrived.ticket()
            try:
                is_more = await self.read()
            except Exception:  # noqa: BLE001 - a round that failed, on a database that is away, must not be the last one
                _log.exception("health_unread")
                self._lease, is_more = None, False
            if is_more:
                continue
            await wait_for(ticket, LONGEST_WAIT_SECONDS)
            await asyncio.sleep(PAUSE_SECONDS)

    async def read(self) -> bool:
        """Take the next reports, if this process may; True if there are more."""
        if not await self._hold_lease(self._clock.now()):
            return False
        newest = await self._store.last_id()
        messages = await self._store.tail(_HEALTH, after_id=self._position, limit=REPORTS_PER_STEP)
        is_more = len(messages) == REPORTS_PER_STEP
        last = messages[-1].message_id if messages else self._position
        position = last if is_more else max(newest, last)
        if position == self._position:
            return False
        if messages:
            try:
                await self._health.take(_parsed(messages), position=ReadTo(LEASE_NAME, self._owner, position))
            except LeaseLostError:
                self._lease = None  # whoever took over goes on from where this process last stored
                return False
        self._position = position
        return is_more

    async def _hold_lease(self, now: datetime) -> bool:
        if self._lease is not None and now < self._lease.expires_at - LEASE_LIFETIME / 2:
            return True
        async with self._unit_of_work() as work:
            held = self._lease is not None and now < self._lease.expires_at
            self._lease = await work.leases.acquire(
                LEASE_NAME, self._owner, now=now, lifetime=LEASE_LIFETIME, largest_gap=LEASE_LIFETIME
            )
            if self._lease is not None and held:
                await work.leases.advance(LEASE_NAME, self._owner, self._position)
            await work.commit()
        if self._lease is not None and not held:
            self._position = self._lease.event_sequence
        return self._lease is not None


def _parsed(messages: Sequence[StoredMessage]) -> list[Told]:
    found: list[Told] = []
    for message in messages:
        try:
            report = parse_document(message.payload, HealthReport, max_bytes=MAX_HEALTH_BYTES)
        except DocumentError as error:
            _log.info("health_refused", device_id=message.device_id, reason=str(error))
        else:
            found.append((message.device_id, report))
    return found
