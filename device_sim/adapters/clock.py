"""The wall clock: the one file of the simulator that reads the host's time."""

import time
from datetime import UTC, datetime


class WallClock:
    """The host's clock behind the Clock port."""

    def now(self) -> datetime:
        """Return the current time, UTC and aware."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start that never fall."""
        return time.monotonic()
