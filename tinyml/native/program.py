"""A program as it lies in flash, and what it says of itself.

    0    64  vector table: initial stack pointer, reset, 14 exceptions (ARMv7-M, B1.5.2)
    64   28  facts: magic "TFP1", idle, input, input bytes, output, output bytes, arena bytes
    …        code, tables and weights

All words are little-endian; addresses of code have bit 0 set (Thumb). Source: firmware/startup.c and program.h.
"""

import struct
from dataclasses import dataclass, field

from tinyml.native.errors import ProgramFormatError

FLASH_START = 0x1000_0000
TCM_START = 0x0010_0000
SYSRAM_START = 0x2200_0000
_VECTORS = struct.Struct("<2I56x")
_FACTS = struct.Struct("<4s6I")
_MAGIC = b"TFP1"
_THUMB = 1


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor in memory: its address and length in bytes."""

    address: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class NativeProgram:
    """A program for one real-time core.

    Attributes:
        flash: its bytes from the start of flash on.
        stack_top: initial stack pointer.
        entry: address of the reset handler.
        idle: address that it reaches when an inference is done.
        input: where the input goes.
        output: where the output is found.
        arena_bytes: memory for tensors, from the start of TCM on.
    """

    flash: bytes = field(repr=False)
    stack_top: int
    entry: int
    idle: int
    input: Place
    output: Place
    arena_bytes: int


def parse_program(flash: bytes) -> NativeProgram:
    """Read what a program says of itself.

    Raises:
        ProgramFormatError: too short, another magic, or an end of it lies outside its arena.
    """
    if len(flash) < _VECTORS.size + _FACTS.size:
        raise ProgramFormatError(f"program: expected at least {_VECTORS.size + _FACTS.size} bytes, found {len(flash)}")
    stack_top, entry = _VECTORS.unpack_from(flash)
    magic, idle, source, source_bytes, target, target_bytes, arena = _FACTS.unpack_from(flash, _VECTORS.size)
    if magic != _MAGIC:
        raise ProgramFormatError(f"program: expected the magic {_MAGIC!r}, found {magic!r}")
    for start, size in ((source, source_bytes), (target, target_bytes)):
        if not TCM_START <= start <= start + size <= TCM_START + arena:
            raise ProgramFormatError(f"program: expected tensors within an arena of {arena} bytes, found {start:#x}")
    ends = (Place(source, source_bytes), Place(target, target_bytes))
    return NativeProgram(flash, stack_top, entry & ~_THUMB, idle & ~_THUMB, *ends, arena)
