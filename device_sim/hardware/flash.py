"""NOR flash: bits are erased to 1 by the sector and programmed to 0 by aligned rows; misuse raises.

The only ways to change it are `erase` and `write`. Each sector erase and each page program is one operation of the
power supply. When the power fails in an operation its first part is done, the row where it stopped is half done (a
torn write has cleared some of its bits, a partial erase has set some), and the rest is as before. Which bits, the
operation and the row decide, so that a test repeats. The memory is a mapped file, so that what was written survives a
kill of the simulator, or a bytearray in tests.
"""

import fcntl
import hashlib
import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from typing_extensions import Buffer

from device_sim.errors import DeviceFolderError, FlashMisuseError, WornSectorError
from device_sim.hardware.power import PowerSupply
from protocol.flash_geometry import FlashGeometry

ERASED = 0xFF


class Memory(Protocol):
    """The cells of a flash; read and written by slices, as a bytearray."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> Buffer: ...

    def __setitem__(self, part: slice, cells: bytes, /) -> None: ...


Busy = Callable[[float], None]  # told for how many seconds of device time an operation occupies the chip
Wear = Callable[[int], bool]  # told the index of a sector whose erase begins; says whether it still takes it


def map_flash_file(path: Path, geometry: FlashGeometry) -> mmap.mmap:
    """Map a device's flash into memory; what is written to it is in the file.

    The file stays locked until the map is closed or its process ends: one chip has one machine.

    Raises:
        DeviceFolderError: no such file, of another size, or mapped by another machine.
    """
    try:
        with path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            memory = mmap.mmap(file.fileno(), 0)  # duplicates the descriptor, and so keeps the lock
    except BlockingIOError as error:
        raise DeviceFolderError(f"{path}: expected a device that does not run, found it in use") from error
    except (OSError, ValueError) as error:
        raise DeviceFolderError(f"{path.name}: expected {geometry.size_bytes} bytes of flash, found none") from error
    if len(memory) != geometry.size_bytes:
        found = len(memory)
        memory.close()
        raise DeviceFolderError(f"{path.name}: expected {geometry.size_bytes} bytes, found {found}")
    return memory


def unobserved(seconds: float) -> None:
    """Observe nothing: for a chip whose time nobody takes."""
    del seconds


def unworn(sector: int) -> bool:
    """Say that a sector takes every erase: for a chip that does not wear."""
    del sector
    return True


class NorFlash:
    """A flash chip.

    Args:
        memory: its cells, as long as the geometry says.
        geometry: sector, page and row.
        power: counts and may fail each operation.
        busy: told of each operation how long it occupies the chip, before it has changed a cell; nobody reads or
            executes from the chip in that time.
        wear: told of each erase that begins, and decides whether the sector still takes it.
    """

    def __init__(
        self,
        memory: Memory,
        geometry: FlashGeometry,
        *,
        power: PowerSupply,
        busy: Busy = unobserved,
        wear: Wear = unworn,
    ) -> None:
        if len(memory) != geometry.size_bytes:
            raise FlashMisuseError(f"flash: expected {geometry.size_bytes} bytes, found {len(memory)}")
        self._memory = memory
        self._geometry = geometry
        self._power = power
        self._busy = busy
        self._wear = wear

    @property
    def geometry(self) -> FlashGeometry:
        """Sector, page and row."""
        return self._geometry

    def read(self, offset: int, length: int) -> bytes:
        """Read bytes.

        Raises:
            FlashMisuseError: out of range.
            PowerCutError: the power is off.
        """
        self._power.require()
        self._check_range(offset, length)
        return bytes(self._memory[offset : offset + length])

    def is_erased(self, offset: int, length: int) -> bool:
        """Whether every byte of a range is erased; raises as `read`."""
        return self.read(offset, length).count(ERASED) == length

    def erase(self, offset: int) -> None:
        """Erase one sector.

        Args:
            offset: of its first byte.

        Raises:
            FlashMisuseError: not the start of a sector, or out of range.
            WornSectorError: the sector is worn out; it is as before.
            PowerCutError: the power is off, or fails in this operation.
        """
        size = self._geometry.sector_bytes
        self._check_range(offset, size)
        self._check_aligned(offset, size, "erase at a sector's start")
        share = self._begin(self._geometry.erase_seconds)
        if share and not self._wear(offset // size):
            self._power.require()
            raise WornSectorError(f"sector {offset // size}: expected it to take an erase, found it worn out")
        self._change(offset, bytes([ERASED]) * size, share)

    def write(self, offset: int, data: bytes) -> None:
        """Program erased bytes, one page after the other.

        Args:
            offset: a multiple of the row.
            data: a multiple of the row.

        Raises:
            FlashMisuseError: misaligned, out of range, or the bytes there are not erased.
            PowerCutError: the power is off, or fails in this operation.
        """
        row, page = self._geometry.write_bytes, self._geometry.page_bytes
        self._check_range(offset, len(data))
        self._check_aligned(offset, row, "write at a row's start")
        self._check_aligned(len(data), row, "write of whole rows")
        if not self.is_erased(offset, len(data)):
            raise FlashMisuseError(f"write at {offset:#x}: expected {len(data)} erased bytes, found others")
        position = 0
        while position < len(data):
            end = min(len(data), position + page - (offset + position) % page)
            self._change(offset + position, data[position:end], self._begin(self._geometry.program_seconds))
            position = end

    def _begin(self, seconds: float) -> float:
        share = self._power.draw()
        self._busy(share * seconds)
        return share

    def _change(self, offset: int, target: bytes, share: float) -> None:
        if share < 1.0:
            target = self._half_done(offset, target, share)
        self._memory[offset : offset + len(target)] = target
        self._power.require()

    def _half_done(self, offset: int, target: bytes, share: float) -> bytes:
        row = self._geometry.write_bytes
        before = bytes(self._memory[offset : offset + len(target)])
        done = int(len(target) * share) // row * row
        if share == 0.0:
            return before
        reached = self._reached(offset + done, row)
        mixed = bytes(
            (old & ~bits) | (new & bits)
            for old, new, bits in zip(before[done : done + row], target[done : done + row], reached, strict=True)
        )
        return target[:done] + mixed + before[done + row :]

    def _reached(self, offset: int, length: int) -> bytes:
        """Which bits of a torn row a cut operation has changed: about half, others in each operation and row."""
        return hashlib.shake_128(f"{self._power.operations} {offset}".encode()).digest(length)

    def _check_range(self, offset: int, length: int) -> None:
        if not 0 <= offset <= offset + length <= self._geometry.size_bytes:
            raise FlashMisuseError(
                f"flash: expected a range within {self._geometry.size_bytes} bytes, found {length} at {offset:#x}"
            )

    def _check_aligned(self, value: int, unit: int, what: str) -> None:
        if value % unit:
            raise FlashMisuseError(f"flash: expected {what}, a multiple of {unit}, found {value:#x}")
