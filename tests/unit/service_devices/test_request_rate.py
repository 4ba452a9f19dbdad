"""How often a device may ask: a burst, then one request in each part of an hour; forgotten when it is whole again."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.application.request_rate import DeviceRateError, PublicRate, PublicRateError, RequestRate

DEVICE, OTHER = "a" * 128, "b" * 128
NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOUR_SECONDS = 3600


class HandClock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.time = NOW

    def now(self) -> datetime:
        return self.time

    def advance(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


def refused_for(rate: RequestRate, device: str = DEVICE) -> int:
    with pytest.raises(DeviceRateError, match="expected at most 4 requests an hour, found more") as refused:
        rate.admit(device)
    return refused.value.retry_after_seconds


def test_burst_then_one_by_one() -> None:
    """Four at once, then one each quarter of an hour; the refusal says how long to wait."""
    clock = HandClock()
    rate = RequestRate(clock, per_hour=4)
    for _ in range(4):
        rate.admit(DEVICE)
    assert refused_for(rate) == HOUR_SECONDS // 4
    clock.advance(HOUR_SECONDS / 4 - 1)
    assert refused_for(rate) == 1
    clock.advance(1)
    rate.admit(DEVICE)
    assert refused_for(rate) == HOUR_SECONDS // 4


def test_refused_requests_do_not_count() -> None:
    """A device that knocks on is let in as soon as one that waits."""
    clock = HandClock()
    rate = RequestRate(clock, per_hour=4)
    for _ in range(4):
        rate.admit(DEVICE)
    for _ in range(100):
        refused_for(rate)
    clock.advance(HOUR_SECONDS / 4)
    rate.admit(DEVICE)


def test_one_device_costs_itself_and_not_its_neighbours() -> None:
    """Each has an allowance of its own."""
    rate = RequestRate(HandClock(), per_hour=4)
    for _ in range(4):
        rate.admit(DEVICE)
    refused_for(rate)
    rate.admit(OTHER)


def test_clock_that_was_set_back_shuts_nobody_out_for_long() -> None:
    """At most a period, however far it was wrong."""
    clock = HandClock()
    rate = RequestRate(clock, per_hour=4)
    for _ in range(4):
        rate.admit(DEVICE)
    clock.advance(-1000 * HOUR_SECONDS)
    assert refused_for(rate) <= HOUR_SECONDS
    clock.advance(HOUR_SECONDS)
    rate.admit(DEVICE)


def test_devices_that_wait_are_forgotten() -> None:
    """Memory holds those of the last hour, not every device that ever asked."""
    clock = HandClock()
    rate = RequestRate(clock, per_hour=4)
    for number in range(10_000):
        clock.advance(10)
        rate.admit(f"{number:0128x}")
    assert len(rate._whole_at) < 2000


@given(st.lists(st.integers(min_value=0, max_value=2000), max_size=200))
def test_no_hour_has_more_than_twice_the_rate(pauses: list[int]) -> None:
    """Whatever the pauses: a full burst and the hour's own allowance, and never less than one request an hour."""
    clock, admitted = HandClock(), list[datetime]()
    rate = RequestRate(clock, per_hour=4)
    for pause in pauses:
        clock.advance(pause)
        try:
            rate.admit(DEVICE)
        except DeviceRateError:
            assert admitted[-1] > clock.now() - timedelta(hours=1)
        else:
            admitted.append(clock.now())
    for first in admitted:
        assert sum(first <= at < first + timedelta(hours=1) for at in admitted) <= 2 * 4


def test_public_bucket_empties_and_fills_up_again() -> None:
    """A burst of three, then two a second, never more than the burst; a clock that is set back gives nothing."""
    clock = HandClock()
    rate = PublicRate(clock, per_second=2.0, burst=3)
    for admitted, passed in ((3, 0.5), (1, 3600.0), (3, -60.0), (0, 0.5), (1, 0.0)):
        for _ in range(admitted):
            rate.admit()
        with pytest.raises(PublicRateError, match="expected at most 2 a second, found more") as refused:
            rate.admit()
        assert refused.value.retry_after_seconds == 1
        clock.advance(passed)
