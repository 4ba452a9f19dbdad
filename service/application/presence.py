"""When devices were last heard of: collected in memory, written in batches, because a check-in costs no row write."""

import asyncio
from datetime import datetime

import structlog

from service.application.unit_of_work import UnitOfWorkFactory

_log = structlog.get_logger()
MAX_BATCH_DEVICES = 5_000  # rows of one transaction, so that other writers get their turn


class Presence:
    """Last-seen times that this process knows and has not all written yet."""

    def __init__(self, unit_of_work: UnitOfWorkFactory, *, flush_seconds: float) -> None:
        self._unit_of_work = unit_of_work
        self._flush_seconds = flush_seconds
        self._unwritten: dict[str, datetime] = {}
        self._writing: dict[str, datetime] = {}

    def heard(self, device_id: str, at: datetime) -> None:
        """Remember that a device was heard of."""
        self._unwritten[device_id] = at

    def last_seen(self, device_id: str, stored: datetime | None) -> datetime | None:
        """Return the newest time that is known, given the stored one."""
        return self._unwritten.get(device_id) or self._writing.get(device_id) or stored

    async def run(self) -> None:
        """Write what was collected, every few seconds, until cancelled."""
        while True:
            await asyncio.sleep(self._flush_seconds)
            try:
                await self.flush()
            except Exception as error:  # noqa: BLE001 - whatever the driver raises: the next flush may succeed
                _log.warning("last_seen_unwritten", error=repr(error))

    async def flush(self) -> None:
        """Write what was collected."""
        while self._unwritten:
            batch = dict(list(self._unwritten.items())[:MAX_BATCH_DEVICES])
            self._writing = batch
            for device_id in batch:
                del self._unwritten[device_id]
            try:
                async with self._unit_of_work() as work:
                    await work.devices.touch(batch)
                    await work.commit()
            except BaseException:
                self._unwritten = {**batch, **self._unwritten}
                raise
            finally:
                self._writing = {}
