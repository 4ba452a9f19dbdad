"""The wall clock of the operator's machine: the one place of the command line that reads it."""

from datetime import UTC, datetime


def now() -> datetime:
    """Return the current time, UTC and aware."""
    return datetime.now(UTC)  # noqa: TID251 - see above
