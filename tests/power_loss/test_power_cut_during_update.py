"""Cut the power at every operation of a clean update, boot again, and require a device that works."""

from pathlib import Path

import pytest

from device_sim.hardware.machine import Machine
from device_sim.hardware.power import PowerSupply
from device_sim.hardware.spare import SpareState
from protocol.flash_geometry import FlashLayout
from protocol.geometry import KIB, Slot
from tests.power_loss.campaign import EVERYTHING, SHARES, Campaign, PatchedCampaign, copy_folder, cuts, every_campaign
from tests.power_loss.cut_tally import CutTally
from tests.power_loss.geometries import MT3620, SMALL_SECTORS, TWO_PLACES
from tests.unit.device_hardware.device_builder import install_trial

PERSON_BYTES = 330 * KIB  # of the demo's largest model
PARTS = 8 if EVERYTHING else 1  # of the large update, so that processes share it
STRIDE = 1 if EVERYTHING else 400  # of its operations one is cut
SECONDS = 5  # of so many operations of a recovery one is cut; after the next first cut it is the next one


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("layout", "slot"),
    every_campaign(
        ("mt3620", Slot.M4_0_MODEL),
        ("mt3620", Slot.A7_APPLICATION),
        ("large-sectors", Slot.M4_1_FIRMWARE),
        ("two-places", Slot.M4_1_MODEL),
        ("mixed", Slot.M4_0_FIRMWARE),
    ),
)
def test_cut_at_every_operation_leaves_a_device_that_works(
    layout: FlashLayout, slot: Slot, tmp_path: Path, tally: CutTally
) -> None:
    """A cut before or in any operation of an update loses nothing but the update's progress."""
    campaign = Campaign(tmp_path, slot, layout)
    for operation, share in cuts(campaign.count()):
        with tally.cut(f"{slot} operation {operation} share {share}"):
            folder = campaign.device()
            campaign.run(folder, PowerSupply(fails_at=operation, share=share), campaign.update)
            campaign.require_recovered(folder)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("layout", "slot"), every_campaign(("wide-rows", Slot.M4_0_FIRMWARE), ("two-places", Slot.M4_0_MODEL))
)
def test_cut_at_every_operation_of_a_patched_update_leaves_a_device_that_works(
    layout: FlashLayout, slot: Slot, tmp_path: Path, tally: CutTally
) -> None:
    """The old image, which the patch reads, stays whole until the new one is."""
    campaign = PatchedCampaign(tmp_path, slot, layout)
    for operation, share in cuts(campaign.count()):
        with tally.cut(f"patched {slot} operation {operation} share {share}"):
            folder = campaign.device()
            campaign.run(folder, PowerSupply(fails_at=operation, share=share), campaign.update)
            campaign.require_recovered(folder)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(PARTS))
def test_cut_in_a_large_update_leaves_a_device_that_works(part: int, tmp_path: Path, tally: CutTally) -> None:
    """The demo's largest model in the flash that devices have; the ways to cut take turns."""
    campaign = Campaign(tmp_path, Slot.M4_0_MODEL, MT3620, size=PERSON_BYTES)
    for operation in range(part * STRIDE, campaign.count(), PARTS * STRIDE):
        share = SHARES[operation // STRIDE % len(SHARES)]
        with tally.cut(f"large model operation {operation} share {share}"):
            folder = campaign.device()
            campaign.run(folder, PowerSupply(fails_at=operation, share=share), campaign.update)
            campaign.require_recovered(folder)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("layout", "slot"), every_campaign(("small-sectors", Slot.M4_0_MODEL)))
def test_second_cut_in_recovery_leaves_a_device_that_works(
    layout: FlashLayout, slot: Slot, tmp_path: Path, tally: CutTally
) -> None:
    """A cut in the recovery from a cut is as harmless as the first."""
    campaign = Campaign(tmp_path, slot, layout)
    for first in range(0, campaign.count(), 1 if EVERYTHING else 4):
        folder = campaign.device()
        campaign.run(folder, PowerSupply(fails_at=first, share=SHARES[first % len(SHARES)]), campaign.update)
        state = campaign.state(folder)
        for second in range(first % SECONDS, _boot_operations(campaign, folder), SECONDS):
            share = SHARES[(first + second) % len(SHARES)]
            with tally.cut(f"{slot} operation {first}, then operation {second} of recovery, share {share}"):
                again = copy_folder(folder, tmp_path / "second")
                campaign.run(again, PowerSupply(fails_at=second, share=share), _only_boot)
                campaign.require_recovered(again, state=state)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("layout", "slot"), every_campaign(("small-sectors", Slot.M4_1_MODEL)))
def test_cut_in_every_operation_of_a_revert_leaves_the_old_image(
    layout: FlashLayout, slot: Slot, tmp_path: Path, tally: CutTally
) -> None:
    """However a revert is cut, the old image runs."""
    campaign = Campaign(tmp_path, slot, layout)

    def fail(machine: Machine) -> None:
        install_trial(machine, campaign.slot, campaign.new)
        machine.revert(campaign.slot, "golden vectors failed")

    for operation, share in cuts(campaign.count(fail)):
        with tally.cut(f"revert of {slot}, operation {operation} share {share}"):
            folder = campaign.device()
            campaign.run(folder, PowerSupply(fails_at=operation, share=share), fail)
            campaign.require_recovered(folder, state=SpareState.TRIAL)


@pytest.mark.parametrize("layout", [SMALL_SECTORS, TWO_PLACES], ids=["home and spare", "two places"])
def test_power_cut_between_confirm_and_fuse_raises_the_fuse_at_the_next_boot(
    layout: FlashLayout, tmp_path: Path, tally: CutTally
) -> None:
    """The fuse follows a confirmed image even when the power fails before it is blown."""
    campaign = Campaign(tmp_path, Slot.A7_APPLICATION, layout)
    with tally.cut("the fuse"):
        fuse_operation = campaign.count() - 1
        folder = campaign.device()
        campaign.run(folder, PowerSupply(fails_at=fuse_operation), campaign.update)
        machine = campaign.builder.open(folder)
        assert machine.rot.fuse(campaign.slot) == 1
        machine.boot()
        assert machine.installed()[campaign.slot].digest == campaign.new_digest
        assert machine.rot.fuse(campaign.slot) == 2
        machine.close()


@pytest.mark.parametrize("layout", [SMALL_SECTORS, TWO_PLACES], ids=["home and spare", "two places"])
def test_download_goes_on_where_the_power_failed(layout: FlashLayout, tmp_path: Path) -> None:
    """What was written whole before a cut is not written again."""
    campaign = Campaign(tmp_path, Slot.M4_0_FIRMWARE, layout)
    folder = campaign.device()
    campaign.run(folder, PowerSupply(fails_at=24, share=0.3), campaign.update)
    machine = campaign.builder.open(folder)
    machine.boot()
    there = machine.spare_begin(campaign.slot, campaign.new_digest, len(campaign.new))
    assert 0 < there < len(campaign.new)
    assert there % KIB == 0
    assert machine.spare_read(0, there) == campaign.new[:there]
    machine.close()


def _only_boot(machine: Machine) -> None:
    del machine


def _boot_operations(campaign: Campaign, folder: Path) -> int:
    power = PowerSupply()
    campaign.run(copy_folder(folder, folder.parent / "counted"), power, _only_boot)
    return power.operations
