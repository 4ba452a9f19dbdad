"""Maintenance windows by the clock of a device: over midnight, over changes of the clock, in any zone."""

from datetime import UTC, datetime, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.windows import LONGEST_SPREAD, Maintenance, Span, Window

BERLIN = "Europe/Berlin"
SATURDAY, SUNDAY = 5, 6
ZONES = ["UTC", BERLIN, "America/St_Johns", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Apia"]


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def nightly(start: time, end: time, *days: int) -> Maintenance:
    return Maintenance((Window(frozenset(days), start, end),))


def span(maintenance: Maintenance, now: str, zone: str | None = BERLIN) -> tuple[str, str]:
    found = maintenance.span(utc(now), zone)
    assert found is not None
    return f"{found.opens_at:%m-%dT%H:%M}", f"{found.closes_at:%m-%dT%H:%M}"


def test_without_windows_a_device_waits_for_none() -> None:
    """None, whatever its zone."""
    assert Maintenance().span(utc("2026-11-23T12:00"), BERLIN) is None


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ("2026-11-23T12:00", ("11-24T01:00", "11-24T04:00")),  # Monday noon: tomorrow at two by its clock
        ("2026-11-24T01:00", ("11-24T01:00", "11-24T04:00")),  # the first moment
        ("2026-11-24T03:59", ("11-24T01:00", "11-24T04:00")),
        ("2026-11-24T04:00", ("11-25T01:00", "11-25T04:00")),  # the end is not in it
    ],
)
def test_window_is_by_the_clock_of_the_device(now: str, expected: tuple[str, str]) -> None:
    """Two to five in Berlin is one to four in winter."""
    assert span(nightly(time(2), time(5)), now) == expected


def test_window_over_midnight_is_of_the_day_it_begins() -> None:
    """Saturday at eleven to Sunday at one, and not Friday night."""
    late = nightly(time(23), time(1), SATURDAY)
    assert span(late, "2026-11-28T22:30") == ("11-28T22:00", "11-29T00:00")
    assert span(late, "2026-11-28T23:30") == ("11-28T22:00", "11-29T00:00")
    assert span(late, "2026-11-27T22:30") == ("11-28T22:00", "11-29T00:00")
    assert span(late, "2026-11-29T00:00") == ("12-05T22:00", "12-06T00:00")


def test_window_that_the_clock_jumps_into_opens_with_the_jump() -> None:
    """In Berlin 02:00 to 03:00 was skipped on 2026-03-29, at 01:00 UTC."""
    assert span(nightly(time(2, 30), time(5)), "2026-03-28T23:00") == ("03-29T01:00", "03-29T03:00")
    assert span(nightly(time(1), time(2, 30)), "2026-03-28T23:00") == ("03-29T00:00", "03-29T01:00")


def test_window_within_the_gap_does_not_open_that_day() -> None:
    """There is no such time; the next night there is."""
    assert span(nightly(time(2, 10), time(2, 50)), "2026-03-28T23:00") == ("03-30T00:10", "03-30T00:50")
    weekly = nightly(time(2, 10), time(2, 50), SUNDAY)
    assert span(weekly, "2026-03-28T23:00") == ("04-05T00:10", "04-05T00:50")


def test_window_over_the_hour_that_comes_twice_is_longer() -> None:
    """In Berlin 02:00 to 03:00 comes twice on 2026-10-25; the window is open through both."""
    assert span(nightly(time(1), time(4)), "2026-10-24T22:00") == ("10-24T23:00", "10-25T03:00")
    assert span(nightly(time(2, 15), time(2, 45)), "2026-10-24T22:00") == ("10-25T00:15", "10-25T01:45")


def test_device_without_a_zone_has_the_plans() -> None:
    """So has one whose zone nobody knows."""
    maintenance = Maintenance((Window(frozenset(), time(2), time(5)),), "Asia/Tokyo")
    for zone in (None, "", "Nowhere/At_All", "../etc", "America"):
        assert span(maintenance, "2026-11-23T12:00", zone) == ("11-23T17:00", "11-23T20:00")


def test_of_several_that_are_open_the_one_that_ends_last_counts() -> None:
    """A device is not asked to wait while one is open."""
    windows = (Window(frozenset(), time(2), time(4)), Window(frozenset(), time(3), time(6)))
    assert span(Maintenance(windows), "2026-11-24T03:30", "UTC") == ("11-24T03:00", "11-24T06:00")
    assert span(Maintenance(windows), "2026-11-24T01:30", "UTC") == ("11-24T02:00", "11-24T04:00")


def test_whole_days_follow_one_another() -> None:
    """A window from midnight to midnight holds a day."""
    weekend = nightly(time(0), time(0), SATURDAY, SUNDAY)
    assert span(weekend, "2026-11-28T12:00", "UTC") == ("11-28T00:00", "11-29T00:00")
    assert span(weekend, "2026-11-29T00:00", "UTC") == ("11-29T00:00", "11-30T00:00")


@given(
    st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1)),  # noqa: DTZ001 - UTC is added
    st.sampled_from(ZONES),
    st.times(),
    st.times(),
    st.frozensets(st.integers(0, 6)),
)
def test_there_is_always_a_window_and_time_passes_in_it(
    moment: datetime, zone: str, start: time, end: time, days: frozenset[int]
) -> None:
    """It is open or to come, within a fortnight, and lasts no longer than a day and what clocks change by."""
    now = moment.replace(tzinfo=UTC)
    maintenance = Maintenance((Window(days, start.replace(second=0, microsecond=0, fold=0), end.replace(second=0)),))
    found = maintenance.span(now, zone)
    assert found is not None
    assert found.holds(now) or now < found.opens_at <= now + timedelta(days=15)
    assert timedelta(0) < found.closes_at - found.opens_at <= timedelta(hours=26)
    following = maintenance.span(found.closes_at, zone)
    assert following is not None
    assert following.closes_at > found.closes_at


def test_devices_enter_one_after_the_other() -> None:
    """Over a quarter of the window, half an hour at most."""
    short = Span(utc("2026-11-24T02:00"), utc("2026-11-24T03:00"))
    assert short.entry(0) == short.opens_at
    assert short.entry(1) == short.opens_at + timedelta(minutes=15)
    long = Span(utc("2026-11-24T02:00"), utc("2026-11-24T12:00"))
    assert long.entry(0.5) == long.opens_at + LONGEST_SPREAD / 2
