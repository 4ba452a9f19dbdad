"""One update of one device, repeated from the same start for every cut of the power.

The whole device runs: flash, journal, fuses, measured boot with real signatures. An operation is one page program, one
sector erase, or one atomic write of the root of trust or the secure storage. After every cut must hold:
    1. the next boot succeeds and runs the old image or the new one, whole; every other slot holds what it did;
    2. an image that was not confirmed is not the one that runs;
    3. no fuse and no counter has fallen, neither in the cut nor after it, and no fuse is above the image that runs;
    4. recovery ends: within a bounded number of operations, and a further boot changes nothing;
    5. the same update, taken up again, succeeds.
With TINYFLEET_POWER_LOSS=all every operation is cut in every way, for every slot of every geometry. Else of some.
"""

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typing_extensions import override

from device_sim.errors import PowerCutError
from device_sim.hardware.machine import Machine
from device_sim.hardware.power import PowerSupply
from device_sim.hardware.spare import SpareState
from protocol.delta import apply_patch, read_header, write_patch
from protocol.flash_geometry import FlashLayout
from protocol.geometry import HOME_BYTES, KIB, ImageKind, Slot
from protocol.image import digest_of
from tests.power_loss.geometries import LAYOUTS
from tests.unit.device_hardware.device_builder import DeviceBuilder, Packages, colour_model, install_trial

SHARES = (0.0, 0.3, 0.97)  # before the operation, torn in its first half, torn near its end
EVERYTHING = os.environ.get("TINYFLEET_POWER_LOSS") == "all"
SLOTS = tuple(HOME_BYTES)
IMAGE_BYTES = 4_600  # more than one sector in most geometries, and no multiple of a row
_RECORD_BYTES = 52 + 36 * len(SLOTS) + 4  # of the journal


def every_campaign(*some: tuple[str, Slot]) -> list[object]:
    """Every geometry with every slot, or the few that are named."""
    chosen = itertools.product(LAYOUTS, SLOTS) if EVERYTHING else some
    return [pytest.param(LAYOUTS[name], slot, id=f"{name}-{slot}") for name, slot in chosen]


def cuts(operations: int) -> Iterator[tuple[int, float]]:
    """Every operation, in every way or in ways that take turns."""
    if EVERYTHING:
        return itertools.product(range(operations), SHARES)
    return zip(range(operations), itertools.cycle(SHARES), strict=False)


class Campaign:
    """One update on one device; the image comes whole.

    Args:
        folder: for the device and its copies.
        slot: that is updated.
        layout: of the flash.
        size: of the image, bytes, about.
    """

    def __init__(self, folder: Path, slot: Slot, layout: FlashLayout, *, size: int = IMAGE_BYTES) -> None:
        self.builder = DeviceBuilder(folder / "start", layout=layout)
        self.slot, self.layout = slot, layout
        old, self.new = (_image(self.builder.packages, slot, number, size=size) for number in (1, 2))
        machine = self.builder.ready()
        machine.flash_factory({slot: old})
        machine.boot()
        self.old, self.old_digest, self.new_digest = old, digest_of(old), digest_of(self.new)
        self.others = {name: image.digest for name, image in machine.installed().items() if name != slot}
        self.start = machine.folder
        machine.close()
        self.floors = _floors(self.start)
        self.copies = folder / "copies"

    def device(self) -> Path:
        """A fresh copy of the device as it was before the update."""
        return copy_folder(self.start, self.copies)

    def update(self, machine: Machine) -> None:
        """The clean update."""
        install_trial(machine, self.slot, self.new)
        machine.confirm(self.slot)

    def count(self, work: Callable[[Machine], None] | None = None) -> int:
        """Operations of the clean update, or of other work."""
        power = PowerSupply()
        self.run(self.device(), power, work or self.update)
        return power.operations

    def run(self, folder: Path, power: PowerSupply, work: Callable[[Machine], None]) -> None:
        """Boot and work until the power fails or the work is done."""
        machine = self.builder.open(folder, power=power)
        try:
            machine.boot()
            work(machine)
        except PowerCutError:
            pass
        finally:
            machine.close()

    def state(self, folder: Path) -> SpareState:
        """What the journal says of the spare."""
        machine = self.builder.open(folder)
        try:
            return machine.spare.state
        finally:
            machine.close()

    def require_recovered(self, folder: Path, *, state: SpareState | None = None) -> None:
        """Boot after a cut and check the invariants.

        Args:
            folder: of the device.
            state: of the spare after the first of several cuts, when that decides which image runs.
        """
        power, floors = PowerSupply(), _floors(folder)
        _require_no_fall(self.floors, floors)  # invariant 3
        machine = self.builder.open(folder, power=power)
        try:
            allowed = self._allowed(machine.spare.state if state is None else state)
            report = machine.boot()  # invariant 1
            assert not report.stopped_cores
            running = {slot: image.digest for slot, image in machine.installed().items()}
            digest = running.pop(self.slot)
            assert running == self.others
            assert digest in allowed  # invariants 1 and 2
            assert machine.rot.fuse(self.slot) <= machine.installed()[self.slot].security_version  # invariant 3
            assert power.operations <= self.most_recovery_operations()  # invariant 4
            assert machine.spare.state in (SpareState.EMPTY, SpareState.FILLING)  # invariant 4: nothing is left to do
            if digest != self.new_digest:
                self.update(machine)  # invariant 5
            self._require_last(machine, power)
        finally:
            machine.close()
        _require_no_fall(floors, _floors(folder))  # invariant 3

    def _require_last(self, machine: Machine, power: PowerSupply) -> None:
        operations = power.operations
        machine.reboot()
        assert power.operations == operations  # invariant 4
        assert machine.installed()[self.slot].digest == self.new_digest  # invariant 5

    def most_recovery_operations(self) -> int:
        """Copy the image, record it in both copies of the journal, write storage and root of trust once each."""
        geometry = self.layout.geometry
        sectors = -(-len(self.new) // geometry.sector_bytes)
        copied = sectors + -(-len(self.new) // geometry.page_bytes)
        recorded = 2 * (1 + -(-_RECORD_BYTES // geometry.page_bytes))
        return copied + recorded + 2

    def _allowed(self, state: SpareState) -> tuple[str, ...]:
        if state in (SpareState.FILLING, SpareState.TRIAL):
            return (self.old_digest,)
        return (self.new_digest,) if state == SpareState.CONFIRMED else (self.old_digest, self.new_digest)


class PatchedCampaign(Campaign):
    """The image is made on the device by a patch from the one before it, sector by sector into the flash."""

    def __init__(self, folder: Path, slot: Slot, layout: FlashLayout, *, size: int = IMAGE_BYTES) -> None:
        super().__init__(folder, slot, layout, size=size)
        self.patch = write_patch(self.old, self.new, group_bytes=4 * KIB)

    @override
    def update(self, machine: Machine) -> None:
        """The clean update; after a cut it goes on where the flash ends."""
        offset = machine.spare_begin(self.slot, self.new_digest, len(self.new))
        header = read_header(self._read, len(self.patch))
        for piece in apply_patch(header, patch=self._read, old=self._old(machine), start=offset):
            machine.spare_write(offset, bytes(piece))
            offset += len(piece)
        machine.start_trial(self.slot)
        machine.confirm(self.slot)

    def _read(self, offset: int, length: int) -> bytes:
        return self.patch[offset : offset + length]

    def _old(self, machine: Machine) -> Callable[[int, int], bytes]:
        return lambda offset, length: machine.home_read(self.slot, offset, length)


def copy_folder(folder: Path, target: Path) -> Path:
    """Copy a device's folder in the place of the copy before."""
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(folder, target))


def _image(packages: Packages, slot: Slot, number: int, *, size: int) -> bytes:
    if slot.kind == ImageKind.MODEL:
        content = colour_model() + _weights(number, size)
        return packages.model(slot, version=f"{number}.0.0", security=number, content=content)
    return packages.image(slot, version=f"{number}.0.0", security=number, size=size)


def _weights(number: int, size: int) -> bytes:
    """Bytes of which one in forty depends on the number: no sector is as it was, and a patch is small."""
    weights = bytearray(hashlib.shake_128(b"weights").digest(size))
    weights[::40] = bytes((byte + number) % 256 for byte in weights[::40])
    return bytes(weights)


def _floors(folder: Path) -> dict[str, int]:
    kept = json.loads((folder / "rot.json").read_bytes())
    return {**kept["fuses"], **kept["counters"]}


def _require_no_fall(before: dict[str, int], after: dict[str, int]) -> None:
    fallen = {name: after.get(name) for name, floor in before.items() if after.get(name, -1) < floor}
    assert not fallen, f"expected at least {before}, found {fallen}"
