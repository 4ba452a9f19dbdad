"""A flash as configuration: what fits is laid out side by side, what no chip could be is refused."""

import json
import math
from typing import Any

import pytest

from protocol.document import DocumentError, canonical_json, parse_document
from protocol.flash_geometry import FlashDocument, FlashGeometry, FlashLayout, GeometryError, Place, Region
from protocol.geometry import FLASH_BYTES, HOME_BYTES, KIB, SECTOR_BYTES, SPARE_BYTES, TRAILER_BYTES, Slot

CORES = frozenset({Slot.A7_APPLICATION, Slot.M4_0_FIRMWARE})
TWICE = FlashLayout(FlashGeometry(size_bytes=2 * FLASH_BYTES), two_places=CORES)


def test_mt3620_layout_fills_the_flash_without_overlap() -> None:
    """Slots, spare and trailers lie side by side in 1 MiB."""
    layout = FlashLayout()
    regions = [*(layout.place(slot) for slot in layout.slots), layout.spare, layout.trailer]
    ends = [region.offset + region.size_bytes for region in regions]
    assert [region.offset for region in regions] == [0, *ends[:-1]]
    assert ends[-1] == FLASH_BYTES
    assert (layout.spare.size_bytes, layout.trailer.size_bytes) == (SPARE_BYTES, TRAILER_BYTES)


def test_second_place_lies_behind_the_first() -> None:
    """A slot with two places has as much room in each; its neighbour follows."""
    size = HOME_BYTES[Slot.A7_APPLICATION]
    assert TWICE.place(Slot.A7_APPLICATION, Place.A) == Region(0, size)
    assert TWICE.place(Slot.A7_APPLICATION, Place.A.other) == Region(size, size)
    assert TWICE.place(Slot.M4_0_FIRMWARE).offset == 2 * size
    assert Place.B.other is Place.A


@pytest.mark.parametrize(
    ("slot", "place", "match"),
    [(Slot.OS, Place.A, "slot os, place A"), (Slot.M4_0_MODEL, Place.B, "slot m4-0/model, place B")],
)
def test_place_that_the_layout_lacks_is_refused(slot: Slot, place: Place, match: str) -> None:
    """System images live outside this flash, and not every slot has a second place."""
    with pytest.raises(GeometryError, match=match):
        TWICE.place(slot, place)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"sector_bytes": 1000}, "divide each other, found"),
        ({"write_bytes": 0}, "divide each other, found"),
        ({"write_bytes": 8192, "page_bytes": 8192, "sector_bytes": 8192}, "rows that divide the 4096 bytes"),
        ({"page_bytes": 64, "sector_bytes": 128}, "sectors of at least 256 bytes"),
        ({"size_bytes": 32 * 1024 * KIB}, "size of at most 16777216, found 4096 and 33554432"),
        ({"erase_seconds": -0.1}, "durations of 0 s or more"),
        ({"program_seconds": math.nan}, "durations of 0 s or more"),
        ({"endurance_erases": 0}, "endurance of 1 erase or more"),
    ],
)
def test_impossible_chip_is_refused(changes: dict[str, Any], match: str) -> None:
    """What does not divide, does not end or takes less than no time."""
    with pytest.raises(GeometryError, match=match):
        FlashGeometry(**changes)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"slot_bytes": {Slot.OS: SECTOR_BYTES}}, "expected the slots a7/application, .*, found os"),
        ({"two_places": frozenset({Slot.OS})}, "expected the slots a7/application, .* os"),
        ({"slot_bytes": {**HOME_BYTES, Slot.M4_1_MODEL: SECTOR_BYTES - 1}}, "whole sectors"),
        ({"slot_bytes": {**HOME_BYTES, Slot.M4_1_MODEL: 0}}, "whole sectors"),
        ({"spare_bytes": -SECTOR_BYTES}, "whole sectors"),
        ({"spare_bytes": SPARE_BYTES - SECTOR_BYTES}, f"spare of at least {SPARE_BYTES} bytes"),
        ({"spare_bytes": SPARE_BYTES + SECTOR_BYTES}, f"trailers in {FLASH_BYTES} bytes, found {FLASH_BYTES + 4096}"),
        ({"two_places": CORES}, f"trailers in {FLASH_BYTES} bytes"),
    ],
)
def test_impossible_layout_is_refused(changes: dict[str, Any], match: str) -> None:
    """Slots that lack, or that do not fit the flash, are found before any device starts."""
    with pytest.raises(GeometryError, match=match):
        FlashLayout(**changes)


def test_slots_with_two_places_alone_need_no_spare() -> None:
    """Nothing shares it."""
    layout = FlashLayout(FlashGeometry(size_bytes=2 * FLASH_BYTES), two_places=frozenset(HOME_BYTES), spare_bytes=0)
    assert layout.spare.size_bytes == 0


@pytest.mark.parametrize("layout", [FlashLayout(), TWICE], ids=["mt3620", "two places"])
def test_layout_survives_its_document(layout: FlashLayout) -> None:
    """What a device keeps of its geometry is the geometry."""
    assert parse_document(canonical_json(FlashDocument.of(layout)), FlashDocument).layout == layout


def test_empty_document_is_the_mt3620() -> None:
    """What is left out is as in the MT3620."""
    assert parse_document(b"{}", FlashDocument).layout == FlashLayout()


@pytest.mark.parametrize(
    ("document", "match"),
    [
        ({"sectors": 3}, "sectors: Extra inputs are not permitted"),
        ({"sector_bytes": 1000}, "expected row, page, sector and size to divide each other, found"),
        ({"slot_bytes": {"a7/model": 4096}}, "slot_bytes"),
        ({"erase_seconds": math.inf}, "erase_seconds"),
        ({"size_bytes": 2**40}, "size_bytes"),
    ],
)
def test_document_of_an_impossible_flash_is_refused(document: dict[str, Any], match: str) -> None:
    """The message says where and why."""
    with pytest.raises(DocumentError, match=match):
        parse_document(json.dumps(document).encode(), FlashDocument)
