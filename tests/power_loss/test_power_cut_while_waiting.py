"""Cut the power at every operation of an update that waits on its device, and is installed at a word.

A device fetches a model and waits with it, or runs it in shadow, over a restart; then it is told to install. The whole
update client runs, with its reports and what it keeps. After every cut must hold:
    1. the next boot succeeds; every slot holds what it did, the model's the old image or the new one;
    2. before the word to install the old image runs;
    3. no fuse, counter or floor of a release has fallen;
    4. by its next run the device waits again, with the whole image in the spare: it was kept, or is fetched anew. Where
       it was whole and reported, nothing of it is fetched twice;
    5. at the word it is installed, and the last report says so.
"""

import hashlib
import itertools
import json
import shutil
from pathlib import Path

import pytest

from device_sim.errors import PowerCutError
from device_sim.hardware.power import PowerSupply
from device_sim.hardware.spare import SpareState
from protocol.image import digest_of
from protocol.messages import ActionState
from protocol.shadow import ShadowCounts, ShadowTask
from protocol.updates import Order
from tests.power_loss.campaign import IMAGE_BYTES, SHARES, cuts
from tests.power_loss.cut_tally import CutTally
from tests.unit.device_hardware.device_builder import colour_model
from tests.unit.device_update.patch_builder import SLOT
from tests.unit.device_update.update_builder import Updated, ready_device, wake

TASK = ShadowTask(frames=5, longest_seconds=3600)
RESULT = ShadowCounts(frames=5, agreements=5)
WAITING = {Order.DOWNLOAD: ActionState.DOWNLOADED, Order.SHADOW: ActionState.SHADOWING}
HELD = pytest.mark.parametrize("order", list(WAITING), ids=str)


class Waiting:
    """One device that is given a model to wait with, repeated from the same start for every cut."""

    def __init__(self, folder: Path, order: Order) -> None:
        self.order = order
        self.device = device = ready_device(folder / "start")
        self.old = device.digests()
        content = colour_model() + hashlib.shake_128(b"weights").digest(IMAGE_BYTES)
        self.new_digest = digest_of(device.offer_model(content=content))
        device.machine.close()
        self.floors = _floors(device.folder)
        self.copies = folder / "copies"

    def folder(self) -> Path:
        shutil.rmtree(self.copies, ignore_errors=True)
        return Path(shutil.copytree(self.device.folder, self.copies / self.device.folder.name))

    def wake(self, folder: Path, order: Order, *, power: PowerSupply | None = None) -> Updated:
        """Boot the device while the Director orders so."""
        catalog = self.device.catalog
        catalog.order, catalog.shadow = order, TASK if order is Order.SHADOW else None
        catalog.publish()
        self.device.wire.requests.clear()
        return wake(self.device.builder, folder, catalog, self.device.wire, power=power)

    def wait(self, device: Updated) -> None:
        """Fetch, and wait; one that compares says what that came to."""
        device.run()
        if self.order is Order.SHADOW and not device.progress.has_compared:
            device.progress.report(ActionState.SHADOWING, shadow=RESULT)
            device.progress.send(device.wire)

    def work(self, folder: Path, order: Order, power: PowerSupply) -> None:
        """Boot and do as ordered until the power fails or it is done."""
        try:
            device = self.wake(folder, order, power=power)
        except PowerCutError:
            return
        try:
            device.run() if order is Order.INSTALL else self.wait(device)
        except PowerCutError:
            assert power.operations
        finally:
            device.machine.close()

    def require_waiting(self, folder: Path) -> bool:
        """Boot before the word and check the invariants; returns whether the image had come whole before the cut."""
        device = self.wake(folder, self.order)
        assert device.digests() == self.old  # invariants 1 and 2
        was_waiting, spare = device.progress.has_held, device.machine.spare
        is_whole = device.machine.spare_digest(spare.length) == self.new_digest if spare.slot else False
        assert is_whole or not was_waiting  # invariant 4
        self.wait(device)
        fetched = [path for path in device.wire.requests if path.endswith(self.new_digest)]
        assert not (was_waiting and fetched)  # invariant 4
        assert device.machine.spare.state is SpareState.FILLING
        assert device.machine.spare_digest(device.machine.spare.length) == self.new_digest  # invariant 4
        assert device.wire.states[-1] is WAITING[self.order]
        assert device.progress.holds == (device.catalog.action_id, self.order)
        device.machine.close()
        return was_waiting

    def require_installed(self, folder: Path) -> None:
        """Boot after the word and check the invariants."""
        device = self.wake(folder, Order.INSTALL)
        assert device.digests() in (self.old, {**self.old, SLOT: self.new_digest})  # invariant 1
        device.run()
        assert device.digests() == {**self.old, SLOT: self.new_digest}  # invariant 5
        assert device.wire.states[-1] is ActionState.CONFIRMED  # invariant 5
        device.machine.close()
        floors = _floors(folder)
        assert all(floors[name] >= floor for name, floor in self.floors.items())  # invariant 3


def _floors(folder: Path) -> dict[str, int]:
    kept = json.loads((folder / "rot.json").read_bytes())
    return {**kept["fuses"], **kept["counters"]}


@pytest.mark.timeout(900)
@HELD
def test_cut_before_the_word_leaves_a_device_that_waits(order: Order, tmp_path: Path, tally: CutTally) -> None:
    """Fetched in part it is fetched on, whole it is kept; and at the word it is installed."""
    campaign = Waiting(tmp_path, order)
    power = PowerSupply()
    campaign.work(campaign.folder(), order, power)
    kept = set()
    for operation, share in cuts(power.operations):
        with tally.cut(f"{order}, operation {operation} share {share}"):
            folder = campaign.folder()
            campaign.work(folder, order, PowerSupply(fails_at=operation, share=share))
            kept.add(campaign.require_waiting(folder))
            campaign.require_installed(folder)
    assert kept == {False, True}


@pytest.mark.timeout(900)
@HELD
def test_cut_after_the_word_leaves_a_device_that_installs(order: Order, tmp_path: Path, tally: CutTally) -> None:
    """From what waits in the spare, or fetched anew; the trial that was cut is begun again."""
    campaign = Waiting(tmp_path, order)
    waiting = campaign.folder().rename(tmp_path / "waiting")
    campaign.work(waiting, order, PowerSupply())
    campaign.device.folder = waiting
    power = PowerSupply()
    campaign.work(campaign.folder(), Order.INSTALL, power)
    for operation, share in cuts(power.operations):
        with tally.cut(f"{order} to install, operation {operation} share {share}"):
            folder = campaign.folder()
            campaign.work(folder, Order.INSTALL, PowerSupply(fails_at=operation, share=share))
            campaign.require_installed(folder)


@HELD
def test_cut_in_the_boot_of_a_device_that_waits_keeps_the_image(order: Order, tmp_path: Path, tally: CutTally) -> None:
    """Every operation of a start without a new word, torn in the ways in turn."""
    campaign = Waiting(tmp_path, order)
    waiting = campaign.folder().rename(tmp_path / "waiting")
    campaign.work(waiting, order, PowerSupply())
    campaign.device.folder = waiting
    power = PowerSupply()
    campaign.work(campaign.folder(), order, power)
    for operation, share in zip(range(power.operations), itertools.cycle(SHARES), strict=False):
        with tally.cut(f"{order} waiting, operation {operation} share {share}"):
            folder = campaign.folder()
            campaign.work(folder, order, PowerSupply(fails_at=operation, share=share))
            assert campaign.require_waiting(folder)
