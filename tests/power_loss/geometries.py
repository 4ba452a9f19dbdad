"""The flashes that the suite cuts the power of."""

from protocol.flash_geometry import FlashGeometry, FlashLayout
from protocol.geometry import HOME_BYTES, KIB, Slot

SLOT_BYTES = dict.fromkeys(HOME_BYTES, 8 * KIB)

MT3620 = FlashLayout()
SMALL_SECTORS = FlashLayout(
    FlashGeometry(sector_bytes=KIB, size_bytes=128 * KIB), slot_bytes=SLOT_BYTES, spare_bytes=8 * KIB
)
SMALL_ROWS = FlashLayout(  # a record of the journal takes four operations
    FlashGeometry(write_bytes=4, page_bytes=64, sector_bytes=512, size_bytes=64 * KIB),
    slot_bytes=SLOT_BYTES,
    spare_bytes=8 * KIB,
)
WIDE_ROWS = FlashLayout(
    FlashGeometry(write_bytes=64, page_bytes=512, sector_bytes=2 * KIB, size_bytes=128 * KIB),
    slot_bytes=SLOT_BYTES,
    spare_bytes=8 * KIB,
)
LARGE_SECTORS = FlashLayout(
    FlashGeometry(sector_bytes=16 * KIB, size_bytes=512 * KIB),
    slot_bytes=dict.fromkeys(HOME_BYTES, 32 * KIB),
    spare_bytes=32 * KIB,
)
TWO_PLACES = FlashLayout(
    FlashGeometry(sector_bytes=KIB, size_bytes=128 * KIB),
    slot_bytes=SLOT_BYTES,
    two_places=frozenset(HOME_BYTES),
    spare_bytes=0,
)
MIXED = FlashLayout(  # the cores' images have two places, their models share the spare
    FlashGeometry(sector_bytes=KIB, size_bytes=128 * KIB),
    slot_bytes=SLOT_BYTES,
    two_places=frozenset({Slot.A7_APPLICATION, Slot.M4_0_FIRMWARE, Slot.M4_1_FIRMWARE}),
    spare_bytes=8 * KIB,
)
LAYOUTS = {
    "mt3620": MT3620,
    "small-sectors": SMALL_SECTORS,
    "small-rows": SMALL_ROWS,
    "wide-rows": WIDE_ROWS,
    "large-sectors": LARGE_SECTORS,
    "two-places": TWO_PLACES,
    "mixed": MIXED,
}
