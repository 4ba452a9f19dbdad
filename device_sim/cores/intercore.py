"""Messages between the A7 and an M4, in the ring buffers of shared memory.

    0   16  sender's component id, GUID in .NET byte order
    16  4   reserved, zero
    20  …   data

A message has at most 1,040 bytes. Source: Azure Sphere samples, logical-intercore.h. What is longer goes in as many
messages as it needs; the receiver knows from the model card how long it is. The two rings of a connection are opened
only if each application's manifest lists the other in AllowedApplicationConnections.

A ring holds blocks: u32 length, message, zeros to a multiple of 16. Both ends move in steps of 16 bytes and never meet,
so a ring that is full is told from one that is empty. What a core writes into it is checked by who reads it.
"""

import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field

from device_sim.errors import DeviceSimError, IntercoreMessageError

MAX_MESSAGE_BYTES = 1040
HEADER_BYTES = 20
MAX_DATA_BYTES = MAX_MESSAGE_BYTES - HEADER_BYTES
RING_BYTES = 4096  # of each direction: three of the longest messages
ALIGNMENT_BYTES = 16
MESSAGE_SECONDS = 100e-6  # from one core to the other: interrupt, copy, wake-up; a modelled figure
_LENGTH = struct.Struct("<I")


class ConnectionNotAllowedError(DeviceSimError):
    """A manifest does not list the peer that an application would talk to."""


class RingFullError(DeviceSimError):
    """The receiver has not read what is in the ring: there is no room for another message."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An application, as its manifest introduces it.

    Attributes:
        component_id: GUID.
        allowed: component ids of its AllowedApplicationConnections.
    """

    component_id: str
    allowed: frozenset[str]


class RingBuffer:
    """One direction of a connection: one writes, one reads.

    Args:
        size_bytes: a multiple of 16.
    """

    def __init__(self, size_bytes: int = RING_BYTES) -> None:
        self._memory = bytearray(size_bytes)
        self._written = self._read = 0

    def write(self, message: bytes) -> None:
        """Append a message.

        Raises:
            IntercoreMessageError: too short or too long.
            RingFullError: no room for it.
        """
        _check_length(len(message))
        block = _LENGTH.pack(len(message)) + message
        block += bytes(-len(block) % ALIGNMENT_BYTES)
        left = len(self._memory) - (self._written - self._read) % len(self._memory) - ALIGNMENT_BYTES
        if len(block) > left:
            raise RingFullError(f"ring: expected at most {left} bytes, found a block of {len(block)}")
        for start in range(0, len(block), ALIGNMENT_BYTES):
            self._memory[self._written : self._written + ALIGNMENT_BYTES] = block[start : start + ALIGNMENT_BYTES]
            self._written = (self._written + ALIGNMENT_BYTES) % len(self._memory)

    def read(self) -> bytes | None:
        """Take the next message, or None if there is none.

        Raises:
            IntercoreMessageError: the block's length is none that a message has; the ring is empty afterwards.
        """
        if self._read == self._written:
            return None
        (length,) = _LENGTH.unpack(self._part(0, _LENGTH.size))
        if not HEADER_BYTES < length <= MAX_MESSAGE_BYTES:
            self._read = self._written
            _check_length(length)
        message = self._part(_LENGTH.size, length)
        taken = -(-(_LENGTH.size + length) // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        self._read = (self._read + taken) % len(self._memory)
        return message

    def clear(self) -> None:
        """Forget what is in it, as a reset of the reader does."""
        self._read = self._written

    def _part(self, offset: int, length: int) -> bytes:
        start = (self._read + offset) % len(self._memory)
        return bytes((self._memory[start:] + self._memory[:start])[:length])


@dataclass(frozen=True, slots=True)
class Connection:
    """Two rings between the application of the A7 and the runtime of an M4.

    Raises:
        ConnectionNotAllowedError: one of the manifests does not list the other.
    """

    application: Endpoint
    runtime: Endpoint
    to_core: RingBuffer = field(default_factory=RingBuffer)
    to_application: RingBuffer = field(default_factory=RingBuffer)

    def __post_init__(self) -> None:
        for one, other in ((self.application, self.runtime), (self.runtime, self.application)):
            if other.component_id not in one.allowed:
                raise ConnectionNotAllowedError(
                    f"component {one.component_id}: expected {other.component_id} in AllowedApplicationConnections, "
                    f"found {len(one.allowed)} others"
                )


def connect(application: str, runtime: str) -> Connection:
    """Open a connection between two components whose manifests list each other, as the factory's do."""
    return Connection(Endpoint(application, frozenset({runtime})), Endpoint(runtime, frozenset({application})))


def split(data: bytes, sender: str) -> Iterator[bytes]:
    """Lay data out as messages.

    Args:
        data: at least one byte.
        sender: component id, GUID.
    """
    header = uuid.UUID(sender).bytes_le + bytes(HEADER_BYTES - 16)
    for start in range(0, len(data), MAX_DATA_BYTES):
        yield header + data[start : start + MAX_DATA_BYTES]


def traffic_seconds(data_bytes: int) -> float:
    """Return how long so much data, and a short answer to it, take from one core to the other and back."""
    return (-(-data_bytes // MAX_DATA_BYTES) + 1) * MESSAGE_SECONDS


def data_of(message: bytes) -> bytes:
    """Return the data of a message.

    Raises:
        IntercoreMessageError: too short or too long.
    """
    _check_length(len(message))
    return message[HEADER_BYTES:]


def sender_of(message: bytes) -> str:
    """Return the component id of a message's sender.

    Raises:
        IntercoreMessageError: too short or too long.
    """
    _check_length(len(message))
    return str(uuid.UUID(bytes_le=message[:16]))


def _check_length(length: int) -> None:
    if not HEADER_BYTES < length <= MAX_MESSAGE_BYTES:
        raise IntercoreMessageError(
            f"intercore message: expected {HEADER_BYTES + 1} to {MAX_MESSAGE_BYTES} bytes, found {length}"
        )
