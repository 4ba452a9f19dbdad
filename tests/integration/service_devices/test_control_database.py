"""What the control database promises, on SQLite and PostgreSQL, through the real migrations."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, StatementError

from service.adapters.database.engine import Database, DatabaseUrlError, database_url
from service.adapters.database.event_reader import SqlEventReader
from service.adapters.database.gateway_stores import SqlCommandQueue, SqlSubscriptions
from service.adapters.database.migration import migrate
from service.adapters.database.schema import metadata
from service.adapters.database.unit_of_work import SqlUnitOfWorkFactory
from service.application.audit import Change
from service.application.device_repositories import IssuedNonce, NoncePurpose
from service.application.events import Event, EventFeed, EventType, StoredEvent
from service.application.messaging import CommandQueueFullError
from service.domain.operator import SERVICE

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
ONE, TWO = "1" * 128, "2" * 128


@pytest.fixture
async def control(database: str) -> AsyncIterator[Database]:
    opened = Database(database_url(database))
    await migrate(opened)
    yield opened
    await opened.close()


async def record(unit_of_work: SqlUnitOfWorkFactory, subject: str) -> None:
    async with unit_of_work() as work:
        work.record(Event(EventType.DEVICE, subject, "moved", NOW))
        await work.commit()


async def test_migrations_make_the_tables_that_the_code_knows(control: Database) -> None:
    """Autogeneration finds nothing to do, and a second migration does nothing."""

    def differences(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    async with control.engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    before, after = await migrate(control)
    assert before == after


async def test_work_without_commit_leaves_nothing(control: Database) -> None:
    """Neither rows nor events of a unit of work that was left by an error."""
    unit_of_work = SqlUnitOfWorkFactory(control)

    async def cut_short() -> None:
        async with unit_of_work() as work:
            await work.audit.add(SERVICE, Change("test", "1"), at=NOW)
            work.record(Event(EventType.DEVICE, ONE, "moved", NOW))
            raise RuntimeError("cut")

    with pytest.raises(RuntimeError, match="cut"):
        await cut_short()
    async with unit_of_work(read_only=True) as work:
        assert await work.audit.page(before_id=None, limit=10) == []
        assert await work.events.last_sequence() == 0


async def test_times_come_back_aware_and_in_utc(control: Database) -> None:
    """Whatever zone a time had, and never without one."""
    unit_of_work = SqlUnitOfWorkFactory(control)
    elsewhere = NOW.astimezone(timezone(timedelta(hours=5)))
    async with unit_of_work() as work:
        await work.audit.add(SERVICE, Change("test", "1"), at=elsewhere)
        with pytest.raises(StatementError, match="expected an aware datetime"):
            await work.audit.add(SERVICE, Change("test", "2"), at=NOW.replace(tzinfo=None))
        (entry,) = await work.audit.page(before_id=None, limit=10)
    assert entry.at == NOW
    assert entry.at.tzinfo is UTC


@pytest.mark.parametrize("statement", ["UPDATE audit_log SET actor = 'nobody'", "DELETE FROM audit_log"])
async def test_audit_log_refuses_changes(control: Database, statement: str) -> None:
    """Even by SQL on the service's own connection."""
    unit_of_work = SqlUnitOfWorkFactory(control)
    async with unit_of_work() as work:
        await work.audit.add(SERVICE, Change("test", "1"), at=NOW)
        await work.commit()
    async with control.transaction(read_only=False) as connection:
        with pytest.raises(DBAPIError, match="append-only"):
            await connection.execute(text(statement))


async def test_concurrent_events_are_heard_once_in_the_order_of_their_commits(control: Database) -> None:
    """No event is skipped because a later number was committed first."""
    unit_of_work = SqlUnitOfWorkFactory(control)
    feed, heard, all_heard = EventFeed(SqlEventReader(unit_of_work)), list[StoredEvent](), asyncio.Event()

    def hear(stored: StoredEvent) -> None:
        heard.append(stored)
        if len(heard) == 40:
            all_heard.set()

    feed.subscribe(hear)
    unit_of_work.on_commit = feed.wake
    await feed.start()
    async with asyncio.TaskGroup() as tasks:
        following = tasks.create_task(feed.run())
        for number in range(40):
            tasks.create_task(record(unit_of_work, str(number)))
        await all_heard.wait()
        following.cancel()
    assert sorted(int(stored.event.subject_id) for stored in heard) == list(range(40))
    sequences = [stored.sequence for stored in heard]
    assert sequences == sorted(set(sequences))


async def test_one_nonce_goes_to_one_of_two_takers(control: Database) -> None:
    """Single use holds between tasks, and so between processes."""
    unit_of_work = SqlUnitOfWorkFactory(control)
    async with unit_of_work() as work:
        nonce = IssuedNonce(ONE, NoncePurpose.ATTEST, b"n" * 32, NOW + timedelta(minutes=1))
        await work.attestations.put_nonces([nonce])
        await work.commit()

    async def take() -> bytes | None:
        async with unit_of_work() as work:
            taken = await work.attestations.take_nonces([(ONE, NoncePurpose.ATTEST)], now=NOW)
            await work.commit()
            return taken.get((ONE, NoncePurpose.ATTEST))

    taken = await asyncio.gather(*(take() for _ in range(5)))
    assert sorted(nonce is None for nonce in taken) == [False, True, True, True, True]


async def test_nonces_are_locked_in_the_order_of_their_keys(postgresql_url: str) -> None:
    """Who waits for a first row holds no later one, however the rows lie and in whatever order they are wanted."""
    control = Database(database_url(postgresql_url))
    await migrate(control)
    unit_of_work, wanted = SqlUnitOfWorkFactory(control), [(TWO, NoncePurpose.EST), (ONE, NoncePurpose.EST)]
    for device_id, purpose in wanted:
        async with unit_of_work() as work:
            await work.attestations.put_nonces([IssuedNonce(device_id, purpose, b"n" * 32, NOW + timedelta(minutes=1))])
            await work.commit()

    async def take() -> int:
        async with unit_of_work() as work:
            return len(await work.attestations.take_nonces(wanted, now=NOW))

    row = text("SELECT 1 FROM attestation_nonces WHERE device_id = :id FOR UPDATE NOWAIT")
    waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    async with control.transaction(read_only=False) as connection:
        await connection.execute(row, {"id": ONE})
        taking = asyncio.create_task(take())
        while not await connection.scalar(waiting):  # noqa: ASYNC110 - nothing tells a test
            await asyncio.sleep(0.01)
        await connection.execute(row, {"id": TWO})
    assert await taking == 2
    await control.close()


async def test_commands_wait_in_order_until_acknowledged_or_expired(control: Database) -> None:
    """The queue of one device neither grows beyond its bound nor shows what expired."""
    queue, later = SqlCommandQueue(control), NOW + timedelta(hours=1)
    first = await queue.put(ONE, "a", b"1", expires_at=later, now=NOW, max_queued=2)
    second = await queue.put(ONE, "b", b"2", expires_at=NOW + timedelta(seconds=1), now=NOW, max_queued=2)
    with pytest.raises(CommandQueueFullError, match="expected fewer than 2"):
        await queue.put(ONE, "c", b"3", expires_at=later, now=NOW, max_queued=2)
    assert [command.name for command in await queue.pending(ONE, now=NOW, limit=10)] == ["a", "b"]
    assert first.command_id < second.command_id
    await queue.mark_sent(first.command_id, 7)
    assert (await queue.pending(ONE, now=NOW + timedelta(seconds=1), limit=10))[0].packet_id == 7
    assert await queue.acknowledge(TWO, 7) is False
    assert await queue.acknowledge(ONE, 7) is True
    assert await queue.acknowledge(ONE, 7) is False
    assert await queue.purge_expired(now=NOW + timedelta(seconds=1)) == 1
    assert await queue.pending(ONE, now=NOW, limit=10) == []


async def test_subscriptions_are_kept_per_device(control: Database) -> None:
    """Saving again replaces the QoS; another device's filters stay."""
    store = SqlSubscriptions(control)
    await store.save(ONE, {"a/#": 0, "b/#": 1})
    await store.save(ONE, {"a/#": 1})
    await store.save(TWO, {"a/#": 1})
    await store.save(TWO, {})
    assert await store.load(ONE) == {"a/#": 1, "b/#": 1}
    await store.remove(ONE, ["a/#", "nothing"])
    assert await store.load(ONE) == {"b/#": 1}
    await store.clear(ONE)
    await store.clear(ONE)
    assert await store.load(ONE) == {}
    assert await store.load(TWO) == {"a/#": 1}


@pytest.mark.parametrize("url", ["", "mysql://host/name", "nonsense"])
def test_foreign_database_url_is_refused(url: str) -> None:
    """A clear error instead of a driver's."""
    with pytest.raises(DatabaseUrlError, match="expected sqlite"):
        database_url(url)
