"""What happens to a device before it has an owner: it is made, and it is flashed over the debug interface.

Flashing verifies nothing; the boot does.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from device_sim.errors import DeviceFolderError, ImageTooLargeError, SecurityFloorError
from device_sim.hardware.files import read_file, replace_file
from device_sim.hardware.flash import ERASED
from device_sim.hardware.root_of_trust import RootOfTrust, seeded_identity
from device_sim.hardware.slots import SlotStore
from device_sim.hardware.wear import WearFile
from protocol.document import DocumentError, canonical_json, parse_document
from protocol.flash_geometry import FlashDocument, FlashLayout
from protocol.geometry import HOME_BYTES, SYSTEM_SLOTS, Slot
from protocol.identity import device_id_of
from protocol.image import MAX_PACKAGE_BYTES
from protocol.image_info import read_info
from protocol.signing import SoftwareSigner

FLASH_FILE = "flash.bin"
GEOMETRY_FILE = "geometry.json"
WEAR_FILE = "wear.bin"
ROOT_OF_TRUST_FILE = "rot.json"
PUBLIC_FILE = "device.json"
STORAGE_FILE = "state.json"
AUTHORITIES_FILE = "authorities.json"
VOUCHER_FILE = "voucher.json"
IDEVID_FILE = "idevid.pem"
FOLDER_DIGITS = 16  # of the device id


def make_device(devices: Path, *, seed: bytes | None, layout: FlashLayout) -> Path:
    """Make a device's folder: root of trust, CSR, blank flash; see `Machine.manufacture`.

    Raises:
        DeviceFolderError: the device exists.
    """
    identity = SoftwareSigner.generate() if seed is None else seeded_identity(seed)
    device_id = device_id_of(identity.public_key)
    folder = devices / device_id[:FOLDER_DIGITS]
    if (folder / PUBLIC_FILE).exists():  # written last
        raise DeviceFolderError(f"device folder: expected none, found device {device_id[:FOLDER_DIGITS]}…")
    (folder / "system").mkdir(parents=True, exist_ok=True)
    replace_file(folder / GEOMETRY_FILE, canonical_json(FlashDocument.of(layout)), mode=0o644)
    replace_file(folder / FLASH_FILE, bytes([ERASED]) * layout.geometry.size_bytes)
    root_of_trust = RootOfTrust.manufacture(folder / ROOT_OF_TRUST_FILE, identity)
    replace_file(folder / "csr.pem", root_of_trust.identity_csr(), mode=0o644)
    public = json.dumps({"device_id": device_id, "hardware": "mt3620"}).encode()
    replace_file(folder / PUBLIC_FILE, public, mode=0o644)
    return folder


def layout_of(folder: Path) -> FlashLayout:
    """Return the layout of a device's flash, as it was made; the MT3620's where the folder has none.

    Raises:
        DeviceFolderError: geometry.json describes no flash.
    """
    path = folder / GEOMETRY_FILE
    if not path.exists():
        return FlashLayout()
    try:
        return parse_document(read_file(path), FlashDocument).layout
    except DocumentError as error:
        raise DeviceFolderError(f"{path.name}: expected the geometry of a flash, found {error}") from error


def wear_of(folder: Path, layout: FlashLayout) -> WearFile:
    """Return the erase counters of a device's flash."""
    return WearFile(folder / WEAR_FILE, layout.geometry, seed=folder.name)


def system_file(folder: Path, slot: Slot) -> Path:
    """Return the file of a system image."""
    return folder / "system" / f"{slot.value}.img"


def flash_images(folder: Path, slots: SlotStore, packages: Mapping[Slot, bytes]) -> None:
    """Write packages where they belong.

    Raises:
        ImageTooLargeError: a package does not fit its slot.
    """
    for slot, package in packages.items():
        if slot not in SYSTEM_SLOTS:
            slots.install(slot, package)
        elif len(package) > MAX_PACKAGE_BYTES:
            raise ImageTooLargeError(f"{slot}: expected at most {MAX_PACKAGE_BYTES} bytes, found {len(package)}")
        else:
            replace_file(system_file(folder, slot), package)


def recover_images(
    folder: Path, slots: SlotStore, packages: Mapping[Slot, bytes], *, root_of_trust: RootOfTrust
) -> None:
    """Bring a device back to its factory images, whatever its flash holds; other slots are emptied.

    Signatures are left to the boot. What its fuses would stop is refused here, before anything is written.

    Raises:
        SecurityFloorError: a package's security version is below its fuse.
        ImageTooLargeError: a package does not fit its slot.
        PackageError: one of them is no package.
    """
    for slot, package in packages.items():
        version, fuse = read_info(package).security_version, root_of_trust.fuse(slot)
        if version < fuse:
            raise SecurityFloorError(f"{slot}: expected security version {fuse} or above, found {version}")
    slots.drop()
    flash_images(folder, slots, packages)
    for slot in HOME_BYTES.keys() - packages.keys():
        slots.erase_home(slot)


def tampered(package: bytes) -> bytes:
    """Return a package with one bit in its middle flipped, as somebody with a programmer would."""
    middle = len(package) // 2
    return package[:middle] + bytes([package[middle] ^ 1]) + package[middle + 1 :]
