"""Patches: a new image as differences from an old one that the device has.

A patch, integers little-endian:

    0   4   magic "TFD1"
    4   32  SHA-256 of the old image
    36  32  SHA-256 of the new image
    68  4   u32 length of the old image
    72  4   u32 length of the new image
    76  4   u32 group bytes g: a multiple of 4096, at most 65536
    80  4·n u32 coded lengths of the groups, n = new length / g rounded up
    …       the groups, one after the other, to the end

Each group makes g bytes of the new image, the last one the rest. It is coded on its own, so that a device which was
interrupted goes on at the group where its flash ends. A group is a run of symbols of `protocol.range_coder`, records
of this form until the group's bytes are made:

    start     where in the old image the record begins
    copied    number of bytes that follow as differences: new byte − old byte, modulo 256
    literals  number of bytes that follow as they are

Where the weights of an int8 model move a little, differences are few and small, whatever the bytes are.

A decoder needs `DECODER_BYTES` of memory: contexts, registers, one piece of the patch, of the old and of the new image,
and the header. Each of these pieces has one buffer: a piece of the patch or of the old image is let go before the next
one is read, and what is made holds until more is asked for. A patch can make it read or write nothing else: `start` and
`copied` stay within the old image, each record makes at least one byte, groups have at most as many coded bytes as the
header says, and the header's lengths are bounded. That the result is the image is the caller's to check, by its
SHA-256.
"""

import hashlib
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from protocol.errors import MalformedError
from protocol.geometry import FLASH_BYTES, KIB
from protocol.range_coder import CONTEXT_BYTES, REGISTER_BYTES, RangeDecoder, RangeEncoder

FORMAT = "tinyfleet-delta-1"
MAGIC = b"TFD1"
MAX_IMAGE_BYTES = FLASH_BYTES
GROUP_BYTES = 32 * KIB  # of the patches that are made here
MAX_GROUP_BYTES = 64 * KIB
PATCH_PIECE_BYTES = 4 * KIB  # of the patch, read at once
NEW_PIECE_BYTES = 4 * KIB  # of the new image, handed on at once: one sector of flash
OLD_PIECE_BYTES = 256  # of the old image, read at once

_HEADER = struct.Struct("<4s32s32sIII")
HEADER_BYTES = _HEADER.size
_MAX_GROUPS = MAX_IMAGE_BYTES // NEW_PIECE_BYTES
MAX_HEADER_BYTES = HEADER_BYTES + 4 * _MAX_GROUPS
_MIN_CODED_BYTES = 4
_NUMBER_BITS = 5  # of a number's length in bits

# Contexts: where the probabilities of each kind of symbol begin.
_SAME = 0  # is the difference 0; by whether the last two were
_ONE = _SAME + 4  # is it 1 or -1
_SIGN = _ONE + 1
_MAGNITUDE = _SIGN + 1  # from 2 to 128: a tree of 7 bits
_START = _MAGNITUDE + (1 << 7)  # lengths of numbers: trees of 5 bits
_COPIED = _START + (1 << _NUMBER_BITS)
_LITERALS = _COPIED + (1 << _NUMBER_BITS)
_BYTE = _LITERALS + (1 << _NUMBER_BITS)  # literals: trees of 8 bits, by the highest 3 bits of the one before
_CONTEXTS = _BYTE + 8 * (1 << 8)

DECODER_BYTES = (
    CONTEXT_BYTES * _CONTEXTS
    + REGISTER_BYTES
    + PATCH_PIECE_BYTES
    + 2 * OLD_PIECE_BYTES  # as read, and as changed
    + NEW_PIECE_BYTES
    + MAX_HEADER_BYTES
)
"""Memory of a decoder that applies any patch, bytes."""

Read = Callable[[int, int], bytes | bytearray | memoryview]
"""Returns bytes from an offset: (offset, length). All of them of an old image; of a patch at least one of them.

They hold until the next read, so that a port needs one buffer only.
"""


class PatchError(MalformedError):
    """The bytes are no patch, or not one between these two images."""


@dataclass(frozen=True, slots=True)
class Record:
    """What a part of the new image is made of.

    Attributes:
        start: of the bytes in the old image that the new ones differ from.
        copied: how many bytes there are such.
        literals: how many bytes follow that are taken as they are.
    """

    start: int
    copied: int
    literals: int

    @property
    def made(self) -> int:
        """Bytes of the new image."""
        return self.copied + self.literals


@dataclass(frozen=True, slots=True)
class PatchHeader:
    """The head of a patch.

    Attributes:
        old_sha256: of the image that the patch starts from, hex.
        new_sha256: of the image that it makes, hex.
        old_length: bytes.
        new_length: bytes.
        group_bytes: of the new image that each group makes.
        coded: length of each group in the patch, bytes.
    """

    old_sha256: str
    new_sha256: str
    old_length: int
    new_length: int
    group_bytes: int
    coded: tuple[int, ...]

    @property
    def length(self) -> int:
        """Bytes of the header with its table."""
        return HEADER_BYTES + 4 * len(self.coded)

    def group(self, index: int) -> tuple[int, int]:
        """Return where a group begins in the patch, and how many bytes it makes."""
        made = min(self.group_bytes, self.new_length - index * self.group_bytes)
        return self.length + sum(self.coded[:index]), made


def read_header(read: Read, length: int) -> PatchHeader:
    """Read and check the head of a patch.

    Args:
        read: of the patch, unverified.
        length: of the patch, bytes.

    Raises:
        PatchError: it is not of the form of the module's docstring.
    """
    if length < HEADER_BYTES:
        raise PatchError(f"patch: expected at least {HEADER_BYTES} bytes, found {length}")
    magic, old, new, old_length, new_length, group_bytes = _HEADER.unpack(_whole(read, 0, HEADER_BYTES))
    if magic != MAGIC:
        raise PatchError(f"patch: expected magic {MAGIC!r}, found {magic!r}")
    if not (0 < old_length <= MAX_IMAGE_BYTES and 0 < new_length <= MAX_IMAGE_BYTES):
        raise PatchError(f"patch: expected images of 1 to {MAX_IMAGE_BYTES} bytes, found {old_length}, {new_length}")
    if group_bytes % NEW_PIECE_BYTES or not 0 < group_bytes <= MAX_GROUP_BYTES:
        raise PatchError(f"patch: expected groups of 4096 to {MAX_GROUP_BYTES} bytes, found {group_bytes}")
    groups = -(-new_length // group_bytes)
    if length < HEADER_BYTES + 4 * groups:
        raise PatchError(f"patch: expected {groups} groups, found {length} bytes")
    coded = struct.unpack(f"<{groups}I", _whole(read, HEADER_BYTES, 4 * groups))
    header = PatchHeader(old.hex(), new.hex(), old_length, new_length, group_bytes, coded)
    if min(coded) < _MIN_CODED_BYTES or header.length + sum(coded) != length:
        raise PatchError(f"patch: expected {length - header.length} bytes of groups, found {sum(coded)}")
    return header


def apply_patch(header: PatchHeader, *, patch: Read, old: Read, start: int = 0) -> Iterator[memoryview]:
    """Yield the new image from an offset on, in pieces of at most `NEW_PIECE_BYTES` that end at its multiples.

    All pieces lie in one buffer: each holds until the next is asked for.

    Args:
        header: of this patch.
        patch: reads at most `PATCH_PIECE_BYTES` of the patch at once; only groups that are needed are read.
        old: reads at most `OLD_PIECE_BYTES` of the old image at once.
        start: offset in the new image.

    Raises:
        PatchError: the patch is wrong; what was yielded before is not to be used.
    """
    buffer = memoryview(bytearray(NEW_PIECE_BYTES))
    for index in range(start // header.group_bytes, len(header.coded)):
        position = index * header.group_bytes
        for piece in _Group(header, index, patch=patch, old=old).pieces(buffer):
            if position + len(piece) > start:
                yield piece[max(start - position, 0) :]
            position += len(piece)


def write_patch(
    old: bytes, new: bytes, *, candidates: Sequence[Sequence[Record]] = (), group_bytes: int = GROUP_BYTES
) -> bytes:
    """Write a patch, each group by the records that code it shortest.

    Args:
        old: the image to start from.
        new: the image to make.
        candidates: records that make the whole new image, in several ways; without any, both are compared as they lie.
        group_bytes: of the new image that each group makes.

    Raises:
        PatchError: an image is empty or longer than `MAX_IMAGE_BYTES`.
    """
    for image in (old, new):
        if not 0 < len(image) <= MAX_IMAGE_BYTES:
            raise PatchError(f"image: expected 1 to {MAX_IMAGE_BYTES} bytes, found {len(image)}")
    ways = candidates or [[aligned(old, new)]]
    groups = [
        min((_code(old, new, begin, _cut(way, begin, begin + group_bytes)) for way in ways), key=len)
        for begin in range(0, len(new), group_bytes)
    ]
    digests = (hashlib.sha256(image).digest() for image in (old, new))
    head = _HEADER.pack(MAGIC, *digests, len(old), len(new), group_bytes)
    return head + struct.pack(f"<{len(groups)}I", *map(len, groups)) + b"".join(groups)


def aligned(old: bytes, new: bytes) -> Record:
    """Return the record that compares two images as they lie."""
    copied = min(len(old), len(new))
    return Record(0, copied, len(new) - copied)


def _cut(records: Sequence[Record], begin: int, end: int) -> Iterator[Record]:
    """Yield the parts of records that make the new image from `begin` to before `end`."""
    position = 0
    for record in records:
        literals_at = position + record.copied
        skipped = max(begin - position, 0)
        copied = max(min(end, literals_at) - position - skipped, 0)
        literals = max(min(end, position + record.made) - max(begin, literals_at), 0)
        if copied or literals:
            yield Record(record.start + skipped if copied else 0, copied, literals)
        position += record.made


def _code(old: bytes, new: bytes, begin: int, records: Iterator[Record]) -> bytes:
    """Return a group's coded bytes."""
    writer, position = _Writer(), begin
    for record in records:
        literals_at = position + record.copied
        writer.number(_START, record.start)
        writer.number(_COPIED, record.copied)
        writer.differences(old[record.start : record.start + record.copied], new[position:literals_at])
        position += record.made
        writer.number(_LITERALS, record.literals)
        writer.literals(new[literals_at:position])
    return writer.finish()


class _Writer:
    """Writes the symbols that `_Group` reads."""

    def __init__(self) -> None:
        self._bits = RangeEncoder(_CONTEXTS)
        self._history = 0
        self._before = 0
        self.finish = self._bits.finish

    def number(self, context: int, number: int) -> None:
        bits = number.bit_length()
        self._tree(context, bits, bits=_NUMBER_BITS)
        self._bits.even(number, bits=max(bits - 1, 0))

    def differences(self, old: bytes, new: bytes) -> None:
        for before, after in zip(old, new, strict=True):
            difference = (after - before + 128) % 256 - 128
            self._bits.bit(_SAME + self._history, int(difference != 0))
            self._history = self._history << 1 & 2 | (difference != 0)
            if difference:
                self._change(difference)

    def _change(self, difference: int) -> None:
        size = abs(difference)
        self._bits.bit(_SIGN, int(difference < 0))
        self._bits.bit(_ONE, int(size > 1))
        if size > 1:
            self._tree(_MAGNITUDE, size - 2, bits=7)

    def literals(self, literals: bytes) -> None:
        for literal in literals:
            self._tree(_BYTE + (self._before >> 5 << 8), literal, bits=8)
            self._before = literal

    def _tree(self, context: int, value: int, *, bits: int) -> None:
        node = 1
        for position in range(bits - 1, -1, -1):
            bit = value >> position & 1
            self._bits.bit(context + node, bit)
            node = node << 1 | bit


class _Group:
    """Reads one group; all that it holds is counted in `DECODER_BYTES`."""

    def __init__(self, header: PatchHeader, index: int, *, patch: Read, old: Read) -> None:
        self._old, self._old_length = old, header.old_length
        coded_at, self._left = header.group(index)
        self._coded = _coded_bytes(patch, coded_at, coded_at + header.coded[index])
        self._bits = RangeDecoder(self._next_coded, contexts=_CONTEXTS)
        self._history = 0
        self._before = 0

    def pieces(self, buffer: memoryview) -> Iterator[memoryview]:
        """Yield the group's bytes of the new image, each time the buffer is full and at the end."""
        filled = 0
        while self._left:
            for byte in self._record():
                buffer[filled] = byte
                filled += 1
                if filled == len(buffer):
                    yield buffer
                    filled = 0
        if filled:
            yield buffer[:filled]
        if not self._bits.is_finished or next(self._coded, None) is not None:
            raise PatchError("patch: expected a group to end with its last byte, found more")

    def _record(self) -> Iterator[int]:
        start = self._number(_START)
        copied = self._take(self._number(_COPIED))
        if start + copied > self._old_length:
            raise PatchError(f"patch: expected to read within {self._old_length} bytes, found {copied} at {start}")
        for offset in range(start, start + copied, OLD_PIECE_BYTES):
            yield from self._differences(self._old(offset, min(OLD_PIECE_BYTES, start + copied - offset)))
        literals = self._take(self._number(_LITERALS))
        if copied + literals == 0:
            raise PatchError("patch: expected a record to make at least one byte, found none")
        for done in range(0, literals, OLD_PIECE_BYTES):
            yield from self._literals(min(OLD_PIECE_BYTES, literals - done))

    def _take(self, count: int) -> int:
        if count > self._left:
            raise PatchError(f"patch: expected at most {self._left} bytes of a group, found {count}")
        self._left -= count
        return count

    def _next_coded(self) -> int:
        try:
            return next(self._coded)
        except StopIteration:
            raise PatchError("patch: expected more bytes of a group, found its end") from None

    def _number(self, context: int) -> int:
        bits = self._tree(context, bits=_NUMBER_BITS)
        return self._bits.even(bits=bits - 1) | 1 << bits - 1 if bits else 0

    def _differences(self, old: bytes | bytearray | memoryview) -> bytearray:
        new = bytearray(old)
        for position in range(len(new)):
            is_changed = self._bits.bit(_SAME + self._history)
            self._history = self._history << 1 & 2 | is_changed
            if is_changed:
                new[position] = (new[position] + self._change()) % 256
        return new

    def _change(self) -> int:
        is_negative = self._bits.bit(_SIGN)
        size = self._tree(_MAGNITUDE, bits=7) + 2 if self._bits.bit(_ONE) else 1
        return -size if is_negative else size

    def _literals(self, count: int) -> bytearray:
        literals = bytearray()
        for _ in range(count):
            self._before = self._tree(_BYTE + (self._before >> 5 << 8), bits=8)
            literals.append(self._before)
        return literals

    def _tree(self, context: int, *, bits: int) -> int:
        node = 1
        for _ in range(bits):
            node = node << 1 | self._bits.bit(context + node)
        return node - (1 << bits)


def _coded_bytes(patch: Read, begin: int, end: int) -> Iterator[int]:
    while begin < end:
        for byte in _piece(patch, begin, min(PATCH_PIECE_BYTES, end - begin)):
            begin += 1
            yield byte


def _whole(patch: Read, offset: int, length: int) -> bytes:
    read = bytearray()
    while len(read) < length:
        read += _piece(patch, offset + len(read), length - len(read))
    return bytes(read)


def _piece(patch: Read, offset: int, length: int) -> bytes | bytearray | memoryview:
    piece = patch(offset, length)
    if not 0 < len(piece) <= length:
        raise PatchError(f"patch: expected 1 to {length} bytes at {offset}, found {len(piece)}")
    return piece
