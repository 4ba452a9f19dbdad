"""MQTT 3.1.1 control packets: bytes in, tuples out, and back; the server's side, no I/O.

Source: OASIS MQTT Version 3.1.1; its normative statements are cited as [MQTT-x.y.z-n]. Layout of every packet
(section 2.2): one byte type and flags, 1 to 4 bytes remaining length (7 bits each, least significant first),
then that many bytes of variable header and payload.

Invariant: malformed input raises `MalformedPacketError` (or `UnsupportedQosError`, `UnsupportedProtocolError`),
never anything else. Not checked here: whether a packet is allowed at this point of a connection
(`service.gateway.connection`) and whether a topic is the device's own (`service.gateway.dialects`).
"""

from dataclasses import dataclass
from typing import TypeAlias

from service.gateway.errors import MalformedPacketError, UnsupportedProtocolError, UnsupportedQosError

CONNECT = 0x10
PUBLISH = 0x30  # upper four bits; the lower four are DUP, QoS (two bits) and RETAIN
PUBACK = 0x40
SUBSCRIBE = 0x82  # the lower bits 0010 are fixed [MQTT-3.8.1-1]
UNSUBSCRIBE = 0xA2  # [MQTT-3.10.1-1]
PINGREQ = 0xC0
DISCONNECT = 0xE0  # [MQTT-3.14.1-1]

PINGRESP_PACKET = b"\xd0\x00"
PUBACK_PREFIX = b"\x40\x02"  # followed by the packet identifier, two bytes

CONNACK_ACCEPTED = 0
CONNACK_UNACCEPTABLE_PROTOCOL = 1
CONNACK_IDENTIFIER_REJECTED = 2
CONNACK_SERVER_UNAVAILABLE = 3
CONNACK_NOT_AUTHORIZED = 5

SUBACK_FAILURE = 0x80

_PROTOCOL_LEVEL = 4
_MAX_LENGTH_BYTES = 4
_PROTOCOL_NAMES = (b"MQTT", b"MQIsdp")

Frame: TypeAlias = tuple[int, bytes]  # first byte of the fixed header, remaining bytes


class FrameReader:
    """Cuts a byte stream into frames, whatever pieces it arrives in.

    Attributes:
        max_bytes: Largest remaining length that is accepted; may be raised once the peer is trusted.
    """

    __slots__ = ("_needed", "_pending", "max_bytes")

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._pending = bytearray()
        self._needed = 0  # bytes of `_pending` before looking at it again: a drip of bytes costs linear time

    def feed(self, data: bytes) -> list[Frame]:
        """Take the next bytes and return the frames that they complete.

        Raises:
            MalformedPacketError: A remaining length over four bytes long or over `max_bytes`.
        """
        if self._pending:
            self._pending += data
            if len(self._pending) < self._needed:
                return []
            data = bytes(self._pending)
            self._pending.clear()
        frames: list[Frame] = []
        position = 0
        while (stop := self._next_frame(data, position, frames)) is not None:
            position = stop
        self._pending += data[position:]
        return frames

    def _next_frame(self, data: bytes, position: int, frames: list[Frame]) -> int | None:
        """Append the frame at `position` and return where it ends, or None if it is incomplete."""
        available = len(data)
        if position + 2 > available:
            self._needed = 2
            return None
        length = data[position + 1]
        start = position + 2
        if length > 0x7F:  # noqa: PLR2004  # more length bytes follow
            decoded = _long_length(data, position + 1)
            if decoded is None:
                self._needed = available - position + 1
                return None
            length, start = decoded
        if length > self.max_bytes:
            raise MalformedPacketError(
                f"packet of {length} bytes: expected at most {self.max_bytes} after the fixed header"
            )
        stop = start + length
        if stop > available:
            self._needed = stop - position
            return None
        frames.append((data[position], data[start:stop]))
        return stop


def _long_length(data: bytes, position: int) -> tuple[int, int] | None:
    """Decode a remaining length (section 2.2.3); None if its bytes have not all arrived."""
    length = 0
    for index, byte in enumerate(data[position : position + _MAX_LENGTH_BYTES]):
        length |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:  # noqa: PLR2004  # the continuation bit
            return length, position + index + 1
    if len(data) - position >= _MAX_LENGTH_BYTES:
        raise MalformedPacketError("remaining length: expected at most 4 bytes, found a continuation bit in the 4th")
    return None


@dataclass(frozen=True, slots=True)
class Will:
    """A message that the client asks to be published when its connection breaks."""

    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Connect:
    """A CONNECT packet (section 3.1); a password is skipped unread, because the certificate decides.

    Attributes:
        client_id: As sent, may be empty.
        username: None if the flag is not set.
        keep_alive_seconds: 0 turns the client's keep alive off.
        clean_session: Whether earlier session state is to be dropped.
        will: None if the flag is not set.
    """

    client_id: str
    username: str | None
    keep_alive_seconds: int
    clean_session: bool
    will: Will | None


class _Fields:
    """Reads the fields of a packet body from front to back."""

    __slots__ = ("_body", "_position")

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._position = 0

    def take(self, count: int, name: str) -> bytes:
        stop = self._position + count
        if stop > len(self._body):
            raise MalformedPacketError(f"{name}: expected {count} bytes, found {len(self._body) - self._position}")
        taken = self._body[self._position : stop]
        self._position = stop
        return taken

    def byte(self, name: str) -> int:
        return self.take(1, name)[0]

    def integer(self, name: str) -> int:
        return int.from_bytes(self.take(2, name), "big")

    def packet_id(self) -> int:
        packet_id = self.integer("packet identifier")
        if packet_id == 0:
            raise MalformedPacketError("packet identifier: expected 1 to 65535, found 0 [MQTT-2.3.1-1]")
        return packet_id

    def data(self, name: str) -> bytes:
        return self.take(self.integer(f"length of {name}"), name)

    def text(self, name: str) -> str:
        return decode_text(self.data(name), name)

    @property
    def remaining(self) -> int:
        return len(self._body) - self._position

    def end(self, packet: str) -> None:
        if self.remaining:
            raise MalformedPacketError(f"{packet}: expected its end, found {self.remaining} more bytes")


def decode_text(encoded: bytes, name: str) -> str:
    """Decode a UTF-8 string of a packet (section 1.5.3).

    Raises:
        MalformedPacketError: Ill-formed UTF-8 or a surrogate [MQTT-1.5.3-1], or U+0000 [MQTT-1.5.3-2].
    """
    try:
        text = encoded.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedPacketError(f"{name}: expected UTF-8, found an ill-formed byte at {error.start}") from error
    if "\0" in text:
        raise MalformedPacketError(f"{name}: expected no U+0000 [MQTT-1.5.3-2]")
    return text


def parse_connect(body: bytes) -> Connect:
    """Parse a CONNECT's remaining bytes.

    Raises:
        MalformedPacketError: Not a CONNECT.
        UnsupportedProtocolError: A CONNECT of MQTT 3.1 or 5 [MQTT-3.1.2-2].
    """
    fields = _Fields(body)
    name = fields.data("protocol name")
    if name not in _PROTOCOL_NAMES:
        raise MalformedPacketError("protocol name: expected MQTT [MQTT-3.1.2-1]")
    level = fields.byte("protocol level")
    if level != _PROTOCOL_LEVEL or name != b"MQTT":
        raise UnsupportedProtocolError(f"protocol level: expected 4 (MQTT 3.1.1), found {level}")
    flags = fields.byte("connect flags")
    _check_connect_flags(flags)
    keep_alive_seconds = fields.integer("keep alive")
    client_id = fields.text("client identifier")
    will = _parse_will(fields, flags)
    username = fields.text("user name") if flags & 0x80 else None
    if flags & 0x40:
        fields.data("password")
    fields.end("CONNECT")
    return Connect(client_id, username, keep_alive_seconds, bool(flags & 0x02), will)


def _check_connect_flags(flags: int) -> None:
    will_qos = flags >> 3 & 0x03
    if flags & 0x01:
        raise MalformedPacketError("connect flags: expected the reserved bit to be 0 [MQTT-3.1.2-3]")
    if not flags & 0x04 and flags & 0x38:
        raise MalformedPacketError("connect flags: will QoS or retain without a will [MQTT-3.1.2-13, -15]")
    if will_qos == 3:  # noqa: PLR2004
        raise MalformedPacketError("connect flags: expected will QoS 0 to 2, found 3 [MQTT-3.1.2-14]")
    if will_qos == 2:  # noqa: PLR2004
        raise UnsupportedQosError("will QoS: expected 0 or 1, found 2")
    if flags & 0x40 and not flags & 0x80:
        raise MalformedPacketError("connect flags: password without user name [MQTT-3.1.2-22]")


def _parse_will(fields: _Fields, flags: int) -> Will | None:
    if not flags & 0x04:
        return None
    topic = fields.text("will topic")
    check_topic_name(topic)
    return Will(topic, fields.data("will message"))


def split_publish(header: int, body: bytes) -> tuple[bytes, bytes, bytes]:
    """Split a PUBLISH (section 3.3) into topic name, packet identifier (two bytes, none at QoS 0) and payload.

    The topic is not decoded or checked here: a connection does that once per topic (`check_topic_name`).

    Raises:
        MalformedPacketError: Wrong flags, too short, or packet identifier 0.
        UnsupportedQosError: QoS 2.
    """
    if header & 0x06 != 0x02:  # noqa: PLR2004  # not QoS 1: the path that is not hot
        _check_publish_flags(header)
        topic_end = 2 + (body[0] << 8 | body[1]) if len(body) > 1 else 2
        if topic_end > len(body):
            raise MalformedPacketError(f"PUBLISH: expected a topic name in {len(body)} bytes")
        return body[2:topic_end], b"", body[topic_end:]
    topic_end = 2 + (body[0] << 8 | body[1]) if len(body) > 1 else 2
    packet_id = body[topic_end : topic_end + 2]
    if len(packet_id) != 2 or packet_id == b"\0\0":  # noqa: PLR2004
        raise MalformedPacketError(
            f"PUBLISH: expected a topic name and a packet identifier that is not 0 in {len(body)} bytes"
        )
    return body[2:topic_end], packet_id, body[topic_end + 2 :]


def _check_publish_flags(header: int) -> None:
    qos = header >> 1 & 0x03
    if qos == 3:  # noqa: PLR2004
        raise MalformedPacketError("PUBLISH: expected QoS 0 to 2, found 3 [MQTT-3.3.1-4]")
    if qos == 2:  # noqa: PLR2004
        raise UnsupportedQosError("PUBLISH: expected QoS 0 or 1, found 2")
    if header & 0x08:
        raise MalformedPacketError("PUBLISH: DUP is set at QoS 0 [MQTT-3.3.1-2]")


def check_topic_name(topic: str) -> None:
    """Check a topic name of a PUBLISH or will (section 4.7.3).

    Raises:
        MalformedPacketError: Empty [MQTT-4.7.3-1] or with a wildcard [MQTT-3.3.2-2].
    """
    if not topic:
        raise MalformedPacketError("topic name: expected at least one character [MQTT-4.7.3-1]")
    if "#" in topic or "+" in topic:
        raise MalformedPacketError("topic name: expected no wildcard [MQTT-3.3.2-2]")


def check_topic_filter(topic_filter: str) -> None:
    """Check a topic filter of a SUBSCRIBE or UNSUBSCRIBE (section 4.7.1).

    Raises:
        MalformedPacketError: Empty, `#` not last and alone in its level [MQTT-4.7.1-2], or `+` not alone
            [MQTT-4.7.1-3].
    """
    if not topic_filter:
        raise MalformedPacketError("topic filter: expected at least one character [MQTT-4.7.3-1]")
    *above, last = topic_filter.split("/")
    if any("#" in level for level in above) or ("#" in last and last != "#"):
        raise MalformedPacketError("topic filter: expected # only as the last level [MQTT-4.7.1-2]")
    if any("+" in level and level != "+" for level in (*above, last)):
        raise MalformedPacketError("topic filter: expected + to fill its level [MQTT-4.7.1-3]")


def parse_puback(body: bytes) -> int:
    """Return the packet identifier of a PUBACK.

    Raises:
        MalformedPacketError: Not two bytes, or 0.
    """
    fields = _Fields(body)
    packet_id = fields.packet_id()
    fields.end("PUBACK")
    return packet_id


def parse_subscribe(body: bytes) -> tuple[int, tuple[tuple[str, int], ...]]:
    """Return a SUBSCRIBE's packet identifier and its topic filters with the requested QoS (0 to 2).

    Raises:
        MalformedPacketError: No filter [MQTT-3.8.3-3], an invalid one, or a QoS over 2 [MQTT-3-8.3-4].
    """
    fields = _Fields(body)
    packet_id = fields.packet_id()
    requests: list[tuple[str, int]] = []
    while fields.remaining or not requests:
        topic_filter = fields.text("topic filter")
        check_topic_filter(topic_filter)
        qos = fields.byte("requested QoS")
        if qos > 2:  # noqa: PLR2004
            raise MalformedPacketError(f"requested QoS: expected 0 to 2, found {qos} [MQTT-3-8.3-4]")
        requests.append((topic_filter, qos))
    return packet_id, tuple(requests)


def parse_unsubscribe(body: bytes) -> tuple[int, tuple[str, ...]]:
    """Return an UNSUBSCRIBE's packet identifier and topic filters.

    Raises:
        MalformedPacketError: No filter [MQTT-3.10.3-2] or an invalid one.
    """
    fields = _Fields(body)
    packet_id = fields.packet_id()
    filters: list[str] = []
    while fields.remaining or not filters:
        topic_filter = fields.text("topic filter")
        check_topic_filter(topic_filter)
        filters.append(topic_filter)
    return packet_id, tuple(filters)


def connack(return_code: int, *, session_present: bool = False) -> bytes:
    """Serialise a CONNACK (section 3.2)."""
    return bytes((0x20, 2, session_present, return_code))


def suback(packet_id: int, return_codes: tuple[int, ...]) -> bytes:
    """Serialise a SUBACK (section 3.9): granted QoS, or 0x80, for each filter in order."""
    return _packet(0x90, packet_id.to_bytes(2, "big") + bytes(return_codes))


def unsuback(packet_id: int) -> bytes:
    """Serialise an UNSUBACK (section 3.11)."""
    return _packet(0xB0, packet_id.to_bytes(2, "big"))


def publish(topic: str, payload: bytes, *, packet_id: int | None = None, dup: bool = False) -> bytes:
    """Serialise a PUBLISH at QoS 1, or at QoS 0 if there is no packet identifier."""
    encoded = topic.encode()
    head = len(encoded).to_bytes(2, "big") + encoded
    if packet_id is None:
        return _packet(PUBLISH, head + payload)
    return _packet(PUBLISH | 0x02 | (0x08 if dup else 0), head + packet_id.to_bytes(2, "big") + payload)


def _packet(first_byte: int, body: bytes) -> bytes:
    length = len(body)
    encoded = bytearray((first_byte,))
    while True:
        length, low = length >> 7, length & 0x7F
        encoded.append(low | (0x80 if length else 0))
        if not length:
            return bytes(encoded) + body
