"""A device's time line: stops of the flash delay what runs, and flash work goes where no core computes."""

import pytest

from device_sim.cores.device_time import DeviceTime, FlashPlacement, Routine
from protocol.geometry import Core
from tests.unit.device_hardware.device_builder import ManualClock

ERASE = 0.045


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def line(clock: ManualClock, placement: FlashPlacement = FlashPlacement.IN_GAPS) -> DeviceTime:
    return DeviceTime(clock, placement=placement)


def test_line_begins_when_the_device_is_switched_on(clock: ManualClock) -> None:
    """The host's clock may stand anywhere; its moments can be told back."""
    clock.seconds = 1000.0
    time = line(clock)
    clock.seconds = 1002.5
    assert (time.now, time.moment_of(4.0)) == (2.5, 1004.0)


def test_work_takes_its_time_where_nothing_stops_it(clock: ManualClock) -> None:
    """No stop, no delay."""
    assert line(clock).end_of(1.0, 0.3) == 1.3


@pytest.mark.parametrize(
    ("begin", "seconds", "end"),
    [
        (0.0, 1.0, 1.0),  # ends when the stop begins
        (0.5, 1.0, 2.5),  # stopped in the middle
        (1.4, 0.5, 2.5),  # begins while stopped
        (2.0, 0.5, 2.5),  # begins when it goes on
        (0.0, 4.5, 7.5),  # stopped twice
    ],
)
def test_stops_delay_what_runs(clock: ManualClock, begin: float, seconds: float, end: float) -> None:
    """The flash is busy from 1 to 2 and from 4 to 6 seconds."""
    time = line(clock, FlashPlacement.AT_ONCE)
    clock.seconds = 1.0
    time.occupy_flash(1.0)
    clock.seconds = 4.0
    time.occupy_flash(2.0)
    assert time.end_of(begin, seconds) == end


def test_work_at_once_follows_one_on_another(clock: ManualClock) -> None:
    """What is asked for while the flash is busy comes after."""
    time = line(clock, FlashPlacement.AT_ONCE)
    for _ in range(10):
        time.occupy_flash(ERASE)
    assert time.flash_operations == 10
    assert time.flash_busy_seconds == pytest.approx(10 * ERASE)
    assert time.end_of(0.0, 0.1) == pytest.approx(10 * ERASE + 0.1)
    clock.seconds = 1.0
    assert time.flash_busy_seconds == 0


def test_flash_work_goes_where_no_core_computes(clock: ManualClock) -> None:
    """Two cores that overlap: what does not fit before them comes after, and stops none of their inferences."""
    time = line(clock)
    time.expect(Core.M4_0, Routine(begin=0.1, length=0.3, period=1.0))
    time.expect(Core.M4_1, Routine(begin=0.2, length=0.4, period=1.0))
    for _ in range(40):
        time.occupy_flash(ERASE)
    for period in range(10):
        assert time.end_of(0.1 + period, 0.3) == pytest.approx(0.4 + period)
        assert time.end_of(0.2 + period, 0.4) == pytest.approx(0.6 + period)
    # 0.1 s is free before the first inferences: two erases; 0.5 s between the later ones: eleven.
    assert time.flash_busy_seconds == pytest.approx(3.6 + 5 * ERASE)


def test_core_that_rests_is_in_nobodys_way(clock: ManualClock) -> None:
    """A stopped core is no reason to wait."""
    time = line(clock)
    time.expect(Core.M4_0, Routine(begin=0.0, length=0.9, period=1.0))
    time.expect(Core.M4_0, None)
    time.occupy_flash(ERASE)
    assert time.flash_busy_seconds == pytest.approx(ERASE)


def test_core_without_a_pause_gives_up_a_twentieth(clock: ManualClock) -> None:
    """There is no gap, so flash work is spread: 20 erases take 20 times 20 times as long as one."""
    time = line(clock)
    time.expect(Core.M4_0, Routine(begin=0.0, length=1.0, period=1.0))
    for _ in range(20):
        time.occupy_flash(ERASE)
    assert time.flash_busy_seconds == pytest.approx(20 * (20 + 1) * ERASE)


def test_core_that_computes_once_is_waited_for(clock: ManualClock) -> None:
    """One thing after the other, and flash work after all of it."""
    time = line(clock)
    time.occupy_core(Core.M4_0, 0.3)
    time.occupy_core(Core.M4_0, 0.2)
    assert (time.free_from(Core.M4_0, 0.1), time.free_from(Core.M4_1, 0.1)) == (0.5, 0.1)
    time.occupy_flash(ERASE)
    assert time.busy_seconds == pytest.approx(0.5 + ERASE)
    clock.seconds = 2.0
    assert (time.busy_seconds, time.free_from(Core.M4_0, 2.0)) == (0.0, 2.0)


def test_flash_at_once_makes_a_single_run_longer(clock: ManualClock) -> None:
    """What stops the core is added to what it computes."""
    time = line(clock, FlashPlacement.AT_ONCE)
    time.occupy_flash(ERASE)
    time.occupy_core(Core.M4_0, 0.3)
    assert time.busy_seconds == pytest.approx(0.3 + ERASE)


def test_what_is_long_past_is_forgotten(clock: ManualClock) -> None:
    """The line does not grow with the device's life."""
    time = line(clock, FlashPlacement.AT_ONCE)
    for second in range(200):
        clock.seconds = float(second)
        time.occupy_flash(ERASE)
    assert len(time._stalls) < 70
