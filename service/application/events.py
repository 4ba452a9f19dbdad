"""Events: what changed, in order, for streams, caches and workers.

A unit of work stores the events that it recorded in its own transaction, with sequence numbers that rise in commit
order. `EventFeed` reads them back in that order and hands them on, so that a listener sees each change once, no
matter which process made it, and a stream resumes at any sequence number.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

import structlog

from service.domain.errors import JsonValue

PAGE_EVENTS = 500
FOREIGN_SECONDS = 0.5  # how often to look for events of other processes without being woken
_log = structlog.get_logger()


class EventType(StrEnum):
    """What an event is about."""

    DEVICE = "device"
    ROLLOUT = "rollout"
    ACTION = "action"
    RELEASE = "release"
    DELTA = "delta"
    ATTESTATION = "attestation"
    SECURITY = "security"
    PRODUCT = "product"
    OPERATOR = "operator"
    APPROVAL = "approval"
    HEALTH = "health"


@dataclass(frozen=True, slots=True)
class Event:
    """Something changed.

    Attributes:
        type: what kind of thing.
        subject_id: which one: device id, rollout id, ...
        change: what happened to it, one word, e.g. `blocked`.
        at: UTC, aware.
        data: facts for a reader of the stream.
    """

    type: EventType
    subject_id: str
    change: str
    at: datetime
    data: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event with its place in the order."""

    sequence: int
    event: Event


class EventLog(Protocol):
    """The stored events; part of a unit of work."""

    async def after(self, sequence: int, *, limit: int = PAGE_EVENTS) -> Sequence[StoredEvent]:
        """Return at most `limit` events with higher sequence numbers, oldest first."""

    async def page(
        self, type_: EventType, *, before: int | None, limit: int, subject_id: str | None = None
    ) -> Sequence[StoredEvent]:
        """Return at most `limit` events of a type, newest first, with sequence numbers below `before`."""

    async def last_sequence(self) -> int:
        """Return the highest sequence number, 0 if there is none."""

    async def prune(self, before: datetime) -> int:
        """Delete events older than `before` and return how many."""


class EventReader(Protocol):
    """Reads stored events, each call in a transaction of its own."""

    async def after(self, sequence: int) -> Sequence[StoredEvent]:
        """Return the next page of events after a sequence number, oldest first."""

    async def last_sequence(self) -> int:
        """Return the highest sequence number, 0 if there is none."""


class Signal:
    """Wakes every task that waits at the time of a `set`.

    A task takes its ticket before it looks at what the signal is about, so that no `set` in between is missed.
    """

    def __init__(self) -> None:
        self._ticket = asyncio.Event()

    def ticket(self) -> asyncio.Event:
        """Return what the next `set` sets."""
        return self._ticket

    def set(self) -> None:
        """Wake those who hold a ticket."""
        woken, self._ticket = self._ticket, asyncio.Event()
        woken.set()


async def wait_for(ticket: asyncio.Event, timeout_seconds: float) -> None:
    """Return when the ticket is set, or when the time is over."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(ticket.wait(), timeout_seconds)


Listener = Callable[[StoredEvent], None]


class EventFeed:
    """Hands stored events to listeners and streams, in order.

    `run` follows the log. `wake` has it look at once: for changes of this process, and of others where the database
    tells of them (`service.adapters.database.notifications`). It looks by itself twice a second, whatever was said.
    """

    def __init__(self, reader: EventReader) -> None:
        self._reader = reader
        self._listeners: list[Listener] = []
        self._written = Signal()  # this process committed events
        self._advanced = Signal()  # `sequence` rose
        self._closing = False
        self.sequence = 0  # of the last event that was handed on

    def subscribe(self, listener: Listener) -> None:
        """Call `listener` with each event from now on; it must return at once and never raise."""
        self._listeners.append(listener)

    def wake(self) -> None:
        """Say that events were committed."""
        self._written.set()

    async def start(self) -> None:
        """Begin after the newest stored event; call it before caches are loaded, so that none is missed."""
        self.sequence = await self._reader.last_sequence()

    async def run(self) -> None:
        """Follow the log until cancelled, also across a restart of the database."""
        while not self._closing:
            ticket = self._written.ticket()
            if not self._hand_on(await self._read()):
                await wait_for(ticket, FOREIGN_SECONDS)

    async def _read(self) -> Sequence[StoredEvent]:
        """Read the next page; a database that is away is asked again."""
        try:
            return await self._reader.after(self.sequence)
        except Exception as error:  # noqa: BLE001 - whatever the driver raises: the next look may succeed
            _log.warning("events_unread", error=repr(error))
            return ()

    async def catch_up(self) -> bool:
        """Hand on one page of events; False if there was none."""
        return self._hand_on(await self._reader.after(self.sequence))

    def _hand_on(self, page: Sequence[StoredEvent]) -> bool:
        for stored in page:
            self.sequence = max(self.sequence, stored.sequence)
            for listener in self._listeners:
                listener(stored)
        if page:
            self._advanced.set()
        return bool(page)

    async def stream(
        self, after: int | None = None, *, heartbeat_seconds: float = 15.0
    ) -> AsyncIterator[StoredEvent | None]:
        """Yield events after a sequence number (None: from now on), and None as a heartbeat; ends at `close`."""
        position = self.sequence if after is None else after
        while not self._closing:
            ticket = self._advanced.ticket()
            page = await self._reader.after(position)
            for stored in page:
                position = stored.sequence
                yield stored
            if not page:
                await wait_for(ticket, heartbeat_seconds)
                yield None

    def close(self) -> None:
        """End every stream."""
        self._closing = True
        self._advanced.set()
        self._written.set()
