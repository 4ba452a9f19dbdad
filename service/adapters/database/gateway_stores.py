"""Subscriptions and queued commands of devices; implements the gateway's control-database ports."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, and_, delete, func, insert, select, text, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from service.adapters.database.advisory_locks import AdvisoryLock
from service.adapters.database.device_tables import commands, subscriptions
from service.adapters.database.engine import Database
from service.application.messaging import CommandQueueFullError, QueuedCommand

PURGED_PER_STEP = 1000


class SqlSubscriptions:
    """Implements `SubscriptionStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, device_id: str) -> Mapping[str, int]:
        """See `SubscriptionStore.load`."""
        query = select(subscriptions.c.topic_filter, subscriptions.c.qos).where(subscriptions.c.device_id == device_id)
        async with self._database.transaction(read_only=True) as connection:
            return {row.topic_filter: row.qos for row in await connection.execute(query)}

    async def save(self, device_id: str, wanted: Mapping[str, int]) -> None:
        """See `SubscriptionStore.save`."""
        if not wanted:
            return
        rows = [
            {"device_id": device_id, "topic_filter": topic_filter, "qos": qos} for topic_filter, qos in wanted.items()
        ]
        insert_or_update = sqlite_insert if self._database.is_sqlite else postgresql_insert
        statement = insert_or_update(subscriptions)
        statement = statement.on_conflict_do_update(
            index_elements=["device_id", "topic_filter"], set_={"qos": statement.excluded.qos}
        )
        async with self._database.transaction(read_only=False) as connection:
            await connection.execute(statement, rows)
            await connection.commit()

    async def remove(self, device_id: str, topic_filters: Sequence[str]) -> None:
        """See `SubscriptionStore.remove`."""
        unwanted = and_(subscriptions.c.device_id == device_id, subscriptions.c.topic_filter.in_(topic_filters))
        async with self._database.transaction(read_only=False) as connection:
            await connection.execute(delete(subscriptions).where(unwanted))
            await connection.commit()

    async def clear(self, device_id: str) -> None:
        """See `SubscriptionStore.clear`; writes only when there is something to remove."""
        if not await self.load(device_id):
            return
        async with self._database.transaction(read_only=False) as connection:
            await connection.execute(delete(subscriptions).where(subscriptions.c.device_id == device_id))
            await connection.commit()


class SqlCommandQueue:
    """Implements `CommandQueue`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(
        self, device_id: str, name: str, payload: bytes, *, expires_at: datetime, now: datetime, max_queued: int
    ) -> QueuedCommand:
        """See `CommandQueue.put`."""
        async with self._database.transaction(read_only=False) as connection:
            await self._check_room(connection, device_id, now=now, max_queued=max_queued)
            statement = insert(commands).values(device_id=device_id, name=name, payload=payload, expires_at=expires_at)
            row = (await connection.execute(statement.returning(commands))).one()
            await connection.commit()
        return _command(row)

    async def _check_room(self, connection: AsyncConnection, device_id: str, *, now: datetime, max_queued: int) -> None:
        if not self._database.is_sqlite:  # SQLite's writers are one after the other anyway
            lock = text("SELECT pg_advisory_xact_lock(:class, hashtext(:id))")
            await connection.execute(lock, {"class": AdvisoryLock.COMMAND_QUEUE.value, "id": device_id})
        waiting = select(func.count()).where(commands.c.device_id == device_id, commands.c.expires_at > now)
        found = await connection.scalar(waiting) or 0
        if found >= max_queued:
            raise CommandQueueFullError(f"commands: expected fewer than {max_queued} waiting, found {found}")

    async def pending(self, device_id: str, *, now: datetime, limit: int) -> Sequence[QueuedCommand]:
        """See `CommandQueue.pending`."""
        query = (
            select(commands)
            .where(commands.c.device_id == device_id, commands.c.expires_at > now)
            .order_by(commands.c.command_id)
            .limit(limit)
        )
        async with self._database.transaction(read_only=True) as connection:
            return [_command(row) for row in await connection.execute(query)]

    async def mark_sent(self, command_id: int, packet_id: int) -> None:
        """See `CommandQueue.mark_sent`."""
        async with self._database.transaction(read_only=False) as connection:
            await connection.execute(
                update(commands).where(commands.c.command_id == command_id).values(packet_id=packet_id)
            )
            await connection.commit()

    async def acknowledge(self, device_id: str, packet_id: int) -> bool:
        """See `CommandQueue.acknowledge`."""
        acknowledged = and_(commands.c.device_id == device_id, commands.c.packet_id == packet_id)
        async with self._database.transaction(read_only=False) as connection:
            result = await connection.execute(delete(commands).where(acknowledged))
            await connection.commit()
        return result.rowcount > 0

    async def purge_expired(self, *, now: datetime, limit: int = 1000) -> int:
        """See `CommandQueue.purge_expired`."""
        expired = select(commands.c.command_id).where(commands.c.expires_at <= now).limit(limit)
        async with self._database.transaction(read_only=False) as connection:
            result = await connection.execute(delete(commands).where(commands.c.command_id.in_(expired)))
            await connection.commit()
        return result.rowcount

    async def keep_house(self, now: datetime) -> bool:
        """Delete a batch of the commands that expired; True if there may be more of them."""
        return await self.purge_expired(now=now, limit=PURGED_PER_STEP) == PURGED_PER_STEP


def _command(row: Row[Any]) -> QueuedCommand:
    return QueuedCommand(
        command_id=row.command_id,
        device_id=row.device_id,
        name=row.name,
        payload=row.payload,
        expires_at=row.expires_at,
        packet_id=row.packet_id,
    )
