"""An update on one machine: spare, trial, confirm or revert; the other core runs on."""

import hashlib

import numpy as np
import pytest

from device_sim.errors import (
    BootStoppedError,
    CoreLoadError,
    CoreStoppedError,
    ImageTooLargeError,
    SpareContentError,
    SpareStateError,
)
from device_sim.hardware.machine import Machine
from device_sim.hardware.spare import Spare, SpareState
from protocol.geometry import Core, Slot
from protocol.image import digest_of
from protocol.signing import SoftwareSigner
from tests.unit.device_hardware.device_builder import DeviceBuilder, install_trial

FRAME = np.full((8, 8, 3), (10, 200, 30), np.uint8)
SLOT = Slot.M4_0_MODEL


@pytest.fixture
def machine(builder: DeviceBuilder) -> Machine:
    made = builder.ready()
    made.boot()
    return made


def test_confirmed_image_is_installed_at_home(machine: Machine, builder: DeviceBuilder) -> None:
    """On trial it runs and is measured; confirmed it is installed, and still is after a reboot."""
    old, new = machine.installed()[SLOT].digest, builder.packages.model(SLOT, version="2.0.0", security=3)
    install_trial(machine, SLOT, new)
    assert machine.installed()[SLOT].digest == old
    assert digest_of(new) in [part.measurement.hex() for part in machine.components()]
    assert machine.cores[Core.M4_0].infer(FRAME).model == "colour@2.0.0"
    machine.confirm(SLOT)
    assert machine.spare == Spare()
    assert machine.installed()[SLOT].digest == digest_of(new)
    assert machine.rot.fuse(SLOT) == 3
    machine.reboot()
    assert machine.installed()[SLOT].digest == digest_of(new)
    assert machine.last_revert is None


def test_reverted_image_leaves_the_old_one_running(machine: Machine, builder: DeviceBuilder) -> None:
    """The reason survives for the report, the fuse is not blown."""
    old, new = machine.installed()[SLOT].digest, builder.packages.model(SLOT, version="2.0.0", security=3)
    install_trial(machine, SLOT, new)
    machine.revert(SLOT, "golden vectors failed")
    assert machine.spare == Spare()
    assert machine.installed()[SLOT].digest == old
    assert machine.cores[Core.M4_0].infer(FRAME).model_sha256 == old
    assert machine.rot.fuse(SLOT) == 1
    machine.reboot()
    reverted = machine.last_revert
    assert reverted is not None
    assert (reverted.slot, reverted.digest, reverted.reason) == (SLOT, digest_of(new), "golden vectors failed")


def test_reboot_reverts_an_image_that_is_not_confirmed(machine: Machine, builder: DeviceBuilder) -> None:
    """The boot report says which."""
    new = builder.packages.image(Slot.A7_APPLICATION, version="2.0.0")
    install_trial(machine, Slot.A7_APPLICATION, new)
    report = machine.reboot()
    assert report.reverted is not None
    assert report.reverted.digest == digest_of(new)
    assert machine.installed()[Slot.A7_APPLICATION].name == "application@1.0.0"
    assert machine.reboot().reverted is None


def test_restart_of_a_core_on_trial_reverts_its_image(machine: Machine, builder: DeviceBuilder) -> None:
    """What holds for the device's boot holds for the core's; a restart of the sibling changes nothing."""
    install_trial(machine, SLOT, builder.packages.model(SLOT, version="2.0.0"))
    machine.restart(Core.M4_1)
    assert machine.cores[Core.M4_0].infer(FRAME).model == "colour@2.0.0"
    machine.restart(Core.M4_0)
    assert machine.cores[Core.M4_0].infer(FRAME).model == "colour@1.0.0"
    assert machine.spare == Spare()
    assert machine.last_revert is not None


def test_trial_on_one_core_leaves_its_sibling_alone(machine: Machine, builder: DeviceBuilder) -> None:
    """Trial, revert and confirm restart one core; the other one is the same run of the same model."""
    sibling = machine.cores[Core.M4_1]
    run = sibling._kernels
    install_trial(machine, SLOT, builder.packages.model(SLOT, version="2.0.0"))
    machine.revert(SLOT, "no")
    install_trial(machine, Slot.M4_0_FIRMWARE, builder.packages.image(Slot.M4_0_FIRMWARE, version="2.0.0"))
    machine.confirm(Slot.M4_0_FIRMWARE)
    assert sibling._kernels is run
    assert sibling.infer(FRAME).label == "green"
    firmware = machine.cores[Core.M4_0].firmware
    assert firmware is not None
    assert firmware.info.version == "2.0.0"


def test_spare_is_shared_so_one_trial_runs_at_a_time(machine: Machine, builder: DeviceBuilder) -> None:
    """A second update waits for the first."""
    install_trial(machine, SLOT, builder.packages.model(SLOT, version="2.0.0"))
    with pytest.raises(SpareStateError, match="expected it free, found TRIAL for m4-0/model"):
        machine.spare_begin(Slot.M4_1_MODEL, "00" * 32, 100)


def test_interrupted_write_resumes_after_a_restart(machine: Machine, builder: DeviceBuilder) -> None:
    """Whole sectors stay; another image starts over."""
    new = builder.packages.model(SLOT, version="2.0.0", padding=10_000)
    digest = digest_of(new)
    assert machine.spare_begin(SLOT, digest, len(new)) == 0
    machine.spare_write(0, new[:5_008])
    machine.close()
    again = builder.open(machine.folder)
    again.boot()
    assert again.spare == Spare(SpareState.FILLING, SLOT, digest, len(new))
    assert again.spare_begin(SLOT, digest, len(new)) == 4096
    again.spare_write(4096, new[4096:])
    assert again.spare_begin(SLOT, digest, len(new)) == len(new)
    again.start_trial(SLOT)
    assert again.spare == Spare(SpareState.TRIAL, SLOT, digest, len(new))
    again.revert(SLOT, "enough")
    assert again.spare_begin(SLOT, digest, len(new)) == 0


@pytest.mark.parametrize(
    ("offset", "data", "match"),
    [(16, bytes(16), "expected bytes from 0"), (0, bytes(64), "at most 40"), (0, bytes(17), "whole rows of 16")],
)
def test_bytes_at_the_wrong_place_are_refused(offset: int, data: bytes, match: str, machine: Machine) -> None:
    """Gaps, too much, and half rows before the end."""
    machine.spare_begin(SLOT, hashlib.sha256(bytes(40)).hexdigest(), 40)
    with pytest.raises(SpareContentError, match=match):
        machine.spare_write(offset, data)


def test_write_and_trial_need_an_image_begun(machine: Machine) -> None:
    """Nothing was announced."""
    with pytest.raises(SpareStateError, match="expected an image begun, found EMPTY"):
        machine.spare_write(0, bytes(16))
    with pytest.raises(SpareStateError, match="expected FILLING for m4-0/model, found EMPTY"):
        machine.start_trial(SLOT)
    with pytest.raises(SpareStateError, match="expected an image on trial"):
        machine.confirm(SLOT)
    with pytest.raises(SpareStateError, match="expected an image on trial"):
        machine.revert(SLOT, "no")


@pytest.mark.parametrize("length", [0, 336 * 1024 + 1])
def test_image_of_impossible_length_is_refused(length: int, machine: Machine) -> None:
    """Before a byte of it is written."""
    with pytest.raises(ImageTooLargeError, match="expected 1 to"):
        machine.spare_begin(SLOT, "00" * 32, length)
    with pytest.raises(ImageTooLargeError, match="expected at most"):
        machine.flash_factory({Slot.M4_1_FIRMWARE: bytes(57 * 1024)})


def test_bytes_of_another_digest_are_dropped(machine: Machine, builder: DeviceBuilder) -> None:
    """What arrived is not what was announced."""
    new = builder.packages.model(SLOT, version="2.0.0")
    machine.spare_begin(SLOT, "11" * 32, len(new))
    machine.spare_write(0, new)
    with pytest.raises(SpareContentError, match="expected SHA-256 1111"):
        machine.start_trial(SLOT)
    assert machine.spare == Spare()


def test_image_of_a_foreign_key_gets_no_trial(machine: Machine, builder: DeviceBuilder) -> None:
    """The package signature is checked before the core restarts; the old image runs on."""
    foreign = builder.packages.image(Slot.M4_0_FIRMWARE, version="2.0.0", key=SoftwareSigner.generate())
    with pytest.raises(BootStoppedError, match="expected a signed firmware image"):
        install_trial(machine, Slot.M4_0_FIRMWARE, foreign)
    assert machine.spare == Spare()
    assert machine.cores[Core.M4_0].is_running


def test_image_below_the_fuse_gets_no_trial(machine: Machine, builder: DeviceBuilder) -> None:
    """The fuse holds for the spare as for home."""
    install_trial(machine, SLOT, builder.packages.model(SLOT, version="2.0.0", security=9))
    machine.confirm(SLOT)
    with pytest.raises(BootStoppedError, match="expected security version 9 or above, found 8"):
        install_trial(machine, SLOT, builder.packages.model(SLOT, version="3.0.0", security=8))


def test_model_that_the_core_cannot_run_reverts_by_itself(machine: Machine, builder: DeviceBuilder) -> None:
    """An arena larger than the TCM: the old model runs again."""
    with pytest.raises(
        CoreLoadError, match="arena: expected 1 to 196608 bytes in TCM or 40960 bytes in SYSRAM, found 196609"
    ):
        install_trial(machine, SLOT, builder.packages.model(SLOT, version="2.0.0", arena=192 * 1024 + 1))
    assert machine.spare == Spare()
    assert machine.cores[Core.M4_0].infer(FRAME).model == "colour@1.0.0"


def test_trial_replaces_a_tampered_model(builder: DeviceBuilder) -> None:
    """A core that its model's tampering stopped is healed by an update; before that it refuses to infer."""
    machine = builder.ready()
    machine.tamper(SLOT)
    machine.boot()
    with pytest.raises(CoreStoppedError, match="m4-0: expected a model"):
        machine.cores[Core.M4_0].infer(FRAME)
    with pytest.raises(BootStoppedError, match="m4-0/model"):
        machine.restart(Core.M4_0)
    install_trial(machine, SLOT, builder.packages.model(SLOT, version="2.0.0"))
    machine.confirm(SLOT)
    assert not machine.reboot().stopped_cores


def test_spare_that_changes_during_the_trial_is_not_copied_home(machine: Machine, builder: DeviceBuilder) -> None:
    """Somebody with a programmer: the old image runs again."""
    new = builder.packages.model(SLOT, version="2.0.0")
    install_trial(machine, SLOT, new)
    spare = machine._parts.slots._layout.spare.offset
    memory, cell = machine._parts.memory, slice(spare + 40, spare + 41)
    memory[cell] = bytes([bytes(memory[cell])[0] ^ 1])
    with pytest.raises(SpareContentError, match="expected SHA-256"):
        machine.confirm(SLOT)
    assert machine.cores[Core.M4_0].infer(FRAME).model == "colour@1.0.0"
    assert machine.last_revert is not None
