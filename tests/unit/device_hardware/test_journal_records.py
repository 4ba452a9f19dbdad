"""A record of the journal whose CRC is right counts only if it says what the flash can hold."""

import struct
import zlib
from collections.abc import Sequence

import pytest

from device_sim.hardware.flash import ERASED, NorFlash
from device_sim.hardware.journal import HomeImage
from device_sim.hardware.power import PowerSupply
from device_sim.hardware.slots import SlotStore
from device_sim.hardware.spare import Spare, SpareState
from protocol.flash_geometry import FlashGeometry, FlashLayout
from protocol.geometry import HOME_BYTES, KIB, Slot

LAYOUT = FlashLayout(
    FlashGeometry(sector_bytes=KIB, size_bytes=64 * KIB),
    slot_bytes=dict.fromkeys(HOME_BYTES, 4 * KIB),
    two_places=frozenset({Slot.M4_1_MODEL}),
    spare_bytes=4 * KIB,
)
SLOTS = LAYOUT.slots
FIRST = Slot.A7_APPLICATION
IMAGE = b"what the record before says"
LARGE = 4 * KIB + 1
PAGE = LAYOUT.geometry.page_bytes


def record(
    *,
    state: int = 0,
    index: int = 255,
    count: int = len(SLOTS),
    places: int = 0,
    length: int = 0,
    homes: Sequence[int] = (),
) -> bytes:
    """A record by the format that the journal's module gives, later than every other; `homes` are lengths."""
    body = struct.pack("<4sQBBBBI32s", b"TFT1", 999, state, index, count, places, length, b"\1" * 32)
    lengths = [*homes, *[0] * (len(SLOTS) - len(homes))]
    body += b"".join(struct.pack("<I32s", each, b"\2" * 32) for each in lengths)
    return body + struct.pack("<I", zlib.crc32(body))


def opened(memory: bytearray) -> SlotStore:
    return SlotStore(NorFlash(memory, LAYOUT.geometry, power=PowerSupply()), LAYOUT)


def written(forged: bytes) -> bytearray:
    """A flash with an image, and with a record behind the ones of its journal's first copy."""
    memory = bytearray([ERASED]) * LAYOUT.geometry.size_bytes
    opened(memory).install(FIRST, IMAGE)
    offset = LAYOUT.trailer.offset + 2 * PAGE
    assert memory[offset : offset + PAGE].count(ERASED) == PAGE
    memory[offset : offset + len(forged)] = forged
    return memory


@pytest.mark.parametrize(
    "forged",
    [
        record(state=2, index=len(SLOTS), length=10),
        record(state=2, index=254, length=10),
        record(state=2, length=10),
        record(state=4, index=1, length=10),
        record(state=255),
        record(count=len(SLOTS) + 1),
        record(count=0),
        record(state=3, index=1, length=LARGE),
        record(state=1, index=1, length=0xFFFFFFFF),
        record(homes=[LARGE]),
        record(homes=[0, 0xFFFFFFFF]),
        record(places=1, homes=[10]),
    ],
    ids=[
        "slot beyond the last",
        "slot far beyond",
        "trial of no slot",
        "unknown state",
        "unknown state of no slot",
        "one slot more",
        "no slots",
        "large image in the spare",
        "huge image in the spare",
        "large image at home",
        "huge image at home",
        "place B of a slot with one place",
    ],
)
def test_record_of_what_cannot_be_is_passed_over(forged: bytes) -> None:
    """The one before it counts, and the journal goes on."""
    memory = written(forged)
    store = opened(memory)
    assert store.recover() is None
    assert (store.spare, store.read_home(FIRST)) == (Spare(), IMAGE)
    store.install(SLOTS[1], b"next")
    assert (opened(memory).read_home(FIRST), opened(memory).read_home(SLOTS[1])) == (IMAGE, b"next")


def test_record_of_what_can_be_counts() -> None:
    """Whoever wrote it: the largest image in each place, one in place B, and one in the spare."""
    whole = [4 * KIB] * len(SLOTS)
    last = SLOTS.index(Slot.M4_1_MODEL)
    store = opened(written(record(state=1, index=1, length=4 * KIB, places=1 << last, homes=whole)))
    assert store.spare == Spare(SpareState.FILLING, SLOTS[1], "01" * 32, 4 * KIB)
    assert store.home(FIRST) == HomeImage("02" * 32, 4 * KIB)
    assert len(store.read_home(Slot.M4_1_MODEL) or b"") == 4 * KIB
