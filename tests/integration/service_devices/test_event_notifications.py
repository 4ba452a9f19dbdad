"""One process hears of another's commits by PostgreSQL's LISTEN, again after the connection broke, and without it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import asyncpg
import pytest
from sqlalchemy import make_url

from service.adapters.database.engine import Database, database_url
from service.adapters.database.event_reader import SqlEventReader
from service.adapters.database.migration import migrate
from service.adapters.database.notifications import CHANNEL, Notifications
from service.adapters.database.unit_of_work import SqlUnitOfWorkFactory
from service.application import events
from service.application.events import Event, EventFeed, EventType, StoredEvent
from tests.service_processes import until

NEVER = 3600.0
NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Listener:
    """A process that follows the events of a database, and what it heard."""

    def __init__(self, url: str) -> None:
        self.database = Database(database_url(url))
        self.feed = EventFeed(SqlEventReader(SqlUnitOfWorkFactory(self.database)))
        self.heard: list[str] = []
        self.feed.subscribe(lambda stored: self.heard.append(stored.event.subject_id))

    async def hears(self, subject: str) -> None:
        async def has_heard() -> bool:
            return subject in self.heard

        await until(has_heard)


@asynccontextmanager
async def running(*works: Coroutine[None, None, None]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def listener(postgresql_url: str) -> AsyncIterator[Listener]:
    found = Listener(postgresql_url)
    await migrate(found.database)
    await found.feed.start()
    yield found
    await found.database.close()


@pytest.fixture
async def commit(
    postgresql_url: str, listener: Listener
) -> AsyncIterator[Callable[[str], Coroutine[None, None, None]]]:
    """What commits an event from another process, which wakes nobody here."""
    del listener  # has migrated
    database = Database(database_url(postgresql_url))

    async def store(subject: str) -> None:
        async with SqlUnitOfWorkFactory(database)() as work:
            work.record(Event(EventType.PRODUCT, subject, "created", NOW))
            await work.commit()

    yield store
    await database.close()


async def break_listeners(url: str) -> None:
    """End every connection that listens, as a server that restarts does."""
    dsn = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    connection = await asyncpg.connect(dsn)
    try:
        listening = f"query LIKE '%LISTEN%{CHANNEL}%' AND pid <> pg_backend_pid()"
        query = f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {listening}"  # noqa: S608

        async def has_broken_one() -> bool:
            return bool(await connection.fetchval(query))

        await until(has_broken_one)
    finally:
        await connection.close()


async def test_commit_of_another_process_is_heard_without_looking(
    listener: Listener, commit: Callable[[str], Coroutine[None, None, None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The feed never looks by itself here; the notification alone wakes it."""
    monkeypatch.setattr(events, "FOREIGN_SECONDS", NEVER)
    notifications = Notifications(listener.database.engine.url, listener.feed)
    async with running(listener.feed.run(), notifications.run()):
        await commit("first")
        await listener.hears("first")
        await commit("second")
        await listener.hears("second")
    assert listener.heard == ["first", "second"]


async def test_broken_connection_listens_again_and_misses_nothing(
    postgresql_url: str,
    listener: Listener,
    commit: Callable[[str], Coroutine[None, None, None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was committed in between is read on the first look of the new connection."""
    monkeypatch.setattr(events, "FOREIGN_SECONDS", NEVER)
    notifications = Notifications(listener.database.engine.url, listener.feed)
    async with running(listener.feed.run(), notifications.run()):
        await commit("before")
        await listener.hears("before")
        await break_listeners(postgresql_url)
        await commit("between")
        await listener.hears("between")
        await commit("after")
        await listener.hears("after")
    assert listener.heard == ["before", "between", "after"]


async def test_feed_looks_by_itself_where_nothing_tells(
    listener: Listener, commit: Callable[[str], Coroutine[None, None, None]]
) -> None:
    """Behind a connection pooler that passes no notifications, polling remains."""
    async with running(listener.feed.run()):
        await commit("polled")
        await listener.hears("polled")


async def test_feed_outlives_a_database_that_fails(
    listener: Listener, commit: Callable[[str], Coroutine[None, None, None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look that raises is logged, and the next one goes on where the last one stopped."""
    failures = iter([ConnectionRefusedError("gone"), OSError("gone")])
    read = SqlEventReader.after

    async def failing(reader: SqlEventReader, sequence: int) -> Sequence[StoredEvent]:
        for failure in failures:
            raise failure
        return await read(reader, sequence)

    monkeypatch.setattr(SqlEventReader, "after", failing)
    async with running(listener.feed.run()):
        await commit("late")
        await listener.hears("late")
    assert next(failures, None) is None
