"""What the gateway reports: last-seen, new telemetry, signs of clones, and refusals as security events.

Refusals are collected by (rule, source, device) and stored in batches, at most `MAX_KINDS` kinds each, so that a
flood of bad connections costs neither the database nor the reader of the event stream.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime

import structlog

from service.application.clock import Clock
from service.application.clones import Clones
from service.application.events import Event, EventType, Signal
from service.application.messaging import ConnectedDevice, Refusal, RefusalReason
from service.application.presence import Presence
from service.application.unit_of_work import UnitOfWorkFactory
from service.domain.errors import JsonValue

_log = structlog.get_logger()
MAX_KINDS = 100
FLUSH_SECONDS = 1.0
_Kind = tuple[RefusalReason, str, str | None]  # rule, source address, device id


class GatewayEvents:
    """Implements `EventSink`.

    Attributes:
        telemetry_arrived: set when messages became durable; live tails wait for it.
    """

    def __init__(self, unit_of_work: UnitOfWorkFactory, *, presence: Presence, clones: Clones, clock: Clock) -> None:
        self._unit_of_work = unit_of_work
        self._clones = clones
        self._presence = presence
        self._clock = clock
        self._listeners: list[Callable[[str], None]] = []
        self._refused: Counter[_Kind] = Counter()
        self._details: dict[_Kind, str] = {}
        self.telemetry_arrived = Signal()

    def on_connect(self, listener: Callable[[str], None]) -> None:
        """Call `listener` with the id of each device that connects; it must return at once and never raise."""
        self._listeners.append(listener)

    def connected(self, connected: ConnectedDevice) -> None:
        """See `EventSink.connected`."""
        device_id, at = connected.device_id, connected.at
        self._presence.heard(device_id, at)
        self._clones.used(device_id, connected.certificate_der, at)
        if connected.displaced is not None:
            self._clones.took_over(device_id, source=connected.source, displaced=connected.displaced, at=at)
        for listener in self._listeners:
            listener(device_id)

    def disconnected(self, device_id: str, *, reason: str, at: datetime) -> None:  # noqa: ARG002 - the port's signature
        """See `EventSink.disconnected`."""
        self._presence.heard(device_id, at)

    def committed(self, device_ids: Sequence[str], *, last_id: int, at: datetime) -> None:  # noqa: ARG002 - as above
        """See `EventSink.committed`."""
        for device_id in device_ids:
            self._presence.heard(device_id, at)
        self.telemetry_arrived.set()

    def refused(self, refusal: Refusal) -> None:
        """See `EventSink.refused`; beyond `MAX_KINDS` kinds between two flushes only those known are counted."""
        kind = (refusal.reason, refusal.source, refusal.device_id)
        if kind in self._refused or len(self._refused) < MAX_KINDS:
            self._refused[kind] += 1
            self._details[kind] = refusal.detail

    async def run(self) -> None:
        """Store refusals, until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            try:
                await self.flush()
            except Exception as error:  # noqa: BLE001 - whatever the driver raises: later refusals count again
                _log.warning("refusals_unwritten", error=repr(error))

    async def flush(self) -> None:
        """Store the refusals that were collected as security events."""
        if not self._refused:
            return
        refused, details = self._refused, self._details
        self._refused, self._details = Counter(), {}
        now = self._clock.now()
        async with self._unit_of_work() as work:
            for (reason, source, device_id), times in refused.items():
                detail = details[reason, source, device_id]
                data: dict[str, JsonValue] = {
                    "source": source,
                    "detail": detail,
                    "times": times,
                    "device_id": device_id,
                }
                work.record(Event(EventType.SECURITY, device_id or source, reason, now, data))
            await work.commit()
