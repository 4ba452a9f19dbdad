"""When a device that says nothing is silent, by when the service could hear it."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from service.domain.listening import MOST_OUTAGES, Listening, Outage

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
MINUTES = st.integers(0, 600).map(lambda minutes: minutes * MINUTE)


@st.composite
def lives(draw: st.DrawFn) -> tuple[Listening, datetime]:
    """Return when a service was up, and a time after it."""
    listening = Listening(NOW)
    for _ in range(draw(st.integers(0, 8))):
        began = listening.resumed_at + draw(MINUTES)
        listening = listening.interrupted(Outage(began, began + draw(MINUTES)))
    return listening, listening.resumed_at + draw(MINUTES)


def test_service_that_was_never_down_gives_the_whole_time_once() -> None:
    """From when the device was heard of, and no earlier than the service knows of."""
    listening = Listening(NOW)
    assert listening.due(NOW + HOUR, DAY, now=NOW + 2 * HOUR) == NOW + HOUR + DAY
    assert listening.due(NOW - DAY, DAY, now=NOW + HOUR) == NOW + DAY
    assert listening.silent_since(DAY, now=NOW + 30 * HOUR) == NOW + 6 * HOUR
    assert listening.silent_since(DAY, now=NOW + 23 * HOUR) is None


def test_long_outage_gives_the_whole_time_again() -> None:
    """However long a device had been silent before it."""
    listening = Listening(NOW).interrupted(Outage(NOW + DAY, NOW + 4 * DAY))
    assert listening.due(NOW + HOUR, DAY, now=NOW + 4 * DAY) == NOW + 5 * DAY
    assert listening.silent_since(DAY, now=NOW + 4 * DAY + 23 * HOUR) < NOW + HOUR  # type: ignore[operator]  # not None
    assert listening.silent_since(DAY, now=NOW + 5 * DAY) == NOW + 4 * DAY


def test_short_outages_cost_twice_what_they_took() -> None:
    """Ten minutes in each hour leave forty minutes of it that count."""
    listening = Listening(NOW)
    for hour in range(1, 30):
        listening = listening.interrupted(Outage(NOW + hour * HOUR - 10 * MINUTE, NOW + hour * HOUR))
    now = NOW + 29 * HOUR + 50 * MINUTE
    assert listening.due(now - 3 * HOUR, 2 * HOUR, now=now) == now
    assert listening.silent_since(2 * HOUR, now=now) == now - 3 * HOUR + 20 * MINUTE


def test_many_outages_are_remembered_as_one() -> None:
    """What was before the last hundred is no time in which anybody was heard."""
    listening = Listening(NOW)
    for day in range(1, MOST_OUTAGES + 11):
        listening = listening.interrupted(Outage(NOW + day * DAY, NOW + day * DAY + HOUR))
    assert len(listening.outages) == MOST_OUTAGES
    assert listening.since == NOW + 10 * DAY + HOUR


@given(lives(), MINUTES, st.integers(1, 600))
def test_who_is_silent_is_due_and_nobody_else(life: tuple[Listening, datetime], ago: timedelta, minutes: int) -> None:
    """Both questions have the same answer, and never one that an outage alone has given."""
    (listening, now), after = life, minutes * MINUTE
    heard = now - ago
    due, silent_since = listening.due(heard, after, now=now), listening.silent_since(after, now=now)
    assert (due <= now) == (silent_since is not None and heard <= silent_since)
    assert due >= heard + after
    gone = [min(each.ended, now) - max(each.began, heard) for each in listening.outages]
    was_up = now - max(heard, listening.since) - sum((each for each in gone if each > timedelta()), timedelta())
    assert due > now or was_up >= after


@given(lives(), MINUTES, st.integers(1, 600))
def test_time_out_that_was_told_holds_without_a_further_outage(
    life: tuple[Listening, datetime], ago: timedelta, minutes: int
) -> None:
    """Asked again on the way to that time, or at it, it has not moved."""
    (listening, now), after = life, minutes * MINUTE
    due = listening.due(now - ago, after, now=now)
    if due > now:
        assert listening.due(now - ago, after, now=now + (due - now) / 2) == due
        assert listening.due(now - ago, after, now=due) == due
