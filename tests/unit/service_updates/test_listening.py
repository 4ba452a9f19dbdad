"""When a device that says nothing is silent, by when the service could hear it."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
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


def test_of_many_outages_the_least_are_remembered_as_one() -> None:
    """The time in which the service was up between is put before them; none of it is lost to who was silent before."""
    listening = Listening(NOW)
    for day in range(1, MOST_OUTAGES + 11):
        listening = listening.interrupted(Outage(NOW + day * DAY, NOW + day * DAY + HOUR))
    assert len(listening.outages) == MOST_OUTAGES
    assert listening.since == NOW
    assert sum((each.took for each in listening.outages), timedelta()) == (MOST_OUTAGES + 10) * HOUR
    assert Outage(NOW, NOW + HOUR).with_later(Outage(NOW + DAY, NOW + 2 * DAY)) == Outage(
        NOW + 23 * HOUR, NOW + 2 * DAY
    )


@dataclass(slots=True)
class Clocked:
    """A service that looks once a minute, by a clock that is set."""

    listening: Listening = field(default_factory=lambda: Listening(NOW))
    held_until: datetime = NOW
    now: datetime = NOW
    was_up: timedelta = field(default_factory=timedelta)

    def look(self) -> None:
        """Look whether there was an outage."""
        self.listening = self.listening.at(self.now, held_until=self.held_until, largest_gap=MINUTE)
        self.held_until = self.now

    def up(self, lasts: timedelta) -> None:
        """Be up for a time."""
        for _ in range(lasts // MINUTE):
            self.now += MINUTE
            self.was_up += MINUTE
            self.look()

    def down(self, lasts: timedelta) -> None:
        """Be down for a time, and up again; by the clock that is less than none where it is set back."""
        self.now += lasts
        self.look()

    def is_due(self, heard: datetime, after: timedelta) -> bool:
        """Whether a device is silent by now."""
        return self.listening.due(min(heard, self.now), after, now=self.now) <= self.now


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 60), st.integers(1, 9)).map(
            lambda pair: (pair[0] * MINUTE, pair[0] * pair[1] * MINUTE)
        ),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, 200),
    st.integers(1, 6),
)
def test_device_that_is_never_heard_falls_silent_whatever_the_outages(
    course: list[tuple[timedelta, timedelta]], before: int, hours: int
) -> None:
    """Up for a tenth of the time or more: within forty times what the device has, and no sooner than it has had it."""
    after, period = hours * HOUR, sum((up + down for up, down in course), timedelta())
    listening, now, was_up, heard = Listening(NOW), NOW, timedelta(), NOW
    is_due = False
    for number in range(before + 40 * after // period * len(course) + 4 * len(course)):
        up, down = course[number % len(course)]
        if number == before:
            heard, was_up = now, timedelta()
        is_due = number > before and listening.due(heard, after, now=now + up) <= now + up
        was_up += up
        if is_due:
            break
        now += up + down
        listening = listening.interrupted(Outage(now - down, now))
    assert is_due
    assert was_up >= after


@given(
    st.lists(st.tuples(st.sampled_from(["up", "down", "back"]), st.integers(2, 600)), max_size=20),
    st.integers(0, 19),
    st.integers(1, 600),
)
def test_clock_that_is_set_makes_nobody_silent(course: list[tuple[str, int]], at: int, minutes: int) -> None:
    """Forth or back, while the service is up or down: a device has had its time of a service that was up."""
    service, after = Clocked(), minutes * MINUTE
    heard, was_up = service.now, service.was_up
    for number, (what, lasts) in enumerate(course):
        if number == at:
            heard, was_up = service.now, service.was_up
        if what == "up":
            service.up(lasts * MINUTE)
        else:  # being down is no other than a clock that is set forth
            service.down((lasts if what == "down" else -lasts) * MINUTE)
        silent_since = service.listening.silent_since(after, now=service.now)
        has_had_its_time = service.was_up - was_up >= after
        assert has_had_its_time or not service.is_due(heard, after)
        assert has_had_its_time or silent_since is None or silent_since < heard


def test_outage_after_the_clock_was_ahead_is_no_silence() -> None:
    """Ten days ahead for two hours with a restart, set right; then thirty hours down."""
    service = Clocked()
    service.up(HOUR)
    service.down(10 * DAY)
    service.up(HOUR)
    service.down(5 * MINUTE)
    service.up(HOUR)
    service.down(-10 * DAY)
    service.up(HOUR)
    heard = service.now
    service.down(30 * HOUR)
    assert service.listening.due(heard, DAY, now=service.now) == service.now + DAY


def test_clock_that_was_years_ahead_at_a_start_delays_nothing_once_set_right() -> None:
    """Devices have their whole time from then on."""
    service = Clocked()
    service.up(HOUR)
    service.down(3650 * DAY)
    service.down(-3650 * DAY + HOUR)
    assert service.listening == Listening(NOW, (Outage(NOW + HOUR, NOW + 2 * HOUR),))
    assert service.listening.due(NOW, DAY, now=service.now) == NOW + 2 * HOUR + DAY
    assert Listening(NOW).until(NOW - DAY) == Listening(NOW - DAY)


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
