"""Leases in the control database: of several workers, one ticks."""

from datetime import datetime, timedelta

from sqlalchemy import or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from service.adapters.database.update_tables import leases
from service.adapters.database.upsert import insert_into
from service.application.lease_repository import Lease, LeaseLostError


class SqlLeases:
    """Implements `LeaseRepository`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def acquire(
        self, name: str, owner: str, *, now: datetime, lifetime: timedelta, largest_gap: timedelta
    ) -> Lease | None:
        """See `LeaseRepository.acquire`."""
        new = {
            "name": name,
            "owner": owner,
            "expires_at": now + lifetime,
            "listening_since": now,
            "event_sequence": 0,
        }
        await self._connection.execute(insert_into(self._connection, leases).on_conflict_do_nothing(), new)
        row = (await self._connection.execute(select(leases).where(leases.c.name == name).with_for_update())).one()
        if row.owner != owner and row.expires_at > now:
            return None
        since = now if now - row.expires_at > largest_gap else row.listening_since
        taken = (
            update(leases)
            .where(leases.c.name == name, or_(leases.c.owner == owner, leases.c.expires_at <= now))
            .values(owner=owner, expires_at=now + lifetime, listening_since=since)
        )
        await self._connection.execute(taken)
        return Lease(name, owner, now + lifetime, since, row.event_sequence)

    async def advance(self, name: str, owner: str, event_sequence: int) -> None:
        """See `LeaseRepository.advance`."""
        mine = update(leases).where(leases.c.name == name, leases.c.owner == owner)
        advanced = await self._connection.execute(mine.values(event_sequence=event_sequence))
        if not advanced.rowcount:
            raise LeaseLostError(name, owner)

    async def release(self, name: str, owner: str, *, now: datetime) -> None:
        """See `LeaseRepository.release`."""
        mine = update(leases).where(leases.c.name == name, leases.c.owner == owner)
        await self._connection.execute(mine.values(expires_at=now))
