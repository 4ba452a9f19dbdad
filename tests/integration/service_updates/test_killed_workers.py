"""Several workers on PostgreSQL, killed by SIGKILL in the middle of whatever they do, and devices that go on reporting.

The moments are seeded: each worker is killed before its n-th statement or commit. Whatever they leave, others end it.
"""

import asyncio
import multiprocessing
import random
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from protocol.messages import ActionState, Cause
from protocol.plan import EvidenceGates, Plan, PlanStage
from service.adapters.clock import SystemClock
from service.adapters.database.engine import Database, database_url
from service.adapters.database.migration import migrate
from service.application.rollouts import NewRollout, RolloutView
from service.domain.action import Action
from service.domain.rollout import RolloutState
from service.domain.verdict import Decision
from tests.databases import postgresql, postgresql_url
from tests.integration.service_updates.test_rollbacks import devices_of, release_with_way_back
from tests.integration.service_updates.update_world import RELEASER, UpdateWorld
from tests.rollout_worker_process import Doomed, FastClock, clock_from, work
from tests.service_folder import Folders, make_folders

__all__ = ["postgresql", "postgresql_url"]

pytestmark = pytest.mark.timeout(120)
FACTOR = 40  # a dead leader's lease is over after 0.4 s
KILLS = 20
WORKERS = 2
PATIENCE_SECONDS = 90
PLAN = Plan(
    stages=(PlanStage(count=4), PlanStage(percent=50), PlanStage(percent=100)),
    gates=EvidenceGates(),
    roll_back=True,
)


@dataclass
class Nursery:
    """Starts workers, each to be killed at a moment of the seed, and the last ones never."""

    folders: Folders
    url: str
    clock: FastClock
    random: random.Random
    alive: list[ForkServerProcess] = field(default_factory=list)
    started: int = 0
    killed: int = 0

    def refill(self) -> None:
        """Put another one in the place of each that has died."""
        gone = [process for process in self.alive if process.exitcode is not None]
        assert all(process.exitcode == -signal.SIGKILL for process in gone), [process.exitcode for process in gone]
        self.killed += len(gone)
        self.alive = [process for process in self.alive if process not in gone]
        while len(self.alive) < WORKERS:
            self.started += 1
            dies_at = int(3 * 100 ** self.random.random()) if self.started <= KILLS else 0
            doomed = Doomed(self.folders, self.url, self.clock, dies_at, self.started)
            process = multiprocessing.get_context("forkserver").Process(target=work, args=(doomed,), daemon=True)
            process.start()
            self.alive.append(process)


@contextmanager
def nursery(folders: Folders, url: str, clock: FastClock, seed: int) -> Iterator[Nursery]:
    """Run workers, and leave none behind."""
    sys.stdout.write(f"\nseed {seed}\n")
    multiprocessing.get_context("forkserver").set_forkserver_preload(["tests.rollout_worker_process"])
    opened = Nursery(folders, url, clock, random.Random(seed))  # noqa: S311 - repeatable, not secret
    try:
        yield opened
    finally:
        for process in opened.alive:
            process.kill()
            process.join()


async def speak(world: UpdateWorld, rollout_id: str, outcome: ActionState) -> None:
    """Let every device that waits be given the release and say how it went, at once."""
    view = await world.rollouts.get(rollout_id)
    found = await world.rollouts.actions(rollout_id, after_number=0, limit=10_000)
    for action in [n.action for n in found if not n.action.state.is_final]:
        await world.director.timestamp(action.device_id)
        await _end(world, action, outcome, view)


async def _end(world: UpdateWorld, action: Action, outcome: ActionState, view: RolloutView) -> None:
    async with world.unit_of_work(read_only=True) as work:
        current = await work.actions.get(action.action_id)
    if current.state is not ActionState.OFFERED:
        return
    is_good = outcome is ActionState.CONFIRMED
    digests, cause = (view.release.digests, None) if is_good else ({}, Cause.HANG)
    await world.report(action.device_id, action.action_id, outcome, cause=cause, digests=digests)


async def run(world: UpdateWorld, workers: Nursery, rollout_id: str, outcome: ActionState) -> RolloutView:
    """Drive a rollout to its end, and the workers until the last one that dies has died."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            await asyncio.to_thread(workers.refill)
            await speak(world, rollout_id, outcome)
            view = await world.rollouts.get(rollout_id)
            if view.stored.rollout.state.is_over and view.stored.look_at is None:
                return view
            await asyncio.sleep(0.01)


async def check_counts(world: UpdateWorld, view: RolloutView) -> None:
    """Every device has one action, and the counters are what the actions say."""
    actions = [numbered.action for numbered in await world.actions(view)]
    assert len({action.device_id for action in actions}) == len(actions)
    for stage in view.stored.rollout.stages:
        mine = Counter(action.state for action in actions if action.stage_index == stage.index)
        assert stage.counts.succeeded == mine[ActionState.CONFIRMED]
        assert (
            stage.counts.failed == mine[ActionState.REVERTED] + mine[ActionState.FAILED] + mine[ActionState.TIMED_OUT]
        )
        assert stage.counts.cancelled == mine[ActionState.CANCELLED]
        assert stage.counts.scheduled == mine[ActionState.SCHEDULED] == 0
        assert stage.cut is not None
        assert sum(mine.values()) <= stage.cut.planned


async def decisions_of(world: UpdateWorld, rollout_id: str) -> Counter[tuple[Decision, int | None]]:
    found = await world.rollouts.verdicts(rollout_id, after_number=0, limit=100)
    return Counter((stored.verdict.decision, stored.verdict.stage_index) for stored in found)


@pytest.fixture
async def fast_world(postgresql_url: str, tmp_path: Path) -> UpdateWorld:
    """The update half on PostgreSQL, under a clock that runs fast."""
    database = Database(database_url(postgresql_url))
    await migrate(database)
    clock = clock_from(SystemClock().now(), FACTOR)
    world = UpdateWorld(make_folders(tmp_path / "init"), database, clock=clock)  # type: ignore[arg-type]  # a port
    await world.begin()
    return world


async def start(world: UpdateWorld, release: str) -> str:
    await world.tick()  # what has happened to devices until now
    view = await world.rollouts.create(RELEASER, NewRollout(release, "Production", None, PLAN), start_now=True)
    return view.stored.rollout.rollout_id


@pytest.mark.parametrize("seed", [1, 2])
async def test_killed_workers_bring_a_good_release_to_everybody_once(
    fast_world: UpdateWorld, postgresql_url: str, seed: int
) -> None:
    """Every stage opens, passes and ends once, and nobody is left out or counted twice."""
    world = fast_world
    await world.add_devices(40)
    await world.release("first")
    rollout_id = await start(world, "first")
    with nursery(world.folders, postgresql_url, world.clock, seed) as workers:  # type: ignore[arg-type]  # as above
        view = await run(world, workers, rollout_id, ActionState.CONFIRMED)
    assert view.stored.rollout.state is RolloutState.FINISHED
    await check_counts(world, view)
    assert sum(stage.counts.succeeded for stage in view.stored.rollout.stages) == 40
    expected = {(decision, index) for decision in ("opened", "shown", "passed") for index in range(3)}
    assert await decisions_of(world, rollout_id) == Counter({*expected, ("finished", None)})
    sys.stdout.write(f"{workers.killed} workers were killed\n")
    await world.database.close()


@pytest.mark.parametrize("seed", [3, 4])
async def test_killed_workers_lose_no_halt_and_start_one_rollback(
    fast_world: UpdateWorld, postgresql_url: str, seed: int
) -> None:
    """A bad release halts once, and exactly those who took it are brought back by one rollback."""
    world = fast_world
    await world.add_devices(30)
    await release_with_way_back(world)
    rollout_id = await start(world, "second")
    with nursery(world.folders, postgresql_url, world.clock, seed) as workers:  # type: ignore[arg-type]  # as above
        view = await run(world, workers, rollout_id, ActionState.REVERTED)
        (undoing,) = [v for v in await world.rollouts.page(before_number=None, limit=10) if v.stored.rollout.undoes]
        back = await run(world, workers, undoing.stored.rollout.rollout_id, ActionState.CONFIRMED)
    assert (view.stored.rollout.state, back.stored.rollout.state) == (RolloutState.HALTED, RolloutState.FINISHED)
    assert back.stored.rollout.undoes == rollout_id
    await check_counts(world, view)
    await check_counts(world, back)
    took = {n.action.device_id for n in await world.actions(view) if n.action.offered}
    assert await devices_of(world, back) == took
    decisions = await decisions_of(world, rollout_id)
    assert decisions == Counter({(Decision.OPENED, 0): 1, (Decision.HALTED, 0): 1, (Decision.ROLLED_BACK, None): 1})
    sys.stdout.write(f"{workers.killed} workers were killed\n")
    await world.database.close()
