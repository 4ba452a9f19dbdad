"""Devices of a scenario are made and flashed: their boards are what it says, and neighbours share what is equal."""

from pathlib import Path
from typing import Any

import pytest

from device_sim.errors import DeviceFolderError
from device_sim.fleets.flashing import FactoryLine
from device_sim.fleets.folders import members_of, read_facts
from device_sim.fleets.making import make_fleets
from device_sim.hardware.factory import layout_of
from device_sim.hardware.overlay import OverlaidMemory, read_flash
from protocol.geometry import Slot
from protocol.scenario import Scenario


def scenario(**fleet: Any) -> Scenario:
    return Scenario.model_validate(
        {
            "regions": {"north": {}},
            "hardware": {
                "rev-b": {
                    "geometry": {"size_bytes": 2 * 1024 * 1024},
                    "defects": [{"kind": "weak-flash", "every": 7}],
                }
            },
            "fleets": [{"name": "gates", "devices": 2, "hardware": {"rev-b": 1}, "regions": {"north": 1}, **fleet}],
        }
    )


def package_of(folder: Path, slot: Slot) -> Path:
    return folder / "factory" / f"{slot.value.replace('/', '_')}.img"


def test_board_and_place_of_a_device_are_in_its_folder(tmp_path: Path) -> None:
    """The revision's geometry, the weak flash's endurance, and who the device is; made again, nothing changes."""
    declared = scenario(attributes={"site": "quay-{n}"}, sites=2)
    made = list(make_fleets(declared, tmp_path))
    geometry = layout_of(made[0]).geometry
    assert (geometry.size_bytes, geometry.endurance_erases) == (2 * 1024 * 1024, 7)
    facts = [read_facts(folder) for folder in made]
    assert [(each.fleet, each.number, each.hardware, each.region) for each in facts] == [
        ("gates", 0, "rev-b", "north"),
        ("gates", 1, "rev-b", "north"),
    ]
    where = {"hardware": "rev-b", "region": "north"}
    assert [each.attributes for each in facts] == [{**where, "site": "quay-0"}, {**where, "site": "quay-1"}]
    assert list(make_fleets(declared, tmp_path)) == made
    assert list(members_of(declared, made)["gates"]) == made


def test_folder_of_another_plan_is_not_overwritten(tmp_path: Path) -> None:
    """The same identities, but another revision: the folders stay as they are."""
    list(make_fleets(scenario(), tmp_path))
    with pytest.raises(DeviceFolderError, match="expected none, found device"):
        list(make_fleets(scenario(hardware={}), tmp_path))


def test_equal_light_devices_are_flashed_once(tmp_path: Path) -> None:
    """The second gets the first one's flash and links to its packages; one with another image is flashed itself."""
    made = list(make_fleets(scenario(fidelity="light", devices=3), tmp_path))
    written: list[Path] = []

    def write(folder: Path) -> None:
        written.append(folder)
        memory = OverlaidMemory(folder, layout_of(folder).geometry)
        content = package_of(folder, Slot.A7_APPLICATION).read_bytes()
        memory[0 : len(content)] = content
        memory.close()

    for folder in made:
        package_of(folder, Slot.OS).parent.mkdir()
        package_of(folder, Slot.OS).write_bytes(b"the system")
        package_of(folder, Slot.A7_APPLICATION).write_bytes(b"an application" if folder != made[2] else b"another one")
    line = FactoryLine(write, package_of)
    for folder in made:
        line.flash(folder)
    assert written == [made[0], made[2]]
    assert [read_flash(folder)[:5] for folder in made] == [b"an ap", b"an ap", b"anoth"]
    assert (made[0] / "flash.base").stat().st_ino == (made[1] / "flash.base").stat().st_ino
    assert (made[1] / "system" / "os.img").read_bytes() == b"the system"
    write(made[1])
    line.flash(made[1])
    assert written[-1] == made[1]
