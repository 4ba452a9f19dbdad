"""Where slots lie in the flash: home slots in the order of the boot, then the shared spare, then the trailers."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from device_sim.errors import FlashMisuseError
from device_sim.hardware.flash import FlashGeometry
from protocol.geometry import HOME_BYTES, SPARE_BYTES, TRAILER_BYTES, Slot

JOURNAL_SECTORS = 4  # two copies of two sectors, see `hardware.journal`


@dataclass(frozen=True, slots=True)
class Region:
    """A part of the flash: whole sectors."""

    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class FlashLayout:
    """The slots of one geometry; the MT3620's by default.

    Attributes:
        geometry: of the flash.
        home_bytes: size of each home slot.
        spare_bytes: size of the shared spare.
        trailer_bytes: size of the trailers: four sectors.
    """

    geometry: FlashGeometry = field(default_factory=FlashGeometry)
    home_bytes: Mapping[Slot, int] = field(default_factory=lambda: HOME_BYTES)
    spare_bytes: int = SPARE_BYTES
    trailer_bytes: int = TRAILER_BYTES

    def __post_init__(self) -> None:
        sector, sizes = self.geometry.sector_bytes, (*self.home_bytes.values(), self.spare_bytes, self.trailer_bytes)
        if any(size < 1 or size % sector for size in sizes) or sum(sizes) > self.geometry.size_bytes:
            raise FlashMisuseError(
                f"layout: expected slots of whole sectors ({sector} bytes) that together have at most "
                f"{self.geometry.size_bytes} bytes, found {sizes}"
            )
        if self.trailer_bytes != JOURNAL_SECTORS * sector:
            raise FlashMisuseError(
                f"layout: expected trailers of {JOURNAL_SECTORS} sectors, found {self.trailer_bytes} bytes"
            )

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The slots that have a home, in the order of the flash."""
        return tuple(slot for slot in Slot if slot in self.home_bytes)

    def home(self, slot: Slot) -> Region:
        """Return the home of a slot.

        Raises:
            FlashMisuseError: the slot has none in this flash.
        """
        if slot not in self.home_bytes:
            raise FlashMisuseError(f"slot {slot}: expected one of {', '.join(self.slots)}")
        before = self.slots[: self.slots.index(slot)]
        return Region(sum(self.home_bytes[earlier] for earlier in before), self.home_bytes[slot])

    @property
    def spare(self) -> Region:
        """The shared spare."""
        return Region(sum(self.home_bytes.values()), self.spare_bytes)

    @property
    def trailer(self) -> Region:
        """The trailers."""
        return Region(sum(self.home_bytes.values()) + self.spare_bytes, self.trailer_bytes)
