"""The power fails at every operation of a sideload: the device boots, and the other slots are as they were."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_sim.errors import PowerCutError
from device_sim.hardware.power import PowerSupply
from protocol.geometry import Core, Slot
from tests.unit.device_hardware.device_builder import DeviceBuilder
from tests.unit.device_rest.local_device import Local

SLOT = Slot.M4_0_FIRMWARE


def sideload(builder: DeviceBuilder, folder: Path, package: bytes, power: PowerSupply) -> None:
    machine = builder.open(folder, power=power)
    try:
        local = Local(machine, builder.clock)
        local.device.sideload(SLOT, package, starts=True)
    finally:
        machine.close()


def cut_folders(builder: DeviceBuilder, folder: Path, package: bytes) -> Iterator[Path]:
    """A copy of the device for every operation, with the power cut in it."""
    whole = PowerSupply()
    target = folder.parent.parent / "cut" / folder.name
    target.parent.mkdir()
    shutil.copytree(folder, target)
    sideload(builder, target, package, whole)
    for operation in range(whole.operations):
        shutil.rmtree(target)
        shutil.copytree(folder, target)
        with contextlib.suppress(PowerCutError):
            sideload(builder, target, package, PowerSupply(fails_at=operation, share=operation % 2 * 0.6))
        yield target


@pytest.mark.parametrize("develops", [True, False])
def test_a_cut_in_a_sideload_leaves_a_device_that_boots(develops: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """With the old image or the new one; on a developer's device the slot may be empty, and takes the image again."""
    builder = DeviceBuilder(tmp_path / "devices")
    machine = builder.ready()
    machine.rot.set_app_development(allowed=develops)
    machine.close()
    package = builder.packages.image(SLOT, version="2.0.0", size=5000)
    found = set()
    for folder in cut_folders(builder, machine.folder, package):
        cut = builder.open(folder)
        report = cut.boot()
        names = {slot: image.name for slot, image in cut.installed().items()}
        found.add(names.pop(SLOT, ""))
        assert names.keys() == set(Slot) - {SLOT}
        assert cut.cores[Core.M4_1].is_running
        assert report.stopped_cores == {}
        cut.close()
        sideload(builder, folder, package, PowerSupply())
    assert found == {"firmware@1.0.0", "firmware@2.0.0"} | ({""} if develops else set())
