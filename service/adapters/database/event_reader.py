"""Reads stored events, each call in a transaction of its own; implements `EventReader`."""

from collections.abc import Sequence

from service.adapters.database.unit_of_work import SqlUnitOfWorkFactory
from service.application.events import StoredEvent


class SqlEventReader:
    """Implements `EventReader`."""

    def __init__(self, unit_of_work: SqlUnitOfWorkFactory) -> None:
        self._unit_of_work = unit_of_work

    async def after(self, sequence: int) -> Sequence[StoredEvent]:
        """See `EventReader.after`."""
        async with self._unit_of_work(read_only=True) as work:
            return await work.events.after(sequence)

    async def last_sequence(self) -> int:
        """See `EventReader.last_sequence`."""
        async with self._unit_of_work(read_only=True) as work:
            return await work.events.last_sequence()
