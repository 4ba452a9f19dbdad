"""Commits what devices published, in batches and off the event loop, then lets them be acknowledged.

While one batch is in the committer thread the next one collects, so a batch is as large as the load makes it:
one message when idle, thousands under pressure, one transaction either way.

Invariants: a batch's acknowledgements go out only after `TelemetryStore.commit` returned; batches are committed
in the order in which their messages were read; a batch that fails is dropped unacknowledged, so that its devices
send it again (QoS 1), and the next batch is tried as if nothing had happened.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol

import structlog

from service.application.messaging import TelemetryRow, TelemetryStore
from service.gateway.limits import Limits

_log = structlog.get_logger()


class Publisher(Protocol):
    """A connection that waits for its messages to be committed."""

    @property
    def device_id(self) -> str:
        """Whose messages they are."""

    def acknowledge(self, share: "Share") -> None:
        """Send the share's PUBACK packets: its messages are durable."""

    def commit_failed(self) -> None:
        """Close without acknowledging."""

    def resume_committing(self) -> None:
        """The committer has room again."""


class Share:
    """One publisher's part of a batch.

    Attributes:
        pubacks: PUBACK packets that are due once it is committed; none for QoS 0.
        messages: How many it holds.
        size_bytes: Their payloads together.
    """

    __slots__ = ("messages", "pubacks", "size_bytes")

    def __init__(self) -> None:
        self.pubacks = bytearray()
        self.messages = 0
        self.size_bytes = 0


class _Batch:
    __slots__ = ("rows", "shares", "size_bytes")

    def __init__(self) -> None:
        self.rows: list[TelemetryRow] = []
        self.shares: dict[Publisher, Share] = {}
        self.size_bytes = 0


class Committer:
    """Hands batches to the committer thread, one at a time.

    Attributes:
        committed: Messages stored since the start.
        failed: Messages whose batch failed.
        batches: Transactions since the start, failed ones included.
    """

    def __init__(
        self,
        store: TelemetryStore,
        *,
        loop: asyncio.AbstractEventLoop,
        limits: Limits,
        on_committed: Callable[[Sequence[str], int], None],
    ) -> None:
        self._store = store
        self._loop = loop
        self._limits = limits
        self._on_committed = on_committed
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="committer")
        self._collecting = _Batch()
        self._committing: _Batch | None = None
        self._round_ends = False
        self._waiting: set[Publisher] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self.committed = 0
        self.failed = 0
        self.batches = 0

    @property
    def pending_rows(self) -> int:
        """Messages that are read and not yet committed."""
        return len(self._collecting.rows) + (len(self._committing.rows) if self._committing else 0)

    def submit(self, publisher: Publisher, rows: list[TelemetryRow], *, pubacks: bytearray, size_bytes: int) -> bool:
        """Take messages in; returns False if the publisher must now wait for `resume_committing`."""
        batch = self._collecting
        batch.rows += rows
        batch.size_bytes += size_bytes
        share = batch.shares.get(publisher)
        if share is None:
            share = batch.shares[publisher] = Share()
        share.pubacks += pubacks
        share.messages += len(rows)
        share.size_bytes += size_bytes
        if not self._round_ends and self._committing is None:
            self._round_ends = True
            self._idle.clear()
            self._loop.call_soon(self._end_round)
        if self._has_room():
            return True
        self._waiting.add(publisher)
        return False

    def forget(self, publisher: Publisher) -> None:
        """Resume the publisher no more; what it submitted is committed all the same."""
        self._waiting.discard(publisher)

    async def drain(self) -> None:
        """Wait until everything submitted is committed and acknowledged, or has failed."""
        await self._idle.wait()

    def close(self) -> None:
        """End the committer thread; call after `drain`."""
        self._thread.shutdown(wait=True)

    def _has_room(self) -> bool:
        in_thread = self._committing.size_bytes if self._committing else 0
        return (
            self.pending_rows < self._limits.max_uncommitted_rows
            and self._collecting.size_bytes + in_thread < self._limits.max_uncommitted_bytes
        )

    def _end_round(self) -> None:
        self._round_ends = False
        batch, self._collecting = self._collecting, _Batch()
        self._committing = batch
        self.batches += 1
        self._loop.run_in_executor(self._thread, self._store.commit, batch.rows).add_done_callback(
            partial(self._finish, batch)
        )

    def _finish(self, batch: _Batch, result: "asyncio.Future[int]") -> None:
        self._committing = None
        if self._collecting.rows:
            self._end_round()
        else:
            self._idle.set()
        if (error := result.exception()) is not None:
            self._give_up(batch, error)
        else:
            self._acknowledge(batch, result.result())
        if self._waiting and self._has_room():
            waiting, self._waiting = self._waiting, set()
            for publisher in waiting:
                publisher.resume_committing()

    def _acknowledge(self, batch: _Batch, last_id: int) -> None:
        self.committed += len(batch.rows)
        for publisher, share in batch.shares.items():
            publisher.acknowledge(share)
        self._on_committed([publisher.device_id for publisher in batch.shares], last_id)

    def _give_up(self, batch: _Batch, error: BaseException) -> None:
        self.failed += len(batch.rows)
        _log.error("telemetry_commit_failed", messages=len(batch.rows), error=repr(error))
        for publisher in batch.shares:
            publisher.commit_failed()
