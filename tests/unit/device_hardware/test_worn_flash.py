"""Erases wear sectors out; a device whose flash is worn takes no more updates, but runs what was confirmed."""

import contextlib
import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from device_sim.errors import DeviceFolderError, PowerCutError, SpareStateError, WornSectorError
from device_sim.hardware.flash import ERASED, NorFlash
from device_sim.hardware.machine import Machine
from device_sim.hardware.power import PowerSupply
from device_sim.hardware.slots import SlotStore
from device_sim.hardware.spare import SpareState
from device_sim.hardware.wear import WearFile
from protocol.flash_geometry import FlashGeometry, FlashLayout
from protocol.geometry import HOME_BYTES, KIB, Slot
from tests.power_loss.geometries import SMALL_SECTORS, TWO_PLACES
from tests.unit.device_hardware.device_builder import DeviceBuilder, install_trial

GEOMETRY = FlashGeometry(sector_bytes=KIB, size_bytes=4 * KIB, endurance_erases=8)
SLOT = Slot.M4_0_MODEL


JOURNAL = FlashLayout(
    FlashGeometry(sector_bytes=KIB, size_bytes=32 * KIB),
    slot_bytes=dict.fromkeys(HOME_BYTES, 4 * KIB),
    two_places=frozenset({Slot.A7_APPLICATION}),
    spare_bytes=4 * KIB,
)


RECORDS = 4  # of the journal, in a sector


def journaled(memory: bytearray, worn: set[int]) -> SlotStore:
    flash = NorFlash(memory, JOURNAL.geometry, power=PowerSupply(), wear=lambda sector: sector not in worn)
    return SlotStore(flash, JOURNAL)


def test_each_erase_that_begins_wears_its_sector() -> None:
    """Also one that is cut; a cut before it, a write and a read wear nothing."""
    erased: list[int] = []

    def wear(sector: int) -> bool:
        erased.append(sector)
        return True

    memory = bytearray([ERASED]) * GEOMETRY.size_bytes
    for power in (PowerSupply(), PowerSupply(fails_at=2, share=0.4), PowerSupply(fails_at=2, share=0.0)):
        chip = NorFlash(memory, GEOMETRY, power=power, wear=wear)
        chip.erase(3 * KIB)
        chip.write(3 * KIB, bytes(16))
        with contextlib.suppress(PowerCutError):
            chip.erase(KIB)
    assert erased == [3, 1, 3, 1, 3]


def test_wear_is_counted_in_a_file_that_survives(tmp_path: Path) -> None:
    """A flash that was never erased has none; what is counted is there for the next one who looks."""
    path = tmp_path / "wear.bin"
    assert WearFile(path, GEOMETRY, seed="device").erases() == (0, 0, 0, 0)
    for sector in (1, 3, 3):
        assert WearFile(path, GEOMETRY, seed="device").erase(sector)
    assert WearFile(path, GEOMETRY, seed="device").erases() == (0, 1, 0, 2)
    assert path.read_bytes() == bytes(4) + b"\x01\0\0\0" + bytes(4) + b"\x02\0\0\0"


def test_wear_of_another_flash_is_refused(tmp_path: Path) -> None:
    """A counter for each sector, no more and no fewer."""
    (tmp_path / "wear.bin").write_bytes(bytes(12))
    with pytest.raises(DeviceFolderError, match=r"wear.bin: expected 16 bytes, found 12"):
        WearFile(tmp_path / "wear.bin", GEOMETRY, seed="device")


def test_sector_lasts_as_long_as_warranted_and_up_to_a_quarter_more(tmp_path: Path) -> None:
    """The same device wears out in the same way again, another one in another."""
    wear, same, other = (WearFile(tmp_path / "wear.bin", GEOMETRY, seed=seed) for seed in ("a", "a", "b"))
    endured = [wear.endurance(sector) for sector in range(64)]
    assert endured == [same.endurance(sector) for sector in range(64)]
    assert endured != [other.endurance(sector) for sector in range(64)]
    assert {min(endured), max(endured)} == {8, 10}
    assert sum(wear.erase(0) for _ in range(20)) == endured[0]


def test_worn_sector_keeps_what_it_holds() -> None:
    """An erase that it does not take changes nothing."""
    memory = bytearray(GEOMETRY.size_bytes)
    chip = NorFlash(memory, GEOMETRY, power=PowerSupply(), wear=lambda sector: sector != 2)
    chip.erase(KIB)
    with pytest.raises(WornSectorError, match="sector 2: expected it to take an erase, found it worn out"):
        chip.erase(2 * KIB)
    assert bytes(memory) == bytes(KIB) + bytes([ERASED]) * KIB + bytes(2 * KIB)


def test_kill_while_the_counters_are_made_leaves_a_flash_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never a part of the file, which would be refused; the next erase makes it anew."""
    path, replace_path = tmp_path / "wear.bin", Path.replace

    def killed(source: Path, target: Path) -> Path:
        del source, target
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        WearFile(path, GEOMETRY, seed="device").erase(3)
    monkeypatch.setattr(Path, "replace", replace_path)
    wear = WearFile(path, GEOMETRY, seed="device")
    assert wear.erases() == (0, 0, 0, 0)
    assert wear.erase(3)
    assert wear.erases() == (0, 0, 0, 1)


@pytest.mark.parametrize("layout", [SMALL_SECTORS, TWO_PLACES], ids=["home and spare", "two places"])
def test_device_whose_flash_wears_out_runs_the_last_confirmed_image(layout: FlashLayout, tmp_path: Path) -> None:
    """Updates end by an error, not by a device that does not boot."""
    chip = replace(layout.geometry, endurance_erases=4)
    builder = DeviceBuilder(tmp_path, layout=replace(layout, geometry=chip))
    machine = builder.ready()
    machine.boot()
    confirmed = 1
    with contextlib.suppress(WornSectorError, SpareStateError):
        for number in range(2, 40):
            install_trial(machine, SLOT, builder.packages.model(SLOT, version=f"{number}.0.0"))
            machine.confirm(SLOT)
            confirmed = number
    assert 2 < confirmed < 39
    assert not machine.reboot().stopped_cores
    assert machine.installed()[SLOT].name == f"colour@{confirmed}.0.0"


def worn_home(tmp_path: Path) -> tuple[DeviceBuilder, Machine]:
    """A device whose home slot of a model takes no more erases."""
    builder = DeviceBuilder(tmp_path, layout=SMALL_SECTORS)
    machine = builder.ready()
    machine.boot()
    home, sector = SMALL_SECTORS.place(SLOT), SMALL_SECTORS.geometry.sector_bytes
    counters = bytearray((machine.folder / "wear.bin").read_bytes())
    first, count = home.offset // sector, home.size_bytes // sector
    counters[4 * first : 4 * (first + count)] = b"\0\0\xff\0" * count
    (machine.folder / "wear.bin").write_bytes(counters)
    return builder, machine


def test_image_whose_home_is_worn_out_runs_from_the_spare(tmp_path: Path) -> None:
    """It is confirmed for good: its fuse is blown, and every boot takes it."""
    builder, machine = worn_home(tmp_path)
    install_trial(machine, SLOT, builder.packages.model(SLOT, version="2.0.0", security=2))
    machine.confirm(SLOT)
    for _ in range(2):
        assert machine.installed()[SLOT].name == "colour@2.0.0"
        assert machine.rot.fuse(SLOT) == 2
        assert not machine.reboot().stopped_cores
    new = builder.packages.model(SLOT, version="3.0.0")
    with pytest.raises(SpareStateError, match="expected it free, found CONFIRMED for m4-0/model"):
        machine.spare_begin(SLOT, hashlib.sha256(new).hexdigest(), len(new))


def test_part_of_an_image_in_the_spare_is_read_as_the_slots(tmp_path: Path) -> None:
    """A patch would start from it."""
    builder, machine = worn_home(tmp_path)
    new = builder.packages.model(SLOT, version="2.0.0")
    install_trial(machine, SLOT, new)
    machine.confirm(SLOT)
    assert machine.home_read(SLOT, 16, 32) == new[16:48]


def test_factory_cannot_write_into_a_worn_home() -> None:
    """Not even over the cable."""
    layout, worn = SMALL_SECTORS, SMALL_SECTORS.place(SLOT).offset // KIB
    memory = bytearray([ERASED]) * layout.geometry.size_bytes
    store = SlotStore(NorFlash(memory, layout.geometry, power=PowerSupply()), layout)
    store.install(SLOT, b"old")
    store = SlotStore(
        NorFlash(memory, layout.geometry, power=PowerSupply(), wear=lambda sector: sector != worn), layout
    )
    with pytest.raises(WornSectorError, match=f"sector {worn}"):
        store.install(SLOT, b"new")
    assert store.home(SLOT) is None
    assert store.read_home(Slot.A7_APPLICATION) is None


@pytest.mark.parametrize("worn", [{28}, {28, 29}, {30}, {31}], ids=str)
def test_journal_goes_on_while_one_of_its_copies_lasts(worn: set[int]) -> None:
    """Its four sectors are 28 to 31, two for each copy."""
    memory = bytearray([ERASED]) * JOURNAL.geometry.size_bytes
    for number in range(1, 30):
        store = journaled(memory, worn)
        store.install(SLOT, bytes([number]))
        assert journaled(memory, worn).read_home(SLOT) == bytes([number])


def test_trial_that_a_worn_journal_cannot_drop_is_dropped_by_every_boot() -> None:
    """The old image is read, and nothing new is begun."""
    memory = bytearray([ERASED]) * JOURNAL.geometry.size_bytes
    image = b"new"
    store = journaled(memory, set())
    store.install(SLOT, b"old")
    while store.spare.state != SpareState.TRIAL or store._journal._sequence % RECORDS:
        store.drop()
        store.begin(SLOT, hashlib.sha256(image).hexdigest(), len(image))
        store.write(0, image)
        store.mark_trial(SLOT)
    for _ in range(2):
        store = journaled(memory, {28, 29, 30, 31})
        dropped = store.recover()
        assert dropped is not None
        assert dropped.state is SpareState.TRIAL
        assert store.read_home(SLOT) == b"old"
        with pytest.raises(SpareStateError):
            store.begin(SLOT, hashlib.sha256(image).hexdigest(), len(image))
