"""How often each sector of a flash was erased: what wears the chip out, and what no software on the device can undo.

wear.bin is a little-endian u32 per sector. It stands for the state of the cells, so nothing of the device reads it, and
no power cut loses a count: an erase that began has worn its sector.
"""

import struct
from pathlib import Path

_COUNT = struct.Struct("<I")


class WearFile:
    """The erase counters of one device's flash.

    Args:
        path: wear.bin; of a device that has none, no sector was erased yet.
        sectors: how many the flash has.
    """

    def __init__(self, path: Path, *, sectors: int) -> None:
        self._path = path
        self._sectors = sectors

    def count(self, sector: int) -> None:
        """Count one erase of a sector, by its index."""
        if not self._path.exists():
            self._path.write_bytes(bytes(self._sectors * _COUNT.size))
        with self._path.open("r+b") as file:
            file.seek(sector * _COUNT.size)
            (erases,) = _COUNT.unpack(file.read(_COUNT.size))
            file.seek(sector * _COUNT.size)
            file.write(_COUNT.pack(erases + 1))

    def erases(self) -> tuple[int, ...]:
        """Return how often each sector was erased."""
        if not self._path.exists():
            return (0,) * self._sectors
        return tuple(count for (count,) in _COUNT.iter_unpack(self._path.read_bytes()))
