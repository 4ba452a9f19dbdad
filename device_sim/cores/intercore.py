"""Messages between the A7 and an M4, in the ring buffers of shared memory.

    0   16  sender's component id, GUID in .NET byte order
    16  4   reserved, zero
    20  …   data

A message has at most 1,040 bytes. Source: Azure Sphere samples, logical-intercore.h. A test input that is longer goes
in as many messages as it needs; the receiver knows from the model card how long it is.
"""

import uuid
from collections.abc import Iterator

from device_sim.errors import IntercoreMessageError

MAX_MESSAGE_BYTES = 1040
HEADER_BYTES = 20
MAX_DATA_BYTES = MAX_MESSAGE_BYTES - HEADER_BYTES


def split(data: bytes, sender: str) -> Iterator[bytes]:
    """Lay data out as messages.

    Args:
        data: at least one byte.
        sender: component id, GUID.
    """
    header = uuid.UUID(sender).bytes_le + bytes(HEADER_BYTES - 16)
    for start in range(0, len(data), MAX_DATA_BYTES):
        yield header + data[start : start + MAX_DATA_BYTES]


def data_of(message: bytes) -> bytes:
    """Return the data of a message.

    Raises:
        IntercoreMessageError: too short or too long.
    """
    if not HEADER_BYTES < len(message) <= MAX_MESSAGE_BYTES:
        raise IntercoreMessageError(
            f"intercore message: expected {HEADER_BYTES + 1} to {MAX_MESSAGE_BYTES} bytes, found {len(message)}"
        )
    return message[HEADER_BYTES:]
