"""Maintenance windows by the clock where a device stands.

A window begins at the first moment at which that clock reads its start or later, and ends at the last one at which it
reads less than its end. So one whose start the clock skips in spring begins with the jump, one that lies in the gap
whole does not open that day, and one that spans the hour which the clock shows twice is an hour longer.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

DAYS_AHEAD = 15  # the next window of a day of the week, although one may fall into a gap
LONGEST_SPREAD = timedelta(minutes=30)
SPREAD_SHARE = 0.25  # of the window
UTC_NAME = "UTC"


@dataclass(frozen=True, slots=True)
class Window:
    """One window.

    Attributes:
        days: on which it begins, Monday is 0; none means every day.
        start: by the device's clock.
        end: the first minute that is not in it; at or before the start, it is of the next day.
    """

    days: frozenset[int]
    start: time
    end: time

    def of(self, day: date, zone: tzinfo) -> "Span | None":
        """Return when it is open that begins on a day; None if it does not."""
        if self.days and day.weekday() not in self.days:
            return None
        last_day = day if self.end > self.start else day + timedelta(days=1)
        opens_at = _moment(datetime.combine(day, self.start), zone, last=False)
        closes_at = _moment(datetime.combine(last_day, self.end), zone, last=True)
        return Span(opens_at, closes_at) if opens_at < closes_at else None


@dataclass(frozen=True, slots=True)
class Span:
    """From when to when a window is open, UTC, aware; the end is not in it."""

    opens_at: datetime
    closes_at: datetime

    def holds(self, now: datetime) -> bool:
        """Whether it is open."""
        return self.opens_at <= now < self.closes_at

    def entry(self, share: float) -> datetime:
        """Return when a device is let in, so that a window's start does not wake everybody at once.

        Args:
            share: of the device, 0 to 1, the same each time.
        """
        spread = min(LONGEST_SPREAD, SPREAD_SHARE * (self.closes_at - self.opens_at))
        return self.opens_at + share * spread


@dataclass(frozen=True, slots=True)
class Maintenance:
    """When devices may be given a release.

    Attributes:
        windows: none means always.
        zone: of devices whose own is not known.
    """

    windows: tuple[Window, ...] = ()
    zone: str = UTC_NAME

    def span(self, now: datetime, zone: str | None) -> Span | None:
        """Return the window that is open, or else opens next; of several that are open, the one that ends last.

        Args:
            now: UTC, aware.
            zone: the device's, an IANA name; one that is not known counts as none.

        Returns:
            None where a device may be given the release at any time.
        """
        if not self.windows:
            return None
        spans = list(self._spans(now, _zone(zone or self.zone) or _zone(self.zone) or ZoneInfo(UTC_NAME)))
        if is_open := [span for span in spans if span.holds(now)]:
            return max(is_open, key=lambda span: span.closes_at)
        return min((span for span in spans if span.opens_at > now), key=lambda span: span.opens_at)

    def _spans(self, now: datetime, zone: ZoneInfo) -> Iterator[Span]:
        today = now.astimezone(zone).date()
        for ahead in range(-1, DAYS_AHEAD):
            for window in self.windows:
                if span := window.of(today + timedelta(days=ahead), zone):
                    yield span


def is_zone(name: str) -> bool:
    """Say whether a name is one of the IANA time zone database."""
    return _zone(name) is not None


@lru_cache(maxsize=1024)
def _zone(name: str) -> ZoneInfo | None:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


def _moment(local: datetime, zone: tzinfo, *, last: bool) -> datetime:
    """Return the first or the last moment at which a clock reads a time, or the jump that skips it."""
    before, after = (local.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    if before <= after:
        return after if last else before
    return _jump(after, before, zone)


def _jump(earlier: datetime, later: datetime, zone: tzinfo) -> datetime:
    """Return the first second after a change of a zone's offset that lies between two moments."""
    offset = earlier.astimezone(zone).utcoffset()
    while later - earlier > timedelta(seconds=1):
        middle = earlier + timedelta(seconds=(later - earlier) // timedelta(seconds=2))
        if middle.astimezone(zone).utcoffset() == offset:
            earlier = middle
        else:
            later = middle
    return later
