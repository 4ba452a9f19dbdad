"""Patches: every image comes back, resumed anywhere; what is no patch is refused within bounds."""

import contextlib
import hashlib
import random
import struct
import weakref
from array import array
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import delta
from protocol.delta import (
    DECODER_BYTES,
    GROUP_BYTES,
    HEADER_BYTES,
    MAX_HEADER_BYTES,
    MAX_IMAGE_BYTES,
    NEW_PIECE_BYTES,
    OLD_PIECE_BYTES,
    PATCH_PIECE_BYTES,
    PatchError,
    Record,
    aligned,
    apply_patch,
    read_header,
    write_patch,
)
from protocol.geometry import KIB
from protocol.range_coder import RangeDecoder, RangeEncoder

SMALL = 4 * KIB
EXAMPLES = settings(max_examples=10, deadline=None)
_NOISE = hashlib.shake_128(b"noise").digest(3 * SMALL)


class Port:
    """Reads of some bytes, each within what a decoder may ask for."""

    def __init__(self, content: bytes, limit: int) -> None:
        self.content, self.limit, self.largest, self.taken = content, limit, 0, 0

    def __call__(self, offset: int, length: int) -> bytes:
        assert 0 <= offset <= offset + length <= len(self.content)
        assert length <= self.limit
        self.largest, self.taken = max(self.largest, length), self.taken + length
        return self.content[offset : offset + length]


def applied(patch: bytes, old: bytes, *, start: int = 0) -> bytes:
    header = read_header(Port(patch, MAX_HEADER_BYTES), len(patch))
    assert header.old_length == len(old)
    pieces = apply_patch(header, patch=Port(patch, PATCH_PIECE_BYTES), old=Port(old, OLD_PIECE_BYTES), start=start)
    return b"".join(map(bytes, pieces))


def moved(weights: bytes, step: int) -> bytes:
    """Weights that all moved by as much."""
    return bytes((weight + step) % 256 for weight in weights)


@pytest.mark.parametrize("steps", [(0,), (1,), (-1, 1), (-128, 127, 0)])
def test_weights_that_moved_come_back(steps: Sequence[int]) -> None:
    """Differences of every size, where noise alone could not be compressed."""
    new = b"".join(moved(_NOISE[index : index + 1], steps[index % len(steps)]) for index in range(len(_NOISE)))
    patch = write_patch(_NOISE, new)
    assert applied(patch, _NOISE) == new
    if steps == (0,):
        assert len(patch) < len(new) // 50


_MOVED = moved(_NOISE, 1)
_BY_GROUPS = write_patch(_NOISE, _MOVED, group_bytes=SMALL)
_NOISY = write_patch(_NOISE, _MOVED, candidates=[[Record(0, 0, len(_NOISE))]])  # as long as the image


@pytest.mark.parametrize("start", [0, 1, SMALL, SMALL + 16, 2 * SMALL, 3 * SMALL - 1, 3 * SMALL])
def test_patch_goes_on_at_any_offset(start: int) -> None:
    """A device that was interrupted gets exactly the rest."""
    assert applied(_BY_GROUPS, _NOISE, start=start) == _MOVED[start:]


def test_resumed_patch_reads_only_the_groups_that_are_left() -> None:
    """What the flash holds is not fetched again."""
    header = read_header(Port(_BY_GROUPS, MAX_HEADER_BYTES), len(_BY_GROUPS))
    port = Port(_BY_GROUPS, PATCH_PIECE_BYTES)
    assert sum(map(len, apply_patch(header, patch=port, old=Port(_NOISE, OLD_PIECE_BYTES), start=2 * SMALL)))
    assert port.taken == header.coded[2]


def test_pieces_are_sectors_and_the_memory_is_what_was_counted() -> None:
    """No piece is larger than what DECODER_BYTES counts, and the sum is within 16 KiB."""
    old, new = _NOISE, moved(_NOISE, 1) + b"more"
    patch = write_patch(old, new)
    head, coded, home = Port(patch, MAX_HEADER_BYTES), Port(patch, PATCH_PIECE_BYTES), Port(old, OLD_PIECE_BYTES)
    header = read_header(head, len(patch))
    sizes = [len(piece) for piece in apply_patch(header, patch=coded, old=home)]
    assert set(sizes[:-1]) == {NEW_PIECE_BYTES}
    assert sizes[-1] == len(new) % NEW_PIECE_BYTES
    assert (head.largest, home.largest) <= (MAX_HEADER_BYTES, OLD_PIECE_BYTES)
    symbols = RangeDecoder(lambda: 0, contexts=delta._CONTEXTS)
    contexts: array[int] = symbols._zeros
    held = len(contexts) * contexts.itemsize + PATCH_PIECE_BYTES + NEW_PIECE_BYTES + 2 * OLD_PIECE_BYTES
    assert held + MAX_HEADER_BYTES < DECODER_BYTES <= 16 * KIB


class _Lent(bytearray):
    """Bytes of which one can see when they are let go."""


class Lender:
    """Reads of some bytes, and how many of them were held at once."""

    def __init__(self, content: bytes) -> None:
        self.content, self.most = content, 0
        self._lent: list[weakref.ref[_Lent]] = []

    def __call__(self, offset: int, length: int) -> bytearray:
        piece = _Lent(self.content[offset : offset + length])
        self._lent = [ref for ref in self._lent if ref() is not None] + [weakref.ref(piece)]
        self.most = max(self.most, sum(len(held) for ref in self._lent if (held := ref()) is not None))
        return piece


def test_one_piece_of_each_is_held_at_once() -> None:
    """What was read is let go before more is, and the whole new image passes through one buffer."""
    for patch in (_BY_GROUPS, _NOISY):
        coded, home = Lender(patch), Lender(_NOISE)
        pieces = apply_patch(read_header(coded, len(patch)), patch=coded, old=home)
        assert len({id(piece.obj) for piece in pieces}) == 1
        assert coded.most <= PATCH_PIECE_BYTES
        assert home.most <= OLD_PIECE_BYTES


RECORDS = st.lists(
    st.builds(Record, st.integers(0, 3 * SMALL), st.integers(0, SMALL // 2), st.integers(0, 100)),
    min_size=1,
    max_size=4,
)


@EXAMPLES
@given(records=RECORDS, seed=st.integers(0, 99))
def test_any_records_make_the_image_again(records: list[Record], seed: int) -> None:
    """Copies from anywhere and literals, cut into groups wherever they fall."""
    within = [
        Record(min(record.start, len(_NOISE) - min(record.copied, len(_NOISE))), record.copied, record.literals + 1)
        for record in records
    ]
    draw = random.Random(seed)  # noqa: S311 - a test that repeats itself
    new = b"".join(
        moved(_NOISE[record.start : record.start + record.copied], draw.randrange(3)) + draw.randbytes(record.literals)
        for record in within
    )
    patch = write_patch(_NOISE, new, candidates=[within], group_bytes=SMALL)
    start = draw.randrange(len(new) + 1)
    assert applied(patch, _NOISE, start=start) == new[start:]


def test_each_group_takes_the_shortest_of_the_candidates() -> None:
    """The patch is no longer than that of any candidate."""
    new = _NOISE[SMALL:] + _MOVED[:SMALL]
    ways = [[aligned(_NOISE, new)], [Record(SMALL, 2 * SMALL, 0), Record(0, SMALL, 0)], [Record(0, 0, len(new))]]
    best = write_patch(_NOISE, new, candidates=ways, group_bytes=SMALL)
    assert len(best) <= min(len(write_patch(_NOISE, new, candidates=[way], group_bytes=SMALL)) for way in ways)
    assert applied(best, _NOISE) == new


@pytest.mark.parametrize("images", [(b"", b"new"), (b"old", b""), (b"old", bytes(MAX_IMAGE_BYTES + 1))])
def test_images_of_no_flash_are_refused(images: tuple[bytes, bytes]) -> None:
    """An empty image, or one that is larger than the flash."""
    with pytest.raises(PatchError, match="expected 1 to"):
        write_patch(*images)


def _head(*, magic: bytes = b"TFD1", old: int = 9, new: int = 9, group: int = GROUP_BYTES, rest: bytes = b"") -> bytes:
    return struct.pack("<4s32s32sIII", magic, bytes(32), bytes(32), old, new, group) + rest


@pytest.mark.parametrize(
    ("unverified", "match"),
    [
        (b"TFD1", f"at least {HEADER_BYTES} bytes"),
        (_head(magic=b"TFD2"), "expected magic"),
        (_head(old=0), "expected images of"),
        (_head(new=0), "expected images of"),
        (_head(old=MAX_IMAGE_BYTES + 1), "expected images of"),
        (_head(new=0xFFFF_FFFF), "expected images of"),
        (_head(group=0), "expected groups of"),
        (_head(group=4097), "expected groups of"),
        (_head(group=128 * KIB), "expected groups of"),
        (_head(), "expected 1 groups"),
        (_head(rest=struct.pack("<I", 3) + bytes(3)), "bytes of groups"),
        (_head(rest=struct.pack("<I", 9) + bytes(8)), "bytes of groups"),
        (_head(rest=struct.pack("<I", 7) + bytes(8)), "bytes of groups"),
    ],
)
def test_wrong_head_is_refused(unverified: bytes, match: str) -> None:
    """Each field is checked before a byte of a group is read."""
    with pytest.raises(PatchError, match=match):
        read_header(Port(unverified, MAX_HEADER_BYTES), len(unverified))


def _one_group(*numbers: int, made: int = 9, old: int = 9, more: bytes = b"") -> bytes:
    writer = delta._Writer()
    for context, number in zip((delta._START, delta._COPIED, delta._LITERALS) * 2, numbers, strict=False):
        writer.number(context, number)
        if context == delta._COPIED:
            writer.differences(bytes(min(number, made)), bytes(min(number, made)))
    coded = writer.finish() + more
    return _head(old=old, new=made, rest=struct.pack("<I", len(coded)) + coded)


@pytest.mark.parametrize(
    ("patch", "match"),
    [
        (_one_group(0, 10), "at most 9 bytes of a group, found 10"),
        (_one_group(0, 1 << 30), "at most 9 bytes of a group"),
        (_one_group(1, 9), "within 9 bytes, found 9 at 1"),
        (_one_group(1 << 30, 1), "within 9 bytes"),
        (_one_group(0, 4, 6), "at most 5 bytes of a group, found 6"),
        (_one_group(0, 0, 0), "expected a record to make at least one byte"),
        (_one_group(0, 9, 0, more=b"x"), "to end with its last byte"),
        (_one_group(0, 8, 1), "expected more bytes of a group|to end with its last byte"),
    ],
)
def test_wrong_records_are_refused(patch: bytes, match: str) -> None:
    """Reads outside the old image, more output than announced, records without end, bytes after the end."""
    with pytest.raises(PatchError, match=match):
        applied(patch, bytes(9))


def test_truncated_group_is_refused() -> None:
    """A last group that ends before its bytes are made."""
    patch, last = bytearray(_BY_GROUPS[:-1]), HEADER_BYTES + 2 * 4
    (length,) = struct.unpack_from("<I", patch, last)
    struct.pack_into("<I", patch, last, length - 1)
    with pytest.raises(PatchError, match=r"expected more bytes of a group|to end with its last byte"):
        applied(bytes(patch), _NOISE)


def test_code_outside_the_range_stays_in_its_register() -> None:
    """A code that no encoder writes cannot make the decoder's register grow, and never counts as finished."""
    symbols = RangeDecoder(lambda: 0xFF, contexts=1)
    for _ in range(5000):
        symbols.bit(0)
        symbols.even(bits=3)
        assert symbols._code < 1 << 32
    assert not symbols.is_finished


_SHORT = SMALL + 300
_PATCH = write_patch(_NOISE[:_SHORT], moved(_NOISE, 2)[:_SHORT] + b"end", group_bytes=SMALL)


@EXAMPLES
@given(wrong=st.binary(min_size=1, max_size=300), at=st.integers(0, 1 << 14), start=st.sampled_from([0, SMALL]))
def test_changed_patch_makes_the_announced_bytes_or_is_refused(wrong: bytes, at: int, start: int) -> None:
    """Whatever is changed behind the head: never more output, never a read outside, never another error."""
    patch, old = bytearray(_PATCH), _NOISE[:_SHORT]
    begin = HEADER_BYTES + 4 * 2 + at % (len(patch) - HEADER_BYTES - 16)
    wrong = wrong[: len(patch) - begin]
    patch[begin : begin + len(wrong)] = wrong
    with contextlib.suppress(PatchError):
        assert len(applied(bytes(patch), old, start=start)) == len(old) + 3 - start


@EXAMPLES
@given(symbols=st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.integers(0, 7))))
def test_coded_bits_come_back(symbols: list[tuple[int, bool, int]]) -> None:
    """In contexts and without, and the end is seen."""
    encoder = RangeEncoder(4)
    for context, bit, number in symbols:
        encoder.bit(context, bit)
        encoder.even(number, bits=3)
    coded = iter(encoder.finish())
    decoder = RangeDecoder(lambda: next(coded), contexts=4)
    assert [(context, decoder.bit(context), decoder.even(bits=3)) for context, _, _ in symbols] == symbols
    assert decoder.is_finished
    assert next(coded, None) is None


def test_carry_runs_through_bytes_of_ones() -> None:
    """Long runs of the unlikely bit push a carry through what was written before."""
    draw = random.Random(3)  # noqa: S311 - a test that repeats itself
    for _ in range(60):
        encoder = RangeEncoder(1)
        bits = [draw.random() < 0.999 for _ in range(200)] + [draw.random() < 0.5 for _ in range(50)]
        for bit in bits:
            encoder.bit(0, bit)
        coded = iter(encoder.finish())
        decoder = RangeDecoder(lambda coded=coded: next(coded), contexts=1)  # type: ignore[misc]
        assert [decoder.bit(0) for _ in bits] == bits


@pytest.mark.parametrize("answer", [b"", b"longer than was asked for" * 200])
def test_answer_of_no_or_too_many_bytes_is_refused(answer: bytes) -> None:
    """What brings the patch may bring less than was asked for, but something, and never more."""
    with pytest.raises(PatchError, match="expected 1 to 80 bytes at 0"):
        read_header(lambda _offset, _length: answer, 1000)


def test_patch_that_comes_in_crumbs_is_applied() -> None:
    """Byte by byte, as from a slow line."""
    old, new = _NOISE[:50], _MOVED[:50]
    patch = write_patch(old, new)

    def crumb(offset: int, _length: int) -> bytes:
        return patch[offset : offset + 1]

    pieces = apply_patch(read_header(crumb, len(patch)), patch=crumb, old=Port(old, OLD_PIECE_BYTES))
    assert b"".join(map(bytes, pieces)) == new
