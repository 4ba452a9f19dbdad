"""The transparency log in the control database.

Entries have numbers without gaps: whoever appends holds a lock to the end of the transaction, on PostgreSQL an advisory
one; SQLite has one writer anyway. A tile is replaced by itself and what it has grown by.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from sqlalchemy import func, insert, select, text, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from protocol.tiles import TileKey
from protocol.updates import ImageCustom
from service.adapters.database.supply_chain_tables import log_checkpoints, log_entries, log_tiles
from service.adapters.database.update_tables import image_targets
from service.adapters.database.upsert import upsert
from service.application.transparency_repository import LoggedEntry
from service.application.update_repositories import ImageTarget

_APPEND_LOCK = 0x7466_6C67  # "tflg"
_MAX_PARAMETERS = 1000  # of one statement; both databases take about 32,000
_SIZE = select(func.coalesce(func.max(log_entries.c.number) + 1, 0))
_NEWEST = select(log_checkpoints.c.content).order_by(log_checkpoints.c.size.desc()).limit(1)


class SqlLog:
    """Implements `LogRepository`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def hold(self) -> int:
        """See `LogRepository.hold`."""
        if self._connection.dialect.name == "postgresql":
            await self._connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _APPEND_LOCK})
        return await self.size()

    async def size(self) -> int:
        """See `LogRepository.size`."""
        return int(await self._connection.scalar(_SIZE) or 0)

    async def append(self, entries: Sequence[LoggedEntry], tiles: Mapping[TileKey, bytes], *, at: datetime) -> None:
        """See `LogRepository.append`."""
        rows = [
            {
                "number": entry.number,
                "kind": entry.kind,
                "name": entry.name,
                "subject": entry.subject,
                "entry": entry.entry,
                "leaf_hash": entry.leaf_hash,
                "created_at": at,
            }
            for entry in entries
        ]
        grown = [{"level": key.level, "number": key.number, "content": content} for key, content in tiles.items()]
        await self._connection.execute(insert(log_entries), rows)
        await self._connection.execute(upsert(self._connection, log_tiles), grown)

    async def tiles(self, keys: Collection[TileKey]) -> Mapping[TileKey, bytes]:
        """See `LogRepository.tiles`."""
        if not keys:
            return {}
        wanted = [(key.level, key.number) for key in keys]
        query = select(log_tiles).where(tuple_(log_tiles.c.level, log_tiles.c.number).in_(wanted))
        rows = await self._connection.execute(query)
        return {TileKey(row.level, row.number): bytes(row.content) for row in rows}

    async def numbers(self, leaf_hashes: Collection[bytes]) -> Mapping[bytes, int]:
        """See `LogRepository.numbers`."""
        column, wanted, found = log_entries.c.leaf_hash, list(leaf_hashes), dict[bytes, int]()
        for first in range(0, len(wanted), _MAX_PARAMETERS):
            query = select(column, log_entries.c.number).where(column.in_(wanted[first : first + _MAX_PARAMETERS]))
            found |= {bytes(row.leaf_hash): row.number for row in await self._connection.execute(query)}
        return found

    async def entries(self, first: int, count: int) -> Sequence[bytes]:
        """See `LogRepository.entries`."""
        number = log_entries.c.number
        query = select(log_entries.c.entry).where(number >= first, number < first + count).order_by(number)
        return [bytes(entry) for entry in await self._connection.scalars(query)]

    async def about(self, subject: str, *, limit: int) -> Sequence[LoggedEntry]:
        """See `LogRepository.about`."""
        query = select(log_entries).where(log_entries.c.subject == subject)
        rows = await self._connection.execute(query.order_by(log_entries.c.number).limit(limit))
        return [
            LoggedEntry(row.number, row.kind, row.name, row.subject, bytes(row.entry), bytes(row.leaf_hash))
            for row in rows
        ]

    async def unlogged_images(self, *, limit: int) -> Sequence[ImageTarget]:
        """See `LogRepository.unlogged_images`."""
        logged = log_entries.c.name == image_targets.c.path
        query = select(image_targets).where(~select(log_entries.c.number).where(logged).exists())
        rows = await self._connection.execute(query.limit(limit))
        return [
            ImageTarget(row.path, row.sha256, row.length, ImageCustom.model_validate(row.custom), row.since_version)
            for row in rows
        ]

    async def checkpoint(self) -> bytes | None:
        """See `LogRepository.checkpoint`."""
        content = await self._connection.scalar(_NEWEST)
        return None if content is None else content.encode()

    async def put_checkpoint(self, content: bytes, *, size: int, at: datetime) -> None:
        """See `LogRepository.put_checkpoint`."""
        row = {"size": size, "content": content.decode(), "created_at": at}
        await self._connection.execute(upsert(self._connection, log_checkpoints), row)
