"""Reading and pruning the message log, the same on SQLite and PostgreSQL."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, delete, func, or_, select
from sqlalchemy.ext.asyncio import AsyncEngine

from service.adapters.telemetry.schema import MESSAGES, SENDERS
from service.application.messaging import ALL_MESSAGES, MessageFilter, MessageKind, StoredMessage

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class TelemetryQueries:
    """The asynchronous half of `TelemetryStore`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def page(
        self, message_filter: MessageFilter = ALL_MESSAGES, *, before_id: int | None = None, limit: int = 100
    ) -> Sequence[StoredMessage]:
        """See `TelemetryStore.page`."""
        query = _messages(message_filter).order_by(MESSAGES.c.message_id.desc()).limit(limit)
        if before_id is not None:
            query = query.where(MESSAGES.c.message_id < before_id)
        return await self._fetch(query)

    async def tail(
        self, message_filter: MessageFilter = ALL_MESSAGES, *, after_id: int, limit: int = 1000
    ) -> Sequence[StoredMessage]:
        """See `TelemetryStore.tail`."""
        query = _messages(message_filter).where(MESSAGES.c.message_id > after_id)
        return await self._fetch(query.order_by(MESSAGES.c.message_id).limit(limit))

    async def count(self, message_filter: MessageFilter = ALL_MESSAGES) -> int:
        """See `TelemetryStore.count`."""
        query = select(func.count()).select_from(MESSAGES.join(SENDERS)).where(*_conditions(message_filter))
        if message_filter == ALL_MESSAGES:
            query = select(func.count()).select_from(MESSAGES)
        async with self._engine.connect() as connection:
            return (await connection.execute(query)).scalar_one()

    async def last_id(self) -> int:
        """See `TelemetryStore.last_id`."""
        async with self._engine.connect() as connection:
            return (await connection.execute(select(func.max(MESSAGES.c.message_id)))).scalar_one() or 0

    async def prune(
        self,
        *,
        received_before: datetime | None = None,
        keep_rows: int | None = None,
        batch_rows: int = 10_000,
    ) -> int:
        """See `TelemetryStore.prune`; looks at the oldest `batch_rows` messages only."""
        oldest = (
            select(MESSAGES.c.message_id, MESSAGES.c.received_at_ms)
            .order_by(MESSAGES.c.message_id)
            .limit(batch_rows)
            .subquery()
        )
        rules: list[ColumnElement[bool]] = []
        if received_before is not None:
            rules.append(oldest.c.received_at_ms < _to_ms(received_before))
        if keep_rows is not None:
            newest_too_many = select(MESSAGES.c.message_id).order_by(MESSAGES.c.message_id.desc())
            rules.append(oldest.c.message_id <= newest_too_many.offset(keep_rows).limit(1).scalar_subquery())
        if not rules:
            return 0
        doomed = select(oldest.c.message_id).where(or_(*rules))
        async with self._engine.begin() as connection:
            result = await connection.execute(delete(MESSAGES).where(MESSAGES.c.message_id.in_(doomed)))
            return result.rowcount

    async def _fetch(self, query: Select[Any]) -> Sequence[StoredMessage]:
        async with self._engine.connect() as connection:
            return [_to_message(row) for row in await connection.execute(query)]


def _messages(message_filter: MessageFilter) -> Select[Any]:
    return select(MESSAGES, SENDERS.c.device_id).select_from(MESSAGES.join(SENDERS)).where(*_conditions(message_filter))


def _conditions(message_filter: MessageFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if message_filter.device_id is not None:
        conditions.append(SENDERS.c.device_id == message_filter.device_id)
    if message_filter.kind is not None:
        conditions.append(MESSAGES.c.kind == message_filter.kind.value)
    if message_filter.stream is not None:
        conditions.append(MESSAGES.c.stream == message_filter.stream)
    return conditions


def _to_ms(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(milliseconds=1)


def _to_message(row: Row[Any]) -> StoredMessage:
    return StoredMessage(
        message_id=row.message_id,
        device_id=row.device_id,
        kind=MessageKind(row.kind),
        stream=row.stream,
        received_at=_EPOCH + timedelta(milliseconds=row.received_at_ms),
        payload=row.payload,
        properties=json.loads(row.properties) if row.properties else {},
    )
