"""Gates on two arms: whatever hits everybody halts nothing, what canaries alone have halts, each device counts once."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.plan import HealthEvent
from service.domain.gates.arms import AT_ONCE, NONE_YET, Arm, EventGate, Tally
from service.domain.gates.averages import MOST_WAITING
from service.domain.gates.control import RATIOS
from service.domain.gates.failure_rate import threshold
from service.domain.gates.kept import Kept
from tests.arm_simulation import EVENTS, HOUR, MEAN, START, Fleet, event_halt, mean_halt, tallied_halt

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
        Fleet(devices=500, reached=(0.02,), rate=0.005, alone=6, dusk=0.3, hours=3),
        Fleet(devices=300, reached=(0.04,), rate=0.002, alone=12, dusk=0.5, hours=3),
        Fleet(windows=(6, 6)),
        Fleet(windows=(6, 1), ratio=1.5),
    ],
    ids=[
        "healthy",
        "tolerated",
        "frail",
        "frail-late",
        "outage",
        "rare-outage",
        "dusk",
        "late-dusk",
        "short",
        "shorter",
    ],
)
def test_release_within_the_tolerance_is_halted_seldom(fleet: Fleet) -> None:
    """At most alpha, within three deviations of the runs; the seed is the run's number."""
    halts = [event_halt(fleet, seed, alpha=ALPHA) is not None for seed in range(RUNS)]
    assert sum(halts) / RUNS <= MOST


@pytest.mark.parametrize(
    "fleet",
    [Fleet(ratio=8.0), Fleet(ratio=4.0, frailty=0.3, late=0.3), Fleet(ratio=6.0, windows=(4, 2), late=0.2)],
    ids=["plain", "late", "windows"],
)
def test_sums_of_an_hour_say_what_its_windows_say(fleet: Fleet) -> None:
    """Benchmarks tell the gate the sums, and the service window by window."""
    halts = [event_halt(fleet, seed, alpha=0.01) for seed in range(5)]
    assert halts == [tallied_halt(fleet, seed, alpha=0.01) for seed in range(5)]
    assert any(halts)


def test_release_that_makes_devices_drift_is_halted_early() -> None:
    """Eight times the rate, in nearly every run, while most have a tenth of the devices."""
    halts = [event_halt(Fleet(ratio=8.0), seed, alpha=ALPHA) for seed in range(12)]
    found = sorted(halt for halt in halts if halt is not None)
    assert len(found) >= 11
    assert found[len(found) // 2] <= 90


@pytest.mark.parametrize(
    ("excess", "sway", "spread"), [(0.0, 0.0, 1.0), (0.0, 5.0, 1.0), (-1.0, 5.0, 1.0), (0.0, 0.0, 4.0), (0.0, 0.0, 8.0)]
)
def test_mean_within_what_is_allowed_is_halted_seldom(excess: float, sway: float, spread: float) -> None:
    """Also exactly at the margin, while the mean of everybody sways, and where canaries spread much more."""
    halts = [mean_halt(seed, alpha=ALPHA, excess=excess, sway=sway, spread=spread) for seed in range(2 * RUNS)]
    assert sum(halts) / (2 * RUNS) <= MOST


def test_mean_beyond_the_margin_is_halted() -> None:
    """By a deviation, in spite of the sway."""
    assert all(mean_halt(seed, alpha=ALPHA, excess=1.0, sway=5.0) for seed in range(5))


def seen(kept: Kept, arm: Arm, cores: int, events: int = 0, *, slot: int = 0) -> Kept:
    for number in range(cores):
        kept = EVENTS.seen(EVENTS.settled(kept, slot), arm, is_new=True, is_event=number < events, slot=slot)
    return kept


def test_slot_is_weighed_when_it_is_over() -> None:
    """Not before; further windows of a core bring its event, and no more time at risk."""
    kept = seen(seen({}, Arm.CANARY, 30, 19), Arm.CONTROL, 30)
    kept = EVENTS.seen(kept, Arm.CANARY, is_new=False, is_event=True, slot=0)
    assert EVENTS.settled(kept, 0) == kept
    assert EVENTS.log_evidence(kept) == 0
    settled = EVENTS.settled(kept, 1)
    assert EVENTS.log_evidence(settled) > threshold(0.01)
    assert EVENTS.figures(settled)["canary.events"] == 20
    assert EVENTS.figures(settled)["canary.at_risk"] == 30


def test_slot_that_one_arm_was_heard_in_is_let_go() -> None:
    """There is nothing to compare it with, and other slots are of other hours."""
    alone = seen({}, Arm.CANARY, 100, 50)
    assert (EVENTS.let_go(alone, 0), EVENTS.let_go(alone, 1)) == (None, 0)
    kept = EVENTS.settled(alone, 1)
    assert "slot" not in kept
    assert EVENTS.log_evidence(kept) == 0
    assert EVENTS.finding(kept).endswith("found 0 in 0 against control's 0 in 0")
    kept = seen(kept, Arm.CONTROL, 100, slot=1)
    assert EVENTS.let_go(kept, 2) is None  # nobody has had an event
    both = seen(seen({}, Arm.CANARY, 10, 5), Arm.CONTROL, 10)
    assert EVENTS.let_go(both, 1) is None  # it is weighed
    assert EVENTS.log_evidence(EVENTS.settled(kept, 2)) == 0


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


def test_canary_counts_with_a_device_of_control_of_its_own_hours() -> None:
    """With the nearest of them, the last that told of equals, and not with one of long before; who waits is bounded."""
    kept, used = MEAN.seen({}, Arm.CANARY, "c", change=50.0, at=START)
    assert not used
    for number in range(10 + MOST_WAITING):
        kept, used = MEAN.seen(kept, Arm.CONTROL, f"{number}", change=1.0, at=START)
        assert not used
    assert len(kept["waiting"]) == MOST_WAITING
    assert MEAN.seen(kept, Arm.CANARY, "c", change=50.0, at=START + HOUR)[1] == frozenset()
    later, _ = MEAN.seen(kept, Arm.CONTROL, "later", change=1.0, at=START + HOUR)
    assert MEAN.seen(later, Arm.CANARY, "c", change=50.0, at=START + 0.6 * HOUR)[1] == {"c", "later"}
    kept, used = MEAN.seen(kept, Arm.CANARY, "c", change=50.0, at=START + 0.5 * HOUR)
    assert used == {"c", f"{9 + MOST_WAITING}"}
    assert MEAN.figures(kept)["pairs"] == 1


def test_window_that_comes_late_is_compared_with_what_others_did_then() -> None:
    """Not with what they tell when it comes, of which everybody may have changed; nor does it take anybody away."""
    morning, evening = START, START + 9 * HOUR
    kept, _ = MEAN.seen({}, Arm.CONTROL, "m", change=30.0, at=morning)
    kept, _ = MEAN.seen(kept, Arm.CONTROL, "e", change=0.0, at=evening)
    assert MEAN.seen(kept, Arm.CANARY, "c", change=36.0, at=START + 4 * HOUR) == (kept, frozenset())
    kept, used = MEAN.seen(kept, Arm.CANARY, "c", change=36.0, at=morning + 0.5 * HOUR)
    assert used == {"c", "m"}
    assert MEAN.figures(kept)["change"] == 6.0
    assert MEAN.seen(kept, Arm.CANARY, "d", change=6.0, at=evening - 0.5 * HOUR)[1] == {"d", "e"}


def test_device_that_was_given_the_release_is_not_its_own_partner_nor_anothers() -> None:
    """What it told before it had the release is gone with its pair, or it would count twice."""
    kept, _ = MEAN.seen({}, Arm.CONTROL, "other", change=0.0, at=START)
    kept, _ = MEAN.seen(kept, Arm.CONTROL, "moved", change=0.0, at=START)
    kept, used = MEAN.seen(kept, Arm.CANARY, "moved", change=6.0, at=START)
    assert used == {"moved", "other"}
    assert MEAN.seen(kept, Arm.CANARY, "next", change=6.0, at=START)[1] == frozenset()


@pytest.mark.parametrize("lie", [1e9, -1e9])
def test_one_device_neither_halts_nor_blinds(lie: float) -> None:
    """Its difference is cut at the bound: one pair against 16 that are far beyond the margin."""
    kept: Kept = {}
    for number in range(17):
        change = lie if number == 0 else 0.0
        kept, _ = MEAN.seen(kept, Arm.CONTROL, f"{number}", change=change, at=START)
        kept, _ = MEAN.seen(kept, Arm.CANARY, f"c{number}", change=50.0, at=START)
        if number == 0:
            assert MEAN.log_evidence(kept) < threshold(0.5)
    assert MEAN.log_evidence(kept) > threshold(0.01)


@settings(max_examples=200, deadline=None)
@given(wealth=st.lists(st.floats(-5, 2), min_size=RATIOS.size, max_size=RATIOS.size))
def test_gate_that_may_not_halt_has_no_evidence(wealth: list[float]) -> None:
    """None of the averaged is above 1, so the average is not."""
    kept = {"wealth": wealth}
    assert EVENTS.may_halt(kept) or EVENTS.log_evidence(kept) <= 1e-9
    assert not EVENTS.may_halt({})
