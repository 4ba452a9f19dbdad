"""In-memory implementations of the gateway's ports, and a clock that can be set forward."""

import asyncio
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncEngine
from typing_extensions import override

from service.adapters.telemetry.senders import TelemetryCommitError
from service.adapters.telemetry.sqlite import SqliteTelemetryStore
from service.application.messaging import (
    CommandQueueFullError,
    ConnectedDevice,
    QueuedCommand,
    Refusal,
    RefusalReason,
    TelemetryRow,
)
from tests.integration.gateway.gateway_certificates import wall_clock


@dataclass(slots=True)
class OffsetClock:
    """The wall clock, which TLS goes by too, plus an offset."""

    offset: timedelta = timedelta(0)

    def now(self) -> datetime:
        return wall_clock() + self.offset


@dataclass(slots=True)
class DeviceRegister:
    """`DeviceStanding`: every device is known unless it is listed here."""

    refusals: dict[str, RefusalReason] = field(default_factory=dict)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.may_answer.set()

    async def refusal(self, device_id: str) -> RefusalReason | None:
        found = self.refusals.get(device_id)
        self.asked.set()
        await self.may_answer.wait()
        return found


@dataclass(slots=True)
class MemorySubscriptions:
    """`SubscriptionStore`."""

    by_device: dict[str, dict[str, int]] = field(default_factory=dict)
    writes: int = 0

    async def load(self, device_id: str) -> Mapping[str, int]:
        return self.by_device.get(device_id, {})

    async def save(self, device_id: str, subscriptions: Mapping[str, int]) -> None:
        self.writes += 1
        self.by_device[device_id] = {**self.by_device.get(device_id, {}), **subscriptions}

    async def remove(self, device_id: str, topic_filters: Sequence[str]) -> None:
        self.writes += 1
        kept = self.by_device.get(device_id, {})
        self.by_device[device_id] = {name: qos for name, qos in kept.items() if name not in topic_filters}

    async def clear(self, device_id: str) -> None:
        self.writes += 1
        self.by_device.pop(device_id, None)


@dataclass(slots=True)
class MemoryCommands:
    """`CommandQueue`."""

    commands: list[QueuedCommand] = field(default_factory=list)
    next_id: int = 1

    async def put(
        self,
        device_id: str,
        name: str,
        payload: bytes,
        *,
        expires_at: datetime,
        now: datetime,
        max_queued: int,
    ) -> QueuedCommand:
        if len(await self.pending(device_id, now=now, limit=max_queued)) >= max_queued:
            raise CommandQueueFullError(f"commands: expected fewer than {max_queued} waiting")
        command = QueuedCommand(self.next_id, device_id, name, payload, expires_at, packet_id=None)
        self.next_id += 1
        self.commands.append(command)
        return command

    async def pending(self, device_id: str, *, now: datetime, limit: int) -> Sequence[QueuedCommand]:
        waiting = [entry for entry in self.commands if entry.device_id == device_id and entry.expires_at > now]
        return waiting[:limit]

    async def mark_sent(self, command_id: int, packet_id: int) -> None:
        self.commands = [
            replace(entry, packet_id=packet_id) if entry.command_id == command_id else entry for entry in self.commands
        ]

    async def acknowledge(self, device_id: str, packet_id: int) -> bool:
        kept = [entry for entry in self.commands if (entry.device_id, entry.packet_id) != (device_id, packet_id)]
        found, self.commands = len(kept) < len(self.commands), kept
        return found

    async def purge_expired(self, *, now: datetime, limit: int = 1000) -> int:
        kept = [entry for entry in self.commands if entry.expires_at > now]
        purged = min(limit, len(self.commands) - len(kept))
        self.commands = kept
        return purged


@dataclass(slots=True)
class RecordedEvents:
    """`EventSink` that keeps what it hears and wakes whoever waits for it."""

    refusals: list[Refusal] = field(default_factory=list)
    connections: list[str] = field(default_factory=list)
    disconnections: list[tuple[str, str]] = field(default_factory=list)
    committed_batches: list[tuple[tuple[str, ...], int]] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def connected(self, connected: ConnectedDevice) -> None:
        self.connections.append(connected.device_id)
        self._changed.set()

    def disconnected(self, device_id: str, *, reason: str, at: datetime) -> None:  # noqa: ARG002
        self.disconnections.append((device_id, reason))
        self._changed.set()

    def committed(self, device_ids: Sequence[str], *, last_id: int, at: datetime) -> None:  # noqa: ARG002
        self.committed_batches.append((tuple(device_ids), last_id))
        self._changed.set()

    def refused(self, refusal: Refusal) -> None:
        self.refusals.append(refusal)
        self._changed.set()

    async def refusal(self) -> Refusal:
        """Wait for the first refusal."""
        while not self.refusals:
            await self._wait()
        return self.refusals[0]

    async def disconnection(self) -> tuple[str, str]:
        """Wait for the first disconnection of an admitted device."""
        while not self.disconnections:
            await self._wait()
        return self.disconnections[0]

    async def _wait(self) -> None:
        self._changed.clear()
        await asyncio.wait_for(self._changed.wait(), 20)


class SwitchableStore(SqliteTelemetryStore):
    """The real SQLite store, whose commits a test can make fail or wait."""

    def __init__(self, path: Path, engine: AsyncEngine) -> None:
        super().__init__(path, engine)
        self.failing = False
        self.may_commit = threading.Event()
        self.may_commit.set()

    @override
    def commit(self, rows: Sequence[TelemetryRow]) -> int:
        self.may_commit.wait()
        if self.failing:
            raise TelemetryCommitError("disk: expected space, found none")
        return super().commit(rows)
