"""What one device, one source and all of them together may cost the gateway."""

from dataclasses import dataclass

_KIB = 1024
_MIB = 1024 * _KIB


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the gateway; each default suits a service with 1 GiB of memory.

    Attributes:
        max_payload_bytes: Of one PUBLISH; IoT Hub allows 256 KiB.
        max_topic_bytes: Of one PUBLISH, properties of the IoT Hub dialect included.
        max_connect_bytes: Of the CONNECT packet, the only one that is read before admission.
        max_uncommitted_messages: Of one connection, read but not committed; above it, it is not read from.
        max_uncommitted_message_bytes: The same in payload bytes.
        max_uncommitted_rows: Of all connections; above it nobody is read from.
        max_uncommitted_bytes: The same in payload bytes.
        max_cached_topics: Checked topics that one connection remembers.
        max_connections: In all, TLS handshakes in progress included.
        max_connections_per_source: From one IP address, likewise.
        handshake_seconds: For the TLS handshake.
        connect_seconds: From the end of the handshake to the CONNECT packet.
        shutdown_seconds: For the peer to answer a TLS close.
        max_silence_seconds: Longest time between two packets, whatever keep alive the client asks for.
        write_buffer_bytes: What may wait for a slow reader before the gateway stops reading from it; more than
            the 3 KiB that a TLS handshake leaves there.
        max_queued_commands: Per device.
        max_inflight_commands: Sent to one device and not yet acknowledged.
    """

    max_payload_bytes: int = 256 * _KIB
    max_topic_bytes: int = 8 * _KIB
    max_connect_bytes: int = 16 * _KIB
    max_uncommitted_messages: int = 512
    max_uncommitted_message_bytes: int = _MIB
    max_uncommitted_rows: int = 20_000
    max_uncommitted_bytes: int = 64 * _MIB
    max_cached_topics: int = 64
    max_connections: int = 20_000
    max_connections_per_source: int = 1_000
    handshake_seconds: float = 10.0
    connect_seconds: float = 10.0
    shutdown_seconds: float = 2.0
    max_silence_seconds: float = 3_600.0
    write_buffer_bytes: int = 64 * _KIB
    max_queued_commands: int = 100
    max_inflight_commands: int = 16

    @property
    def max_packet_bytes(self) -> int:
        """Largest remaining length: topic length field, topic, packet identifier and payload."""
        return 2 + self.max_topic_bytes + 2 + self.max_payload_bytes
