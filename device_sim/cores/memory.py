"""The memory of a real-time core and what it is given to.

    TCM        0x0010_0000  192 KiB  tightly coupled, private to the core
    XIP flash  0x1000_0000  1 MiB    the chip that all cores execute in place from; read-only for a core
    SYSRAM     0x2200_0000   64 KiB  private to the core

Code and weights stay in the flash. Data lies in TCM or SYSRAM, which are not contiguous, so nothing lies in both.
Source: Microsoft Learn, "Manage memory and latency considerations"; linker.ld of the Azure Sphere samples.
"""

from dataclasses import dataclass

from device_sim.errors import CoreLoadError
from protocol.geometry import FLASH_BYTES, KIB, SYSRAM_BYTES, TCM_BYTES, Core

ALIGNMENT_BYTES = 16  # TFLM's for the arena
RUNTIME_BYTES = 24 * KIB  # stack, heap, data and buffers of our runtime: a modelled figure, its code does not run


@dataclass(frozen=True, slots=True)
class Region:
    """A region of a core's address space.

    Attributes:
        name: for people.
        address: of its first byte.
        size_bytes: of it.
    """

    name: str
    address: int
    size_bytes: int


TCM = Region("TCM", 0x0010_0000, TCM_BYTES)
XIP_FLASH = Region("XIP flash", 0x1000_0000, FLASH_BYTES)
SYSRAM = Region("SYSRAM", 0x2200_0000, SYSRAM_BYTES)


class OutOfMemoryError(CoreLoadError):
    """A core has not the memory that something on it needs."""


@dataclass(frozen=True, slots=True)
class Allocation:
    """What something on a core was given.

    Attributes:
        purpose: what it is for.
        region: where it lies.
        address: of its first byte, a multiple of 16.
        size_bytes: of it.
    """

    purpose: str
    region: Region
    address: int
    size_bytes: int


class MemoryBudget:
    """The data memory of one core; what is given is given from the start of a region on.

    Args:
        core: for messages.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._allocations: dict[str, Allocation] = {}

    @property
    def allocations(self) -> tuple[Allocation, ...]:
        """What is given, in the order in which it was."""
        return tuple(self._allocations.values())

    def free_bytes(self, region: Region) -> int:
        """Return what is left of a region."""
        return region.address + region.size_bytes - self._end(region)

    def claim(self, purpose: str, size_bytes: int, *, regions: tuple[Region, ...] = (TCM, SYSRAM)) -> Allocation:
        """Give memory to something that has none yet.

        Args:
            purpose: such as `arena`; unique.
            size_bytes: at least 1.
            regions: to choose from; the first with room is taken.

        Raises:
            OutOfMemoryError: no region has so much left.
        """
        if purpose in self._allocations:
            raise OutOfMemoryError(f"{self._core}: expected one {purpose}, found a second")
        for region in regions:
            if 0 < size_bytes <= self.free_bytes(region):
                found = Allocation(purpose, region, self._end(region), size_bytes)
                self._allocations[purpose] = found
                return found
        left = " or ".join(f"{self.free_bytes(region)} bytes in {region.name}" for region in regions)
        raise OutOfMemoryError(f"{self._core}, {purpose}: expected 1 to {left}, found {size_bytes} bytes")

    def release(self, purpose: str) -> None:
        """Take back what something was given, if it was given anything and was the last of its region."""
        self._allocations.pop(purpose, None)

    def clear(self) -> None:
        """Take everything back, as a start of the core does."""
        self._allocations.clear()

    def _end(self, region: Region) -> int:
        ends = (each.address + each.size_bytes for each in self._allocations.values() if each.region == region)
        return -(-max(ends, default=region.address) // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
