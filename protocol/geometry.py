"""The MT3620 as tinyfleet sees it: cores, image kinds, slots, and the memory that each may use.

Sizes are bytes. 1 MiB of flash is shared by the application and both real-time cores; each Cortex-M4 has
192 KiB of TCM and 64 KiB of SYSRAM that are not contiguous (Microsoft Learn: mt3620-memory-available). The
flash holds one home slot per image and one shared spare that a new image runs from on trial (DESIGN.md, 6).
"""

from collections.abc import Mapping
from enum import StrEnum
from functools import cached_property
from types import MappingProxyType

KIB = 1024

FLASH_BYTES = 1024 * KIB
SECTOR_BYTES = 4 * KIB  # smallest erase
WRITE_BYTES = 16  # smallest aligned write
SPARE_BYTES = 336 * KIB
TRAILER_BYTES = 16 * KIB  # slot trailers and the swap journal
TCM_BYTES = 192 * KIB
SYSRAM_BYTES = 64 * KIB
M4_CLOCK_HZ = 200_000_000


class Core(StrEnum):
    """A processor of the MT3620 that runs images of its own."""

    A7 = "a7"  # application core, the Uptane Primary
    M4_0 = "m4-0"  # real-time cores, Uptane Secondaries
    M4_1 = "m4-1"

    @cached_property
    def hardware_id(self) -> str:
        """The Uptane hardware id: which images fit this kind of ECU."""
        return f"mt3620-{self.value}"


class ImageKind(StrEnum):
    """What an image is, which decides where it is stored and who runs it."""

    BOOT_LOADER = "boot-loader"
    SECURITY_MONITOR = "security-monitor"
    OS = "os"
    APPLICATION = "application"  # of the A7
    FIRMWARE = "firmware"  # of an M4: the runtime with the interpreter
    MODEL = "model"  # of an M4
    BOARD_CONFIGURATION = "board-configuration"  # which core has which peripherals; no slot on the device yet
    TRUST_STORE = "trust-store"  # public keys that the device is to trust; no slot on the device yet


class Slot(StrEnum):
    """A place that holds one image. The order is the order of the measured boot."""

    BOOT_LOADER = "boot-loader"
    SECURITY_MONITOR = "security-monitor"
    OS = "os"
    A7_APPLICATION = "a7/application"
    M4_0_FIRMWARE = "m4-0/firmware"
    M4_1_FIRMWARE = "m4-1/firmware"
    M4_0_MODEL = "m4-0/model"
    M4_1_MODEL = "m4-1/model"

    @cached_property
    def core(self) -> Core:
        """The core whose image the slot holds; the system images belong to the A7."""
        head, _, tail = self.value.partition("/")
        return Core(head) if tail else Core.A7

    @cached_property
    def kind(self) -> ImageKind:
        """The kind of image that the slot holds."""
        return ImageKind(self.value.rpartition("/")[2])


SYSTEM_SLOTS = (Slot.BOOT_LOADER, Slot.SECURITY_MONITOR, Slot.OS)  # outside the 1 MiB, signed by the maker

HOME_BYTES: Mapping[Slot, int] = MappingProxyType(
    {
        Slot.A7_APPLICATION: 112 * KIB,
        Slot.M4_0_FIRMWARE: 56 * KIB,
        Slot.M4_1_FIRMWARE: 56 * KIB,
        Slot.M4_0_MODEL: 336 * KIB,
        Slot.M4_1_MODEL: 112 * KIB,
    }
)


def slot_for(core: Core, kind: ImageKind) -> Slot | None:
    """Return the updatable slot of a core for a kind of image, or None where there is none."""
    return next((slot for slot in HOME_BYTES if slot.core == core and slot.kind == kind), None)
