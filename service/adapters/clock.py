"""The wall clock."""

from datetime import UTC, datetime


class SystemClock:
    """The machine's clock; implements `Clock`."""

    def now(self) -> datetime:
        """Return the current time, UTC and aware."""
        return datetime.now(UTC)
