"""Cut the power at the last operations of an update, boot again, and require that no release before it comes back.

A release goes back to an older model; whoever holds the release before it offers that again, to a device that lost its
power somewhere around the confirmation. After every cut must hold, for the slot:
    1. where the image of the new release is confirmed, the floor is the new release's counter;
    2. the release before it is then refused as a rollback, and the image stays.
"""

import itertools
import shutil
from pathlib import Path

import pytest

from device_sim.errors import PowerCutError
from device_sim.hardware.power import PowerSupply
from protocol.image import digest_of
from protocol.messages import ActionState, Attack
from tests.power_loss.cut_tally import CutTally
from tests.unit.device_update.patch_builder import SLOT
from tests.unit.device_update.update_builder import Updated, info_of, ready_device, wake

LAST_OPERATIONS = 32  # from before the confirmation to the last report
SHARES = (0.0, 0.97)  # before the operation, torn near its end; they take turns
ACTIONS = ("33333333-3333-4333-8333-333333333333", "44444444-4444-4444-8444-444444444444")
NEWER, BACK = 5, 6  # counters


class WayBack:
    """A device with release 5, a release 6 that goes back, and release 5 once more."""

    def __init__(self, folder: Path) -> None:
        self.device = device = ready_device(folder / "start")
        newer = device.offer_model(version="2.0.0", counter=NEWER)
        device.run()
        self.catalog = catalog = device.catalog
        self.directed_again = list(catalog.director_targets)
        older = device.model(version="1.5.0")
        golden = catalog.add_golden(info_of(older).component_id)
        catalog.action_id = ACTIONS[0]
        target = catalog.add_image(SLOT, older, golden=golden)
        catalog.roll_out({SLOT: target}, counter=BACK, goes_back={SLOT: (digest_of(newer),)})
        self.directed_back = list(catalog.director_targets)
        self.older_digest = digest_of(older)
        device.machine.close()
        self.copies = folder / "copies"

    def folder(self) -> Path:
        shutil.rmtree(self.copies, ignore_errors=True)
        return Path(shutil.copytree(self.device.folder, self.copies / self.device.folder.name))

    def wake(self, folder: Path, power: PowerSupply) -> Updated:
        return wake(self.device.builder, folder, self.catalog, self.device.wire, power=power)

    def go_back(self, folder: Path, power: PowerSupply) -> None:
        self._direct(ACTIONS[0])
        device = self.wake(folder, power)
        try:
            device.run()
        except PowerCutError:
            assert power.operations
        finally:
            device.machine.close()

    def require_no_return(self, folder: Path) -> bool:
        """Check the invariants; returns whether the new release was confirmed."""
        self._direct(ACTIONS[1])
        device = self.wake(folder, PowerSupply())
        is_back = device.digests()[SLOT] == self.older_digest
        assert device.client.installer.release_floor(SLOT) == (BACK if is_back else NEWER)  # invariant 1
        if is_back:
            device.run()
            report = device.wire.reports[-1]
            assert (report.state, report.attack) == (ActionState.FAILED, Attack.ROLLBACK)  # invariant 2
            assert device.digests()[SLOT] == self.older_digest
        device.machine.close()
        return is_back

    def _direct(self, action_id: str) -> None:
        self.catalog.action_id = action_id
        self.catalog.director_targets = self.directed_back if action_id == ACTIONS[0] else self.directed_again
        self.catalog.publish()


@pytest.mark.timeout(600)
def test_cut_around_the_confirmation_lets_no_older_release_back(tmp_path: Path, tally: CutTally) -> None:
    """The floor is raised in the same run or by the next start."""
    campaign = WayBack(tmp_path)
    power = PowerSupply()
    campaign.go_back(campaign.folder(), power)
    outcomes = set()
    operations = range(power.operations - LAST_OPERATIONS, power.operations)
    for operation, share in zip(operations, itertools.cycle(SHARES), strict=False):
        with tally.cut(f"operation {operation} share {share}"):
            folder = campaign.folder()
            campaign.go_back(folder, PowerSupply(fails_at=operation, share=share))
            outcomes.add(campaign.require_no_return(folder))
    assert outcomes == {False, True}
