"""A real worker in a process of its own, that ends itself by SIGKILL at a statement which its test has chosen."""

import asyncio
import os
import signal
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import event

from service.adapters.clock import SystemClock
from service.adapters.database.engine import Database, database_url
from service.application.rollout_ticks import RolloutTicks
from service.worker import Worker, WorkerPorts
from tests.integration.service_updates.update_world import SeededEntropy, UpdateWorld
from tests.service_folder import Folders

LONGEST_SLEEP_SECONDS = 0.02
DEVICES_PER_STEP = 4  # so that a stage opens in many transactions


@dataclass(frozen=True, slots=True)
class FastClock:
    """Time that runs faster than the system's, alike in all processes.

    Attributes:
        origin: when both were the same, UTC, aware.
        factor: how much faster.
    """

    origin: datetime
    factor: int

    def now(self) -> datetime:
        """Return the time, UTC, aware."""
        return self.origin + (SystemClock().now() - self.origin) * self.factor


@dataclass(frozen=True, slots=True)
class Doomed:
    """A worker to run.

    Attributes:
        dies_at: statement, counted from 1 with each commit, before which it is killed; 0 never.
        seed: of its ids.
    """

    folders: Folders
    url: str
    clock: FastClock
    dies_at: int
    seed: int


def work(doomed: Doomed) -> None:
    """Run a worker until it is killed."""
    asyncio.run(_work(doomed))


async def _work(doomed: Doomed) -> None:
    database = Database(database_url(doomed.url))
    _kill_at(database, doomed.dies_at)
    entropy = SeededEntropy(doomed.seed)
    world = UpdateWorld(doomed.folders, database, clock=doomed.clock, entropy=entropy)  # type: ignore[arg-type]  # a port
    ticks = RolloutTicks(world.unit_of_work, clock=doomed.clock, entropy=entropy, devices_per_step=DEVICES_PER_STEP)
    ports = WorkerPorts(unit_of_work=world.unit_of_work, ticks=ticks, repository=world.repository, clock=doomed.clock)
    await Worker(ports, owner=f"worker-{doomed.seed}", longest_sleep_seconds=LONGEST_SLEEP_SECONDS).run()


def _kill_at(database: Database, number: int) -> None:
    seen = 0

    def count(*_: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)

    for name in ("before_cursor_execute", "commit"):
        event.listen(database.engine.sync_engine, name, count)


def clock_from(now: datetime, factor: int) -> FastClock:
    """Return a clock that begins now; microseconds are kept out of what is compared."""
    return FastClock(now - timedelta(microseconds=now.microsecond), factor)
