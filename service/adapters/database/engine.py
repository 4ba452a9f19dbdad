"""The connection to the control database: SQLite or PostgreSQL, chosen by URL.

SQLite: WAL, synchronous=FULL, foreign keys on. A writer begins with BEGIN IMMEDIATE, so that two processes never
deadlock upgrading a read; within this process writers queue for a lock, which is fair where SQLite's busy handler
polls. PostgreSQL: READ COMMITTED; contested changes are single conditional statements.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from service.domain.errors import ServiceError

BUSY_TIMEOUT_MS = 10_000
SQLITE_READERS = 8
_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}
_BEGIN_OPTION = "tinyfleet_begin"


class DatabaseUrlError(ServiceError):
    """The database URL names no database that the service supports."""


def database_url(text: str, *, password: str | None = None) -> URL:
    """Parse `sqlite:///FILE` or `postgresql://USER@HOST/NAME` and choose the driver.

    Raises:
        DatabaseUrlError: another database, or no URL.
    """
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise DatabaseUrlError("database URL: expected sqlite:///FILE or postgresql://…, found no URL") from error
    driver = _DRIVERS.get(url.get_backend_name())
    if driver is None:
        raise DatabaseUrlError(f"database URL: expected sqlite or postgresql, found {url.get_backend_name()}")
    return url.set(drivername=driver, password=password or url.password)


class Database:
    """An engine and the order of its writers."""

    def __init__(self, url: URL) -> None:
        self.is_sqlite = url.get_backend_name() == "sqlite"
        self.engine: AsyncEngine = _sqlite_engine(url) if self.is_sqlite else _postgresql_engine(url)
        self._writers = asyncio.Lock()

    @asynccontextmanager
    async def transaction(self, *, read_only: bool) -> AsyncIterator[AsyncConnection]:
        """Open a connection whose transaction begins with its first statement; leaving rolls back."""
        turn: AbstractAsyncContextManager[object] = nullcontext()
        if self.is_sqlite and not read_only:
            turn = self._writers
        begin = "BEGIN" if read_only else "BEGIN IMMEDIATE"
        async with turn, self.engine.connect() as connection:
            yield await connection.execution_options(**{_BEGIN_OPTION: begin})

    async def close(self) -> None:
        """Close every connection."""
        await self.engine.dispose()


def _sqlite_engine(url: URL) -> AsyncEngine:
    engine = create_async_engine(url, pool_size=SQLITE_READERS, max_overflow=0)
    event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


def _postgresql_engine(url: URL) -> AsyncEngine:
    return create_async_engine(url, pool_size=10, max_overflow=10, pool_pre_ping=True)


def _prepare_sqlite(connection: Any, _record: object) -> None:  # noqa: ANN401 - the driver's connection is untyped
    connection.isolation_level = None  # the driver begins nothing by itself
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout={BUSY_TIMEOUT_MS}",
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get(_BEGIN_OPTION, "BEGIN IMMEDIATE"))
