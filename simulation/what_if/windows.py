"""Maintenance windows of a plan by the clocks of a fleet: when devices may be given the release.

The windows are the engine's own (service/domain/windows.py), by each region's distance from UTC; devices in no region
go by the plan's time zone.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from functools import lru_cache
from math import inf

import numpy as np

from service.domain.windows import Maintenance, Span
from simulation.what_if.arrays import Floats

DAYS = 380  # ahead that windows are known: more than a rollout may take


@dataclass(frozen=True, slots=True)
class OpenTimes:
    """When the windows of one clock are open, seconds from the scenario's start.

    Attributes:
        opens, closes: of each time, rising and apart; the close is not in it.
        entered: when the last device is let in of those that waited for it to open.
    """

    opens: tuple[float, ...] = (-inf,)
    closes: tuple[float, ...] = (inf,)
    entered: tuple[float, ...] = (-inf,)

    @property
    def is_always(self) -> bool:
        """Whether it never closes."""
        return self.closes == (inf,)

    def is_open(self, at: float) -> bool:
        """Whether devices may be given the release."""
        return self.opens[self._number(at)] <= at

    def next_opening(self, at: float) -> float:
        """Return when it opens, `at` where it is open."""
        return max(at, self.opens[self._number(at)])

    def closing(self, at: float) -> float:
        """Return when the time ends that is open."""
        return self.closes[self._number(at)]

    def entry(self, at: float) -> float:
        """Return up to when those are let in that waited for the time which is open."""
        return self.entered[self._number(at)]

    def open_from(self, at: Floats) -> Floats:
        """Return the first moments from these on at which it is open."""
        if self.is_always:
            return at
        numbers = np.minimum(np.searchsorted(self.closes, at, side="right"), len(self.closes) - 1)
        return np.asarray(np.maximum(at, np.asarray(self.opens)[numbers]), float)

    def _number(self, at: float) -> int:
        """Return which time is open, or else opens next."""
        return min(bisect_right(self.closes, at), len(self.closes) - 1)


ALWAYS = OpenTimes()


@lru_cache(maxsize=256)
def open_times(maintenance: Maintenance, zone: tzinfo, origin: datetime) -> OpenTimes:
    """Return when a plan's windows are open.

    Args:
        maintenance: the windows; none means always.
        zone: the clock's.
        origin: of the seconds, UTC, aware.
    """
    if not maintenance.windows:
        return ALWAYS
    opens: list[float] = []
    closes: list[float] = []
    entered: list[float] = []
    for span in sorted(_spans(maintenance, zone, origin), key=lambda span: span.opens_at):
        begin, end = ((moment - origin).total_seconds() for moment in (span.opens_at, span.closes_at))
        if closes and begin <= closes[-1]:
            closes[-1] = max(closes[-1], end)
            continue
        opens.append(begin)
        closes.append(end)
        entered.append((span.entry(1.0) - origin).total_seconds())
    return OpenTimes(tuple(opens), tuple(closes), tuple(entered))


def _spans(maintenance: Maintenance, zone: tzinfo, origin: datetime) -> Iterator[Span]:
    today = origin.astimezone(zone).date()
    for ahead in range(-1, DAYS):
        for window in maintenance.windows:
            if span := window.of(today + timedelta(days=ahead), zone):
                yield span
