"""What `device-sim` does to device folders that do not run: manufacture, flash, tamper, open, retire, prove."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from typing_extensions import override

from device_sim.adapters.clock import WallClock
from device_sim.cores.m4 import Inference
from device_sim.errors import DeviceSimError
from device_sim.fleets.making import make_fleets
from device_sim.fleets.scenario_file import read_scenario
from device_sim.hardware.factory import FOLDER_DIGITS, ROOT_OF_TRUST_FILE
from device_sim.hardware.files import read_file, replace_file
from device_sim.hardware.machine import Machine
from device_sim.hardware.root_of_trust import seeded_identity
from protocol.document import canonical_json
from protocol.evidence import LifeCycle, bind_nonce
from protocol.flash_geometry import FlashLayout
from protocol.geometry import Slot
from protocol.identity import device_id_of
from protocol.messages import ClaimProof
from tinyml.errors import PoolClosedError
from tinyml.workers import InferenceResult, ModelImage

CLAIM_FILE = "claim.json"
FACTORY_FOLDER = "factory"


class DeviceCommandError(DeviceSimError):
    """A command of device-sim could not do its work on every folder."""


class NoInference(Inference):
    """In the place of the inference pool where no core is asked for anything."""

    @override
    def invoke(self, model: ModelImage, input: np.ndarray, *, deadline_seconds: float) -> InferenceResult:
        raise PoolClosedError("this command runs no inference")


def device_folders(paths: Sequence[Path]) -> list[Path]:
    """Return the device folders among some paths and right below them, each once, sorted.

    Raises:
        DeviceCommandError: a path has none.
    """
    found: dict[Path, None] = {}
    for path in paths:
        folders = [path] if _is_device(path) else sorted(filter(_is_device, path.glob("*")))
        if not folders:
            raise DeviceCommandError(f"{path}: expected a device's folder or a folder of them, found none")
        found |= dict.fromkeys(folders)
    return sorted(found)


def _is_device(path: Path) -> bool:
    return (path / ROOT_OF_TRUST_FILE).is_file()


def manufacture_devices(
    out: Path, *, count: int, seed: str | None, layout: FlashLayout | None = None
) -> Iterator[Path]:
    """Make devices; those of a seed that are there already are left as they are.

    Args:
        out: gets a folder for each.
        count: how many.
        seed: of the identity keys; None draws them.
        layout: of their flash; the MT3620's if it is not given.
    """
    for index in range(count):
        if seed is None:
            yield Machine.manufacture(out, layout=layout)
            continue
        device_seed = f"{seed}/{index}".encode()
        folder = out / device_id_of(seeded_identity(device_seed).public_key)[:FOLDER_DIGITS]
        yield folder if _is_device(folder) else Machine.manufacture(out, seed=device_seed, layout=layout)


def manufacture_fleets(scenario_file: Path, out: Path) -> Iterator[Path]:
    """Make the devices of a scenario's fleets; those that are there already are left as they are.

    Raises:
        ScenarioError: the file is not a scenario.
        DeviceFolderError: a folder is there that is another device's.
    """
    out.mkdir(parents=True, exist_ok=True)
    yield from make_fleets(read_scenario(scenario_file), out)


def flash_factory_images(folder: Path) -> None:
    """Write every package of a device's factory folder into its slot.

    Raises:
        DeviceSimError: there are none, or one does not fit.
    """
    packages = factory_packages(folder)
    machine = _open(folder)
    try:
        machine.flash_factory(packages)
    finally:
        machine.close()


def factory_packages(folder: Path) -> dict[Slot, bytes]:
    """Return the packages of a device's factory folder.

    Raises:
        DeviceCommandError: there are none.
    """
    paths = {slot: factory_package(folder, slot) for slot in Slot}
    packages = {slot: read_file(path) for slot, path in paths.items() if path.exists()}
    if not packages:
        raise DeviceCommandError(f"{folder.name}: expected packages in {FACTORY_FOLDER}/, found none")
    return packages


def factory_package(folder: Path, slot: Slot) -> Path:
    """Return where a device's factory package of a slot is."""
    return folder / FACTORY_FOLDER / f"{slot.value.replace('/', '_')}.img"


def flash_package(folder: Path, slot: Slot, package: Path) -> None:
    """Write one package into one slot.

    Raises:
        DeviceSimError: it does not fit.
        OSError: the package can not be read.
    """
    machine = _open(folder)
    try:
        machine.flash_factory({slot: package.read_bytes()})
    finally:
        machine.close()


def tamper_with(folder: Path, slot: Slot) -> None:
    """Flip a bit of a slot's image.

    Raises:
        DeviceSimError: the slot is empty.
    """
    machine = _open(folder)
    try:
        machine.tamper(slot)
    finally:
        machine.close()


def set_app_development(folder: Path, *, allowed: bool) -> None:
    """Give a device the AppDevelopment capability, or take it away; evidence shows it."""
    machine = _open(folder)
    try:
        machine.rot.set_app_development(allowed=allowed)
    finally:
        machine.close()


def decommission(folder: Path) -> None:
    """End a device's life cycle for good; evidence shows it."""
    machine = _open(folder)
    try:
        machine.rot.advance_lifecycle(LifeCycle.DECOMMISSIONED)
    finally:
        machine.close()


def prove_device(folder: Path, challenge: bytes) -> None:
    """Boot a device and have it prove its identity over a challenge; see `protocol.messages.ClaimChallenge`.

    Raises:
        BootStoppedError: the device does not boot.
        DeviceSimError: the device has no IDevID.
    """
    machine = _open(folder)
    try:
        machine.boot()
        proof = ClaimProof(
            device_id=machine.device_id,
            idevid_chain=machine.idevid_chain.decode(),
            evidence=machine.attest(bind_nonce(challenge, machine.rot.public_key)),
        )
    finally:
        machine.close()
    replace_file(folder / CLAIM_FILE, canonical_json(proof))


def _open(folder: Path) -> Machine:
    return Machine.open(folder, clock=WallClock(), pool=NoInference())
