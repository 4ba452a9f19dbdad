"""The virtual clock, the scheduler, and use cases that are driven without an event loop."""

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

import pytest

from service.domain.release import UnknownReleaseError
from simulation.clock import VirtualClock
from simulation.devices.pace import Pace
from simulation.driving import drive
from simulation.errors import OutOfReachError, SuspendedError, TransactionError
from simulation.scheduler import NEVER, Scheduler
from simulation.storage.database import MemoryDatabase
from simulation.storage.journal import Journal

START = datetime(2026, 1, 5, 8, tzinfo=UTC)


def scheduler() -> tuple[Scheduler, VirtualClock]:
    clock = VirtualClock(START)
    return Scheduler(clock), clock


def note(heard: list[tuple[str, float]], name: str, now: float) -> None:
    heard.append((name, now))


def once(do: Callable[[float], object]) -> Callable[[float], float]:
    """Return a step that is made once."""

    def step(now: float) -> float:
        do(now)
        return NEVER

    return step


def test_entries_run_in_the_order_of_their_times_and_then_of_their_coming() -> None:
    """Two that are due at once keep the order in which they were put."""
    steps, clock = scheduler()
    heard: list[tuple[str, float]] = []
    for name, due in (("c", 2.0), ("a", 1.0), ("b", 1.0)):
        steps.call(once(partial(note, heard, name)), due)
    steps.run()
    assert heard == [("a", 1.0), ("b", 1.0), ("c", 2.0)]
    assert clock.now() == START.replace(second=2)


def test_entry_that_is_woken_is_stepped_once() -> None:
    """Its earlier time counts, and the later one is stale."""
    steps, clock = scheduler()
    heard: list[float] = []
    entry = steps.call(once(heard.append), 100.0)
    steps.call(once(lambda _now: steps.wake(entry)), 3.0)
    steps.run()
    assert heard == [3.0]
    assert clock.seconds == 3.0


def test_entry_that_is_woken_in_its_own_step_is_stepped_again_at_once() -> None:
    """What came up meanwhile does not wait until the next due time."""
    steps, _ = scheduler()
    heard: list[float] = []

    def step(now: float) -> float:
        heard.append(now)
        if len(heard) == 1:
            steps.put(entry, now)
        return now + 50.0 if len(heard) < 3 else NEVER

    entry = steps.call(step, 1.0)
    steps.run()
    assert heard == [1.0, 1.0, 51.0]


def test_run_up_to_a_time_leaves_the_rest_for_later() -> None:
    """And time stands where it was asked to."""
    steps, clock = scheduler()
    heard: list[float] = []

    def step(now: float) -> float:
        heard.append(now)
        return now + 10.0

    steps.call(step, 10.0)
    steps.run(25.0)
    assert (heard, clock.seconds) == ([10.0, 20.0], 25.0)
    steps.run(30.0)
    assert heard == [10.0, 20.0, 30.0]


def test_stop_ends_the_run_after_the_step() -> None:
    """Whatever else is due stays."""
    steps, _ = scheduler()
    heard: list[float] = []
    steps.call(once(lambda _now: steps.stop()), 1.0)
    steps.call(once(heard.append), 1.0)
    steps.run()
    assert heard == []


def test_coroutine_that_waits_for_a_loop_is_a_clear_error() -> None:
    """Nothing brings what it waits for."""

    async def waits() -> None:
        await asyncio.sleep(0)

    with pytest.raises(SuspendedError, match="expected it to end without waiting"):
        drive(waits())


def test_driven_use_case_returns_and_raises_as_awaited() -> None:
    """Its result comes back, its error goes on."""

    async def counts() -> int:
        return 3

    async def asks() -> None:
        async with MemoryDatabase()(read_only=True) as work:
            await work.releases.get("none")

    assert drive(counts()) == 3
    with pytest.raises(UnknownReleaseError, match="none"):
        drive(asks())


def test_what_no_scenario_reaches_says_so() -> None:
    """Neither an AttributeError nor a silent nothing."""

    async def ask_for_operators() -> None:
        async with MemoryDatabase()() as work:
            await work.operators.all()

    async def ask_for_a_page() -> None:
        async with MemoryDatabase()() as work:
            await work.devices.page(after_id=None, limit=1)

    with pytest.raises(OutOfReachError, match="operators: expected what a scenario reaches, found all"):
        drive(ask_for_operators())
    with pytest.raises(OutOfReachError, match=r"MemoryDevices: .* found page"):
        drive(ask_for_a_page())


def test_second_unit_of_work_beside_an_open_one_is_refused() -> None:
    """Nothing would isolate them."""
    database = MemoryDatabase()

    async def both() -> None:
        async with database():
            database()

    with pytest.raises(TransactionError, match="one at a time"):
        drive(both())


def test_change_in_a_read_only_unit_of_work_is_refused() -> None:
    """As a database would."""
    journal = Journal()
    journal.is_read_only = True
    with pytest.raises(TransactionError, match="no change in a read-only one"):
        journal.put({}, "key", 1)


@pytest.mark.parametrize("until", [50.0, 5_000.0, 500_000.0])
def test_polls_that_are_made_up_for_are_as_many_as_the_pace_says(until: float) -> None:
    """Whether they are drawn one by one or many at once, and across a change of the pace."""
    pace = Pace()
    pace.change(0.0, 10.0)
    pace.change(until / 2, 20.0)
    rng = random.Random(1)  # noqa: S311 - repeatable
    polls = pace.pass_by(3.0, until, rng, each_seconds=0.0)
    assert polls.count == pytest.approx(until / 2 / 10 + until / 2 / 20, rel=0.05, abs=1)
    assert polls.latest <= until < polls.following
