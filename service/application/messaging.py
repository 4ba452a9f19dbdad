"""Ports between the device gateway and the rest of the service.

The gateway admits devices, commits what they publish and delivers what is queued for them. It knows neither
database nor certificate authority: whatever it needs of them is a Protocol in this module.

Invariants that every implementation keeps:

- `TelemetryStore.commit` returns only after the rows are durable, because the gateway acknowledges to the
  device right after it. MQTT QoS 1 is "at least once": a redelivery (DUP) of a message whose acknowledgement
  was lost is stored twice.
- Row ids rise in commit order, so a reader that keeps the last id it saw misses nothing.
- A queued command exists until the device acknowledges it, it expires, or an operator withdraws it.
"""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeAlias

from service.domain.errors import ConflictError, ServiceError


class MessagingError(ServiceError):
    """Base of what the ports of this module raise."""


class RefusalReason(enum.StrEnum):
    """The rule that a refused connection or message broke; stable names for audit and metrics."""

    NO_CERTIFICATE = "no_certificate"
    FOREIGN_CERTIFICATE = "foreign_certificate"
    NO_DEVICE_ID = "no_device_id"
    NOT_YET_VALID = "not_yet_valid"
    EXPIRED = "expired"
    UNKNOWN_DEVICE = "unknown_device"
    REFUSED = "refused"
    BLOCKED = "blocked"
    MOVED = "moved"
    DECOMMISSIONED = "decommissioned"
    UPDATE_ONLY = "update_only"
    CLIENT_ID_MISMATCH = "client_id_mismatch"
    FOREIGN_TOPIC = "foreign_topic"
    MALFORMED_PACKET = "malformed_packet"
    PROTOCOL_VIOLATION = "protocol_violation"
    UNSUPPORTED_QOS = "unsupported_qos"
    UNSUPPORTED_PROTOCOL = "unsupported_protocol"
    TOO_MANY_CONNECTIONS = "too_many_connections"
    CONNECT_TIMEOUT = "connect_timeout"
    TLS_HANDSHAKE = "tls_handshake"
    INTERNAL = "internal"


class NotAdmittedError(MessagingError):
    """A device may not connect.

    Attributes:
        reason: The rule that was broken.
    """

    def __init__(self, reason: RefusalReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class CommandQueueFullError(MessagingError, ConflictError):
    """The device already has as many waiting commands as its queue holds."""


class MessageKind(enum.StrEnum):
    """What a device publishes."""

    TELEMETRY = "telemetry"
    EVENT = "event"
    TWIN_REPORTED = "twin_reported"


@dataclass(frozen=True, slots=True)
class AdmittedDevice:
    """A device that proved its identity and may connect now.

    Attributes:
        device_id: 128 lower-case hex digits, SHA-512 of the device's identity key.
        not_after: End of the LDevID's validity, UTC, aware; no connection outlives it.
    """

    device_id: str
    not_after: datetime


class DeviceAdmission(Protocol):
    """Decides on every new connection, resumed TLS sessions included; must be cheap (no scan, no signing)."""

    async def admit(self, certificate_der: bytes) -> AdmittedDevice:
        """Check a client certificate that TLS let through.

        Args:
            certificate_der: The peer's leaf certificate, X.509 DER.

        Raises:
            NotAdmittedError: Foreign issuer, no device id, no full access, outside its validity, unknown or
                blocked device.
        """


class DeviceStanding(Protocol):
    """What the device registry says of one device."""

    async def refusal(self, device_id: str) -> RefusalReason | None:
        """Return why the device may not connect (unknown, blocked, moved, decommissioned), or None if it may."""


# One stored message as the tuple that the database drivers take. The gateway makes tens of thousands a second,
# so this is the one record that is no dataclass: (device_id, kind, stream, received_at_ms, payload, properties).
# received_at_ms: Unix time in milliseconds, UTC; properties: JSON object as text, or None.
TelemetryRow: TypeAlias = tuple[str, str, str, int, bytes, str | None]


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A committed message.

    Attributes:
        message_id: Rises in commit order.
        device_id: 128 lower-case hex digits.
        kind: What was published.
        stream: Telemetry stream or event kind; empty for twin reports.
        received_at: When the gateway read it, UTC, aware, whole milliseconds.
        payload: As the device sent it.
        properties: Message properties (IoT Hub dialect), such as `$.ct`; empty for native messages.
    """

    message_id: int
    device_id: str
    kind: MessageKind
    stream: str
    received_at: datetime
    payload: bytes
    properties: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class MessageFilter:
    """Which stored messages to return; None stands for all."""

    device_id: str | None = None
    kind: MessageKind | None = None
    stream: str | None = None


ALL_MESSAGES = MessageFilter()


class TelemetryStore(Protocol):
    """The durable log of what devices published; `commit` runs in the committer thread, the rest on the loop."""

    def commit(self, rows: Sequence[TelemetryRow]) -> int:
        """Store the rows in one transaction and return the id of the last one, after it is durable.

        Called from one thread only, always the same.

        Raises:
            MessagingError: Nothing of the batch was stored.
        """

    async def page(
        self, message_filter: MessageFilter = ALL_MESSAGES, *, before_id: int | None = None, limit: int = 100
    ) -> Sequence[StoredMessage]:
        """Return at most `limit` messages, newest first, with ids below `before_id`."""

    async def tail(
        self, message_filter: MessageFilter = ALL_MESSAGES, *, after_id: int, limit: int = 1000
    ) -> Sequence[StoredMessage]:
        """Return at most `limit` messages, oldest first, with ids above `after_id`."""

    async def count(self, message_filter: MessageFilter = ALL_MESSAGES) -> int:
        """Return how many stored messages match."""

    async def last_id(self) -> int:
        """Return the id of the newest message, 0 if there is none; the starting point of a live tail."""

    async def prune(
        self,
        *,
        received_before: datetime | None = None,
        keep_rows: int | None = None,
        batch_rows: int = 10_000,
    ) -> int:
        """Delete at most `batch_rows` of the oldest messages that are too old or too many.

        Returns:
            How many were deleted; call again while it equals `batch_rows`.
        """


class SubscriptionStore(Protocol):
    """Subscriptions of devices that connect with clean_session=0; one row per device and topic filter."""

    async def load(self, device_id: str) -> Mapping[str, int]:
        """Return topic filter → granted QoS (0 or 1) of the device, empty if it has none."""

    async def save(self, device_id: str, subscriptions: Mapping[str, int]) -> None:
        """Add the filters, or replace their QoS."""

    async def remove(self, device_id: str, topic_filters: Sequence[str]) -> None:
        """Remove the filters; those that are not there are no error."""

    async def clear(self, device_id: str) -> None:
        """Remove all filters of the device (MQTT clean session)."""


@dataclass(frozen=True, slots=True)
class QueuedCommand:
    """A command that waits for its device.

    Attributes:
        command_id: Unique in the service, rises with the order of `put`.
        device_id: 128 lower-case hex digits.
        name: Last part of the topic, `[A-Za-z0-9_.-]{1,64}`.
        payload: Opaque to the gateway.
        expires_at: UTC, aware; not delivered at or after it.
        packet_id: MQTT packet identifier of its first delivery, None while it was never sent. A redelivery
            uses the same one and sets DUP, also after a restart of the service [MQTT-4.4.0-1].
    """

    command_id: int
    device_id: str
    name: str
    payload: bytes
    expires_at: datetime
    packet_id: int | None


class CommandQueue(Protocol):
    """Commands per device, oldest first, kept until acknowledged or expired."""

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
        """Store a command; it is durable when this returns.

        Args:
            device_id: 128 lower-case hex digits.
            name: Last part of the command topic.
            payload: Opaque bytes.
            expires_at: UTC, aware.
            now: UTC, aware; commands that expired by then do not count.
            max_queued: Most unexpired commands that may wait, the new one included.

        Raises:
            CommandQueueFullError: `max_queued` unexpired commands wait already.
        """

    async def pending(self, device_id: str, *, now: datetime, limit: int) -> Sequence[QueuedCommand]:
        """Return at most `limit` unexpired commands of the device, oldest first."""

    async def mark_sent(self, command_id: int, packet_id: int) -> None:
        """Record the packet identifier before the first delivery."""

    async def acknowledge(self, device_id: str, packet_id: int) -> bool:
        """Remove the sent command with this packet identifier; False if there is none (a repeated PUBACK)."""

    async def purge_expired(self, *, now: datetime, limit: int = 1000) -> int:
        """Delete at most `limit` commands that expired by `now` and return how many."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A connection or message that was refused; the audit log's raw material.

    Attributes:
        reason: The broken rule.
        detail: Expected and found, for an operator; no key material.
        source: Peer's IP address.
        device_id: Certificate's device id once it is proven, else None.
        at: UTC, aware.
    """

    reason: RefusalReason
    detail: str
    source: str
    device_id: str | None
    at: datetime


@dataclass(frozen=True, slots=True)
class ConnectedDevice:
    """A device that was admitted.

    Attributes:
        device_id: 128 lower-case hex digits.
        certificate_der: LDevID with which it came in.
        source: Peer's IP address.
        displaced: IP address of the same device's connection that had to give way; None if there was none.
        at: UTC, aware.
    """

    device_id: str
    certificate_der: bytes
    source: str
    displaced: str | None
    at: datetime


class EventSink(Protocol):
    """Hears what happens at the gateway. Called on the event loop: must return at once and never raise."""

    def connected(self, connected: ConnectedDevice) -> None:
        """A device was admitted."""

    def disconnected(self, device_id: str, *, reason: str, at: datetime) -> None:
        """An admitted device's connection ended."""

    def committed(self, device_ids: Sequence[str], *, last_id: int, at: datetime) -> None:
        """A batch of messages is durable; its devices were heard of and readers may look for new rows."""

    def refused(self, refusal: Refusal) -> None:
        """A connection or message was refused."""


class DeviceMessenger(Protocol):
    """What the rest of the service may ask of the gateway; implemented by `service.gateway`."""

    async def send_command(self, device_id: str, name: str, payload: bytes, *, expires_at: datetime) -> QueuedCommand:
        """Store a command durably, then deliver it if the device is connected (QoS 1, at least once).

        Raises:
            CommandQueueFullError: The device has too many waiting commands.
        """

    def notify(self, device_id: str, name: str, payload: bytes = b"") -> bool:
        """Send a hint at QoS 0 that nobody stores, such as "poll now"; False if the device cannot hear it."""

    def publish_desired(self, device_id: str, payload: bytes) -> bool:
        """Send the desired twin at QoS 0 to a connected, subscribed device; False if it cannot hear it."""

    def kick(self, device_id: str) -> bool:
        """Close the device's connection at once; False if it has none here."""

    def is_connected(self, device_id: str) -> bool:
        """Say whether the device holds a connection to this process."""
