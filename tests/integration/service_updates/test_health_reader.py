"""Health reports on their way from the message log: each once, in order, by one process at a time."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from protocol.document import canonical_json
from protocol.health import HEALTH_STREAM
from service.adapters.telemetry.sqlite import SqliteTelemetryStore
from service.application.events import Signal
from service.application.health_reader import LEASE_LIFETIME, REPORTS_PER_STEP, HealthReader
from service.application.messaging import MessageFilter, StoredMessage, TelemetryRow
from tests.integration.service_updates.test_model_health import Fleet
from tests.integration.service_updates.update_world import UpdateWorld


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteTelemetryStore]:
    """An empty message log."""
    opened = await SqliteTelemetryStore.open(tmp_path / "telemetry.db")
    yield opened
    await opened.close()


def reader(world: UpdateWorld, store: SqliteTelemetryStore, fleet: Fleet, owner: str = "one") -> HealthReader:
    return HealthReader(world.unit_of_work, store, fleet.health, arrived=Signal(), clock=world.clock, owner=owner)


def row(device_id: str, payload: bytes, stream: str = HEALTH_STREAM) -> TelemetryRow:
    return (device_id, "telemetry", stream, 0, payload, None)


async def test_reports_are_read_once_whoever_reads_them(world: UpdateWorld, store: SqliteTelemetryStore) -> None:
    """Another process goes on where the first was killed; what is no report is passed over."""
    fleet = Fleet(world, await world.add_devices(2))
    first = fleet.report(fleet.ids[0])
    store.commit(
        [
            row(fleet.ids[0], b"{}", "inference"),
            row(fleet.ids[1], b"no report"),
            row(fleet.ids[1], json.dumps({"core": "a7"}).encode()),
            row("f" * 128, canonical_json(first)),
            row(fleet.ids[0], canonical_json(first)),
        ]
    )
    one, other = reader(world, store, fleet), reader(world, store, fleet, "other")
    assert not await one.read()
    assert not await other.read()
    (core,) = await fleet.health.of_device(fleet.ids[0])
    assert core.last == first
    world.clock.advance(3600)
    second = fleet.report(fleet.ids[0])
    store.commit([row(fleet.ids[0], canonical_json(second))])
    await other.read()
    (core,) = await fleet.health.of_device(fleet.ids[0])
    assert (core.last, core.past.windows) == (second, 2)


async def test_many_reports_are_read_in_steps(world: UpdateWorld, store: SqliteTelemetryStore) -> None:
    """A step is bounded, and says that there is more."""
    fleet = Fleet(world, await world.add_devices(1))
    reports = []
    for _ in range(REPORTS_PER_STEP + 5):
        world.clock.advance(3600)
        reports.append(fleet.report(fleet.ids[0]))
    store.commit([row(fleet.ids[0], canonical_json(each)) for each in reports])
    reading = reader(world, store, fleet)
    assert await reading.read()
    assert not await reading.read()
    (core,) = await fleet.health.of_device(fleet.ids[0])
    assert core.last == reports[-1]


class StalledStore:
    """A message log whose reader is held up while it reads: what happens meanwhile is the test's."""

    def __init__(self, store: SqliteTelemetryStore, meanwhile: Callable[[], Awaitable[None]]) -> None:
        self._store = store
        self._meanwhile = meanwhile

    async def last_id(self) -> int:
        return await self._store.last_id()

    async def tail(self, wanted: MessageFilter, *, after_id: int, limit: int) -> Sequence[StoredMessage]:
        found = await self._store.tail(wanted, after_id=after_id, limit=limit)
        await self._meanwhile()
        return found


async def test_reader_that_wakes_after_another_took_over_takes_nothing(
    world: UpdateWorld, store: SqliteTelemetryStore
) -> None:
    """Nor does it set back how far the log was read; once the lease is free it goes on from there."""
    fleet = Fleet(world, await world.add_devices(1))
    new = reader(world, store, fleet, "new")
    reports = [fleet.report(fleet.ids[0])]
    store.commit([row(fleet.ids[0], canonical_json(reports[0]))])

    async def another_reads() -> None:
        world.clock.advance(3600)
        reports.append(fleet.report(fleet.ids[0]))
        store.commit([row(fleet.ids[0], canonical_json(reports[1]))])
        assert not await new.read()

    stalled = StalledStore(store, another_reads)
    old = HealthReader(
        world.unit_of_work,
        stalled,  # type: ignore[arg-type]  # reads alone
        fleet.health,
        arrived=Signal(),
        clock=world.clock,
        owner="old",
    )
    assert not await old.read()
    (core,) = await fleet.health.of_device(fleet.ids[0])
    assert (core.last, core.past.windows) == (reports[1], 2)
    async with world.unit_of_work() as work:
        lease = await work.leases.acquire(
            "health", "new", now=world.clock.now(), lifetime=LEASE_LIFETIME, largest_gap=LEASE_LIFETIME
        )
    assert lease is not None
    assert lease.event_sequence == await store.last_id()
