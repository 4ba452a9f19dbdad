"""What of a device survives a power cut: the parts that write to its folder, and what the machine keeps in them."""

import contextlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from device_sim.errors import DeviceFolderError, StorageFullError
from device_sim.hardware.boot import Authorities, Revert, load_authorities
from device_sim.hardware.clock import FIRST_FLOOR
from device_sim.hardware.factory import (
    AUTHORITIES_FILE,
    FLASH_FILE,
    ROOT_OF_TRUST_FILE,
    STORAGE_FILE,
    VOUCHER_FILE,
    layout_of,
    system_file,
    wear_of,
)
from device_sim.hardware.files import read_file
from device_sim.hardware.flash import Busy, NorFlash
from device_sim.hardware.overlay import FlashMemory, open_flash_memory
from device_sim.hardware.ownership import TIME_FLOOR, Ownership
from device_sim.hardware.power import PowerSupply
from device_sim.hardware.root_of_trust import RootOfTrust
from device_sim.hardware.secure_storage import LAST_REVERT, SecureStorage
from device_sim.hardware.slots import SlotStore
from protocol.document import Document, canonical_json, parse_document
from protocol.geometry import SYSTEM_SLOTS, Slot


class _RevertDocument(Document):
    slot: Slot
    digest: str
    reason: str

    @classmethod
    def of(cls, revert: Revert) -> "_RevertDocument":
        return cls(slot=revert.slot, digest=revert.digest, reason=revert.reason)

    @property
    def revert(self) -> Revert:
        return Revert(self.slot, self.digest, self.reason)


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one device's folder."""

    folder: Path
    root_of_trust: RootOfTrust
    storage: SecureStorage
    memory: FlashMemory
    slots: SlotStore

    def image(self, slot: Slot) -> bytes | None:
        """Return what a slot holds when nothing is on trial, unverified, or None."""
        if slot not in SYSTEM_SLOTS:
            return self.slots.read_home(slot)
        return _read_if_there(system_file(self.folder, slot))

    def ownership(self, now: datetime) -> Ownership:
        """Return what decides whose the device is; `now` is the device's time."""
        offered = _read_if_there(self.folder / VOUCHER_FILE)
        return Ownership(self.root_of_trust, self.storage, self.slots, offered, now)

    def authorities(self) -> Authorities:
        """Return what the factory burnt in; see `load_authorities`."""
        return load_authorities(self.folder / AUTHORITIES_FILE)

    def last_revert(self) -> Revert | None:
        """Return the image on trial that was dropped last, or None."""
        kept = self.storage.get(LAST_REVERT)
        return None if kept is None else parse_document(kept, _RevertDocument).revert

    def keep_revert(self, revert: Revert) -> None:
        """Remember which image on trial was dropped; that it was counts even where there is no room to say so."""
        with contextlib.suppress(StorageFullError):
            self.storage.put(LAST_REVERT, canonical_json(_RevertDocument.of(revert)))

    def time_floor(self) -> datetime:
        """Return the latest time that the device has been told.

        Raises:
            DeviceFolderError: secure storage holds something else in its place.
        """
        kept = self.storage.get(TIME_FLOOR)
        try:
            floor = FIRST_FLOOR if kept is None else datetime.fromisoformat(kept.decode())
        except ValueError as error:
            raise DeviceFolderError("state.json: expected a time floor, found other bytes") from error
        if floor.tzinfo is None:
            raise DeviceFolderError("state.json: expected a time floor with its zone, found one without")
        return floor

    def keep_time_floor(self, floor: datetime) -> None:
        """Remember it."""
        self.storage.put(TIME_FLOOR, floor.isoformat().encode())


def open_parts(folder: Path, *, power: PowerSupply, busy: Busy) -> Parts:
    """Open what survives of a device.

    Raises:
        DeviceFolderError: a file is missing or malformed.
    """
    layout = layout_of(folder)
    memory = open_flash_memory(folder / FLASH_FILE, layout.geometry)
    flash = NorFlash(memory, layout.geometry, power=power, busy=busy, wear=wear_of(folder, layout).erase)
    return Parts(
        folder=folder,
        root_of_trust=RootOfTrust.open(folder / ROOT_OF_TRUST_FILE, power=power),
        storage=SecureStorage(folder / STORAGE_FILE, power=power),
        memory=memory,
        slots=SlotStore(flash, layout),
    )


def _read_if_there(path: Path) -> bytes | None:
    return read_file(path) if path.exists() else None
