"""Cut the power at every operation of a clean update, boot again, and require a device that works.

The whole device runs: flash, journal, fuses, measured boot with real signatures. An operation is one page program, one
sector erase, or one atomic write of the root of trust or the secure storage. After every cut must hold:
    1. the next boot succeeds and runs the old image or the new one, whole;
    2. an image that was not confirmed is not the one that runs;
    3. no fuse has fallen, and none is above the image that runs;
    4. recovery ends: a further boot changes nothing;
    5. the same update, taken up again, succeeds.
Each operation is cut once, in one of three ways that take turns. With TINYFLEET_POWER_LOSS=all: in every way, for every
slot of every geometry, and the second cuts in every state that a first one leaves.
"""

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from device_sim.errors import PowerCutError
from device_sim.hardware.machine import Machine
from device_sim.hardware.power import PowerSupply
from device_sim.hardware.spare import SpareState
from protocol.flash_geometry import FlashLayout
from protocol.geometry import HOME_BYTES, KIB, ImageKind, Slot
from protocol.image import digest_of
from tests.power_loss.cut_tally import CutTally
from tests.power_loss.geometries import LAYOUTS, SMALL_SECTORS
from tests.unit.device_hardware.device_builder import DeviceBuilder, install_trial

SHARES = (0.0, 0.3, 0.97)  # before the operation, torn in its first half, torn near its end
EVERYTHING = os.environ.get("TINYFLEET_POWER_LOSS") == "all"
SOME_SLOTS = (Slot.A7_APPLICATION, Slot.M4_1_MODEL)
CAMPAIGNS = [
    pytest.param(layout, slot, id=f"{name}-{slot}")
    for name, layout in LAYOUTS.items()
    for slot in (tuple(HOME_BYTES) if EVERYTHING else SOME_SLOTS)
]
IMAGE_BYTES = 4_600  # more than one sector in every geometry, and no multiple of a row


class Campaign:
    """One update on one device, repeated from the same start for every cut."""

    def __init__(self, folder: Path, slot: Slot, layout: FlashLayout) -> None:
        self.builder = DeviceBuilder(folder / "start", layout=layout)
        self.slot = slot
        packages = self.builder.packages
        if slot.kind == ImageKind.MODEL:
            self.new = packages.model(slot, version="2.0.0", security=2, padding=IMAGE_BYTES)
        else:
            self.new = packages.image(slot, version="2.0.0", security=2, size=IMAGE_BYTES)
        machine = self.builder.ready()
        machine.boot()
        self.old_digest = machine.installed()[slot].digest
        self.start = machine.folder
        machine.close()
        self.copies = folder / "copies"

    def device(self) -> Path:
        """A fresh copy of the device as it was before the update."""
        shutil.rmtree(self.copies, ignore_errors=True)
        return Path(shutil.copytree(self.start, self.copies))

    def update(self, machine: Machine) -> None:
        """The clean update."""
        install_trial(machine, self.slot, self.new)
        machine.confirm(self.slot)

    def count(self) -> int:
        """Operations of the clean update."""
        power = PowerSupply()
        self.run(self.device(), power, self.update)
        return power.operations

    def run(self, folder: Path, power: PowerSupply, work: Callable[[Machine], None]) -> SpareState:
        """Boot and work until the power fails or the work is done; return the last recorded state of the spare."""
        machine = self.builder.open(folder, power=power)
        try:
            machine.boot()
            work(machine)
        except PowerCutError:
            pass
        machine.close()
        after = self.builder.open(folder)
        state = after.spare.state
        after.close()
        return state

    def require_recovered(self, folder: Path, state: SpareState) -> None:
        """Boot after a cut and check invariants 1 to 5."""
        power = PowerSupply()
        machine = self.builder.open(folder, power=power)
        fuse_before = machine.rot.fuse(self.slot)
        report = machine.boot()  # invariant 1
        assert not report.stopped_cores
        running = machine.installed()[self.slot]
        assert running.digest in (self.old_digest, self.new_digest)
        if state in (SpareState.FILLING, SpareState.TRIAL):
            assert running.digest == self.old_digest  # invariant 2
        if state == SpareState.CONFIRMED:
            assert running.digest == self.new_digest
        fuse = machine.rot.fuse(self.slot)
        assert fuse_before <= fuse <= running.security_version  # invariant 3
        operations = power.operations
        machine.reboot()
        assert power.operations == operations  # invariant 4
        if running.digest != self.new_digest:
            self.update(machine)  # invariant 5
        assert machine.reboot().components == machine.components()
        assert machine.installed()[self.slot].digest == self.new_digest
        machine.close()

    @property
    def new_digest(self) -> str:
        return digest_of(self.new)


@pytest.mark.parametrize(("layout", "slot"), CAMPAIGNS)
def test_cut_at_every_operation_leaves_a_device_that_works(
    layout: FlashLayout, slot: Slot, tmp_path: Path, tally: CutTally
) -> None:
    """A cut before or in any operation of an update loses nothing but the update's progress."""
    campaign = Campaign(tmp_path, slot, layout)
    for operation, share in _cuts(campaign.count()):
        with tally.cut(f"{slot} operation {operation} share {share}"):
            folder = campaign.device()
            state = campaign.run(folder, PowerSupply(fails_at=operation, share=share), campaign.update)
            campaign.require_recovered(folder, state)


def test_second_cut_in_recovery_leaves_a_device_that_works(tmp_path: Path, tally: CutTally) -> None:
    """A cut in the recovery from a cut is as harmless as the first."""
    campaign = Campaign(tmp_path, Slot.M4_0_MODEL, SMALL_SECTORS)
    for first in range(0, campaign.count(), 1 if EVERYTHING else 4):
        folder = campaign.device()
        state = campaign.run(folder, PowerSupply(fails_at=first, share=0.3), campaign.update)
        for second, share in _cuts(_recovery_operations(campaign, folder)):
            with tally.cut(f"operation {first}, then operation {second} of recovery, share {share}"):
                again = _copy(folder, tmp_path / "second")
                campaign.run(again, PowerSupply(fails_at=second, share=share), lambda _: None)
                campaign.require_recovered(again, state if state != SpareState.TRIAL else SpareState.EMPTY)


def test_cut_in_every_operation_of_a_revert_leaves_the_old_image(tmp_path: Path, tally: CutTally) -> None:
    """However a revert is cut, the old image runs."""
    campaign = Campaign(tmp_path, Slot.M4_1_MODEL, SMALL_SECTORS)

    def fail(machine: Machine) -> None:
        install_trial(machine, campaign.slot, campaign.new)
        machine.revert(campaign.slot, "golden vectors failed")

    power = PowerSupply()
    campaign.run(campaign.device(), power, fail)
    for operation, share in _cuts(power.operations):
        with tally.cut(f"revert, operation {operation} share {share}"):
            folder = campaign.device()
            campaign.run(folder, PowerSupply(fails_at=operation, share=share), fail)
            machine = campaign.builder.open(folder)
            machine.boot()
            assert machine.installed()[campaign.slot].digest == campaign.old_digest
            machine.close()
            campaign.require_recovered(folder, SpareState.EMPTY)


def test_power_cut_between_confirm_and_fuse_raises_the_fuse_at_the_next_boot(tmp_path: Path) -> None:
    """The fuse follows a confirmed image even when the power fails before it is blown."""
    campaign = Campaign(tmp_path, Slot.A7_APPLICATION, SMALL_SECTORS)
    fuse_operation = campaign.count() - 1
    folder = campaign.device()
    campaign.run(folder, PowerSupply(fails_at=fuse_operation), campaign.update)
    machine = campaign.builder.open(folder)
    assert machine.rot.fuse(campaign.slot) == 1
    machine.boot()
    assert machine.installed()[campaign.slot].digest == campaign.new_digest
    assert machine.rot.fuse(campaign.slot) == 2
    machine.close()


def test_download_goes_on_where_the_power_failed(tmp_path: Path) -> None:
    """What was written whole before a cut is not written again."""
    campaign = Campaign(tmp_path, Slot.M4_0_FIRMWARE, SMALL_SECTORS)
    folder = campaign.device()
    power = PowerSupply(fails_at=24, share=0.3)
    campaign.run(folder, power, campaign.update)
    machine = campaign.builder.open(folder)
    machine.boot()
    there = machine.spare_begin(campaign.slot, campaign.new_digest, len(campaign.new))
    assert 0 < there < len(campaign.new)
    assert there % KIB == 0
    assert machine.spare_read(0, there) == campaign.new[:there]
    machine.close()


def _cuts(operations: int) -> Iterator[tuple[int, float]]:
    if EVERYTHING:
        return itertools.product(range(operations), SHARES)
    return zip(range(operations), itertools.cycle(SHARES), strict=False)


def _recovery_operations(campaign: Campaign, folder: Path) -> int:
    power = PowerSupply()
    campaign.run(_copy(folder, folder.parent / "counted"), power, lambda _: None)
    return power.operations


def _copy(folder: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(folder, target))
