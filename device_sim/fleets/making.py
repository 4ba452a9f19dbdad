"""Devices of a scenario are made: a folder for each, whose device.json says who the device is.

A light device shares its flash and its system images with its neighbours (`hardware.overlay`), from the blank chip on.
Flashing the same factory images into many of them writes them once.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from device_sim.fleets.defects import defects_of
from device_sim.fleets.folders import PublicFacts, read_facts, write_facts
from device_sim.fleets.plan import DevicePlan, identity_seed, plan_fleet, revision_of
from device_sim.hardware.factory import FLASH_FILE, FOLDER_DIGITS, PUBLIC_FILE
from device_sim.hardware.machine import Machine
from device_sim.hardware.overlay import share_flash
from device_sim.hardware.root_of_trust import seeded_identity
from protocol.flash_geometry import FlashLayout
from protocol.identity import DeviceId, device_id_of
from protocol.scenario import Scenario
from protocol.scenario.fleets import Fidelity


def identity_of(scenario: Scenario, plan: DevicePlan) -> DeviceId:
    """Return the id that a planned device has in every fidelity; it takes 55 µs."""
    return device_id_of(seeded_identity(identity_seed(scenario, plan)).public_key)


def make_fleets(scenario: Scenario, out: Path) -> Iterator[Path]:
    """Make every device of a scenario that is not virtual; those that are there already are left as they are.

    Args:
        scenario: says how many of which kind.
        out: gets a folder for each.

    Raises:
        DeviceFolderError: a folder is there that is another device's.
    """
    for fleet in scenario.fleets:
        if fleet.fidelity is not Fidelity.VIRTUAL:
            for plan in plan_fleet(scenario, fleet):
                yield _make(scenario, plan, out, is_light=fleet.fidelity is Fidelity.LIGHT)


def _make(scenario: Scenario, plan: DevicePlan, out: Path, *, is_light: bool) -> Path:
    device_id = identity_of(scenario, plan)
    folder = out / device_id[:FOLDER_DIGITS]
    if (folder / PUBLIC_FILE).exists() and read_facts(folder) == PublicFacts.of(device_id, plan):
        return folder
    Machine.manufacture(out, seed=identity_seed(scenario, plan), layout=_layout(scenario, plan, device_id))
    if is_light:
        share_flash(folder, (folder / FLASH_FILE).read_bytes())
        (folder / FLASH_FILE).unlink()
    write_facts(folder, plan)
    return folder


def _layout(scenario: Scenario, plan: DevicePlan, device_id: str) -> FlashLayout:
    """Return the flash of a device's revision; a weak one takes fewer erases."""
    document = revision_of(scenario, plan.hardware).geometry
    layout = FlashLayout() if document is None else document.layout
    erases = defects_of(scenario, plan, device_id).erases
    if erases is None:
        return layout
    return replace(layout, geometry=replace(layout.geometry, endurance_erases=erases))
