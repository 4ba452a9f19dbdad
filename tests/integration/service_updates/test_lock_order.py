"""Transactions that need several rollouts on PostgreSQL: one order of locks, and those that were given up."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from protocol.geometry import Slot
from protocol.messages import ActionState
from service.adapters.database.unit_of_work import SqlUnitOfWorkFactory
from service.adapters.database.update_tables import rollouts
from service.application.rollouts import RolloutView
from service.application.transactions import MOST_ATTEMPTS, TransactionGivenUpError, tried_again
from service.domain.membership import StagePlan
from tests.databases import postgresql, postgresql_url
from tests.integration.service_updates.test_must_pass import EVERYBODY, runs, three_releases
from tests.integration.service_updates.timing_world import part_of
from tests.integration.service_updates.update_world import SeededEntropy, UpdateWorld, open_world
from tests.service_folder import make_folders

__all__ = ["postgresql", "postgresql_url"]
BOTH = ((Slot.A7_APPLICATION,), (Slot.M4_0_FIRMWARE,))
PATIENCE_SECONDS = 30


@pytest.fixture
async def world(postgresql_url: str, tmp_path: Path) -> AsyncIterator[UpdateWorld]:
    """A service on PostgreSQL."""
    async with open_world(make_folders(tmp_path / "init"), postgresql_url) as opened:
        yield opened


def id_of(view: RolloutView) -> str:
    return view.stored.rollout.rollout_id


async def version_of(world: UpdateWorld, view: RolloutView) -> int:
    return (await world.rollouts.get(id_of(view))).stored.version


async def two_rollouts(world: UpdateWorld) -> list[RolloutView]:
    """Two rollouts of different slots for everybody."""
    views = []
    for number, slots in enumerate(BOTH):
        await world.release(f"r{number}", slots)
        views.append(await world.roll_out(f"r{number}", (StagePlan(percent=100),)))
        await world.tick()
    return views


async def until_one_waits(world: UpdateWorld) -> None:
    """Return when a transaction waits for a lock."""
    waits = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() and wait_event_type = 'Lock'"
    )
    async with asyncio.timeout(PATIENCE_SECONDS), world.database.engine.connect() as connection:
        while not await connection.scalar(waits):
            await connection.rollback()
            await asyncio.sleep(0.01)


async def lock(connection: AsyncConnection, rollout_id: str, *, nowait: bool = False) -> None:
    which = select(rollouts.c.number).where(rollouts.c.rollout_id == rollout_id)
    await connection.execute(which.with_for_update(key_share=True, nowait=nowait))


async def assert_newest_first(
    world: UpdateWorld, newer: RolloutView, older: RolloutView, step: Coroutine[None, None, object]
) -> None:
    """Hold the newer rollout, and see that a step which waits for it holds the older one not yet."""
    async with world.database.engine.connect() as other:
        await lock(other, id_of(newer))
        task = asyncio.create_task(step)
        await until_one_waits(world)
        await lock(other, id_of(older), nowait=True)
        await other.rollback()
    await task


async def test_report_locks_what_waits_behind_before_what_it_ends(world: UpdateWorld) -> None:
    """The next action in line gets its whole time, and its rollout is the newer one."""
    device = await world.add_device()
    older, newer = await two_rollouts(world)
    await world.director.timestamp(device)
    action = await part_of(world, older, device)
    assert action.state is ActionState.OFFERED
    world.clock.advance(60)
    report = world.report(device, action.action_id, ActionState.CONFIRMED, digests=older.release.digests)
    await assert_newest_first(world, newer, older, report)
    assert (await part_of(world, newer, device)).progressed_at == world.clock.now()


async def test_tick_that_follows_devices_locks_the_newest_rollout_first(world: UpdateWorld) -> None:
    """A device that was blocked leaves both."""
    device = await world.add_device()
    older, newer = await two_rollouts(world)
    await world.change_device(device, "blocked")
    await assert_newest_first(world, newer, older, world.tick())
    assert {(await part_of(world, view, device)).state for view in (older, newer)} == {ActionState.CANCELLED}


async def test_director_locks_the_release_to_pass_through_last(world: UpdateWorld) -> None:
    """It has finished, so its rollout is the older one."""
    first, through, beyond = await three_releases(world)
    other = await world.add_device()
    await runs(world, other, first)
    older = await world.roll_out(through.name, EVERYBODY)
    await world.tick()
    await world.confirm_all(older)
    await world.tick()
    device = await world.add_device()
    await runs(world, device, first)
    newer = await world.roll_out(beyond.name, EVERYBODY)
    await world.tick()
    await assert_newest_first(world, newer, older, world.director.timestamp(device))


async def test_transaction_that_the_database_gave_up_is_done_again(world: UpdateWorld) -> None:
    """Two that lock in opposite order: one is the victim, and both are done in the end."""
    await world.add_device()
    first, second = await two_rollouts(world)
    before = [await version_of(world, view) for view in (first, second)]
    have_locked = [asyncio.Event(), asyncio.Event()]
    attempts = [0, 0]

    @tried_again
    async def cross(number: int, order: tuple[RolloutView, RolloutView]) -> None:
        attempts[number] += 1
        async with world.unit_of_work() as work:
            await work.rollouts.get(id_of(order[0]), lock=True)
            have_locked[number].set()
            await have_locked[1 - number].wait()
            stored = await work.rollouts.get(id_of(order[1]), lock=True)
            await work.rollouts.save(stored, before=stored)
            await work.commit()

    async with asyncio.timeout(PATIENCE_SECONDS):
        await asyncio.gather(cross(0, (first, second)), cross(1, (second, first)))
    assert sorted(attempts) == [1, 2]
    assert [await version_of(world, view) for view in (first, second)] == [version + 1 for version in before]


async def test_transaction_that_is_always_given_up_is_told_of(world: UpdateWorld) -> None:
    """What could not be serialised is tried a few times, no more; other errors are not tried again."""
    factory = SqlUnitOfWorkFactory(world.database, entropy=SeededEntropy())
    attempts = [0, 0]

    @tried_again
    async def fail(number: int, state: str) -> None:
        attempts[number] += 1
        async with factory(read_only=True), world.database.engine.connect() as connection:
            await connection.execute(text(f"DO $$ BEGIN RAISE EXCEPTION 'test' USING ERRCODE = '{state}'; END $$"))

    with pytest.raises(TransactionGivenUpError, match="expected it to be committed, found it given up"):
        await fail(0, "40001")
    with pytest.raises(DBAPIError, match="test"):
        await fail(1, "23505")
    assert attempts == [MOST_ATTEMPTS, 1]
