"""Virtual time: one counter of seconds, which the scheduler alone moves; service and devices both read it."""

from datetime import datetime, timedelta


class VirtualClock:
    """Implements the clock ports of the service and of devices.

    Args:
        start: of the scenario, UTC, aware.

    Attributes:
        seconds: since the start.
    """

    def __init__(self, start: datetime) -> None:
        self.start = start
        self.seconds = 0.0
        self._read_at = 0.0
        self._read = start

    def now(self) -> datetime:
        """Return the virtual time, UTC and aware."""
        if self._read_at != self.seconds:  # many look at the same moment
            self._read_at, self._read = self.seconds, self.start + timedelta(seconds=self.seconds)
        return self._read

    def at(self, seconds: float) -> datetime:
        """Return a time of the scenario, UTC and aware."""
        return self.start + timedelta(seconds=seconds)

    def monotonic(self) -> float:
        """Return seconds since the scenario's start."""
        return self.seconds
