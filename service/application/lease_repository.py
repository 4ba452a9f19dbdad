"""The port to leases: of several processes, one does what only one is to do; part of a unit of work."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from service.domain.errors import ConflictError
from service.domain.listening import Listening


class LeaseLostError(ConflictError):
    """Another process holds the lease by now."""

    def __init__(self, name: str, owner: str) -> None:
        super().__init__(f"lease {name}: expected it to be held by {owner}, found it taken over")


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to tick, held by one worker at a time.

    Attributes:
        listening: when workers have held it.
        event_sequence: last event that a worker has acted on.
    """

    name: str
    owner: str
    expires_at: datetime
    listening: Listening
    event_sequence: int


class LeaseRepository(Protocol):
    """Leases in the database; the clock is the caller's."""

    async def acquire(
        self, name: str, owner: str, *, now: datetime, lifetime: timedelta, largest_gap: timedelta
    ) -> Lease | None:
        """Take or renew a lease.

        Args:
            name: of the lease.
            owner: unique to the process.
            now: UTC, aware.
            lifetime: after which another may take it.
            largest_gap: time without a holder that does not count as an outage.

        Returns:
            The lease, or None while another holds it.
        """

    async def advance(self, name: str, owner: str, event_sequence: int) -> None:
        """Record the last event that was acted on.

        Raises:
            LeaseLostError: another holds it by now; what was done in its name must not be committed.
        """

    async def release(self, name: str, owner: str, *, now: datetime) -> None:
        """Give a lease up at once."""
