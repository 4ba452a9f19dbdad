"""Scheduler, timetable and backoff: what is due is done, once at a time, and in the order of its time."""

import math
import random
import threading
from collections.abc import Callable

import pytest

from device_sim.adapters.clock import WallClock
from device_sim.runtime.backoff import Backoff
from device_sim.runtime.scheduler import Scheduler, Steppable
from device_sim.runtime.timetable import NEVER, Timetable
from tests.unit.device_hardware.device_builder import ManualClock

SECONDS = 20


class Counted:
    """A device that does what it is told and counts its steps."""

    def __init__(self, step: Callable[[int], float]) -> None:
        self.steps = 0
        self.at_once = 0
        self.most_at_once = 0
        self._step = step

    def step(self, now: float) -> float:
        del now
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.steps += 1
        try:
            return self._step(self.steps)
        finally:
            self.at_once -= 1


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def scheduler(clock: ManualClock, crashes: list[tuple[Steppable, Exception]], workers: int = 4) -> Scheduler:
    return Scheduler(clock, workers=workers, on_crash=lambda device, error: crashes.append((device, error)))


def test_device_is_stepped_until_it_rests(clock: ManualClock) -> None:
    """Infinity means never again; other devices go on."""
    done = threading.Event()

    def last(step: int) -> float:
        if step == 50:
            done.set()
            return math.inf
        return 0.0

    devices = [Counted(lambda step: math.inf if step == 3 else 0.0), Counted(last)]
    running = scheduler(clock, [])
    for device in devices:
        running.add(device, due=0.0)
    running.start()
    assert done.wait(SECONDS)
    running.stop()
    assert [device.steps for device in devices] == [3, 50]


def test_wake_steps_a_device_before_its_time(clock: ManualClock) -> None:
    """A command over MQTT does not wait for the next poll."""
    stepped = [threading.Event(), threading.Event()]

    def step(number: int) -> float:
        stepped[number - 1].set()
        return 1e9 if number == 1 else math.inf

    device = Counted(step)
    running = scheduler(clock, [])
    running.add(device, due=0.0)
    running.start()
    assert stepped[0].wait(SECONDS)
    running.wake(device)
    assert stepped[1].wait(SECONDS)
    running.stop()
    assert device.steps == 2


def test_wake_during_a_step_brings_another_step(clock: ManualClock) -> None:
    """What arrives while a device is busy is not forgotten, and no second thread enters it."""
    entered, go_on, again = threading.Event(), threading.Event(), threading.Event()

    def step(number: int) -> float:
        if number == 1:
            entered.set()
            assert go_on.wait(SECONDS)
            return 1e9
        again.set()
        return math.inf

    device = Counted(step)
    running = scheduler(clock, [])
    running.add(device, due=0.0)
    running.start()
    assert entered.wait(SECONDS)
    running.wake(device)
    running.wake(device)
    go_on.set()
    assert again.wait(SECONDS)
    running.stop()
    assert (device.steps, device.most_at_once) == (2, 1)


def test_devices_that_are_due_together_are_stepped_together(clock: ManualClock) -> None:
    """A step that waits for its service keeps no other device from its own, as long as there are threads."""
    met = threading.Event()
    everybody = threading.Barrier(4, action=met.set)

    def meet(_step: int) -> float:
        everybody.wait(SECONDS)
        return math.inf

    crashes: list[tuple[Steppable, Exception]] = []
    devices = [Counted(meet) for _ in range(4)]
    running = scheduler(clock, crashes, workers=4)
    running.start()
    for device in devices:
        running.add(device, due=0.0)
    assert met.wait(SECONDS)
    running.stop()
    assert not crashes


def test_earlier_device_is_not_kept_waiting_by_a_later_one() -> None:
    """The thread that watches the clock for one device looks again when another is due before it."""
    stepped = threading.Event()

    def step(_number: int) -> float:
        stepped.set()
        return math.inf

    running = Scheduler(WallClock(), workers=3, on_crash=lambda *_: None)
    running.start()
    running.add(Counted(lambda _: math.inf), due=WallClock().monotonic() + 3600)
    running.add(Counted(step), due=WallClock().monotonic())
    assert stepped.wait(SECONDS)
    running.stop()


def test_crashed_device_is_told_and_left_alone(clock: ManualClock) -> None:
    """A fault of the simulator in one device does not end the others."""

    def crash(_step: int) -> float:
        raise ValueError("broken")

    done = threading.Event()

    def good(step: int) -> float:
        if step == 10:
            done.set()
        return 0.0 if step < 10 else math.inf

    crashes: list[tuple[Steppable, Exception]] = []
    bad, healthy = Counted(crash), Counted(good)
    running = scheduler(clock, crashes, workers=1)
    running.add(bad, due=0.0)
    running.add(healthy, due=0.0)
    running.start()
    assert done.wait(SECONDS)
    running.stop()
    assert [(device, str(error)) for device, error in crashes] == [(bad, "broken")]
    assert bad.steps == 1


def test_timetable_runs_what_is_due_in_order() -> None:
    """Jobs of one call run by their times; what is not due waits."""
    ran: list[str] = []
    table = Timetable()

    def job(name: str) -> Callable[[float], float]:
        def run(now: float) -> float:
            ran.append(name)
            return now + 10

        return run

    for name, due in (("late", 3.0), ("first", 1.0), ("second", 2.0)):
        table.set(name, job(name), due=due)
    assert table.run(2.5) == 3.0
    assert ran == ["first", "second"]


def test_job_that_is_advanced_while_it_runs_is_due_again() -> None:
    """An advance by a job's own work is not overwritten by what the job returns."""
    table = Timetable()

    def job(_now: float) -> float:
        table.advance("job", 5.0)
        return NEVER

    table.set("job", job, due=0.0)
    assert table.run(1.0) == 5.0


def test_empty_timetable_is_never_due() -> None:
    """A device without jobs rests."""
    assert Timetable().run(1.0) == NEVER


@pytest.mark.parametrize(("failures", "longest"), [(0, 2.0), (1, 2.0), (2, 4.0), (5, 30.0), (10_000, 30.0)])
def test_pauses_double_up_to_a_limit_with_jitter(failures: int, longest: float) -> None:
    """Each pause lies between half and all of its length."""
    backoff = Backoff(2.0, 30.0, random.Random(7))  # noqa: S311 - jitter
    pauses = [backoff.pause_seconds(failures) for _ in range(100)]
    assert all(longest / 2 <= pause <= longest for pause in pauses)
    assert len(set(pauses)) > 90
