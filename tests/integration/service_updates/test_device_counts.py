"""How many devices a group or a place has: exact after whatever changed them, though nobody looks at the devices."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import TextClause, func, select, text

from service.adapters.database.device_tables import device_attributes, device_count_changes, device_counts, devices
from service.adapters.database.engine import Database, database_url
from service.adapters.database.migration import migrate
from service.adapters.database.unit_of_work import SqlUnitOfWorkFactory
from service.application.disruption_repository import Place
from service.domain.device import DeviceState
from service.domain.membership import ENROLLED_STATES
from tests.integration.service_updates.test_plan_migration import downgrade_to
from tests.integration.service_updates.timing_world import give
from tests.integration.service_updates.update_world import UpdateWorld, open_world
from tests.postgresql import fresh_database
from tests.service_folder import make_folders

DEVICES = text("UPDATE devices SET state = 'blocked' WHERE device_id = :device_id")
ATTRIBUTES = text("INSERT INTO device_attributes (device_id, name, value) VALUES (:device_id, 'site', 'harbour')")
WAITING = text("SELECT count(*) FROM pg_locks WHERE mode = 'ShareRowExclusiveLock' AND NOT granted")
HARBOUR, AIRPORT = Place("site", "harbour"), Place("site", "airport=old")


async def looked_up(world: UpdateWorld) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """Return the devices of each group that could take a release, and those of each place, by looking at them all."""
    counted = func.count().label("counted")
    members = select(devices.c.group_id, counted).where(devices.c.state.in_(ENROLLED_STATES))
    name = (device_attributes.c.name + "=" + device_attributes.c.value).label("name")
    async with world.database.transaction(read_only=True) as connection:
        groups = await connection.execute(members.group_by(devices.c.group_id))
        places = await connection.execute(select(name, counted).group_by(name))
        return {row.group_id: row.counted for row in groups}, {row.name: row.counted for row in places}


async def check(world: UpdateWorld) -> None:
    """Compare every count that is kept with what is there."""
    groups, places = await looked_up(world)
    async with world.unit_of_work(read_only=True) as work:
        for group in await work.products.page_groups(after_id=None, limit=100):
            assert await work.actions.count_members(group.group_id) == groups.get(group.group_id, 0)
        for place in {HARBOUR, AIRPORT, *map(Place.parse, places)}:
            assert await work.disruptions.members(place) == places.get(str(place), 0)


async def left_to_sum_up(world: UpdateWorld) -> int:
    async with world.database.transaction(read_only=True) as connection:
        return int(await connection.scalar(select(func.count()).select_from(device_count_changes)) or 0)


async def is_waited_for(database: Database) -> bool:
    """Say whether writers are waited for."""
    async with database.engine.connect() as connection:
        return bool(await connection.scalar(WAITING))


@asynccontextmanager
async def opened_at(url: str, revision: str) -> AsyncIterator[Database]:
    """Connect to a database, as an older version has left it."""
    opened = Database(database_url(url))
    try:
        async with opened.engine.begin() as connection:
            await connection.run_sync(downgrade_to, revision)
        yield opened
    finally:
        await opened.close()


async def test_counts_follow_every_change_of_a_device(world: UpdateWorld) -> None:
    """Claims, each state, moves, attributes that come, change and go; before and after they are summed up."""
    first, second, third = await world.add_devices(3)
    await check(world)
    await world.change_device(first, "blocked")
    await world.change_device(second, "moved", group="Development")
    await give(world, third, {"site": "harbour", "ring": "lab"})
    await give(world, second, {"site": "harbour"})
    await check(world)
    await world.tick()
    assert await left_to_sum_up(world) == 0
    await check(world)
    await give(world, third, {"site": "airport=old"})
    await give(world, second, {})
    for state in (*DeviceState, *reversed(DeviceState)):
        async with world.database.transaction(read_only=False) as connection:
            await connection.execute(text("UPDATE devices SET state = :state"), {"state": state})
            await connection.commit()
        await check(world)


async def test_change_that_is_not_committed_counts_nothing(world: UpdateWorld) -> None:
    """The count is part of the transaction that changes the device."""
    (device_id,) = await world.add_devices(1)
    async with world.unit_of_work() as work:
        device = await work.devices.get(device_id)
        await work.devices.save(device.block("test", world.clock.now()), replaces_version=device.version)
        assert await work.actions.count_members(device.group_id) == 0
    await check(world)


async def test_counts_hold_while_devices_join_and_workers_sum_up(world: UpdateWorld) -> None:
    """Several at once: every look finds what it has itself brought, and nothing is counted twice or lost."""
    async with world.unit_of_work(read_only=True) as work:
        group_id = (await work.products.get_group("Production")).group_id

    async def join() -> None:
        for number in range(1, 11):
            await world.add_device()
            async with world.unit_of_work(read_only=True) as work:
                assert number <= await work.actions.count_members(group_id) <= 30

    async def sum_up() -> None:
        for _ in range(20):
            async with world.unit_of_work() as work:
                await work.devices.sum_up_counts(limit=3)
                await work.commit()

    await asyncio.gather(join(), join(), join(), sum_up(), sum_up())
    await check(world)
    async with world.unit_of_work() as work:
        while await work.devices.sum_up_counts(limit=7):
            pass
        await work.commit()
    await check(world)
    async with world.database.transaction(read_only=True) as connection:
        kept = (await connection.execute(select(device_counts))).all()
    assert [(row.counted, row.devices) for row in kept] == [(group_id, 30)]


async def test_no_count_is_kept_of_what_nobody_is_at(world: UpdateWorld) -> None:
    """Devices that go from place to place, two workers that sum up: rows of left places go, and come with devices."""
    first, second = await world.add_devices(2)

    async def sum_up() -> None:
        async with world.unit_of_work() as work:
            await work.devices.sum_up_counts(limit=4)
            await work.commit()

    for number in range(4):
        for device_id in (first, second):
            await give(world, device_id, {"site": f"s{number}"})
        await asyncio.gather(sum_up(), sum_up())
    await give(world, first, {"site": "s0"})
    while await left_to_sum_up(world):
        await sum_up()
    await check(world)
    async with world.database.transaction(read_only=True) as connection:
        kept = await connection.execute(select(device_counts).where(device_counts.c.counted.like("%=%")))
        assert sorted((row.counted, row.devices) for row in kept) == [("site=s0", 1), ("site=s3", 1)]


async def test_migration_counts_what_was_there(database: str, tmp_path: Path) -> None:
    """Devices and places of before, and what an older version of the service has done in between."""
    async with open_world(make_folders(tmp_path / "init"), database) as world:
        first, second = await world.add_devices(2)
        await give(world, first, {"site": "harbour"})
        async with opened_at(database, "0023") as opened:
            await world.change_device(second, "blocked")
            await give(world, second, {"site": "harbour"})
            await migrate(opened)
        await check(world)
        async with SqlUnitOfWorkFactory(world.database)(read_only=True) as work:
            assert await work.disruptions.members(HARBOUR) == 2


@pytest.mark.parametrize("order", [(DEVICES, ATTRIBUTES), (ATTRIBUTES, DEVICES)], ids=["claim", "edit"])
async def test_migration_waits_for_who_is_writing(
    postgresql: str, tmp_path: Path, order: tuple[TextClause, TextClause]
) -> None:
    """An older version is in the middle of a transaction, in either order of the tables: both end well."""
    async with (
        fresh_database(postgresql) as url,
        open_world(make_folders(tmp_path / "init"), url) as world,
        opened_at(url, "0023") as old,
        old.engine.connect() as writer,
    ):
        device_id = await world.add_device()
        await writer.execute(order[0], {"device_id": device_id})
        migrating = asyncio.create_task(migrate(old))
        while not await is_waited_for(old):
            assert not migrating.done()
            await asyncio.sleep(0.01)
        await writer.execute(order[1], {"device_id": device_id})
        await writer.commit()
        await migrating
        await check(world)
        async with world.unit_of_work(read_only=True) as work:
            assert await work.disruptions.members(HARBOUR) == 1
