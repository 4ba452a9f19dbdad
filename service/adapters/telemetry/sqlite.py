"""The embedded telemetry store: one SQLite file of its own, so that ingest and control never wait for each other.

Durability: WAL with synchronous=FULL, so `commit` returns after the log was synced to disk. Many rows go into one
statement: sqlite3 releases the interpreter lock for every statement it steps, and a busy event loop makes each
release cost up to a switch interval (5 ms) to get it back.
"""

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from typing_extensions import override

from service.adapters.telemetry.queries import TelemetryQueries
from service.adapters.telemetry.schema import MESSAGE_COLUMNS, migrate
from service.adapters.telemetry.senders import SenderCache, TelemetryCommitError
from service.application.messaging import TelemetryRow, TelemetryStore

_BUSY_SECONDS = 10.0  # a pruning batch holds the write lock for less
_ROWS_PER_STATEMENT = 128


def _insert(rows: int) -> str:
    values = ", ".join(["(?, ?, ?, ?, ?, ?)"] * rows)
    return f"INSERT INTO telemetry_messages ({', '.join(MESSAGE_COLUMNS)}) VALUES {values}"  # noqa: S608  # constants


_INSERT_MANY = _insert(_ROWS_PER_STATEMENT)
_INSERT_ONE = _insert(1)


class SqliteTelemetryStore(TelemetryQueries, TelemetryStore):
    """`TelemetryStore` on a SQLite file; make it with `open`."""

    def __init__(self, path: Path, engine: AsyncEngine) -> None:
        super().__init__(engine)
        self._path = path
        self._writer: sqlite3.Connection | None = None
        self._senders = SenderCache()

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Open the file, making or migrating it as needed."""
        engine = create_async_engine(f"sqlite+aiosqlite:///{path}", connect_args={"timeout": _BUSY_SECONDS})
        async with engine.connect() as connection:
            await connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        await migrate(engine)
        return cls(path, engine)

    @override
    def commit(self, rows: Sequence[TelemetryRow]) -> int:
        """See `TelemetryStore.commit`.

        Raises:
            TelemetryCommitError: SQLite refused; nothing was stored.
        """
        try:
            if self._writer is None:
                self._writer = self._connect()
            return self._write(self._writer, rows)
        except sqlite3.Error as error:
            if self._writer is not None and self._writer.in_transaction:
                self._writer.rollback()
            raise TelemetryCommitError(f"telemetry: expected {len(rows)} rows stored, found {error}") from error

    async def close(self) -> None:
        """Close the file; nothing may be committed afterwards."""
        if self._writer is not None:
            await asyncio.to_thread(self._writer.close)
        await self._engine.dispose()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    def _write(self, writer: sqlite3.Connection, rows: Sequence[TelemetryRow]) -> int:
        writer.execute("BEGIN IMMEDIATE")
        added = {device_id: _add_sender(writer, device_id) for device_id in self._senders.missing(rows)}
        senders = self._senders.ids | added if added else self._senders.ids
        _insert_all(writer, [(senders[device_id], *rest) for device_id, *rest in rows])
        last_id: int = writer.execute("SELECT last_insert_rowid()").fetchone()[0]
        writer.execute("COMMIT")
        self._senders.remember(added)
        return last_id


def _add_sender(writer: sqlite3.Connection, device_id: str) -> int:
    writer.execute("INSERT OR IGNORE INTO telemetry_senders (device_id) VALUES (?)", (device_id,))
    found = writer.execute("SELECT sender_id FROM telemetry_senders WHERE device_id = ?", (device_id,))
    sender_id: int = found.fetchone()[0]
    return sender_id


def _insert_all(writer: sqlite3.Connection, rows: list[tuple[object, ...]]) -> None:
    whole = len(rows) - len(rows) % _ROWS_PER_STATEMENT
    for start in range(0, whole, _ROWS_PER_STATEMENT):
        chunk = rows[start : start + _ROWS_PER_STATEMENT]
        writer.execute(_INSERT_MANY, [value for row in chunk for value in row])
    writer.executemany(_INSERT_ONE, rows[whole:])
