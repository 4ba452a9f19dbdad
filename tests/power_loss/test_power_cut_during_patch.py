"""Cut the power at every operation of an update by patch, boot again, and require that it is done.

The whole device runs: flash, secure storage, measured boot, Uptane, the patch out of ranges. After every cut must hold:
    1. the next boot succeeds and runs the old image or the new one, whole;
    2. the same update, taken up again, ends with the new image confirmed;
    3. by the patch: no byte of the full image is fetched, unless the patch is a wrong one.
Some of the operations are cut, in one of three ways that take turns. With TINYFLEET_POWER_LOSS=all: every one, in every
way.
"""

import hashlib
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_sim.errors import PowerCutError
from device_sim.hardware.power import PowerSupply
from protocol.delta import write_patch
from protocol.geometry import KIB
from tests.power_loss.campaign import EVERYTHING, SHARES
from tests.power_loss.cut_tally import CutTally
from tests.unit.device_update.patch_builder import SLOT, install_old, offer_new, offer_patch
from tests.unit.device_update.update_builder import Updated, ready_device, wake

PADDING = 9 * KIB  # three groups
EVERY = 1 if EVERYTHING else 4


class PatchCampaign:
    """One update by patch, repeated from the same start for every cut."""

    def __init__(self, folder: Path, *, is_wrong: bool) -> None:
        device = ready_device(folder / "start")
        old = install_old(device, padding=PADDING)
        new = offer_new(device, padding=PADDING)
        made = new[: -4 * KIB] + bytes(4 * KIB) if is_wrong else new
        patch = write_patch(old, made, group_bytes=4 * KIB)
        offer_patch(device, old, new, patch=patch[:36] + hashlib.sha256(new).digest() + patch[68:])
        device.machine.close()
        self.start, self.device = device.folder, device
        self.digests = {hashlib.sha256(package).hexdigest() for package in (old, new)}
        self.new_digest = hashlib.sha256(new).hexdigest()
        self.copies = folder / "copies"

    def folder(self) -> Path:
        shutil.rmtree(self.copies, ignore_errors=True)
        return Path(shutil.copytree(self.start, self.copies / self.start.name))

    def wake(self, folder: Path, power: PowerSupply) -> Updated:
        device = self.device
        return wake(device.builder, folder, device.catalog, device.wire, power=power)

    def update(self, folder: Path, power: PowerSupply) -> bool:
        """Boot and update until the power fails; returns whether it did."""
        device = None
        try:
            device = self.wake(folder, power)
            device.run()
        except PowerCutError:
            return True
        finally:
            if device is not None:
                device.machine.close()
        return False

    def require_updated(self, folder: Path) -> None:
        device = self.wake(folder, PowerSupply())
        assert device.digests()[SLOT] in self.digests  # invariant 1
        device.run()
        assert device.digests()[SLOT] == self.new_digest  # invariant 2
        assert not device.machine.reboot().stopped_cores
        assert device.digests()[SLOT] == self.new_digest
        device.machine.close()


def _cuts(operations: int) -> Iterator[tuple[int, float]]:
    if EVERYTHING:
        return itertools.product(range(operations), SHARES)
    return zip(range(0, operations, EVERY), itertools.cycle(SHARES), strict=False)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("is_wrong", [False, True], ids=["right patch", "wrong patch"])
def test_cut_at_every_operation_of_an_update_by_patch(tmp_path: Path, tally: CutTally, *, is_wrong: bool) -> None:
    """A cut costs a group of the patch at most; of a wrong patch nothing stays."""
    campaign = PatchCampaign(tmp_path, is_wrong=is_wrong)
    power = PowerSupply()
    assert not campaign.update(campaign.folder(), power)
    campaign.device.wire.requests.clear()
    for operation, share in _cuts(power.operations):
        with tally.cut(f"operation {operation} share {share}"):
            folder = campaign.folder()
            assert campaign.update(folder, PowerSupply(fails_at=operation, share=share))
            campaign.require_updated(folder)
    fetched_whole = any(path.endswith(campaign.new_digest) for path in campaign.device.wire.requests)
    assert fetched_whole == is_wrong  # invariant 3
