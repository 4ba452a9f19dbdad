"""A flash chip and what lies where in it, as configuration: a scenario names one, and a device keeps its own.

From offset 0 lie the slots in the order of the boot, a slot with two places as A and B; then the one spare that slots
with a single place share; then the trailers, four sectors that hold the journal of all slots (two copies of two).

    {"size_bytes": 1048576, "sector_bytes": 4096, "page_bytes": 256, "write_bytes": 16,
     "program_seconds": 0.0004, "erase_seconds": 0.045, "endurance_erases": 100000,
     "slot_bytes": {"a7/application": 114688, …}, "two_places": ["a7/application"], "spare_bytes": 344064}

What is left out is as in the MT3620. A geometry that no chip or no update could have is refused when it is made.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from typing import Annotated, Self

from pydantic import Field, model_validator

from protocol.delta import NEW_PIECE_BYTES
from protocol.document import Document
from protocol.errors import MalformedError
from protocol.geometry import FLASH_BYTES, HOME_BYTES, KIB, SECTOR_BYTES, SPARE_BYTES, WRITE_BYTES, Slot

PAGE_BYTES = 256  # one program operation of a serial NOR chip
TRAILER_SECTORS = 4
MIN_SECTOR_BYTES = 256  # holds a record of the journal
MAX_FLASH_BYTES = 16 * 1024 * KIB  # the whole chip of an MT3620
# Winbond W25Q128JV, data sheet, AC electrical characteristics and features: typical page program time, typical time
# of a 4 KiB sector erase, least number of erases. Those of the flash in the MT3620 are not public.
PROGRAM_SECONDS = 0.0004
ERASE_SECONDS = 0.045
ENDURANCE_ERASES = 100_000


class GeometryError(MalformedError):
    """A flash that no chip could be, or a layout that does not fit it or that no update could use."""


class Place(IntEnum):
    """Where a slot's confirmed image is; a slot with a single place has it in A."""

    A = 0
    B = 1

    @property
    def other(self) -> "Place":
        """The place that a new image of a slot with two places goes to."""
        return Place(1 - self)


@dataclass(frozen=True, slots=True)
class FlashGeometry:
    """A chip.

    Attributes:
        write_bytes: a row, the smallest aligned write.
        page_bytes: what one program operation writes at most.
        sector_bytes: the smallest erase.
        size_bytes: all of it. Each of these divides the next.
        program_seconds: duration of programming one page.
        erase_seconds: duration of erasing one sector.
        endurance_erases: how many erases of a sector its maker warrants.

    Raises:
        GeometryError: no chip could be like this.
    """

    write_bytes: int = WRITE_BYTES
    page_bytes: int = PAGE_BYTES
    sector_bytes: int = SECTOR_BYTES
    size_bytes: int = FLASH_BYTES
    program_seconds: float = PROGRAM_SECONDS
    erase_seconds: float = ERASE_SECONDS
    endurance_erases: int = ENDURANCE_ERASES

    def __post_init__(self) -> None:
        sizes = (self.write_bytes, self.page_bytes, self.sector_bytes, self.size_bytes)
        if min(sizes) < 1 or any(large % small for small, large in itertools.pairwise(sizes)):
            raise GeometryError(f"geometry: expected row, page, sector and size to divide each other, found {sizes}")
        if NEW_PIECE_BYTES % self.write_bytes:
            raise GeometryError(
                f"geometry: expected rows that divide the {NEW_PIECE_BYTES} bytes which a patch makes at once, "
                f"found {self.write_bytes}"
            )
        if self.sector_bytes < MIN_SECTOR_BYTES or self.size_bytes > MAX_FLASH_BYTES:
            raise GeometryError(
                f"geometry: expected sectors of at least {MIN_SECTOR_BYTES} bytes and a size of at most "
                f"{MAX_FLASH_BYTES}, found {self.sector_bytes} and {self.size_bytes}"
            )
        durations = (self.program_seconds, self.erase_seconds)
        if not all(0 <= seconds < math.inf for seconds in durations) or self.endurance_erases < 1:
            raise GeometryError(
                f"geometry: expected durations of 0 s or more and an endurance of 1 erase or more, "
                f"found {durations} and {self.endurance_erases}"
            )


@dataclass(frozen=True, slots=True, order=True)
class Region:
    """A part of the flash: whole sectors; ordered by where it begins."""

    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class FlashLayout:
    """The slots of one geometry; the MT3620's by default.

    Attributes:
        geometry: of the chip.
        slot_bytes: size of a place of each slot, the system's slots apart.
        two_places: slots with places A and B: the confirmed image is in one, a new one goes to the other.
        spare_bytes: size of the spare that the other slots share; at least their largest, or a new image could not be
            as large as the one before it.

    Raises:
        GeometryError: a slot is missing, or they do not fit.
    """

    geometry: FlashGeometry = field(default_factory=FlashGeometry)
    slot_bytes: Mapping[Slot, int] = field(default_factory=lambda: HOME_BYTES)
    two_places: frozenset[Slot] = frozenset()
    spare_bytes: int = SPARE_BYTES

    def __post_init__(self) -> None:
        self._check_slots()
        self._check_sizes()
        if (end := self.trailer.offset + self.trailer.size_bytes) > self.geometry.size_bytes:
            raise GeometryError(
                f"layout: expected slots, spare and {TRAILER_SECTORS} sectors of trailers in "
                f"{self.geometry.size_bytes} bytes, found {end}"
            )

    def _check_slots(self) -> None:
        if self.slot_bytes.keys() != HOME_BYTES.keys() or not self.two_places <= HOME_BYTES.keys():
            found = sorted({*self.slot_bytes, *self.two_places})
            raise GeometryError(f"layout: expected the slots {', '.join(HOME_BYTES)}, found {', '.join(found)}")

    def _check_sizes(self) -> None:
        sector, sizes = self.geometry.sector_bytes, (*self.slot_bytes.values(), self.spare_bytes)
        if min(self.slot_bytes.values()) < 1 or self.spare_bytes < 0 or any(size % sector for size in sizes):
            raise GeometryError(f"layout: expected slots of whole sectors ({sector} bytes), found {sizes}")
        largest = max((self.slot_bytes[slot] for slot in self.slots if slot not in self.two_places), default=0)
        if self.spare_bytes < largest:
            raise GeometryError(
                f"layout: expected a spare of at least {largest} bytes, as the largest slot without two places, "
                f"found {self.spare_bytes}"
            )

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The slots in the order of the flash."""
        return tuple(slot for slot in Slot if slot in self.slot_bytes)

    def place(self, slot: Slot, place: Place = Place.A) -> Region:
        """Return a place of a slot.

        Raises:
            GeometryError: the slot has no such place in this flash.
        """
        places = dict(self._places())
        if (slot, place) not in places:
            raise GeometryError(f"slot {slot}, place {place.name}: expected one of {len(places)} places, found none")
        return places[slot, place]

    @property
    def spare(self) -> Region:
        """The shared spare."""
        return Region(self._slots_end, self.spare_bytes)

    @property
    def trailer(self) -> Region:
        """The trailers."""
        return Region(self._slots_end + self.spare_bytes, TRAILER_SECTORS * self.geometry.sector_bytes)

    @property
    def _slots_end(self) -> int:
        return sum(region.size_bytes for _, region in self._places())

    def _places(self) -> Iterator[tuple[tuple[Slot, Place], Region]]:
        offset = 0
        for slot in self.slots:
            for place in Place if slot in self.two_places else (Place.A,):
                yield (slot, place), Region(offset, self.slot_bytes[slot])
                offset += self.slot_bytes[slot]


Size = Annotated[int, Field(ge=0, le=MAX_FLASH_BYTES)]
Seconds = Annotated[float, Field(ge=0, le=60)]


class FlashDocument(Document):
    """A `FlashLayout` on the wire; refused as a whole when no chip could be like this.

    Attributes: those of `FlashGeometry` and `FlashLayout`.
    """

    size_bytes: Size = FLASH_BYTES
    sector_bytes: Size = SECTOR_BYTES
    page_bytes: Size = PAGE_BYTES
    write_bytes: Size = WRITE_BYTES
    program_seconds: Seconds = PROGRAM_SECONDS
    erase_seconds: Seconds = ERASE_SECONDS
    endurance_erases: Annotated[int, Field(ge=1, le=10**9)] = ENDURANCE_ERASES
    slot_bytes: Mapping[Slot, Size] = Field(default_factory=lambda: dict(HOME_BYTES))
    two_places: tuple[Slot, ...] = ()
    spare_bytes: Size = SPARE_BYTES

    @model_validator(mode="after")
    def _check_layout(self) -> Self:
        try:
            _ = self.layout
        except GeometryError as error:
            raise ValueError(str(error)) from error
        return self

    @classmethod
    def of(cls, layout: FlashLayout) -> Self:
        """Return the document of a layout."""
        return cls(
            **asdict(layout.geometry),
            slot_bytes=dict(layout.slot_bytes),
            two_places=tuple(slot for slot in layout.slots if slot in layout.two_places),
            spare_bytes=layout.spare_bytes,
        )

    @property
    def layout(self) -> FlashLayout:
        """The layout that it describes."""
        geometry = FlashGeometry(
            write_bytes=self.write_bytes,
            page_bytes=self.page_bytes,
            sector_bytes=self.sector_bytes,
            size_bytes=self.size_bytes,
            program_seconds=self.program_seconds,
            erase_seconds=self.erase_seconds,
            endurance_erases=self.endurance_erases,
        )
        return FlashLayout(geometry, self.slot_bytes, frozenset(self.two_places), self.spare_bytes)
