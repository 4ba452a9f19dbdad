"""The production telemetry store: PostgreSQL, written with COPY.

`commit` runs in the gateway's committer thread on an asyncpg connection and event loop of its own. An advisory
lock orders the transactions of several gateways, because ids must become visible in rising order: a reader that
keeps its last id would otherwise skip rows of a transaction that took its ids early and committed late.
"""

import asyncio
from collections.abc import Sequence
from typing import Self

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from typing_extensions import override

from service.adapters.telemetry.queries import TelemetryQueries
from service.adapters.telemetry.schema import MESSAGE_COLUMNS, migrate
from service.adapters.telemetry.senders import SenderCache, TelemetryCommitError
from service.application.messaging import TelemetryRow, TelemetryStore

_COMMIT_SECONDS = 30.0
_COMMIT_LOCK = 0x7465_6C65  # "tele": any number that no other user of the database takes

_LAST_ID = "SELECT currval(pg_get_serial_sequence('telemetry_messages', 'message_id'))"
_ADD_SENDERS = "INSERT INTO telemetry_senders (device_id) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING"
_FIND_SENDERS = "SELECT device_id, sender_id FROM telemetry_senders WHERE device_id = ANY($1::text[])"


class PostgresTelemetryStore(TelemetryQueries, TelemetryStore):
    """`TelemetryStore` on PostgreSQL; make it with `open`."""

    def __init__(self, engine: AsyncEngine) -> None:
        super().__init__(engine)
        self._runner: asyncio.Runner | None = None
        self._writer: asyncpg.Connection | None = None
        self._senders = SenderCache()

    @classmethod
    async def open(cls, url: str) -> Self:
        """Connect and migrate.

        Args:
            url: SQLAlchemy URL, `postgresql+asyncpg://…`.
        """
        engine = create_async_engine(url)
        await migrate(engine)
        return cls(engine)

    @override
    def commit(self, rows: Sequence[TelemetryRow]) -> int:
        """See `TelemetryStore.commit`.

        Raises:
            TelemetryCommitError: PostgreSQL refused or is away; a commit that was cut off may be stored all the
                same, and its devices will then send twice.
        """
        if self._runner is None:
            self._runner = asyncio.Runner()
        return self._runner.run(self._commit(rows))

    async def close(self) -> None:
        """Close all connections; nothing may be committed afterwards."""
        await asyncio.to_thread(self._close_writer)
        await self._engine.dispose()

    def _close_writer(self) -> None:
        if self._runner is not None:
            self._runner.run(self._drop_writer())
            self._runner.close()

    async def _commit(self, rows: Sequence[TelemetryRow]) -> int:
        try:
            async with asyncio.timeout(_COMMIT_SECONDS):
                if self._writer is None:
                    self._writer = await self._connect()
                return await self._write(self._writer, rows)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            await self._drop_writer()
            raise TelemetryCommitError(f"telemetry: expected {len(rows)} rows stored, found {error!r}") from error

    async def _connect(self) -> asyncpg.Connection:
        _, options = self._engine.dialect.create_connect_args(self._engine.url)
        return await asyncpg.connect(**options)

    async def _write(self, writer: asyncpg.Connection, rows: Sequence[TelemetryRow]) -> int:
        async with writer.transaction():
            await writer.execute("SELECT pg_advisory_xact_lock($1)", _COMMIT_LOCK)
            added = await self._add_senders(writer, self._senders.missing(rows))
            senders = self._senders.ids | added if added else self._senders.ids
            await writer.copy_records_to_table(
                "telemetry_messages",
                records=[(senders[device_id], *rest) for device_id, *rest in rows],
                columns=MESSAGE_COLUMNS,
            )
            last_id: int = await writer.fetchval(_LAST_ID)
        self._senders.remember(added)
        return last_id

    async def _add_senders(self, writer: asyncpg.Connection, device_ids: list[str]) -> dict[str, int]:
        if not device_ids:
            return {}
        await writer.execute(_ADD_SENDERS, device_ids)
        return {row["device_id"]: row["sender_id"] for row in await writer.fetch(_FIND_SENDERS, device_ids)}

    async def _drop_writer(self) -> None:
        if self._writer is not None:
            self._writer.terminate()
            self._writer = None
