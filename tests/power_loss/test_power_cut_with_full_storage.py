"""Cut the power while secure storage is full, boot again, and require a device that works.

The invariants are those of `tests.power_loss.campaign`. A device that cannot say why it dropped an image drops it all
the same.
"""

from pathlib import Path

import pytest

from device_sim.hardware.machine import Machine
from device_sim.hardware.power import PowerSupply
from device_sim.hardware.secure_storage import REPORTS
from device_sim.hardware.spare import SpareState
from protocol.flash_geometry import FlashLayout
from protocol.geometry import Slot
from tests.power_loss.campaign import Campaign, cuts, every_campaign
from tests.power_loss.cut_tally import CutTally
from tests.storage_filler import fill_storage, shrink_storage
from tests.unit.device_hardware.device_builder import install_trial

CAMPAIGNS = every_campaign(("small-sectors", Slot.M4_0_MODEL), ("two-places", Slot.A7_APPLICATION))
RESERVES = pytest.mark.parametrize("reserve", ["", REPORTS], ids=["reserve free", "reserve full"])


@pytest.fixture(autouse=True)
def small_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    """A storage that is full soon."""
    shrink_storage(monkeypatch)


def _full(folder: Path, slot: Slot, layout: FlashLayout, *, reserve: str) -> Campaign:
    campaign = Campaign(folder, slot, layout)
    machine = campaign.builder.open(campaign.start)
    fill_storage(machine.storage, reserve=reserve)
    machine.close()
    return campaign


@pytest.mark.timeout(900)
@RESERVES
@pytest.mark.parametrize(("layout", "slot"), CAMPAIGNS)
def test_cut_in_an_update_with_full_storage_leaves_a_device_that_works(
    layout: FlashLayout, slot: Slot, reserve: str, tmp_path: Path, tally: CutTally
) -> None:
    """Also where the image on trial is dropped by the boot."""
    campaign = _full(tmp_path, slot, layout, reserve=reserve)
    for operation, share in cuts(campaign.count()):
        with tally.cut(f"{slot} operation {operation} share {share}"):
            folder = campaign.device()
            campaign.run(folder, PowerSupply(fails_at=operation, share=share), campaign.update)
            campaign.require_recovered(folder)


@pytest.mark.timeout(900)
@RESERVES
@pytest.mark.parametrize(("layout", "slot"), CAMPAIGNS)
def test_cut_in_a_revert_with_full_storage_leaves_the_old_image(
    layout: FlashLayout, slot: Slot, reserve: str, tmp_path: Path, tally: CutTally
) -> None:
    """From the record of the trial on, through the drop and the record of why."""
    campaign = _full(tmp_path, slot, layout, reserve=reserve)

    def begin(machine: Machine) -> None:
        install_trial(machine, campaign.slot, campaign.new)

    def fail(machine: Machine) -> None:
        begin(machine)
        machine.revert(campaign.slot, "golden vectors failed")

    begun, reverted = campaign.count(begin), campaign.count(fail)
    assert begun < reverted
    for operation in range(begun - 1, reverted):
        for share in (0.0, 0.97):
            with tally.cut(f"revert of {slot}, operation {operation} share {share}"):
                folder = campaign.device()
                campaign.run(folder, PowerSupply(fails_at=operation, share=share), fail)
                campaign.require_recovered(folder, state=SpareState.TRIAL)
