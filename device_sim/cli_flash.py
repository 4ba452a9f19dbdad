"""What `device-sim` says of a device's flash, and how it brings a device back over the cable."""

from pathlib import Path

from device_sim.adapters.clock import WallClock
from device_sim.cli_folders import NoInference, factory_packages
from device_sim.hardware.factory import layout_of, wear_of
from device_sim.hardware.machine import Machine
from protocol.document import parse_document
from protocol.flash_geometry import FlashDocument, FlashLayout
from protocol.geometry import KIB


def describe_device(folder: Path) -> str:
    """Return one line about a device: folder, flash, wear; also of one that runs.

    Raises:
        DeviceFolderError: its geometry is none.
    """
    layout = layout_of(folder)
    erases = wear_of(folder, layout).erases()
    return (
        f"{folder.name}: {_flash(layout)}; erases: {sum(erases)}, "
        f"of the most worn sector {max(erases)} of {layout.geometry.endurance_erases}"
    )


def _flash(layout: FlashLayout) -> str:
    chip = layout.geometry
    twice = [slot.value for slot in layout.slots if slot in layout.two_places]
    kept = [f"two places for {', '.join(twice)}"] if twice else []
    if layout.spare_bytes:
        kept.append(f"a spare of {layout.spare_bytes / KIB:g} KiB")
    return f"{chip.size_bytes / KIB:g} KiB in sectors of {chip.sector_bytes} bytes, {', '.join(kept)}"


def read_geometry(file: Path) -> FlashLayout:
    """Return the layout that a file describes.

    Raises:
        DocumentError: no flash could be like this.
        OSError: the file can not be read.
    """
    return parse_document(file.read_bytes(), FlashDocument).layout


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
