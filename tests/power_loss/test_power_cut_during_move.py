"""Cut the power at every operation while a device goes to another catalog.

After every cut must hold:
    1. the next boot succeeds, and the device follows the old catalog or the new one;
    2. never a mix: with the new voucher nothing of the old catalog is kept or runs, with the old one everything is;
    3. no fuse has fallen, and the root of trust's sequence is not below the voucher in force;
    4. with the new voucher still in the letter box the boot ends with the new catalog, and the flash holds no image of
       the old one;
    5. the old voucher in the letter box does not bring the device back.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_sim.errors import PowerCutError
from device_sim.hardware.machine import Machine
from device_sim.hardware.power import PowerSupply
from protocol.flash_geometry import FlashLayout
from protocol.geometry import SYSTEM_SLOTS, Slot
from protocol.signing import SoftwareSigner
from tests.power_loss.cut_tally import CutTally
from tests.power_loss.geometries import SMALL_SECTORS, TWO_PLACES
from tests.unit.device_hardware.device_builder import DeviceBuilder, install_trial
from tests.voucher_roots import make_roots, usual_roots

OLD, NEW = 10, 20  # sequences
SHARES = (0.0, 0.5)
SYSTEM = [slot.value for slot in SYSTEM_SLOTS]
OF_THE_CATALOG = ("ldevid", "uptane/director", "uptane/image", "update/release-floor/m4-0/model")


class MoveCampaign:
    """One move of one device, repeated from the same start for every cut."""

    def __init__(self, folder: Path, layout: FlashLayout) -> None:
        self.builder = DeviceBuilder(folder / "start", layout=layout)
        machine = self.builder.ready()
        self.old = self.builder.claim(machine.folder, sequence=OLD)
        machine.boot()
        for name in OF_THE_CATALOG:
            machine.storage.put(name, b"of the old catalog")
        self.models = [self._update(machine, version)[:-64] for version in ("2.0.0", "3.0.0")]  # signatures differ
        self.fuses = {slot: machine.rot.fuse(slot) for slot in Slot}
        self.roots = make_roots()
        self.builder.claim(machine.folder, sequence=NEW, roots=self.roots, package=SoftwareSigner.generate())
        self.start = machine.folder
        machine.close()
        self.copies = folder / "copies"

    def _update(self, machine: Machine, version: str) -> bytes:
        """With two places, the old image stays in the flash."""
        package = self.builder.packages.model(Slot.M4_0_MODEL, version=version)
        install_trial(machine, Slot.M4_0_MODEL, package)
        machine.confirm(Slot.M4_0_MODEL)
        return package

    def device(self) -> Path:
        copy = self.copies / self.start.name
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.start, copy)
        return copy

    def boot(self, folder: Path, *, power: PowerSupply | None = None) -> Machine:
        machine = self.builder.open(folder, power=power)
        try:
            machine.boot()
        except PowerCutError:
            machine.close()
            raise
        return machine

    def check_one_catalog(self, folder: Path) -> None:
        """Boot without the new voucher in the letter box: what was taken before the cut is what counts."""
        (folder / "voucher.json").write_bytes(self.old)
        machine = self.boot(folder)
        voucher = machine.voucher
        assert voucher is not None
        measured, kept = [part.type for part in machine.components()], set(machine.storage.names())
        if voucher.sequence == OLD:
            assert voucher.tls_root == usual_roots().tls
            assert kept >= set(OF_THE_CATALOG)
            assert len(measured) == len(Slot)
        else:
            assert voucher.tls_root == self.roots.tls
            assert not kept & set(OF_THE_CATALOG)
            assert measured == SYSTEM
        assert machine.rot.voucher == (voucher.sequence, voucher.digest)
        assert all(machine.rot.fuse(slot) >= fuse for slot, fuse in self.fuses.items())
        machine.close()

    def check_arrived(self, folder: Path) -> None:
        machine = self.boot(folder)
        assert machine.voucher is not None
        assert machine.voucher.sequence == NEW
        assert [part.type for part in machine.components()] == SYSTEM
        assert not set(machine.storage.names()) & set(OF_THE_CATALOG)
        machine.close()
        flash = (folder / "flash.bin").read_bytes()
        assert not any(model in flash for model in self.models)
        (folder / "voucher.json").write_bytes(self.old)
        machine = self.boot(folder)
        assert machine.voucher is not None
        assert machine.voucher.sequence == NEW
        machine.close()


@pytest.fixture(scope="module", params=[SMALL_SECTORS, TWO_PLACES], ids=["home and spare", "two places"])
def campaign(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> MoveCampaign:
    return MoveCampaign(tmp_path_factory.mktemp("move"), request.param)


def _cuts(campaign: MoveCampaign) -> Iterator[tuple[int, float]]:
    power = PowerSupply()
    campaign.boot(campaign.device(), power=power).close()
    assert power.operations > 10  # storage, root of trust, and the erased sectors
    for operation in range(power.operations):
        for share in SHARES:
            yield operation, share


def test_cut_anywhere_in_a_move_leaves_one_catalog(campaign: MoveCampaign, tally: CutTally) -> None:
    """The old one or the new one, whole; and the move then ends."""
    sequences = set()
    for operation, share in _cuts(campaign):
        with tally.cut(f"operation {operation} at {share}"):
            for check in (campaign.check_one_catalog, campaign.check_arrived):
                folder = campaign.device()
                with pytest.raises(PowerCutError):
                    campaign.boot(folder, power=PowerSupply(fails_at=operation, share=share))
                state = json.loads((folder / "rot.json").read_bytes())
                sequences.add(state["counters"]["voucher-sequence"])
                check(folder)
    assert sequences == {OLD, NEW}
