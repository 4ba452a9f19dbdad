"""The suite can fail: a part that is not power-safe is found, and counted as what it is."""

from pathlib import Path

import pytest
from typing_extensions import override

from device_sim.hardware import parts
from device_sim.hardware.journal import HomeImage
from device_sim.hardware.power import PowerSupply
from device_sim.hardware.regions import bring
from device_sim.hardware.root_of_trust import RootOfTrust
from device_sim.hardware.slots import SlotStore
from device_sim.hardware.spare import Spare
from protocol.geometry import Slot
from tests.power_loss.campaign import SHARES, Campaign
from tests.power_loss.cut_tally import CutTally
from tests.power_loss.geometries import SMALL_SECTORS


class RecordsBeforeItCopies(SlotStore):
    """Says that the image is at home before it is there."""

    @override
    def settle(self) -> None:
        spare, image = self.spare, self.read_spare_image()
        assert spare.slot is not None
        self._journal.write_home(spare.slot, HomeImage(spare.digest, spare.length), spare=Spare())
        bring(self._flash, self._layout.place(spare.slot), image)


class ForgetsNoTrial(SlotStore):
    """Keeps an image that nobody confirmed."""

    @override
    def recover(self) -> Spare | None:
        spare = self.spare
        if spare.slot is not None and spare.state.name == "TRIAL":
            self.confirm(spare.slot)
        return super().recover()


class UnblowsBeforeItBlows(RootOfTrust):
    """Takes a fuse back before it is blown further; the next boot blows it again."""

    @override
    def raise_fuse(self, slot: Slot, security_version: int) -> None:
        if security_version > self.fuse(slot):
            self._save(fuses={**self._content.fuses, slot: 0})
        super().raise_fuse(slot, security_version)


@pytest.mark.parametrize(
    ("part", "broken"),
    [
        ("SlotStore", RecordsBeforeItCopies),
        ("SlotStore", ForgetsNoTrial),
        ("RootOfTrust", UnblowsBeforeItBlows),
    ],
)
def test_broken_part_is_counted_as_a_brick(
    part: str, broken: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few cuts of the same campaign find it; the others are counted all the same."""
    campaign = Campaign(tmp_path, Slot.M4_0_FIRMWARE, SMALL_SECTORS)
    monkeypatch.setattr(parts, part, broken)
    found = CutTally()
    for operation in range(campaign.count()):
        with found.cut(f"operation {operation}"):
            folder = campaign.device()
            power = PowerSupply(fails_at=operation, share=SHARES[operation % len(SHARES)])
            campaign.run(folder, power, campaign.update)
            campaign.require_recovered(folder)
    assert found.cut_points == campaign.count()
    assert 0 < found.bricks < found.cut_points
