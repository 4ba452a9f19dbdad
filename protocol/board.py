"""The payload of a board configuration: which core of a board's MT3620 has which peripherals, on which pins.

Azure Sphere's own format is not public; this one is ours. Little-endian:

    0   4  magic "TFB1"
    4   4  u32 length n of the document
    8   n  the document, canonical JSON
    then nothing but the package's own padding of up to 3 zero bytes.

    {"model": "acme-eye", "hardware_revision": "B2", "cores": {"m4-0": {"adc0": [41, 42], "gpio9": [9]}}}

A peripheral belongs to one core, and a pin to one peripheral (Azure Sphere: an application that asks for a peripheral
has it to itself).
"""

import struct
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Annotated, Self

from pydantic import Field, model_validator

from protocol.document import Document, canonical_json, parse_document
from protocol.errors import MalformedError
from protocol.geometry import Core

MAGIC = b"TFB1"
MAX_BOARD_BYTES = 16 * 1024
MAX_PADDING_BYTES = 3
_HEADER = struct.Struct("<4sI")

Peripheral = Annotated[str, Field(pattern=r"^(adc|gpio|i2c|i2s|pwm|spi|uart)\d{1,2}$")]
Pin = Annotated[int, Field(ge=0, le=99)]  # GPIO number of the chip, which has fewer
Pins = Annotated[tuple[Pin, ...], Field(min_length=1, max_length=16)]


class BoardError(MalformedError):
    """The payload is no board configuration."""


class BoardConfiguration(Document):
    """What a board has.

    Attributes:
        model: what its maker calls it.
        hardware_revision: of the board.
        cores: peripherals by core, pins by peripheral.
    """

    model: Annotated[str, Field(min_length=1, max_length=50, pattern=r"^[A-Za-z0-9._-]+$")]
    hardware_revision: Annotated[str, Field(min_length=1, max_length=16, pattern=r"^[A-Za-z0-9._-]+$")]
    cores: Annotated[Mapping[Core, Annotated[Mapping[Peripheral, Pins], Field(max_length=64)]], Field(min_length=1)]

    @model_validator(mode="after")
    def _check_shared(self) -> Self:
        _refuse_twice("peripheral", (name for core in self.cores.values() for name in core))
        _refuse_twice("pin", (pin for core in self.cores.values() for pins in core.values() for pin in pins))
        return self


def _refuse_twice(what: str, names: Iterable[str | int]) -> None:
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise ValueError(f"expected each {what} once, found {what} {twice[0]} twice")


def encode_board(board: BoardConfiguration) -> bytes:
    """Lay a board configuration out as a payload.

    Raises:
        BoardError: it is too large.
    """
    document = canonical_json(board)
    if len(document) > MAX_BOARD_BYTES:
        raise BoardError(f"board configuration: expected at most {MAX_BOARD_BYTES} bytes, found {len(document)}")
    return _HEADER.pack(MAGIC, len(document)) + document


def parse_board(payload: bytes) -> BoardConfiguration:
    """Take a verified payload apart.

    Raises:
        BoardError: another magic, a length that is not the document's, or anything after it.
        DocumentError: the document is not of the expected form.
    """
    if len(payload) < _HEADER.size:
        raise BoardError(f"board configuration: expected at least {_HEADER.size} bytes, found {len(payload)}")
    magic, length = _HEADER.unpack_from(payload)
    if magic != MAGIC or length > MAX_BOARD_BYTES:
        raise BoardError(
            f"board configuration: expected {MAGIC!r} and at most {MAX_BOARD_BYTES} bytes, found {magic!r} and {length}"
        )
    document, padding = payload[_HEADER.size : _HEADER.size + length], payload[_HEADER.size + length :]
    if len(document) != length or any(padding) or len(padding) > MAX_PADDING_BYTES:
        raise BoardError(
            f"board configuration: expected {length} bytes and zeros to the next 4, "
            f"found {len(document)} and {len(padding)} more"
        )
    return parse_document(document, BoardConfiguration, max_bytes=MAX_BOARD_BYTES)
