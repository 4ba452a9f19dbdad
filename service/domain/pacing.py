"""How many devices may be given a release by now: a rate that grows with success, and a limit on how many are at it."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from math import floor, inf

from service.domain.membership import InvalidPlanError

LONGEST_BURST = timedelta(minutes=1)  # what a worker that was away may make up for, and newcomers may be ahead
SHORTEST_LOOK = timedelta(seconds=1)  # between two steps of an opening stage
NO_LIMIT = 1 << 62
MAX_DOUBLINGS = 64


@dataclass(frozen=True, slots=True)
class Pacing:
    """The defaults set no limit.

    Attributes:
        per_minute: devices at first, or None.
        growth: factor for every `every` devices that confirm.
        most_per_minute: the rate never rises above it, or None.
        concurrency: devices with an action and no result yet, or None.
    """

    per_minute: float | None = None
    growth: float = 1.0
    every: int = 100
    most_per_minute: float | None = None
    concurrency: int | None = None

    def __post_init__(self) -> None:
        if self.per_minute is not None and self.per_minute <= 0:
            raise InvalidPlanError(f"pace: expected above 0 devices per minute, found {self.per_minute}")
        if self.growth < 1 or self.every < 1:
            raise InvalidPlanError(f"pace: expected growth and steps of at least 1, found {self.growth}, {self.every}")
        if self.concurrency is not None and self.concurrency < 1:
            raise InvalidPlanError(f"concurrency: expected at least 1, found {self.concurrency}")

    def rate_per_second(self, confirmed: int) -> float:
        """Return the rate after so many devices have confirmed; infinity where there is no limit."""
        if self.per_minute is None:
            return inf
        grown = self.per_minute * self.growth ** min(confirmed // self.every, MAX_DOUBLINGS)
        return min(grown, inf if self.most_per_minute is None else self.most_per_minute) / 60

    def first(self, now: datetime) -> datetime:
        """Return up to when the rate counts as used at the start, so that one device may begin at once."""
        rate = self.rate_per_second(0)
        return now if rate == inf else now - timedelta(seconds=1 / rate)

    def allowed(self, *, confirmed: int, in_flight: int, since: datetime, now: datetime) -> int:
        """Return how many further devices may be given the release.

        Args:
            confirmed: devices that have.
            in_flight: devices with an action and no result.
            since: up to when earlier devices have used the rate, UTC, aware.
            now: UTC, aware.
        """
        rate = self.rate_per_second(confirmed)
        by_rate = NO_LIMIT if rate == inf else floor(_elapsed(since, now, rate) * rate + 1e-9)
        by_concurrency = NO_LIMIT if self.concurrency is None else self.concurrency - in_flight
        return max(0, min(by_rate, by_concurrency))

    def lends(self, *, in_flight: int, since: datetime, now: datetime) -> bool:
        """Whether one newcomer may begin ahead of the rate, which others then wait for; arguments as `allowed`."""
        is_free = self.concurrency is None or in_flight < self.concurrency
        return is_free and (self.per_minute is None or since < now + LONGEST_BURST)

    def corrected(self, since: datetime, *, confirmed: int, now: datetime) -> datetime:
        """Return up to when the rate is used, on a clock that may have gone back since."""
        rate = self.rate_per_second(confirmed)
        return since if rate == inf else min(since, now + LONGEST_BURST + timedelta(seconds=1 / rate))

    def used(self, devices: int, *, confirmed: int, since: datetime, now: datetime) -> datetime:
        """Return up to when the rate is used once further devices were given the release; after now where it lends."""
        rate = self.rate_per_second(confirmed)
        if rate == inf:
            return now
        return max(since, now - _burst(rate)) + timedelta(seconds=devices / rate)

    def look_at(self, *, confirmed: int, in_flight: int, since: datetime, now: datetime) -> datetime | None:
        """Return when the next device may be given it; None if first another must have its result."""
        if self.concurrency is not None and in_flight >= self.concurrency:
            return None
        if self.allowed(confirmed=confirmed, in_flight=in_flight, since=since, now=now):
            return now
        rate = self.rate_per_second(confirmed)
        due = max(since, now - _burst(rate)) + timedelta(seconds=1 / rate)
        return max(due, now + SHORTEST_LOOK)


def _elapsed(since: datetime, now: datetime, rate: float) -> float:
    return max(timedelta(0), min(now - since, _burst(rate))).total_seconds()


def _burst(rate: float) -> timedelta:
    """Return what may be made up for: at least one device's time, or a slow rate would let nobody in."""
    return max(LONGEST_BURST, timedelta(seconds=1 / rate))
