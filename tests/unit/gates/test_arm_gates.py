"""Gates on two arms: whatever hits everybody halts nothing, what canaries alone have halts, each device counts once."""

from datetime import timedelta

import pytest

from protocol.plan import HealthEvent
from service.domain.gates.arms import AT_ONCE, LONGEST_PERIOD, NONE_YET, PERIOD, Arm, EventGate, Tally
from service.domain.gates.averages import MOST_WAITING
from service.domain.gates.failure_rate import threshold
from service.domain.gates.kept import Kept
from service.domain.gates.means import SMALLEST_SAMPLE
from tests.arm_simulation import EVENTS, HOUR, MEAN, START, Fleet, event_halt, mean_halt

ALPHA, RUNS = 0.05, 30
MOST = ALPHA + 3 * (ALPHA * (1 - ALPHA) / RUNS) ** 0.5


@pytest.mark.parametrize(
    "fleet",
    [
        Fleet(),
        Fleet(ratio=1.5),
        Fleet(frailty=0.3),
        Fleet(frailty=0.3, ratio=1.5, late=0.2),
        Fleet(outage_at=12, restarts=True),
        Fleet(rate=0.002, outage_at=3, late=0.3),
    ],
    ids=["healthy", "tolerated", "frail", "frail-late", "outage", "rare-outage"],
)
def test_release_within_the_tolerance_is_halted_seldom(fleet: Fleet) -> None:
    """At most alpha, within three deviations of the runs; the seed is the run's number."""
    halts = [event_halt(fleet, seed, alpha=ALPHA) is not None for seed in range(RUNS)]
    assert sum(halts) / RUNS <= MOST


def test_release_that_makes_devices_drift_is_halted_early() -> None:
    """Eight times the rate, in nearly every run, while most have a tenth of the devices."""
    halts = [event_halt(Fleet(ratio=8.0), seed, alpha=ALPHA) for seed in range(12)]
    found = sorted(halt for halt in halts if halt is not None)
    assert len(found) >= 11
    assert found[len(found) // 2] <= 90


@pytest.mark.parametrize(("excess", "sway"), [(0.0, 0.0), (0.0, 5.0), (-1.0, 5.0)])
def test_mean_within_what_is_allowed_is_halted_seldom(excess: float, sway: float) -> None:
    """Also exactly at the margin, and while the mean of everybody sways by five deviations."""
    halts = [mean_halt(seed, alpha=ALPHA, excess=excess, sway=sway) for seed in range(2 * RUNS)]
    assert sum(halts) / (2 * RUNS) <= MOST


def test_mean_beyond_the_margin_is_halted() -> None:
    """By a deviation, in spite of the sway."""
    assert all(mean_halt(seed, alpha=ALPHA, excess=1.0, sway=5.0) for seed in range(5))


def seen(kept: Kept, arm: Arm, windows: int, events: int = 0, *, minutes: float = 0.0) -> Kept:
    at = START + timedelta(minutes=minutes)
    for number in range(windows):
        kept = EVENTS.seen(EVENTS.settled(kept, at), arm, is_event=number < events, at=at)
    return kept


def test_period_is_weighed_when_it_is_over_and_both_arms_were_seen() -> None:
    """Neither before its time nor with too few windows of an arm."""
    kept = seen(seen({}, Arm.CANARY, 30, 20), Arm.CONTROL, 30)
    assert EVENTS.log_evidence(kept) == 0
    settled = EVENTS.settled(kept, START + PERIOD)
    assert EVENTS.log_evidence(settled) > threshold(0.01)
    assert EVENTS.figures(settled)["canary.events"] == 20
    few = seen(seen({}, Arm.CANARY, 30, 20), Arm.CONTROL, 9)
    assert EVENTS.log_evidence(EVENTS.settled(few, START + PERIOD)) == 0


def test_windows_without_control_are_let_go_after_a_day() -> None:
    """There is nothing to compare them with, and later control is of another day."""
    kept = EVENTS.settled(seen({}, Arm.CANARY, 100, 50), START + LONGEST_PERIOD)
    assert "period" not in kept
    assert EVENTS.log_evidence(kept) == 0
    assert EVENTS.finding(kept).endswith("found 0 in 0 against control's 0 in 0")


def test_silence_is_looked_for_at_once_and_then_when_a_device_could_have_fallen_silent() -> None:
    """The first look marks the beginning; a gate that does not count silence never looks."""
    assert EVENTS.next_look({}) is None
    gate = EventGate("s", frozenset({HealthEvent.OFFLINE}), EVENTS.test, EVENTS.limits, 8 * HOUR)
    assert gate.next_look({}) == AT_ONCE
    kept = gate.silent({}, NONE_YET, until=START)
    assert gate.next_look(kept) == START + 9 * HOUR
    later = gate.silent(kept, {Arm.CANARY: Tally(20, 15), Arm.CONTROL: Tally(80, 0)}, until=START + HOUR)
    assert gate.log_evidence(later) > threshold(0.01)
    assert gate.silence_since(later) == START + HOUR


def test_mean_waits_for_a_sample_and_for_a_partner() -> None:
    """No test before 30 devices of control; then a canary counts with one of control that reported lately."""
    kept: Kept = {}
    for number in range(SMALLEST_SAMPLE):
        kept, used = MEAN.seen(kept, Arm.CANARY, "c", change=50.0, at=START)
        assert not used
        kept, used = MEAN.seen(kept, Arm.CONTROL, f"{number}", change=number % 3, at=START)
        assert used == {f"{number}"}
    kept, used = MEAN.seen(kept, Arm.CANARY, "c", change=50.0, at=START)
    assert not used
    assert kept["variance"] > 0
    for number in range(100, 110 + MOST_WAITING):
        kept, _ = MEAN.seen(kept, Arm.CONTROL, f"{number}", change=1.0, at=START)
    assert len(kept["waiting"]) == MOST_WAITING
    assert MEAN.seen(kept, Arm.CANARY, "c", change=50.0, at=START + 3 * HOUR)[1] == frozenset()
    kept, used = MEAN.seen(kept, Arm.CANARY, "c", change=50.0, at=START + HOUR)
    assert used == {"c", f"{109 + MOST_WAITING}"}
    assert MEAN.figures(kept)["pairs"] == 1


def test_one_broken_sensor_is_no_mean() -> None:
    """A difference counts as three deviations at most."""
    kept: Kept = {}
    for number in range(40):
        kept, _ = MEAN.seen(kept, Arm.CONTROL, f"{number}", change=number % 3 - 1.0, at=START)
    kept, _ = MEAN.seen(kept, Arm.CANARY, "d", change=0.0, at=START)
    kept, _ = MEAN.seen(kept, Arm.CONTROL, "x", change=0.0, at=START)
    kept, _ = MEAN.seen(kept, Arm.CANARY, "c", change=1e9, at=START)
    assert MEAN.log_evidence(kept) < threshold(0.01)
