"""Hearing of other processes' changes at once: PostgreSQL's LISTEN on a connection of its own.

A unit of work that stores events notifies in the same transaction, so that the word is out with the commit and never
before it. The notification says nothing but "look": what changed is read from the events, in their order. A lost
notification costs time only, because the event feed looks by itself as well.
"""

import asyncio
from typing import Any

import asyncpg
import structlog
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from service.application.events import EventFeed

CHANNEL = "tinyfleet_events"
RETRY_SECONDS = 0.5
HEARTBEAT_SECONDS = 15.0  # a server that vanished without a word is found out so
_log = structlog.get_logger()


class Notifications:
    """Wakes the event feed when any process commits events; reconnects by itself.

    Args:
        url: of the control database, PostgreSQL.
        feed: what to wake.
    """

    def __init__(self, url: URL, feed: EventFeed) -> None:
        self._engine = create_async_engine(url, poolclass=NullPool)
        self._feed = feed

    async def run(self) -> None:
        """Listen until cancelled."""
        while True:
            try:
                await self._listen()
            except (OSError, SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                _log.warning("notifications_lost", error=repr(error))
            await asyncio.sleep(RETRY_SECONDS)

    async def _listen(self) -> None:
        """Listen until the connection ends."""
        async with self._engine.connect() as connection:
            driver: Any = (await connection.get_raw_connection()).driver_connection
            ended = asyncio.Event()
            driver.add_termination_listener(lambda _connection: ended.set())
            await driver.add_listener(CHANNEL, lambda *_: self._feed.wake())
            self._feed.wake()  # what was committed while nobody listened
            while not ended.is_set():
                try:
                    await asyncio.wait_for(ended.wait(), HEARTBEAT_SECONDS)
                except TimeoutError:
                    await driver.execute("SELECT 1", timeout=HEARTBEAT_SECONDS)
