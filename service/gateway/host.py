"""What all connections of a gateway share."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from service.application.clock import Clock
from service.application.messaging import (
    CommandQueue,
    DeviceAdmission,
    EventSink,
    Refusal,
    RefusalReason,
    SubscriptionStore,
    TelemetryStore,
)
from service.gateway.committer import Committer
from service.gateway.limits import Limits
from service.gateway.registry import Registry


@dataclass(frozen=True, slots=True)
class GatewayPorts:
    """What the gateway needs of the rest of the service."""

    admission: DeviceAdmission
    telemetry: TelemetryStore
    subscriptions: SubscriptionStore
    commands: CommandQueue
    events: EventSink
    clock: Clock


@dataclass(slots=True)
class Counters:
    """Plain counters since the start.

    Attributes:
        accepted: TCP connections.
        admitted: Devices let in, reconnects included.
        received: Messages read.
        commands_sent: Deliveries of commands, redeliveries included.
        refused: By broken rule.
    """

    accepted: int = 0
    admitted: int = 0
    received: int = 0
    commands_sent: int = 0
    refused: Counter[RefusalReason] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Host:
    """The shared parts of one running gateway; `tasks` runs the connections' asynchronous steps."""

    ports: GatewayPorts
    limits: Limits
    loop: asyncio.AbstractEventLoop
    registry: Registry
    committer: Committer
    counters: Counters
    tasks: asyncio.TaskGroup

    def refuse(self, reason: RefusalReason, detail: str, *, source: str, device_id: str | None) -> None:
        """Count a refusal and tell the event sink."""
        self.counters.refused[reason] += 1
        self.ports.events.refused(
            Refusal(reason=reason, detail=detail, source=source, device_id=device_id, at=self.ports.clock.now())
        )
