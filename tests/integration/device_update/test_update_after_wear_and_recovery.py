"""Updates of a device that was brought back over the cable, and of one whose flash is worn out."""

from pathlib import Path

import pytest

from device_sim.hardware.spare import SpareState
from protocol.flash_geometry import FlashLayout, Region
from protocol.geometry import Slot
from protocol.image import digest_of
from protocol.messages import ActionState, Cause
from tests.unit.device_update.update_builder import Updated, ready_device

SLOT = Slot.M4_0_MODEL
AGAIN = "33333333-3333-4333-8333-333333333333"  # an action
LAYOUT = FlashLayout()


@pytest.fixture
def device(tmp_path: Path) -> Updated:
    return ready_device(tmp_path)


def wear_out(device: Updated, region: Region) -> None:
    """As if every sector of a region had been erased a million times."""
    sector, path = LAYOUT.geometry.sector_bytes, device.folder / "wear.bin"
    counters = bytearray(path.read_bytes())
    first, count = region.offset // sector, region.size_bytes // sector
    counters[4 * first : 4 * (first + count)] = (10**6).to_bytes(4, "little") * count
    path.write_bytes(counters)


@pytest.mark.parametrize("lacks_model", [False, True])
def test_recovered_device_takes_its_release_anew(device: Updated, *, lacks_model: bool) -> None:
    """Its floors stayed, and they are those of this very release."""
    new = device.offer_model(version="2.0.0")
    device.run()
    factory = device.builder.packages.factory_set()
    if lacks_model:
        del factory[SLOT]
    device.machine.recover(factory)
    device.restart()
    assert device.digests().get(SLOT) != digest_of(new)
    device.catalog.action_id = AGAIN
    device.catalog.publish()
    device.run()
    assert device.wire.reports[-1].state is ActionState.CONFIRMED
    assert device.digests()[SLOT] == digest_of(new)


@pytest.mark.parametrize("region", [LAYOUT.spare, LAYOUT.trailer], ids=["spare", "journal"])
def test_update_of_a_worn_out_flash_fails_and_the_device_runs_on(device: Updated, region: Region) -> None:
    """The report says that it was the flash, however often the update is offered."""
    before = device.digests()
    wear_out(device, region)
    for number in range(2, 6):  # the journal has room for some records before it needs an erase
        device.catalog.action_id = f"{AGAIN[:-1]}{number}"
        device.offer_model(version=f"{number}.0.0", counter=number)
        device.run()
    report = device.wire.reports[-1]
    assert (report.state, report.cause) == (ActionState.FAILED, Cause.FLASH)
    device.restart()
    assert device.machine.spare.state is not SpareState.CONFIRMED
    assert (device.digests() == before) == (region == LAYOUT.spare)
    assert device.machine.boot_report is not None
    assert not device.machine.boot_report.stopped_cores
