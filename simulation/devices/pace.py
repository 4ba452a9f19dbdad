"""When dozing devices would have polled, and when their regions change."""

import bisect
import random
from dataclasses import dataclass
from datetime import timedelta
from math import sqrt

from protocol.scenario.network import NetworkQuality, Region
from service.application.poll import JITTER
from simulation.clock import VirtualClock
from simulation.scheduler import NEVER

FEW = 40  # polls that are drawn one by one
MANY_LOST = 0.2  # share of messages; below it almost none is lost five times in a row
_DEVIATION = 2 * JITTER / sqrt(12)  # of one pause, as a share of it: pauses are spread evenly
_LOST_SECONDS = 1.0  # that a lost message is repeated after


class Pace:
    """How often the service has devices poll for which nothing waits, from when on."""

    def __init__(self) -> None:
        self._since: list[float] = []
        self._intervals: list[float] = []

    def change(self, now: float, interval_seconds: float) -> None:
        """Note the interval from a time on; times only rise."""
        if not self._intervals or self._intervals[-1] != interval_seconds:
            self._since.append(now)
            self._intervals.append(interval_seconds)

    def pass_by(self, first: float, until: float, rng: random.Random, *, each_seconds: float) -> "Polls":
        """Return the polls of a device from one on, up to a time.

        Args:
            first: when the first one is due.
            until: the last moment that counts.
            rng: of the device.
            each_seconds: that each takes beside the pause.
        """
        count, latest, due = 0, 0.0, first
        while due <= until:
            interval, ends = self._at(due)
            end = min(ends, until)
            jump = _many(end - due, interval)
            if jump:
                count += jump
                due += max(0.0, rng.gauss(jump * interval, interval * _DEVIATION * sqrt(jump))) + jump * each_seconds
                latest = due
            low, span, draw = interval * (1 - JITTER) + each_seconds, interval * 2 * JITTER, rng.random
            while due <= end:
                count, latest = count + 1, due
                due += low + span * draw()
        return Polls(count, latest, due)

    def _at(self, moment: float) -> tuple[float, float]:
        """Return the interval that holds at a time, and until when it does."""
        place = max(bisect.bisect_right(self._since, moment) - 1, 0)
        return self._intervals[place], self._since[place + 1] if place + 1 < len(self._since) else NEVER


@dataclass(frozen=True, slots=True)
class Polls:
    """Polls that were not made one by one.

    Attributes:
        count: how many.
        latest: when the last of them was.
        following: when the next one is due.
    """

    count: int
    latest: float
    following: float


def _many(seconds: float, interval: float) -> int:
    """Return how many polls can be drawn at once, as the sum of their pauses, without passing the end."""
    expected = seconds / interval
    return 0 if expected < FEW else int(expected - sqrt(expected) - 1)  # more than eight deviations before it


class RegionHours:
    """When a region's network comes and goes.

    Args:
        region: as the scenario declares it.
        clock: the virtual time.

    Attributes:
        is_counted: whether each message counts: by the day's budget, or because many get lost for good.
        round_trip_seconds: mean of a request and its answer.
    """

    def __init__(self, region: Region, clock: VirtualClock) -> None:
        self._quality: NetworkQuality = region.network
        self._offset = timedelta(hours=region.utc_offset)
        self._clock = clock
        self._next = -1.0
        quality = self._quality
        self.is_counted = quality.metered_bytes_per_day is not None or quality.loss > MANY_LOST
        self.round_trip_seconds = 2 * quality.latency.total_seconds() + quality.loss * _LOST_SECONDS

    def changes_at(self, now: float) -> float:
        """Return when the region goes on- or offline next; infinity for never."""
        if now >= self._next:
            self._next = min((edge for edge in self._edges(now) if edge > now), default=NEVER)
        return self._next

    def _edges(self, now: float) -> list[float]:
        edges = [moment.total_seconds() for o in self._quality.outages for moment in (o.start, o.start + o.lasts)]
        local = self._clock.at(now) + self._offset
        midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
        for hours in self._quality.offline_hours:
            for edge in hours:
                at_day = midnight + timedelta(hours=edge.hour, minutes=edge.minute, seconds=edge.second)
                since = (at_day - self._offset - self._clock.start).total_seconds()
                edges += [since, since + 86_400.0]
        return edges
