"""What `device-sim` says of a device's flash, and how it brings a device back over the cable."""

import json
from pathlib import Path

from device_sim.adapters.clock import WallClock
from device_sim.cli_folders import NoInference, factory_packages
from device_sim.hardware.factory import PUBLIC_FILE, layout_of, wear_of
from device_sim.hardware.files import read_file
from device_sim.hardware.machine import Machine
from protocol.flash_geometry import FlashLayout
from protocol.geometry import KIB


def describe_device(folder: Path) -> str:
    """Return one line about a device: id, flash, wear; also of one that runs.

    Raises:
        DeviceFolderError: a file is missing or malformed.
    """
    public = json.loads(read_file(folder / PUBLIC_FILE))
    layout = layout_of(folder)
    erases = wear_of(folder, layout).erases()
    return (
        f"{public['device_id'][:16]}… {public['hardware']}, {_flash(layout)}, erased {sum(erases)} sectors, "
        f"one of them {max(erases)} times of {layout.geometry.endurance_erases}"
    )


def _flash(layout: FlashLayout) -> str:
    chip = layout.geometry
    twice = f"two places for {', '.join(slot for slot in layout.slots if slot in layout.two_places)}"
    kept = twice if layout.two_places else f"a spare of {layout.spare_bytes / KIB:g} KiB"
    return f"{chip.size_bytes / KIB:g} KiB in sectors of {chip.sector_bytes} bytes, {kept}"


def recover_device(folder: Path) -> None:
    """Write a device's factory images over the cable; see `Machine.recover`.

    Raises:
        DeviceSimError: there are none, one does not fit, or one is below its fuse; then nothing has changed.
    """
    packages = factory_packages(folder)
    machine = Machine.open(folder, clock=WallClock(), pool=NoInference())
    try:
        machine.recover(packages)
    finally:
        machine.close()
