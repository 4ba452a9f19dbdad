"""A device keeps the geometry that it was made with; with two places nothing is copied."""

from pathlib import Path

import pytest

from device_sim.errors import DeviceFolderError, ImageTooLargeError
from device_sim.hardware.factory import layout_of, wear_of
from device_sim.hardware.machine import Machine
from device_sim.hardware.spare import Spare
from protocol.flash_geometry import FlashLayout, Place, Region
from protocol.geometry import KIB, Slot
from tests.power_loss.geometries import MIXED, SMALL_SECTORS, TWO_PLACES
from tests.unit.device_hardware.device_builder import DeviceBuilder, install_trial

SLOT = Slot.M4_0_FIRMWARE


def erased_in(machine: Machine, region: Region, before: tuple[int, ...]) -> int:
    """Erases of a region's sectors since then."""
    first, count = region.offset // KIB, region.size_bytes // KIB
    after = wear_of(machine.folder, layout_of(machine.folder)).erases()
    return sum(after[first : first + count]) - sum(before[first : first + count])


def update(builder: DeviceBuilder, machine: Machine, version: str) -> None:
    install_trial(machine, SLOT, builder.packages.image(SLOT, version=version, size=3000))
    machine.confirm(SLOT)


def test_folder_without_a_geometry_has_the_mt3620s(tmp_path: Path) -> None:
    """Folders made before it boot as they are."""
    builder = DeviceBuilder(tmp_path)
    machine = builder.ready()
    machine.close()
    (machine.folder / "geometry.json").unlink()
    assert layout_of(machine.folder) == FlashLayout()
    assert not builder.open(machine.folder).boot().stopped_cores


@pytest.mark.parametrize("content", ["", "{", '{"sector_bytes": 100}'])
def test_geometry_of_another_form_is_refused(content: str, tmp_path: Path) -> None:
    """Nothing is opened."""
    folder = DeviceBuilder(tmp_path).manufacture()
    (folder / "geometry.json").write_text(content)
    with pytest.raises(DeviceFolderError, match=r"geometry.json: expected the geometry of a flash, found"):
        layout_of(folder)


@pytest.mark.parametrize("layout", [TWO_PLACES, MIXED], ids=["two places", "mixed"])
def test_confirmed_image_stays_where_it_was_tried(layout: FlashLayout, tmp_path: Path) -> None:
    """Places take turns; each update erases one of them."""
    builder = DeviceBuilder(tmp_path, layout=layout)
    machine = builder.ready()
    machine.boot()
    for version, used, kept in (("2.0.0", Place.B, Place.A), ("3.0.0", Place.A, Place.B)):
        before = wear_of(machine.folder, layout).erases()
        update(builder, machine, version)
        assert erased_in(machine, layout.place(SLOT, used), before) > 0
        assert erased_in(machine, layout.place(SLOT, kept), before) == 0
        assert machine.spare == Spare()
        machine.reboot()
        assert machine.installed()[SLOT].name == f"firmware@{version}"


def test_update_of_a_slot_with_one_place_wears_home_and_spare(tmp_path: Path) -> None:
    """The copy costs as many erases as the download."""
    builder = DeviceBuilder(tmp_path, layout=SMALL_SECTORS)
    machine = builder.ready()
    machine.boot()
    before = wear_of(machine.folder, SMALL_SECTORS).erases()
    update(builder, machine, "2.0.0")
    home, spare = SMALL_SECTORS.place(SLOT), SMALL_SECTORS.spare
    assert erased_in(machine, home, before) == erased_in(machine, spare, before) == 4


@pytest.mark.parametrize("layout", [SMALL_SECTORS, TWO_PLACES], ids=["home and spare", "two places"])
def test_image_larger_than_its_slot_is_refused(layout: FlashLayout, tmp_path: Path) -> None:
    """Whatever the MT3620 would take."""
    machine = DeviceBuilder(tmp_path, layout=layout).ready()
    machine.boot()
    with pytest.raises(ImageTooLargeError, match="expected 1 to 8192 bytes, found 8193"):
        machine.spare_begin(SLOT, "00" * 32, 8193)
