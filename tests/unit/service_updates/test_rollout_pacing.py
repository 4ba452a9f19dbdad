"""The pace: devices are let in at a rate that grows with success, and never more at once than the plan says."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.membership import InvalidPlanError
from service.domain.pacing import NO_LIMIT, Pacing

NOW = datetime(2030, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)


def test_no_pace_lets_everybody_in() -> None:
    """The default."""
    pacing = Pacing()
    assert pacing.allowed(confirmed=0, in_flight=10, since=NOW, now=NOW) == NO_LIMIT
    assert pacing.look_at(confirmed=0, in_flight=10, since=NOW, now=NOW) == NOW
    assert pacing.used(500, confirmed=0, since=NOW, now=NOW) == NOW


def test_first_device_begins_at_once() -> None:
    """The rate counts from one device before the start."""
    pacing = Pacing(per_minute=2)
    since = pacing.first(NOW)
    assert pacing.allowed(confirmed=0, in_flight=0, since=since, now=NOW) == 1
    used = pacing.used(1, confirmed=0, since=since, now=NOW)
    assert pacing.allowed(confirmed=0, in_flight=1, since=used, now=NOW + 29 * SECOND) == 0
    assert pacing.look_at(confirmed=0, in_flight=1, since=used, now=NOW) == NOW + 30 * SECOND
    assert pacing.allowed(confirmed=0, in_flight=1, since=used, now=NOW + 30 * SECOND) == 1


def test_rate_grows_with_success_up_to_its_limit() -> None:
    """AWS's form: base, factor, every so many."""
    pacing = Pacing(per_minute=10, growth=2, every=100, most_per_minute=70)
    assert [pacing.rate_per_second(confirmed) * 60 for confirmed in (0, 99, 100, 250, 300, 10_000)] == [
        10, 10, 20, 40, 70, 70,
    ]  # fmt: skip


def test_worker_that_was_away_makes_up_for_a_minute() -> None:
    """After an hour without a worker no burst of an hour's devices comes."""
    pacing = Pacing(per_minute=60)
    assert pacing.allowed(confirmed=0, in_flight=0, since=NOW, now=NOW + 60 * MINUTE) == 60


def test_concurrency_holds_until_a_result() -> None:
    """Then only a report moves it, not time."""
    pacing = Pacing(concurrency=5)
    assert pacing.allowed(confirmed=0, in_flight=3, since=NOW, now=NOW) == 2
    assert pacing.allowed(confirmed=0, in_flight=6, since=NOW, now=NOW) == 0
    assert pacing.look_at(confirmed=0, in_flight=5, since=NOW, now=NOW) is None


@given(
    per_minute=st.floats(0.1, 5000),
    steps=st.lists(st.integers(0, 90), min_size=1, max_size=60),
)
def test_no_more_than_the_rate_are_let_in(per_minute: float, steps: list[int]) -> None:
    """However often it is asked, over any time at most the rate, and a minute's worth, has been let in."""
    pacing, now = Pacing(per_minute=per_minute), NOW
    since, let_in = pacing.first(NOW), 0
    for seconds in steps:
        now += seconds * SECOND
        devices = pacing.allowed(confirmed=0, in_flight=0, since=since, now=now)
        since = pacing.used(devices, confirmed=0, since=since, now=now)
        let_in += devices
    assert let_in <= per_minute * ((now - NOW) / MINUTE + 1) + 1


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"per_minute": 0}, "pace: expected above 0 devices per minute"),
        ({"per_minute": 1, "growth": 0.5}, "expected growth and steps of at least 1"),
        ({"per_minute": 1, "every": 0}, "expected growth and steps of at least 1"),
        ({"concurrency": 0}, "concurrency: expected at least 1"),
    ],
)
def test_pace_that_is_none_is_refused(fields: dict[str, float], expected: str) -> None:
    """The error says which number."""
    with pytest.raises(InvalidPlanError, match=expected):
        Pacing(**fields)  # type: ignore[arg-type]  # one wrong value per case
