"""The worker: one of two acts, metadata is kept fresh, connected devices are woken, and concurrent reports count."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from protocol.messages import CHECK_UPDATE, ActionState
from service.adapters.telemetry.sqlite import SqliteTelemetryStore
from service.application import retention
from service.application.retention import Retention
from service.application.unit_of_work import UnitOfWork
from service.application.update_facts import UpdateFacts
from service.application.update_repositories import MetadataRole, RepositoryName
from service.domain.membership import StagePlan
from service.domain.rollout import RolloutState
from service.worker import LEASE_LIFETIME, Housekeeping, Waker, Worker, WorkerPorts
from tests.integration.service_updates.timing_world import give
from tests.integration.service_updates.update_world import RELEASER, UpdateWorld

EVERYONE = (StagePlan(percent=100),)


class NotedHints:
    """A gateway that notes the hints it is given."""

    def __init__(self) -> None:
        self.hints: list[tuple[str, str]] = []

    def notify(self, device_id: str, name: str, payload: bytes = b"") -> bool:
        self.hints.append((device_id, name))
        return not payload


def worker_of(world: UpdateWorld, owner: str, *housekeeping: Housekeeping) -> Worker:
    ports = WorkerPorts(
        unit_of_work=world.unit_of_work,
        ticks=world.ticks,
        repository=world.repository,
        clock=world.clock,
        housekeeping=housekeeping,
    )
    return Worker(ports, owner=owner, longest_sleep_seconds=0.05)


async def drain(worker: Worker) -> int:
    rounds = 0
    while await worker.work():
        rounds += 1
    return rounds


async def test_one_of_two_workers_acts_and_the_other_takes_over(world: UpdateWorld) -> None:
    """The second worker does nothing while the first holds the lease, and goes on when it is gone."""
    await world.add_devices(3)
    await world.release("first")
    first, second = worker_of(world, "first"), worker_of(world, "second")
    await drain(first)
    rollout = await world.roll_out("first", EVERYONE)
    assert await drain(second) == 0
    assert await world.actions(rollout) == []
    world.clock.advance(LEASE_LIFETIME.total_seconds() + 1)
    assert await drain(second) > 0
    assert await drain(first) == 0
    assert len(await world.actions(rollout)) == 3


async def test_worker_that_wakes_after_another_took_over_stands_back(world: UpdateWorld) -> None:
    """It has held the lease for too long: what it would do is rolled back, and the other one goes on."""
    await world.release("first")
    first, second = worker_of(world, "first"), worker_of(world, "second")
    await drain(first)
    await world.add_devices(2)
    world.clock.advance(LEASE_LIFETIME.total_seconds() / 4)
    async with world.unit_of_work() as work:  # by a clock that is ahead of this one
        ahead = world.clock.now() + 2 * LEASE_LIFETIME
        await work.leases.acquire("rollouts", "second", now=ahead, lifetime=LEASE_LIFETIME, largest_gap=LEASE_LIFETIME)
        await work.commit()
    assert not await first.work()
    assert not first.leads
    world.clock.advance(4 * LEASE_LIFETIME.total_seconds())
    assert await drain(second) > 0


async def test_long_housekeeping_holds_up_no_rollout_and_keeps_the_lease(world: UpdateWorld) -> None:
    """Each of its steps takes half of the lease's life, and there is always one more: stages open, and it stays led."""

    async def keep(_: datetime) -> bool:
        world.clock.advance(LEASE_LIFETIME.total_seconds() / 2)
        return True

    await world.add_devices(3)
    await world.release("first")
    worker = worker_of(world, "first", keep)
    assert await worker.work()
    rollout = await world.roll_out("first", EVERYONE)
    for _ in range(10):
        assert await worker.work()
        assert worker.leads
    assert len(await world.actions(rollout)) == 3


async def test_housekeeping_takes_what_is_left_in_turn_once_an_hour(world: UpdateWorld) -> None:
    """One says twice that it has more; the other is called once; an hour later both are called again."""
    called: list[str] = []

    async def long(_: datetime) -> bool:
        called.append("long")
        return len(called) % 4 != 3

    async def short(_: datetime) -> None:
        called.append("short")

    worker = worker_of(world, "first", long, short)
    for _ in range(2):
        await drain(worker)
        await drain(worker)
        world.clock.advance(3600)
    assert called == ["long", "long", "long", "short"] * 2


async def test_housekeeping_ends_while_devices_change(
    world: UpdateWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody writes before its every transaction: what was there is summed up in batches, what came since is left."""
    monkeypatch.setattr(retention, "COUNTS_BATCH_ROWS", 5)
    ids = await world.add_devices(6)
    written = 0

    @asynccontextmanager
    async def busy(*, read_only: bool = False) -> AsyncIterator[UnitOfWork]:
        nonlocal written
        written += 1
        await give(world, ids[0], {"site": f"s{written}"})
        async with world.unit_of_work(read_only=read_only) as work:
            yield work

    telemetry = await SqliteTelemetryStore.open(tmp_path / "telemetry.db")
    try:
        kept = Retention(busy, telemetry, telemetry_age=timedelta(days=1), event_age=timedelta(days=1))
        await drain(worker_of(world, "first", kept.keep_house))
    finally:
        await telemetry.close()
    assert 1 < written < 20


async def test_metadata_is_signed_anew_before_it_expires(world: UpdateWorld) -> None:
    """Half of a timestamp's life is over: a new one comes into force, and so does a snapshot after its half."""
    worker = worker_of(world, "worker")
    await drain(worker)
    before = await world.repository.file(RepositoryName.IMAGE, MetadataRole.TIMESTAMP)
    snapshot = await world.repository.file(RepositoryName.IMAGE, MetadataRole.SNAPSHOT)
    world.clock.advance(12 * 3600)
    await drain(worker)
    after = await world.repository.file(RepositoryName.IMAGE, MetadataRole.TIMESTAMP)
    assert after.version > before.version
    assert after.expires_at == before.expires_at + timedelta(hours=12)
    world.clock.advance(4 * 86_400)
    await drain(worker)
    renewed = await world.repository.file(RepositoryName.IMAGE, MetadataRole.SNAPSHOT)
    assert renewed.version > snapshot.version


async def test_devices_are_woken_when_something_waits(world: UpdateWorld) -> None:
    """A scheduled action and a resumed rollout wake their devices; a paused one wakes nobody."""
    device, other = await world.add_devices(2)
    gateway = NotedHints()
    world.feed.subscribe(Waker(world.pending, gateway).hear)  # type: ignore[arg-type]  # only hints are given
    await world.release("first")
    rollout = await world.roll_out("first", EVERYONE)
    await world.tick()
    assert sorted(gateway.hints) == sorted([(device, CHECK_UPDATE), (other, CHECK_UPDATE)])
    gateway.hints.clear()
    await world.rollouts.pause(RELEASER, rollout.stored.rollout.rollout_id)
    await world.tick()
    assert gateway.hints == []
    await world.rollouts.resume(RELEASER, rollout.stored.rollout.rollout_id)
    await world.tick()
    assert sorted(gateway.hints) == sorted([(device, CHECK_UPDATE), (other, CHECK_UPDATE)])


async def test_reports_at_the_same_time_are_all_counted(world: UpdateWorld) -> None:
    """Concurrent transactions on one rollout lose no count, and doubles count once."""
    await world.add_devices(8)
    await world.release("first")
    rollout = await world.roll_out("first", EVERYONE)
    await world.tick()
    actions = [numbered.action for numbered in await world.actions(rollout)]
    digests = rollout.release.digests
    async with asyncio.TaskGroup() as tasks:
        for action in actions * 2:
            sent = world.report(action.device_id, action.action_id, ActionState.CONFIRMED, digests=digests)
            tasks.create_task(sent)
    view = await world.rollouts.get(rollout.stored.rollout.rollout_id)
    assert view.stored.rollout.stages[0].counts.succeeded == 8
    assert view.stored.rollout.state is RolloutState.FINISHED


async def test_operator_learns_why_a_device_does_not_update(world: UpdateWorld) -> None:
    """No rollout, waiting for a stage, updating, confirmed: each in words."""
    devices = await world.add_devices(2)
    facts = UpdateFacts(world.unit_of_work)
    async with world.unit_of_work(read_only=True) as work:
        group_id = (await work.products.get_group("Production")).group_id
    assert (await facts.for_device(devices[0], group_id=group_id)).reasons == ["no rollout for the device's group"]
    await world.release("first")
    rollout = await world.roll_out("first", (StagePlan(count=1), StagePlan(percent=100)))
    await world.tick()
    (canary,) = await world.actions(rollout)
    other = next(device for device in devices if device != canary.action.device_id)
    updating = await facts.for_device(canary.action.device_id, group_id=group_id)
    assert (updating.updating, updating.release, updating.reasons) == (True, "first", [])
    (reason,) = (await facts.for_device(other, group_id=group_id)).reasons
    assert "waiting for stage 2, which is waiting" in reason
    await world.confirm_all(rollout)
    done = await facts.for_device(canary.action.device_id, group_id=group_id)
    assert (done.updating, done.reasons) == (False, ["release first is confirmed"])
