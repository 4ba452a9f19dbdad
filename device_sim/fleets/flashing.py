"""Factory images into many devices: each set of images is written once, and neighbours share the result."""

from collections.abc import Callable
from pathlib import Path

from device_sim.hardware.factory import GEOMETRY_FILE, system_file
from device_sim.hardware.files import read_file
from device_sim.hardware.overlay import BASE_FILE, OVERLAY_FILE, link_flash, read_flash, share_flash
from protocol.geometry import SYSTEM_SLOTS, Slot
from protocol.image import digest_of

_Images = tuple[bytes, tuple[tuple[Slot, str], ...]]


class FactoryLine:
    """Flashes devices one after the other; those that share their flash get what an equal one before them got.

    Args:
        write: flashes a device's factory images for real.
        package_of: where a device's package of a slot is; it need not exist.
    """

    def __init__(self, write: Callable[[Path], None], package_of: Callable[[Path, Slot], Path]) -> None:
        self._write = write
        self._package_of = package_of
        self._done: dict[_Images, Path] = {}
        self._digests: dict[int, str] = {}  # of shared packages, by inode

    def flash(self, folder: Path) -> None:
        """Flash one device.

        Raises:
            DeviceSimError: there are no images, or one does not fit.
        """
        is_blank = (folder / BASE_FILE).exists() and not (folder / OVERLAY_FILE).exists()
        if not is_blank:
            self._write(folder)
            return
        images = self._images(folder)
        if images not in self._done:
            self._write(folder)
            share_flash(folder, read_flash(folder))
            self._done[images] = folder
        else:
            link_flash(folder, self._done[images] / BASE_FILE)
        self._share_system(folder)

    def _images(self, folder: Path) -> _Images:
        """Return what tells a device's images from others."""
        packages = ((slot, self._package_of(folder, slot)) for slot in Slot)
        present = tuple((slot, self._digest(path)) for slot, path in packages if path.exists())
        return read_file(folder / GEOMETRY_FILE), present

    def _digest(self, path: Path) -> str:
        file = path.stat()
        if file.st_nlink == 1:
            return digest_of(path.read_bytes())
        if file.st_ino not in self._digests:  # of a file that neighbours share, too
            self._digests[file.st_ino] = digest_of(path.read_bytes())
        return self._digests[file.st_ino]

    def _share_system(self, folder: Path) -> None:
        for slot in SYSTEM_SLOTS:
            package, image = self._package_of(folder, slot), system_file(folder, slot)
            if package.exists():
                image.unlink(missing_ok=True)
                image.hardlink_to(package)
