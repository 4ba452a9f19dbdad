"""Retention: what is too old is deleted and changes of counts are summed up, in batches; the audit log is kept."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from service.application.messaging import TelemetryStore
from service.application.unit_of_work import UnitOfWorkFactory

TELEMETRY_BATCH_ROWS = 10_000
COUNTS_BATCH_ROWS = 10_000
IDEMPOTENCY_AGE = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Retention:
    """How long things are kept.

    Attributes:
        telemetry_age: of messages.
        event_age: of events; as long as a stream can resume.
    """

    unit_of_work: UnitOfWorkFactory
    telemetry: TelemetryStore
    telemetry_age: timedelta
    event_age: timedelta

    async def keep_house(self, now: datetime) -> bool:
        """Delete a batch of what is too old, and sum up a batch of what can be.

        Returns:
            Whether there is more for another call. Writers may go on: what is less than a batch is left for later.
        """
        async with self.unit_of_work() as work:
            await work.events.prune(now - self.event_age)
            await work.idempotency.prune(now - IDEMPOTENCY_AGE)
            await work.claims.prune(now=now)
            await work.attestations.prune_nonces(now=now)
            await work.commit()
        summed_up = await self._sum_up_counts()
        pruned = await self.telemetry.prune(received_before=now - self.telemetry_age, batch_rows=TELEMETRY_BATCH_ROWS)
        return summed_up == COUNTS_BATCH_ROWS or pruned == TELEMETRY_BATCH_ROWS

    async def _sum_up_counts(self) -> int:
        """Sum up what ticks have left of how many devices there are."""
        async with self.unit_of_work() as work:
            found = await work.devices.sum_up_counts(limit=COUNTS_BATCH_ROWS)
            await work.commit()
            return found
