"""Flash of a device that is one of thousands: a base that many devices share, and what this one has changed of it.

    flash.base      the whole flash; a hard link to a file that every device with the same contents has
    flash.overlay   sector n at n × sector size, where it was changed; then a byte per sector, 1 where it was

The overlay is sparse, of its full length from the start, and is written before the byte that makes it count, so a kill
of the simulator leaves the old sector or the new one. A device keeps no file open, and no more of the flash in memory
than which sectors are its own; what protects it from a second machine is a byte of the lock file of its neighbourhood,
`.shared/locks`.
"""

import fcntl
import hashlib
import mmap
import os
import threading
import weakref
from pathlib import Path
from typing import Protocol

from device_sim.errors import DeviceFolderError
from device_sim.hardware.factory import layout_of
from device_sim.hardware.flash import Memory, map_flash_file
from protocol.flash_geometry import FlashGeometry

BASE_FILE, OVERLAY_FILE = "flash.base", "flash.overlay"
SHARED_FOLDER, LOCK_FILE = ".shared", "locks"


class FlashMemory(Memory, Protocol):
    """The cells of a device's flash, which outlive the process."""

    def close(self) -> None:
        """Let another machine have the device."""


class _Base:
    """A base that is mapped once for all devices of the process."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self.cells = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


class _Locks:
    """Bytes of one lock file that this process holds; one descriptor for all of them, closed with the last one."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        self._path = path
        self._file = path.open("ab")
        self._held: set[int] = set()

    def take(self, name: str) -> int:
        place = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")
        if place in self._held:
            raise BlockingIOError
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except OSError:
            self._close_if_unused()
            raise
        self._held.add(place)
        return place

    def release(self, place: int) -> None:
        self._held.discard(place)
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, place)
        self._close_if_unused()

    def _close_if_unused(self) -> None:
        if not self._held:
            self._file.close()
            del _locks[self._path]


# Files of the host that the devices of this process share: it would have to open them once for each.
_bases: "weakref.WeakValueDictionary[tuple[int, int], _Base]" = weakref.WeakValueDictionary()
_locks: dict[Path, _Locks] = {}
_opening = threading.Lock()


def open_flash_memory(path: Path, geometry: FlashGeometry) -> FlashMemory:
    """Open a device's flash: its own file, or a shared base with what the device has changed.

    Args:
        path: of the file that a device has which shares nothing.
        geometry: of the flash.

    Raises:
        DeviceFolderError: no such file, of another size, or in use by another machine.
    """
    if (path.parent / BASE_FILE).exists():
        return OverlaidMemory(path.parent, geometry)
    return map_flash_file(path, geometry)


class OverlaidMemory:
    """The cells of a flash with a shared base; read and written by slices, as a bytearray.

    Args:
        folder: the device's.
        geometry: of the flash.

    Raises:
        DeviceFolderError: base or overlay is of another size, or the device is in use by another machine.
    """

    def __init__(self, folder: Path, geometry: FlashGeometry) -> None:
        self._overlay = folder / OVERLAY_FILE
        self._sector = geometry.sector_bytes
        self._size = geometry.size_bytes
        with _opening:
            self._locks = _lock_file_of(folder)
            try:
                self._place: int | None = self._locks.take(folder.name)
            except BlockingIOError as error:
                raise DeviceFolderError(f"{folder}: expected a device that does not run, found it in use") from error
            self._base = _base_of(folder / BASE_FILE)
        try:
            _require_size(BASE_FILE, self._size, found=len(self._base.cells))
            self._own = self._read_own()
        except DeviceFolderError:
            self.close()
            raise

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        start, stop, _ = part.indices(self._size)
        first, last = start // self._sector, -(-stop // self._sector)
        if not any(self._own[first:last]):
            return self._base.cells[start:stop]
        with self._overlay.open("rb", buffering=0) as file:
            sectors = b"".join(self._sector_of(file.fileno(), number) for number in range(first, last))
        return sectors[start - first * self._sector : stop - first * self._sector]

    def __setitem__(self, part: slice, cells: bytes) -> None:
        start, stop, _ = part.indices(self._size)
        if not self._overlay.exists():
            self._make_overlay()
        descriptor = os.open(self._overlay, os.O_RDWR)
        try:
            for number in range(start // self._sector, -(-stop // self._sector)):
                begin = max(start, number * self._sector)
                end = min(stop, (number + 1) * self._sector)
                self._change(descriptor, number, begin, cells[begin - start : end - start])
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Let another machine have the device."""
        with _opening:
            if self._place is not None:
                self._locks.release(self._place)
                self._place = None

    def _change(self, descriptor: int, number: int, offset: int, cells: bytes) -> None:
        if self._own[number]:
            os.pwrite(descriptor, cells, offset)
            return
        sector = bytearray(self._sector_of(descriptor, number))
        at = offset - number * self._sector
        sector[at : at + len(cells)] = cells
        os.pwrite(descriptor, sector, number * self._sector)
        os.pwrite(descriptor, b"\1", self._size + number)
        self._own[number] = 1

    def _sector_of(self, descriptor: int, number: int) -> bytes:
        start = number * self._sector
        if self._own[number]:
            return os.pread(descriptor, self._sector, start)
        return self._base.cells[start : start + self._sector]

    def _read_own(self) -> bytearray:
        count = self._size // self._sector
        if not self._overlay.exists():
            return bytearray(count)
        _require_size(OVERLAY_FILE, self._size + count, found=self._overlay.stat().st_size)
        with self._overlay.open("rb", buffering=0) as file:
            return bytearray(os.pread(file.fileno(), count, self._size))

    def _make_overlay(self) -> None:
        new = self._overlay.with_name(f"{OVERLAY_FILE}.new")
        with new.open("wb") as file:
            new.chmod(0o600)
            file.truncate(self._size + self._size // self._sector)
        new.replace(self._overlay)


def read_flash(folder: Path) -> bytes:
    """Return what the flash of a device holds that does not run and shares its flash.

    Raises:
        DeviceFolderError: the device runs.
    """
    memory = OverlaidMemory(folder, layout_of(folder).geometry)
    try:
        return memory[0 : len(memory)]
    finally:
        memory.close()


def share_flash(folder: Path, cells: bytes) -> None:
    """Have a device that does not run share its flash with every neighbour that has the same contents."""
    shared = folder.parent / SHARED_FOLDER / f"{hashlib.sha256(cells).hexdigest()}.flash"
    shared.parent.mkdir(exist_ok=True)
    if not shared.exists():
        new = shared.with_suffix(".new")
        new.write_bytes(cells)
        new.replace(shared)
    link_flash(folder, shared)


def link_flash(folder: Path, base: Path) -> None:
    """Give a device that does not run a base; what it has changed of another one is forgotten."""
    link = folder / f"{BASE_FILE}.new"
    link.unlink(missing_ok=True)
    link.hardlink_to(base)
    (folder / OVERLAY_FILE).unlink(missing_ok=True)
    link.replace(folder / BASE_FILE)


def _lock_file_of(folder: Path) -> _Locks:
    path = folder.resolve().parent / SHARED_FOLDER / LOCK_FILE
    if path not in _locks:
        _locks[path] = _Locks(path)
    return _locks[path]


def _base_of(path: Path) -> _Base:
    found = path.stat()
    base = _bases.get((found.st_dev, found.st_ino))
    if base is None:
        base = _bases[found.st_dev, found.st_ino] = _Base(path)
    return base


def _require_size(name: str, expected: int, *, found: int) -> None:
    if found != expected:
        raise DeviceFolderError(f"{name}: expected {expected} bytes, found {found}")
