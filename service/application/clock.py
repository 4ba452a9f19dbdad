"""The port through which the service learns the time."""

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """Source of the current time; the wall clock in production, a virtual one in tests."""

    def now(self) -> datetime:
        """Return the current time, UTC and aware."""
