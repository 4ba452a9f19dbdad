"""Which voucher counts, and what a device keeps when it goes to another catalog."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from device_sim.errors import BootStoppedError, SecurityFloorError
from device_sim.hardware.machine import Machine
from protocol.geometry import HOME_BYTES, SYSTEM_SLOTS, ImageKind, Slot
from protocol.signing import SoftwareSigner
from tests.unit.device_hardware.device_builder import BUILT_AT, DeviceBuilder
from tests.voucher_roots import VoucherRoots, make_roots

MANDATORY = [slot for slot in HOME_BYTES if slot.kind is not ImageKind.MODEL]


@dataclass
class Move:
    """A device of one catalog, and another catalog that gets it."""

    builder: DeviceBuilder
    machine: Machine
    first: bytes
    roots: VoucherRoots
    package: SoftwareSigner

    @property
    def folder(self) -> Path:
        return self.machine.folder

    def offer(self, **changes: Any) -> bytes:
        """Put a voucher of the other catalog into the letter box."""
        known: dict[str, Any] = {"sequence": 20, "roots": self.roots, "package": self.package}
        return self.builder.claim(self.folder, **{**known, **changes})

    def flash_new_images(self) -> None:
        """Bring the new catalog's images by cable."""
        packages = self.builder.packages
        images = {slot: packages.image(slot, version="9.0.0", security=9, key=self.package) for slot in MANDATORY}
        self.machine.flash_factory(images)

    def measured(self) -> list[str]:
        return [part.type for part in self.machine.components()]


@pytest.fixture
def move(builder: DeviceBuilder) -> Iterator[Move]:
    machine = builder.ready()
    first = builder.claim(machine.folder, sequence=10)
    assert machine.boot().is_claimed
    for name in ("ldevid", "uptane/director", "uptane/image", "update/progress", "update/release-floor/m4-0/model"):
        machine.storage.put(name, b"of the first catalog")
    machine.learn_time(BUILT_AT + timedelta(days=400))
    yield Move(builder, machine, first, make_roots(), SoftwareSigner.generate())
    machine.close()


def test_newer_voucher_of_another_catalog_takes_the_device(move: Move) -> None:
    """Nothing of the old catalog is left: no certificate, metadata, floor, image; fuses stay."""
    fuse = move.machine.rot.fuse(Slot.A7_APPLICATION)
    taken = move.offer()
    report = move.machine.reboot()
    assert (report.is_claimed, report.voucher_refusal) == (True, "")
    assert move.machine.voucher is not None
    assert move.machine.voucher.tls_root == move.roots.tls
    assert move.machine.storage.get("voucher") == taken
    assert set(move.machine.storage.names()) == {"voucher", "time-floor", "arrival"}
    assert move.measured() == [slot.value for slot in SYSTEM_SLOTS]
    assert move.machine.rot.fuse(Slot.A7_APPLICATION) == fuse > 0
    assert move.machine.rot.voucher == (20, move.machine.voucher.digest)


def test_flash_holds_nothing_of_the_old_catalog(move: Move) -> None:
    """A model is its maker's property: its bytes go, not only its entry in the journal."""
    old = move.builder.packages.model(Slot.M4_0_MODEL)[:-64]  # without the signature, which is new each time
    flash = move.folder / "flash.bin"
    assert old in flash.read_bytes()
    move.machine.spare_begin(Slot.M4_0_MODEL, "00" * 32, 64)
    move.machine.spare_write(0, b"half of a download of the first..".ljust(64, b"."))
    move.offer()
    move.machine.reboot()
    content = flash.read_bytes()
    assert old not in content
    assert b"half of a download" not in content


def test_device_that_arrives_boots_as_its_slots_fill_and_then_needs_all(move: Move) -> None:
    """An empty slot is excused only until the new catalog has filled every mandatory one."""
    move.offer()
    move.machine.reboot()
    package = move.builder.packages
    app = package.image(Slot.A7_APPLICATION, security=9, key=move.package)
    move.machine.flash_factory({Slot.A7_APPLICATION: app})
    move.machine.reboot()
    assert move.measured() == [*(slot.value for slot in SYSTEM_SLOTS), Slot.A7_APPLICATION.value]
    move.flash_new_images()
    move.machine.reboot()
    assert set(move.measured()) >= {slot.value for slot in MANDATORY}
    assert move.machine.storage.get("arrival") is None
    move.machine.tamper(Slot.A7_APPLICATION)
    with pytest.raises(BootStoppedError, match="application"):
        move.machine.reboot()


def test_image_of_the_old_catalog_does_not_boot_on_a_device_that_arrived(move: Move) -> None:
    """Somebody with a programmer brings back the first catalog's application."""
    move.offer()
    move.machine.reboot()
    move.machine.flash_factory({Slot.A7_APPLICATION: move.builder.packages.image(Slot.A7_APPLICATION)})
    with pytest.raises(BootStoppedError, match="expected a signed application image"):
        move.machine.reboot()


def test_images_that_the_new_catalog_signed_are_kept(move: Move) -> None:
    """Flashed at the bench before the device boots with its new voucher."""
    move.offer()
    move.flash_new_images()
    move.machine.reboot()
    assert {slot.value for slot in MANDATORY} <= set(move.measured())
    assert Slot.M4_0_MODEL.value not in move.measured()
    assert move.machine.storage.get("arrival") is None


def test_time_begins_anew_where_the_voucher_says(move: Move) -> None:
    """The old catalog may have told the device a time far ahead."""
    move.offer()
    move.machine.reboot()
    assert move.machine.clock.floor == BUILT_AT
    move.machine.learn_time(BUILT_AT + timedelta(minutes=1))


def test_old_voucher_does_not_bring_the_device_back(move: Move) -> None:
    """Replayed into the letter box: the new catalog's voucher stays in force."""
    move.offer()
    move.machine.reboot()
    (move.folder / "voucher.json").write_bytes(move.first)
    report = move.machine.reboot()
    assert "expected a sequence above" in report.voucher_refusal
    assert move.machine.voucher is not None
    assert move.machine.voucher.tls_root == move.roots.tls


def test_moving_back_takes_a_higher_voucher(move: Move) -> None:
    """And starts from nothing again."""
    move.offer()
    move.machine.reboot()
    move.machine.storage.put("uptane/director", b"of the second catalog")
    move.builder.claim(move.folder, sequence=30)
    move.machine.reboot()
    assert move.machine.voucher is not None
    assert move.machine.voucher.sequence == 30
    assert move.machine.storage.get("uptane/director") is None


def test_secure_storage_rolled_back_does_not_bring_the_old_catalog_back(move: Move) -> None:
    """The root of trust knows the voucher that was taken; the letter box still holds it."""
    state = move.folder / "state.json"
    before = state.read_bytes()
    move.offer()
    move.machine.reboot()
    state.write_bytes(before)
    move.machine.close()
    move.machine = move.builder.open(move.folder)
    move.machine.boot()
    assert move.machine.voucher is not None
    assert move.machine.voucher.tls_root == move.roots.tls
    assert move.machine.storage.get("ldevid") is None


def test_secure_storage_rolled_back_without_a_voucher_follows_no_catalog(move: Move) -> None:
    """Neither the old one, nor a mix."""
    state = move.folder / "state.json"
    before = state.read_bytes()
    move.offer()
    move.machine.reboot()
    state.write_bytes(before)
    (move.folder / "voucher.json").unlink()
    move.machine.close()
    move.machine = move.builder.open(move.folder)
    report = move.machine.boot()
    assert not report.is_claimed
    assert "expected a sequence above" in report.voucher_refusal
    assert move.measured() == [slot.value for slot in SYSTEM_SLOTS]


def test_second_voucher_of_one_sequence_is_refused(move: Move) -> None:
    """Two catalogs must not both hold a voucher that counts."""
    move.offer(sequence=10)
    report = move.machine.reboot()
    assert "expected a sequence above 10, found another one of that sequence" in report.voucher_refusal
    assert move.machine.storage.get("ldevid") == b"of the first catalog"


def test_same_voucher_signed_anew_changes_nothing(move: Move) -> None:
    """ECDSA makes another envelope of the same document."""
    again = move.builder.claim(move.folder, sequence=10)
    assert again != move.first
    assert move.machine.reboot().voucher_refusal == ""
    assert move.machine.storage.get("voucher") == move.first


def test_newer_voucher_of_the_same_catalog_keeps_what_is_the_catalogs(move: Move) -> None:
    """Superseded, not moved."""
    renewed = move.builder.claim(move.folder, sequence=11)
    assert move.machine.reboot().voucher_refusal == ""
    assert move.machine.storage.get("voucher") == renewed
    assert move.machine.storage.get("ldevid") == b"of the first catalog"
    assert {slot.value for slot in HOME_BYTES} <= set(move.measured())


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"key": SoftwareSigner.generate()}, "expected a signature"),
        ({"sequence": 9}, "expected a sequence above"),
        ({"expires_at": BUILT_AT}, "expected one that is valid at"),
    ],
)
def test_refused_voucher_changes_nothing(changes: dict[str, Any], refusal: str, move: Move) -> None:
    """A claimed device is not bricked by what somebody puts into its letter box."""
    before = (move.folder / "state.json").read_bytes(), (move.folder / "rot.json").read_bytes()
    move.offer(**changes)
    report = move.machine.reboot()
    assert refusal in report.voucher_refusal
    assert report.is_claimed
    assert ((move.folder / "state.json").read_bytes(), (move.folder / "rot.json").read_bytes()) == before


@pytest.mark.parametrize("share", [0, 1, 300])
def test_truncated_voucher_changes_nothing(share: int, move: Move) -> None:
    """Torn on its way into the letter box."""
    offered = move.offer()
    (move.folder / "voucher.json").write_bytes(offered[:share])
    report = move.machine.reboot()
    assert "expected a DSSE envelope" in report.voucher_refusal
    assert move.machine.voucher is not None
    assert move.machine.voucher.sequence == 10


def test_device_that_kept_only_the_sequence_takes_its_voucher_anew(move: Move) -> None:
    """Folders of earlier versions hold the counter, and the voucher in the letter box."""
    move.machine.storage.update({"voucher": None})
    rot = json.loads((move.folder / "rot.json").read_bytes()) | {"voucher_sha256": ""}
    (move.folder / "rot.json").write_text(json.dumps(rot))
    move.machine.close()
    move.machine = move.builder.open(move.folder)
    assert move.machine.boot().is_claimed
    assert move.machine.storage.get("ldevid") == b"of the first catalog"
    assert move.machine.rot.voucher[1] != ""


def test_sequence_in_the_root_of_trust_never_falls(move: Move) -> None:
    """Whoever calls."""
    with pytest.raises(SecurityFloorError, match="voucher: expected at least 10, found 9"):
        move.machine.rot.take_voucher(9, "00" * 32)
