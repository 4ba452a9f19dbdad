"""How often each sector of a flash was erased: what wears the chip out, and what no software on the device can undo.

wear.bin is a little-endian u32 per sector. It stands for the state of the cells, so nothing of the device reads it,
and no power cut loses a count: an erase that began has worn its sector. A sector takes at least as many erases as the
chip's maker warrants, and up to a quarter more, which its index and the device decide: the same device wears out in the
same way again.
"""

import hashlib
import struct
from pathlib import Path

from device_sim.errors import DeviceFolderError
from device_sim.hardware.files import replace_file
from protocol.flash_geometry import FlashGeometry

_COUNT = struct.Struct("<I")
_BEYOND = 4  # a sector lasts for up to one part in so many more than its maker warrants


class WearFile:
    """The erase counters of one device's flash.

    Args:
        path: wear.bin; of a device that has none, no sector was erased yet.
        geometry: how many sectors there are, and what they endure.
        seed: decides how much longer than warranted each sector lasts.

    Raises:
        DeviceFolderError: the file has another number of counters.
    """

    def __init__(self, path: Path, geometry: FlashGeometry, *, seed: str) -> None:
        self._path = path
        self._geometry = geometry
        self._seed = seed
        expected = self._sectors * _COUNT.size
        if path.exists() and (found := path.stat().st_size) != expected:
            raise DeviceFolderError(f"{path.name}: expected {expected} bytes, found {found}")

    def erase(self, sector: int) -> bool:
        """Count an erase of a sector that begins, by its index; return whether the sector still takes it."""
        if not self._path.exists():
            replace_file(self._path, bytes(self._sectors * _COUNT.size), mode=0o644)
        with self._path.open("r+b") as file:
            file.seek(sector * _COUNT.size)
            before = int(_COUNT.unpack(file.read(_COUNT.size))[0])
            file.seek(sector * _COUNT.size)
            file.write(_COUNT.pack(before + 1))
        return before < self.endurance(sector)

    def erases(self) -> tuple[int, ...]:
        """Return how often each sector was erased."""
        if not self._path.exists():
            return (0,) * self._sectors
        return tuple(count for (count,) in _COUNT.iter_unpack(self._path.read_bytes()))

    def endurance(self, sector: int) -> int:
        """Return how many erases a sector takes."""
        warranted = self._geometry.endurance_erases
        drawn = hashlib.sha256(f"{self._seed} {sector}".encode()).digest()
        return warranted + int.from_bytes(drawn[:4], "big") % (warranted // _BEYOND + 1)

    @property
    def _sectors(self) -> int:
        return self._geometry.size_bytes // self._geometry.sector_bytes
