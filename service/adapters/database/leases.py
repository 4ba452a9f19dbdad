"""Leases in the control database: of several workers, one ticks."""

from datetime import datetime, timedelta
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Row, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from service.adapters.database.update_tables import leases
from service.adapters.database.upsert import insert_into
from service.application.lease_repository import Lease, LeaseLostError
from service.domain.listening import Listening

_LISTENING = TypeAdapter(Listening)


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
            **_listening_values(Listening(now)),
            "event_sequence": 0,
        }
        await self._connection.execute(insert_into(self._connection, leases).on_conflict_do_nothing(), new)
        row = (await self._connection.execute(select(leases).where(leases.c.name == name).with_for_update())).one()
        if row.owner != owner and row.expires_at > now:
            return None
        listening = _listening(row).at(now, held_until=row.expires_at, largest_gap=largest_gap)
        taken = (
            update(leases)
            .where(leases.c.name == name, or_(leases.c.owner == owner, leases.c.expires_at <= now))
            .values(owner=owner, expires_at=now + lifetime, **_listening_values(listening))
        )
        await self._connection.execute(taken)
        return Lease(name, owner, now + lifetime, listening, row.event_sequence)

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


def _listening_values(listening: Listening) -> dict[str, Any]:
    return {"listening_since": listening.resumed_at, "listening": _LISTENING.dump_python(listening, mode="json")}


def _listening(row: Row[Any]) -> Listening:
    """Return when leases were held; an older version has told no more than since when."""
    known = None if row.listening is None else _LISTENING.validate_python(row.listening)
    return known if known is not None and known.resumed_at == row.listening_since else Listening(row.listening_since)
