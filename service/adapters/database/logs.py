"""What only grows: audit log, events, and answers by idempotency key."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from service.adapters.database.device_tables import audit_log, events, idempotency_keys
from service.application.audit import AuditEntry, Change
from service.application.device_repositories import StoredAnswer
from service.application.events import PAGE_EVENTS, Event, EventType, StoredEvent
from service.domain.operator import Actor


class SqlAuditLog:
    """Implements `AuditLog`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, actor: Actor, change: Change, *, at: datetime) -> None:
        """See `AuditLog.add`."""
        second = {"approved_by": actor.approved_by} if actor.approved_by else {}
        await self._connection.execute(
            insert(audit_log).values(
                at=at,
                actor=actor.name,
                action=change.action,
                subject_id=change.subject_id,
                before=dict(change.before),
                after={**change.after, **second},
            )
        )

    async def page(
        self, *, before_id: int | None, limit: int, subject_id: str | None = None, action: str | None = None
    ) -> Sequence[AuditEntry]:
        """See `AuditLog.page`."""
        query = select(audit_log).order_by(audit_log.c.entry_id.desc()).limit(limit)
        if before_id is not None:
            query = query.where(audit_log.c.entry_id < before_id)
        if subject_id is not None:
            query = query.where(audit_log.c.subject_id == subject_id)
        if action is not None:
            query = query.where(audit_log.c.action == action)
        return [
            AuditEntry(row.entry_id, row.at, row.actor, Change(row.action, row.subject_id, row.before, row.after))
            for row in await self._connection.execute(query)
        ]


class SqlEventLog:
    """Implements `EventLog`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def after(self, sequence: int, *, limit: int = PAGE_EVENTS) -> Sequence[StoredEvent]:
        """See `EventLog.after`."""
        query = select(events).where(events.c.sequence > sequence).order_by(events.c.sequence).limit(limit)
        return [_stored_event(row) for row in await self._connection.execute(query)]

    async def page(
        self, type_: EventType, *, before: int | None, limit: int, subject_id: str | None = None
    ) -> Sequence[StoredEvent]:
        """See `EventLog.page`."""
        query = select(events).where(events.c.type == type_).order_by(events.c.sequence.desc()).limit(limit)
        if before is not None:
            query = query.where(events.c.sequence < before)
        if subject_id is not None:
            query = query.where(events.c.subject_id == subject_id)
        return [_stored_event(row) for row in await self._connection.execute(query)]

    async def last_sequence(self) -> int:
        """See `EventLog.last_sequence`."""
        return await self._connection.scalar(select(func.max(events.c.sequence))) or 0

    async def prune(self, before: datetime) -> int:
        """See `EventLog.prune`."""
        return (await self._connection.execute(delete(events).where(events.c.at < before))).rowcount


def _stored_event(row: Row[Any]) -> StoredEvent:
    return StoredEvent(row.sequence, Event(EventType(row.type), row.subject_id, row.change, row.at, row.data))


class SqlIdempotency:
    """Implements `IdempotencyRepository`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def reserve(self, operator: str, key: str, *, request_sha256: str, at: datetime) -> StoredAnswer | None:
        """See `IdempotencyRepository.reserve`."""
        values = {
            "operator": operator,
            "key": key,
            "request_sha256": request_sha256,
            "reserved_at": at,
            "headers": {},
            "body": b"",
        }
        try:
            async with self._connection.begin_nested():
                await self._connection.execute(insert(idempotency_keys).values(values))
        except IntegrityError:
            return await self._stored(operator, key)
        return None

    async def _stored(self, operator: str, key: str) -> StoredAnswer:
        query = select(idempotency_keys).where(idempotency_keys.c.operator == operator, idempotency_keys.c.key == key)
        row = (await self._connection.execute(query)).one()
        return StoredAnswer(row.request_sha256, row.status, row.headers, row.body)

    async def complete(self, operator: str, key: str, answer: StoredAnswer) -> None:
        """See `IdempotencyRepository.complete`."""
        await self._connection.execute(
            update(idempotency_keys)
            .where(idempotency_keys.c.operator == operator, idempotency_keys.c.key == key)
            .values(status=answer.status, headers=dict(answer.headers), body=answer.body)
        )

    async def release(self, operator: str, key: str) -> None:
        """See `IdempotencyRepository.release`."""
        await self._connection.execute(
            delete(idempotency_keys).where(idempotency_keys.c.operator == operator, idempotency_keys.c.key == key)
        )

    async def prune(self, before: datetime) -> None:
        """See `IdempotencyRepository.prune`."""
        await self._connection.execute(delete(idempotency_keys).where(idempotency_keys.c.reserved_at < before))
