"""Images that come and go over the cable, straight into home slots: `Machine.sideload` and `Machine.remove`."""

import struct

import pytest

from device_sim.errors import BootStoppedError, ImageTooLargeError, SpareStateError, WornSectorError
from device_sim.hardware.machine import Machine
from protocol.flash_geometry import FlashLayout
from protocol.geometry import Core, Slot
from tests.unit.device_hardware.device_builder import DeviceBuilder, install_trial

MODEL = Slot.M4_0_MODEL


@pytest.fixture
def machine(builder: DeviceBuilder) -> Machine:
    ready = builder.ready()
    ready.boot()
    return ready


@pytest.mark.parametrize("slot", [MODEL, Slot.A7_APPLICATION])
def test_what_is_sideloaded_is_measured_at_once(slot: Slot, machine: Machine, builder: DeviceBuilder) -> None:
    """As the next boot measures it; the fuse of an image of the catalog rises with it."""
    packages = builder.packages
    package = packages.model(slot, security=2) if slot is MODEL else packages.image(slot, version="2.0.0", security=2)
    machine.sideload(slot, package)
    measured = machine.components()
    assert machine.rot.fuse(slot) == 2
    machine.reboot()
    assert machine.components() == measured


def test_a_refused_image_changes_nothing(machine: Machine, builder: DeviceBuilder) -> None:
    """Of another kind, below the fuse, or too large for the slot."""
    before, packages = machine.components(), builder.packages
    with pytest.raises(BootStoppedError, match="image type: expected"):
        machine.sideload(MODEL, packages.image(Slot.M4_0_FIRMWARE))
    with pytest.raises(BootStoppedError, match="expected security version 1 or above, found 0"):
        machine.sideload(MODEL, packages.model(MODEL, security=0))
    with pytest.raises(ImageTooLargeError, match="m4-1/firmware: expected at most 57344 bytes"):
        machine.sideload(Slot.M4_1_FIRMWARE, packages.image(Slot.M4_1_FIRMWARE, size=60_000))
    assert machine.components() == before
    assert all(core.is_running for core in machine.cores.values())


def test_an_image_on_trial_is_left_alone(machine: Machine, builder: DeviceBuilder) -> None:
    """Until it is confirmed or reverted."""
    install_trial(machine, MODEL, builder.packages.model(MODEL, version="2.0.0"))
    before = machine.components()
    with pytest.raises(SpareStateError, match="expected it free, found TRIAL"):
        machine.sideload(Slot.M4_1_MODEL, builder.packages.model(Slot.M4_1_MODEL, version="2.0.0"))
    with pytest.raises(SpareStateError, match="expected it free, found TRIAL"):
        machine.remove(Slot.M4_1_MODEL)
    assert machine.components() == before


def test_a_worn_slot_is_empty_and_the_sibling_runs_on(machine: Machine, builder: DeviceBuilder) -> None:
    """Evidence says what is there."""
    layout = FlashLayout()
    sectors = layout.geometry.size_bytes // layout.geometry.sector_bytes
    worn = struct.pack(f"<{sectors}I", *[2 * layout.geometry.endurance_erases] * sectors)
    (machine.folder / "wear.bin").write_bytes(worn)
    with pytest.raises(WornSectorError):
        machine.sideload(MODEL, builder.packages.model(MODEL, version="2.0.0"))
    assert MODEL not in machine.installed()
    assert not machine.cores[Core.M4_0].is_running
    assert machine.cores[Core.M4_1].is_running


def test_a_device_boots_without_a_removed_image_for_its_developer_alone(machine: Machine) -> None:
    """Its core runs nothing; without the capability the boot stops."""
    machine.rot.set_app_development(allowed=True)
    machine.remove(Slot.M4_0_FIRMWARE)
    machine.reboot()
    assert Slot.M4_0_FIRMWARE not in machine.installed()
    assert machine.cores[Core.M4_0].firmware is None
    machine.rot.set_app_development(allowed=False)
    with pytest.raises(BootStoppedError, match="m4-0/firmware: expected an image, found an empty slot"):
        machine.reboot()
