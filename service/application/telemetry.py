"""Use cases of telemetry: page, count, follow."""

from collections.abc import AsyncIterator, Sequence

from service.application.events import Signal, wait_for
from service.application.messaging import MessageFilter, StoredMessage, TelemetryStore

TAIL_MESSAGES = 500  # of one look at the store
HEARTBEAT_SECONDS = 15.0


class Telemetry:
    """What devices published."""

    def __init__(self, store: TelemetryStore, *, arrived: Signal) -> None:
        self._store = store
        self._arrived = arrived
        self._closing = False

    async def after(self, wanted: MessageFilter, *, after_id: int, limit: int) -> Sequence[StoredMessage]:
        """Return at most `limit` messages with higher ids, oldest first."""
        return await self._store.tail(wanted, after_id=after_id, limit=limit)

    async def newest(self, wanted: MessageFilter, *, before_id: int | None, limit: int) -> Sequence[StoredMessage]:
        """Return at most `limit` messages with lower ids, newest first."""
        return await self._store.page(wanted, before_id=before_id, limit=limit)

    async def count(self, wanted: MessageFilter) -> int:
        """Return how many messages are stored."""
        return await self._store.count(wanted)

    async def follow(
        self, wanted: MessageFilter, *, after_id: int | None = None
    ) -> AsyncIterator[StoredMessage | None]:
        """Yield messages as they become durable, and None as a heartbeat; ends at `close`.

        Args:
            wanted: which messages.
            after_id: where to begin; None for now.
        """
        position = await self._store.last_id() if after_id is None else after_id
        while not self._closing:
            ticket = self._arrived.ticket()
            messages = await self._store.tail(wanted, after_id=position, limit=TAIL_MESSAGES)
            for message in messages:
                position = message.message_id
                yield message
            if not messages:
                await wait_for(ticket, HEARTBEAT_SECONDS)
                yield None

    def close(self) -> None:
        """End every live tail."""
        self._closing = True
        self._arrived.set()
