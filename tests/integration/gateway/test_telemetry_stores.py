"""The message log on SQLite and PostgreSQL, through their real migrations."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeAlias

import asyncpg
import pytest
from sqlalchemy import Connection, inspect, make_url
from sqlalchemy.ext.asyncio import create_async_engine

from service.adapters.telemetry.postgres import PostgresTelemetryStore
from service.adapters.telemetry.schema import METADATA, migrate
from service.adapters.telemetry.senders import TelemetryCommitError
from service.adapters.telemetry.sqlite import SqliteTelemetryStore
from service.application.messaging import MessageFilter, MessageKind, TelemetryRow
from tests.integration.gateway.postgres_server import postgres_server

Store: TypeAlias = SqliteTelemetryStore | PostgresTelemetryStore

START = datetime(2026, 1, 1, tzinfo=UTC)
START_MS = 1_767_225_600_000
ONE, TWO = "1" * 128, "2" * 128


def row(
    device_id: str = ONE,
    kind: str = "telemetry",
    stream: str = "s",
    *,
    second: int = 0,
    payload: bytes = b"x",
    properties: str | None = None,
) -> TelemetryRow:
    return (device_id, kind, stream, START_MS + second * 1000, payload, properties)


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder, postgres_server(Path(folder)) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    opened: Store
    if request.param == "sqlite":
        opened = await SqliteTelemetryStore.open(tmp_path / "telemetry.db")
    else:
        url: str = request.getfixturevalue("postgres_url")
        opened = await PostgresTelemetryStore.open(url)
        async with administrator(url) as connection:
            await connection.execute("TRUNCATE telemetry_messages, telemetry_senders")
    yield opened
    await opened.close()


@asynccontextmanager
async def administrator(url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection beside the store's own."""
    connection = await asyncpg.connect(make_url(url).set(drivername="postgresql").render_as_string())
    yield connection
    await connection.close()


@pytest.fixture
def commit_thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(max_workers=1) as thread:
        yield thread


async def commit(thread: ThreadPoolExecutor, store: Store, *rows: TelemetryRow) -> int:
    """Commit as the gateway does: in another thread than the event loop's."""
    return await asyncio.get_running_loop().run_in_executor(thread, store.commit, rows)


async def test_committed_messages_come_back_whole(store: Store, commit_thread: ThreadPoolExecutor) -> None:
    """Every field, and the last id that commit returned."""
    last_id = await commit(
        commit_thread, store, row(payload=b"\x00\xff"), row(TWO, "event", "boot", second=1, properties='{"a": null}')
    )
    first, second = await store.tail(after_id=0)
    assert (second.message_id, await store.last_id()) == (last_id, last_id)
    assert first.message_id < second.message_id
    assert (first.device_id, first.kind, first.stream) == (ONE, MessageKind.TELEMETRY, "s")
    assert (first.received_at, first.payload, first.properties) == (START, b"\x00\xff", {})
    assert (second.device_id, second.kind, second.stream) == (TWO, MessageKind.EVENT, "boot")
    assert (second.received_at, second.properties) == (START + timedelta(seconds=1), {"a": None})


async def test_large_batches_keep_their_order(store: Store, commit_thread: ThreadPoolExecutor) -> None:
    """1,000 rows are several statements of one transaction."""
    rows = [row(payload=b"%d" % number) for number in range(1_000)]
    await commit(commit_thread, store, *rows)
    assert [message.payload for message in await store.tail(after_id=0)] == [entry[4] for entry in rows]
    assert await store.count() == 1_000


async def test_filters_choose_by_device_kind_and_stream(store: Store, commit_thread: ThreadPoolExecutor) -> None:
    """Each alone, and all together."""
    await commit(commit_thread, store, row(ONE), row(TWO), row(TWO, "event"), row(TWO, stream="other"))
    assert await store.count(MessageFilter(device_id=TWO)) == 3
    assert await store.count(MessageFilter(kind=MessageKind.EVENT)) == 1
    assert await store.count(MessageFilter(stream="other")) == 1
    both = MessageFilter(device_id=TWO, kind=MessageKind.TELEMETRY, stream="s")
    assert [message.device_id for message in await store.page(both)] == [TWO]
    assert await store.page(MessageFilter(device_id="3" * 128)) == []


async def test_pages_go_back_and_tails_go_forth(store: Store, commit_thread: ThreadPoolExecutor) -> None:
    """Two pages of two, newest first; a tail from the middle, oldest first."""
    await commit(commit_thread, store, *(row(payload=b"%d" % number) for number in range(4)))
    newest = await store.page(limit=2)
    older = await store.page(before_id=newest[-1].message_id, limit=2)
    assert [message.payload for message in (*newest, *older)] == [b"3", b"2", b"1", b"0"]
    tail = await store.tail(after_id=older[0].message_id, limit=1)
    assert [message.payload for message in tail] == [b"2"]


async def test_empty_log_has_no_last_id(store: Store) -> None:
    """A tail of an empty log starts at 0."""
    assert (await store.last_id(), await store.count(), await store.page()) == (0, 0, [])


async def test_pruning_by_age_and_by_number(store: Store, commit_thread: ThreadPoolExecutor) -> None:
    """In bounded batches, oldest first; ids are not given again."""
    last_id = await commit(commit_thread, store, *(row(second=number) for number in range(10)))
    assert await store.prune() == 0
    assert await store.prune(received_before=START + timedelta(seconds=3), batch_rows=2) == 2
    assert await store.prune(received_before=START + timedelta(seconds=3), batch_rows=2) == 1
    assert await store.prune(keep_rows=5) == 2
    assert await store.prune(keep_rows=5) == 0
    assert await store.prune(keep_rows=0) == 5
    assert await commit(commit_thread, store, row()) > last_id


async def test_refused_batch_leaves_nothing_and_the_next_one_passes(
    store: Store, commit_thread: ThreadPoolExecutor
) -> None:
    """A row that the database refuses takes its batch with it, senders included."""
    bad = (TWO, "telemetry", "s", START_MS, None, None)
    with pytest.raises(TelemetryCommitError, match="expected 2 rows stored"):
        await commit(commit_thread, store, row(ONE), bad)  # type: ignore[arg-type]  # the point of the test
    assert await store.count() == 0
    await commit(commit_thread, store, row(ONE), row(TWO))
    assert [message.device_id for message in await store.tail(after_id=0)] == [ONE, TWO]


async def test_log_opens_again_with_what_it_had(tmp_path: Path, commit_thread: ThreadPoolExecutor) -> None:
    """Migrations find nothing to do, and senders keep their numbers."""
    for number in (1, 2):
        store = await SqliteTelemetryStore.open(tmp_path / "telemetry.db")
        await commit(commit_thread, store, row(ONE), row(TWO))
        assert await store.count(MessageFilter(device_id=TWO)) == number
        await store.close()


async def test_connection_that_breaks_is_made_again(postgres_url: str, commit_thread: ThreadPoolExecutor) -> None:
    """PostgreSQL ends the writer's session: that batch fails, the next one connects anew."""
    store = await PostgresTelemetryStore.open(postgres_url)
    await commit(commit_thread, store, row())
    async with administrator(postgres_url) as connection:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND datname = 'postgres'"
        )
    with pytest.raises(TelemetryCommitError, match="expected 1 rows stored"):
        await commit(commit_thread, store, row())
    await commit(commit_thread, store, row())
    await store.close()


async def test_migrations_make_the_tables_that_the_code_declares(tmp_path: Path) -> None:
    """No column differs between the revision and the declaration."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/telemetry.db")
    await migrate(engine)
    async with engine.connect() as connection:
        found = await connection.run_sync(_columns)
    await engine.dispose()
    assert found == {table.name: [column.name for column in table.columns] for table in METADATA.sorted_tables}


def _columns(connection: Connection) -> dict[str, list[str]]:
    inspector = inspect(connection)
    return {
        table.name: [column["name"] for column in inspector.get_columns(table.name)] for table in METADATA.sorted_tables
    }
