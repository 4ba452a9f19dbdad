"""The device's idea of time: no battery, so it learns the time from a signed answer and keeps a floor.

The wall clock of the host is not the device's clock: the device counts from its floor until it has been told.
Not checked here: the signature and nonce of the signed time; device_sim/network verifies them before `learn`.
"""

from datetime import UTC, datetime, timedelta
from typing import Protocol

from device_sim.errors import ClockLeapError, ClockRollbackError

FIRST_FLOOR = datetime(2026, 1, 1, tzinfo=UTC)  # no device was made before
LAST_TIME = datetime(2100, 1, 1, tzinfo=UTC)  # later is a fault of the signer, and the floor would never fall again
MAX_STEP_BACK = timedelta(minutes=5)  # the service's machines do not agree to the second


class Clock(Protocol):
    """Source of time; the wall clock in production, a virtual one in tests."""

    def now(self) -> datetime:
        """Return the current time, UTC and aware."""

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start that never fall."""


class DriftingClock:
    """A crystal that is off: it goes too fast or too slow, and has an error until it is set.

    Args:
        clock: the right time.
        offset: what a counter that was started at the first reading is off by ever after, until it is set.
        drift_ppm: how much too fast it goes, parts per million; below 0 too slow.
    """

    def __init__(self, clock: Clock, *, offset: timedelta, drift_ppm: float) -> None:
        self._clock = clock
        self._offset_seconds = offset.total_seconds()
        self._rate = 1 + drift_ppm / 1e6
        self._start = clock.monotonic()
        self._is_read = False

    def now(self) -> datetime:
        """Return the host's time; a device without a battery has none of its own."""
        return self._clock.now()

    def monotonic(self) -> float:
        """Return seconds as the crystal counts them."""
        seconds = self._start + (self._clock.monotonic() - self._start) * self._rate
        was_read, self._is_read = self._is_read, True
        return seconds + self._offset_seconds if was_read else seconds


class DeviceClock:
    """A counter of seconds that is set by signed time.

    Args:
        clock: what drives the counter; only `monotonic` is used.
        floor: the latest time the device has ever been told, UTC and aware.
    """

    def __init__(self, clock: Clock, *, floor: datetime = FIRST_FLOOR) -> None:
        self._clock = clock
        self._floor = floor
        self._base = floor
        self._base_seconds = clock.monotonic()
        self._is_synchronised = False

    @property
    def floor(self) -> datetime:
        """The latest time the device has ever been told."""
        return self._floor

    @property
    def is_synchronised(self) -> bool:
        """Whether the device has been told the time since it started."""
        return self._is_synchronised

    def now(self) -> datetime:
        """Return the device's time, UTC and aware; never below the floor."""
        return max(self._floor, self._base + timedelta(seconds=self._clock.monotonic() - self._base_seconds))

    def learn(self, verified_time: datetime) -> None:
        """Set the clock to a time whose signature and nonce have been verified; the floor only rises.

        Raises:
            ClockRollbackError: the time lies more than `MAX_STEP_BACK` below the floor.
            ClockLeapError: the time lies beyond `LAST_TIME`.
        """
        if verified_time < self._floor - MAX_STEP_BACK:
            raise ClockRollbackError(f"signed time: expected {self._floor} or later, found {verified_time}")
        if verified_time > LAST_TIME:
            raise ClockLeapError(f"signed time: expected one before {LAST_TIME}, found {verified_time}")
        self._base = verified_time
        self._base_seconds = self._clock.monotonic()
        self._floor = max(self._floor, verified_time)
        self._is_synchronised = True
