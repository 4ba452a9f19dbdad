"""What lies between one device and the service: latency, loss, bandwidth, budgets, captive hours, forgetful NATs.

A path decides and counts; it waits for nothing. What an exchange takes is owed by the device, whose next step comes so
much later (`settle`); what a message takes is waited for by the link's loop. So thousands of slow devices need no
thread each, and a virtual clock drives the same paths. Within one step a device does what follows an exchange too early
by what the exchange takes; between steps its time is right.

A lost exchange is repeated after 1, 2, 4, … seconds (RFC 6298 §2 and §5.5: the first time-out, and its doubling); one
that is lost until its time limit is lost for good, and in half of the cases only its answer is.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta

from device_sim.hardware.clock import Clock
from device_sim.network.ports import HttpResponse
from device_sim.network.wire import WireMeter
from protocol.scenario.network import NetworkQuality, Outage

FIRST_TIMEOUT_SECONDS = 1.0
LONGEST_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Surrounds:
    """Where a path is.

    Attributes:
        quality: of the network there.
        utc_offset: of the clocks there.
        started_at: of the scenario, UTC and aware; outages count from it.
    """

    quality: NetworkQuality
    utc_offset: timedelta
    started_at: datetime


@dataclass(frozen=True, slots=True)
class Crossing:
    """How an exchange fares on its way.

    Attributes:
        seconds: that it takes, without its bytes.
        request_arrives: whether the service hears it.
        answer_arrives: whether the device hears the answer.
    """

    seconds: float
    request_arrives: bool = True
    answer_arrives: bool = True


class NetworkPath:
    """One device's way to the service; used by its own steps and by the link's loop.

    Args:
        where: quality, region, start.
        clock: of the host, or a virtual one.
        draw: gives the generator of a purpose, seeded for the device.
        meter: counts the device's bytes on the wire; a metered budget goes by it.
        place: from where the device connects; a copy of it that stands elsewhere has another address.

    Attributes:
        interference: what becomes of the answer to a path on its way; None: it stays as it is.
    """

    def __init__(
        self,
        where: Surrounds,
        *,
        clock: Clock,
        draw: Callable[[str], random.Random],
        meter: WireMeter,
        place: str = "",
    ) -> None:
        self.meter = meter
        self.place = place
        self.interference: Callable[[str, HttpResponse], HttpResponse] | None = None
        self._where = where
        quality = self._quality = where.quality
        self._usual_seconds, self._jitter_seconds = quality.latency.total_seconds(), quality.jitter.total_seconds()
        is_even = not (quality.loss or quality.jitter)
        self._usual = Crossing(2 * self._usual_seconds) if is_even else None  # of every exchange
        self._is_always_open = not (quality.outages or quality.offline_hours or quality.metered_bytes_per_day)
        self._clock = clock
        # Requests and messages are drawn by different threads, so each from a generator of its own.
        self._requests, self._messages = draw("requests"), draw("messages")
        self._owed = 0.0
        self._cut_until: datetime | None = None
        self._has_power = True
        self._budget_day, self._budget_start = self._local_time().date(), 0

    @property
    def is_open(self) -> bool:
        """Whether anything gets through now."""
        return not self.closed_because

    @property
    def closed_because(self) -> str:
        """Why nothing gets through now, or an empty string."""
        if not self._has_power:
            return "the device has no power"
        return "" if self._is_always_open and self._cut_until is None else self._closed_now()

    def _closed_now(self) -> str:
        now = self._clock.now()
        if self._cut_until is not None and now < self._cut_until:
            return "the network is cut"
        if any(_holds(outage, now - self._where.started_at) for outage in self._quality.outages):
            return "the region has an outage"
        local = self._local_time()
        if _is_captive(self._quality.offline_hours, local):
            return "the network is captive at this hour"
        if self._is_used_up(local):
            return "the day's metered bytes are used up"
        return ""

    @property
    def now(self) -> float:
        """Seconds on the monotonic clock, for `forgets`."""
        return self._clock.monotonic()

    def forgets(self, last_traffic: float) -> bool:
        """Whether a NAT has forgotten a connection by now.

        Args:
            last_traffic: `now` when bytes went over the connection for the last time.
        """
        limit = self._quality.nat_timeout
        return limit is not None and self.now - last_traffic > limit.total_seconds()

    def cut(self, lasts: timedelta) -> None:
        """Let nothing through for a time; a longer cut that holds already stays."""
        until = self._clock.now() + lasts
        self._cut_until = until if self._cut_until is None else max(until, self._cut_until)

    def switch(self, *, on: bool) -> None:
        """Let nothing through while the device has no power."""
        self._has_power = on

    def exchange(self, limit_seconds: float) -> Crossing:
        """Draw how a request and its answer fare.

        Args:
            limit_seconds: the device waits no longer.
        """
        if self._usual is not None:
            return self._usual
        rng = self._requests
        seconds, timeout = self._latency(rng) + self._latency(rng), FIRST_TIMEOUT_SECONDS
        while self._is_lost(rng):
            seconds += timeout
            timeout *= 2
            if seconds >= limit_seconds:
                return Crossing(limit_seconds, request_arrives=rng.random() < 0.5, answer_arrives=False)  # noqa: PLR2004
        return Crossing(seconds)

    def message_seconds(self, size_bytes: int) -> float:
        """Draw how long one message takes in one direction, repetitions included."""
        rng = self._messages
        seconds, timeout = self._latency(rng) + self.transfer_seconds(size_bytes), FIRST_TIMEOUT_SECONDS
        while self._is_lost(rng):
            seconds += timeout
            timeout = min(timeout * 2, LONGEST_TIMEOUT_SECONDS)
        return seconds

    def transfer_seconds(self, size_bytes: int) -> float:
        """Return how long bytes take at the bandwidth of the path."""
        rate = self._quality.bytes_per_second
        return 0.0 if rate is None else size_bytes / rate

    def owe(self, seconds: float) -> None:
        """Have the device's next step come so much later."""
        self._owed += seconds

    def settle(self) -> float:
        """Return what is owed, and owe nothing any more."""
        owed, self._owed = self._owed, 0.0
        return owed

    def _latency(self, rng: random.Random) -> float:
        jitter = self._jitter_seconds
        return max(0.0, self._usual_seconds + jitter * rng.uniform(-1, 1)) if jitter else self._usual_seconds

    def _is_lost(self, rng: random.Random) -> bool:
        return self._quality.loss > 0 and rng.random() < self._quality.loss

    def _local_time(self) -> datetime:
        return self._clock.now() + self._where.utc_offset

    def _is_used_up(self, local: datetime) -> bool:
        budget = self._quality.metered_bytes_per_day
        if budget is None:
            return False
        if local.date() != self._budget_day:
            self._budget_day, self._budget_start = local.date(), self.meter.bytes
        return self.meter.bytes - self._budget_start >= budget


def _holds(outage: Outage, since_start: timedelta) -> bool:
    return outage.start <= since_start < outage.start + outage.lasts


def _is_captive(hours: Sequence[tuple[time, time]], local: datetime) -> bool:
    now = local.time()
    return any(start <= now < end if start <= end else now >= start or now < end for start, end in hours)
