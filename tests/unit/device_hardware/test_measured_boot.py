"""The measured boot: what is tampered, foreign, missing or too old does not run; what ran is in the evidence."""

import hashlib
import json

import pytest

from device_sim.errors import BootStoppedError, CoreLoadError, DeviceFolderError
from protocol.evidence import verify_evidence
from protocol.geometry import SYSTEM_SLOTS, Core, ImageKind, Slot
from protocol.image import key_id
from protocol.signing import SoftwareSigner
from tests.unit.device_hardware.device_builder import DeviceBuilder

MANDATORY = [slot for slot in Slot if slot.kind != ImageKind.MODEL]
MODELS = [slot for slot in Slot if slot.kind == ImageKind.MODEL]


def test_boot_measures_every_image_in_order(builder: DeviceBuilder) -> None:
    """The evidence carries SHA-256, signer and name of each image, in the order of the boot."""
    machine = builder.ready()
    packages = builder.packages.factory_set()
    machine.flash_factory(packages)
    report = machine.boot()
    keys = builder.packages.keys
    assert [part.type for part in report.components] == [slot.value for slot in Slot]
    for part in report.components:
        slot = Slot(part.type)
        signer = keys.rom if slot in SYSTEM_SLOTS else keys.package
        assert part.measurement == hashlib.sha256(packages[slot]).digest()
        assert part.signer_id == key_id(signer.public_key)
    evidence = verify_evidence(machine.attest(bytes(32)), machine.rot.public_key)
    assert evidence.components == report.components
    assert evidence.boot_seed == machine.rot.boot_seed
    assert machine.installed()[Slot.M4_0_MODEL].name == "colour@1.0.0"


@pytest.mark.parametrize("slot", MANDATORY)
def test_tampered_mandatory_image_stops_the_device(slot: Slot, builder: DeviceBuilder) -> None:
    """One flipped bit: nothing runs, and the error names the stage."""
    machine = builder.ready()
    machine.boot()
    machine.tamper(slot)
    with pytest.raises(BootStoppedError, match=f"{slot}: expected a signed {slot.kind} image") as stopped:
        machine.reboot()
    assert stopped.value.stage == slot
    assert machine.boot_report is None
    assert machine.components() == ()
    assert not any(core.is_running for core in machine.cores.values())


@pytest.mark.parametrize("slot", MODELS)
def test_tampered_model_stops_its_core_alone(slot: Slot, builder: DeviceBuilder) -> None:
    """The sibling runs, and the evidence lacks the model that does not."""
    machine = builder.ready()
    machine.tamper(slot)
    report = machine.boot()
    assert list(report.stopped_cores) == [slot.core]
    assert {core: cell.is_running for core, cell in machine.cores.items()} == {
        Core.M4_0: slot.core != Core.M4_0,
        Core.M4_1: slot.core != Core.M4_1,
    }
    assert slot.value not in [part.type for part in report.components]


def test_missing_mandatory_image_stops_the_device(builder: DeviceBuilder) -> None:
    """A blank device says which image it lacks."""
    folder = builder.manufacture()
    builder.claim(folder)
    machine = builder.open(folder)
    with pytest.raises(BootStoppedError, match="boot-loader: expected an image, found an empty slot"):
        machine.boot()
    machine.flash_factory({slot: builder.packages.image(slot) for slot in SYSTEM_SLOTS})
    with pytest.raises(BootStoppedError, match="a7/application: expected an image"):
        machine.boot()


def test_empty_model_slot_leaves_its_core_idle(builder: DeviceBuilder) -> None:
    """A device straight from the factory has runtimes and no models."""
    folder = builder.manufacture()
    builder.claim(folder)
    machine = builder.open(folder)
    machine.flash_factory({slot: builder.packages.image(slot) for slot in MANDATORY})
    report = machine.boot()
    assert not report.stopped_cores
    core = machine.cores[Core.M4_0]
    assert (core.is_running, core.card) == (False, None)
    assert core.firmware is not None


@pytest.mark.parametrize("slot", [Slot.OS, Slot.A7_APPLICATION])
def test_image_signed_by_another_key_stops_the_device(slot: Slot, builder: DeviceBuilder) -> None:
    """The maker's key signs no application, the operator's no system image."""
    machine = builder.ready()
    keys = builder.packages.keys
    wrong = keys.package if slot in SYSTEM_SLOTS else keys.rom
    machine.flash_factory({slot: builder.packages.image(slot, key=wrong)})
    with pytest.raises(BootStoppedError, match="found none"):
        machine.boot()


def test_image_of_another_kind_stops_the_device(builder: DeviceBuilder) -> None:
    """A model is no application, however well signed."""
    machine = builder.ready()
    machine.flash_factory({Slot.A7_APPLICATION: builder.packages.model(Slot.M4_1_MODEL)})
    with pytest.raises(BootStoppedError, match="image type"):
        machine.boot()


def test_image_below_its_fuse_stops_the_device(builder: DeviceBuilder) -> None:
    """Rolling back by a programmer: a validly signed old image does not boot."""
    machine = builder.ready()
    machine.flash_factory({Slot.A7_APPLICATION: builder.packages.image(Slot.A7_APPLICATION, security=5)})
    machine.boot()
    assert machine.rot.fuse(Slot.A7_APPLICATION) == 5
    machine.flash_factory({Slot.A7_APPLICATION: builder.packages.image(Slot.A7_APPLICATION, security=4)})
    with pytest.raises(BootStoppedError, match="expected security version 5 or above, found 4"):
        machine.reboot()


def test_device_without_voucher_runs_the_system_alone(builder: DeviceBuilder) -> None:
    """Unclaimed: it can prove itself and follows no catalog."""
    folder = builder.manufacture()
    machine = builder.open(folder)
    machine.flash_factory(builder.packages.factory_set())
    report = machine.boot()
    assert not report.is_claimed
    assert [part.type for part in report.components] == [slot.value for slot in SYSTEM_SLOTS]
    assert machine.voucher is None
    assert not any(core.is_running for core in machine.cores.values())
    builder.claim(folder)
    assert machine.reboot().is_claimed


def test_forged_voucher_is_refused_with_its_reason(builder: DeviceBuilder) -> None:
    """A voucher of another authority hands the device to nobody."""
    machine = builder.ready()
    builder.claim(machine.folder, key=SoftwareSigner.generate())
    report = machine.boot()
    assert not report.is_claimed
    assert "expected a signature" in report.voucher_refusal


def test_older_voucher_is_refused(builder: DeviceBuilder) -> None:
    """The sequence in force never falls."""
    machine = builder.ready()
    builder.claim(machine.folder, sequence=7)
    assert machine.boot().is_claimed
    assert machine.reboot().is_claimed
    builder.claim(machine.folder, sequence=6)
    assert "expected a sequence above 6, found 6" in machine.reboot().voucher_refusal


def test_model_that_its_core_cannot_run_stops_that_core_alone(builder: DeviceBuilder) -> None:
    """Signed, but made for the other core."""
    machine = builder.ready()
    machine.flash_factory({Slot.M4_0_MODEL: builder.packages.model(Slot.M4_0_MODEL, core=Core.M4_1)})
    report = machine.boot()
    assert isinstance(report.stopped_cores[Core.M4_0], CoreLoadError)
    assert machine.cores[Core.M4_1].is_running


@pytest.mark.parametrize("content", ["{}", "no json", json.dumps({"rom_key": "x", "voucher_key": "y"})])
def test_device_without_the_keys_of_the_factory_does_not_boot(content: str, builder: DeviceBuilder) -> None:
    """authorities.json is written by the factory's signing step."""
    machine = builder.ready()
    (machine.folder / "authorities.json").write_text(content)
    with pytest.raises(DeviceFolderError, match=r"authorities\.json: expected"):
        machine.boot()


def test_machine_learns_time_and_keeps_the_floor_over_a_reboot(builder: DeviceBuilder) -> None:
    """After a reboot the clock starts from the last signed time, not synchronised."""
    machine = builder.ready()
    machine.boot()
    machine.learn_time(builder.clock.now())
    told = machine.clock.is_synchronised
    machine.reboot()
    assert (told, machine.clock.is_synchronised) == (True, False)
    assert machine.clock.now() == builder.clock.now()
