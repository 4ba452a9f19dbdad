"""A bare MQTT peer: writes the bytes it is told to and reads packets, so that tests can also misbehave."""

import asyncio
import ssl
from typing import Self

CONNACK_OK = b"\x20\x02\x00\x00"
PINGREQ = b"\xc0\x00"
PINGRESP = b"\xd0\x00"
DISCONNECT = b"\xe0\x00"

_PATIENCE_SECONDS = 20.0  # far above what any answer takes; a missing one fails the test


def packet(first_byte: int, body: bytes) -> bytes:
    length, encoded = len(body), bytearray((first_byte,))
    while length > 127:
        encoded.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes((*encoded, length)) + body


def text(value: str | bytes) -> bytes:
    encoded = value.encode() if isinstance(value, str) else value
    return len(encoded).to_bytes(2, "big") + encoded


def connect_packet(
    client_id: str,
    *,
    username: str | None = None,
    clean: bool = True,
    keep_alive_seconds: int = 60,
    will: tuple[str, bytes] | None = None,
    level: int = 4,
) -> bytes:
    flags = (0x02 if clean else 0) | (0x80 if username is not None else 0) | (0x04 if will else 0)
    body = text("MQTT") + bytes((level, flags)) + keep_alive_seconds.to_bytes(2, "big") + text(client_id)
    if will is not None:
        body += text(will[0]) + text(will[1])
    return packet(0x10, body + (text(username) if username is not None else b""))


def publish_packet(topic: str, payload: bytes, *, packet_id: int = 1, qos: int = 1, dup: bool = False) -> bytes:
    identifier = packet_id.to_bytes(2, "big") if qos else b""
    return packet(0x30 | qos << 1 | (0x08 if dup else 0), text(topic) + identifier + payload)


def puback_packet(packet_id: int) -> bytes:
    return b"\x40\x02" + packet_id.to_bytes(2, "big")


def subscribe_packet(*filters: str, packet_id: int = 1, qos: int = 1) -> bytes:
    body = b"".join(text(topic_filter) + bytes((qos,)) for topic_filter in filters)
    return packet(0x82, packet_id.to_bytes(2, "big") + body)


def unsubscribe_packet(*filters: str, packet_id: int = 1) -> bytes:
    return packet(0xA2, packet_id.to_bytes(2, "big") + b"".join(text(name) for name in filters))


class MqttPeer:
    """One TLS connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, address: tuple[str, int], context: ssl.SSLContext) -> Self:
        return cls(*await asyncio.open_connection(*address, ssl=context, server_hostname=address[0]))

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def receive(self) -> bytes:
        """Read one whole packet of under 16 KiB."""
        async with asyncio.timeout(_PATIENCE_SECONDS):
            first, length = await self._reader.readexactly(2)
            head = bytes((first, length))
            if length > 127:
                high = (await self._reader.readexactly(1))[0]
                head, length = head + bytes((high,)), length & 0x7F | high << 7
            return head + await self._reader.readexactly(length)

    async def receive_exactly(self, count: int) -> bytes:
        """Read that many bytes."""
        async with asyncio.timeout(_PATIENCE_SECONDS):
            return await self._reader.readexactly(count)

    async def exchange(self, data: bytes) -> bytes:
        """Send, and read the answer."""
        self.send(data)
        return await self.receive()

    async def closed(self) -> bytes:
        """Wait until the other side closes; returns what came before."""
        async with asyncio.timeout(_PATIENCE_SECONDS):
            try:
                return await self._reader.read(-1)
            except (ConnectionError, ssl.SSLError):
                return b""

    async def close(self) -> None:
        self._writer.transport.abort()
        await asyncio.wait([asyncio.ensure_future(self._closed_writer())])

    async def _closed_writer(self) -> None:
        try:
            await self._writer.wait_closed()
        except (OSError, ssl.SSLError):
            return
