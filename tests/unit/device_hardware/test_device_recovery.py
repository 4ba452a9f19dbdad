"""A device comes back over the cable from whatever its flash holds, but never below its fuses."""

from pathlib import Path

import pytest

from device_sim.errors import BootStoppedError, PowerCutError, SecurityFloorError
from device_sim.hardware.machine import Machine
from device_sim.hardware.power import PowerSupply
from device_sim.hardware.spare import Spare
from protocol.evidence import verify_evidence
from protocol.flash_geometry import FlashLayout
from protocol.geometry import HOME_BYTES, Slot
from tests.power_loss.campaign import copy_folder
from tests.power_loss.geometries import SMALL_SECTORS, TWO_PLACES
from tests.unit.device_hardware.device_builder import DeviceBuilder, install_trial

NONCE = bytes(32)


@pytest.fixture(params=[SMALL_SECTORS, TWO_PLACES], ids=["home and spare", "two places"])
def builder(request: pytest.FixtureRequest, tmp_path: Path) -> DeviceBuilder:
    layout: FlashLayout = request.param
    return DeviceBuilder(tmp_path, layout=layout)


def measured(machine: Machine) -> list[str]:
    evidence = verify_evidence(machine.attest(NONCE), machine.rot.public_key)
    return [component.type for component in evidence.components]


def test_device_that_does_not_boot_is_brought_back(builder: DeviceBuilder) -> None:
    """It attests its factory images again; identity, fuses and claim are what they were."""
    machine = builder.ready()
    machine.boot()
    before = (machine.device_id, {slot: machine.rot.fuse(slot) for slot in Slot}, machine.voucher)
    for slot in (Slot.OS, Slot.M4_0_FIRMWARE):
        machine.tamper(slot)
    with pytest.raises(BootStoppedError):
        machine.boot()
    machine.recover(builder.packages.factory_set())
    machine.boot()
    assert measured(machine) == [slot.value for slot in Slot]
    assert (machine.device_id, {slot: machine.rot.fuse(slot) for slot in Slot}, machine.voucher) == before


def test_image_on_trial_is_dropped(builder: DeviceBuilder) -> None:
    """What the spare held does not come back."""
    machine = builder.ready()
    machine.boot()
    install_trial(machine, Slot.M4_0_MODEL, builder.packages.model(Slot.M4_0_MODEL, version="2.0.0"))
    machine.recover(builder.packages.factory_set())
    assert machine.spare == Spare()
    assert machine.boot().reverted is None
    assert machine.installed()[Slot.M4_0_MODEL].name == "colour@1.0.0"


def test_slot_without_a_factory_image_is_emptied(builder: DeviceBuilder) -> None:
    """Factories deliver no models."""
    machine = builder.ready()
    factory = builder.packages.factory_set()
    del factory[Slot.M4_0_MODEL]
    machine.recover(factory)
    machine.boot()
    assert Slot.M4_0_MODEL not in machine.installed()
    assert measured(machine) == [slot.value for slot in factory]


def test_factory_image_below_its_fuse_changes_nothing(builder: DeviceBuilder) -> None:
    """Recovery is no way around the fuses, and a refused one leaves the device as it was."""
    machine = builder.ready()
    machine.boot()
    slot = Slot.A7_APPLICATION
    install_trial(machine, slot, builder.packages.image(slot, version="2.0.0", security=3))
    machine.confirm(slot)
    with pytest.raises(SecurityFloorError, match="a7/application: expected security version 3 or above, found 1"):
        machine.recover(builder.packages.factory_set())
    machine.boot()
    assert machine.installed()[slot].security_version == 3


def test_recovery_that_is_cut_is_done_again(builder: DeviceBuilder, tmp_path: Path) -> None:
    """Over the cable nothing is atomic, but the next recovery brings the device back."""
    machine = builder.ready()
    for slot in HOME_BYTES:
        machine.tamper(slot)
    machine.close()
    packages, counted = builder.packages.factory_set(), PowerSupply()
    clean = builder.open(copy_folder(machine.folder, tmp_path / "clean"), power=counted)
    clean.recover(packages)
    clean.close()
    for operation in range(counted.operations):
        folder = copy_folder(machine.folder, tmp_path / "cut")
        cut = builder.open(folder, power=PowerSupply(fails_at=operation, share=0.4))
        with pytest.raises(PowerCutError):
            cut.recover(packages)
        cut.close()
        again = builder.open(folder)
        again.recover(packages)
        assert not again.boot().stopped_cores
        again.close()
