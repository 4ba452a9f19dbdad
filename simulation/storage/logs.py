"""What only grows, in memory: the audit log, and events until everybody has read them."""

from collections.abc import Sequence
from datetime import datetime

from service.application.audit import AuditEntry, Change
from service.application.events import PAGE_EVENTS, Event, StoredEvent
from service.domain.operator import Actor
from simulation.storage.journal import Journal, Partial


class MemoryAudit:
    """Implements `AuditLog`."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._rows: dict[int, AuditEntry] = {}

    async def add(self, actor: Actor, change: Change, *, at: datetime) -> None:
        """See `AuditLog.add`."""
        second = {"approved_by": actor.approved_by} if actor.approved_by else {}
        noted = Change(change.action, change.subject_id, change.before, {**change.after, **second})
        number = len(self._rows) + 1
        self._journal.put(self._rows, number, AuditEntry(number, at, actor.name, noted))

    async def page(
        self, *, before_id: int | None, limit: int, subject_id: str | None = None, action: str | None = None
    ) -> Sequence[AuditEntry]:
        """See `AuditLog.page`."""
        found = [
            entry
            for entry in reversed(self._rows.values())
            if (before_id is None or entry.entry_id < before_id)
            and subject_id in (None, entry.change.subject_id)
            and action in (None, entry.change.action)
        ]
        return found[:limit]


class MemoryEvents(Partial):
    """Implements `EventLog` as far as it is reached; events are added by commits alone."""

    def __init__(self) -> None:
        self._rows: list[StoredEvent] = []
        self._forgotten = 0  # sequence number of the last event that is gone

    async def after(self, sequence: int, *, limit: int = PAGE_EVENTS) -> Sequence[StoredEvent]:
        """See `EventLog.after`."""
        start = max(0, sequence - self._forgotten)
        return self._rows[start : start + limit]

    async def last_sequence(self) -> int:
        """See `EventLog.last_sequence`."""
        return self._forgotten + len(self._rows)

    def append(self, events: Sequence[Event]) -> int:
        """Store events and return the sequence number of the last."""
        for event in events:
            self._rows.append(StoredEvent(self._forgotten + len(self._rows) + 1, event))
        return self._forgotten + len(self._rows)

    def forget(self, up_to: int) -> None:
        """Drop events that everybody has read, the one of a sequence number included."""
        count = max(0, up_to - self._forgotten)
        del self._rows[:count]
        self._forgotten += count
