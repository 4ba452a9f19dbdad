"""`tinyfleet factory sign` of devices whose revision has an operating system of its own."""

import json
from pathlib import Path

import pytest

from device_sim.fleets.making import make_fleets
from protocol.geometry import KIB, Slot
from protocol.image import read_info
from protocol.scenario import Scenario
from service.cli.errors import DeviceFolderError
from service.cli.factory_images import FACTORY_IMAGES, simulated_payload
from service.cli.working_copy import WorkingCopyError
from tests.unit.cli.offline_service import Operator

DEVICES = Path("devices")
SIGN = ("factory", "sign", DEVICES)
SYSTEM = next(image for image in FACTORY_IMAGES if image.slot is Slot.OS)
SCENARIO = Scenario.model_validate(
    {
        "hardware": {"old": {}, "new": {"os_version": "1.1.0"}},
        "fleets": [
            {"name": "gates", "devices": 2, "hardware": {"old": 1}},
            {"name": "doors", "devices": 2, "hardware": {"new": 1}},
        ],
    }
)


@pytest.fixture
def made(operator: Operator) -> tuple[Path, ...]:
    """The devices of a scenario, old ones first; the factory release is in force."""
    operator.run("factory", "images")
    return tuple(make_fleets(SCENARIO, DEVICES))


def list_system(operator: Operator, version: str, *options: str, size: int = KIB) -> None:
    payload = Path("os.bin")
    payload.write_bytes(simulated_payload(SYSTEM.name, version, size))
    names = ("--name", SYSTEM.name, "--component-id", SYSTEM.component_id, "--kind", "os")
    operator.run("image", "create", payload, "--version", version, *names, "--out", "os.img")
    operator.run("release", "create", f"os-{version}-{size}", "os.img", "--yes", *options)


def system_of(folder: Path) -> bytes:
    return (folder / "factory" / "os.img").read_bytes()


def test_device_is_made_with_the_system_of_its_revision(operator: Operator, made: tuple[Path, ...]) -> None:
    """The rest is the factory release's; what is equal is one file."""
    list_system(operator, "1.1.0", "--reference")
    operator.run(*SIGN)
    assert [read_info(system_of(folder)).name for folder in made] == ["os@1.0.0"] * 2 + ["os@1.1.0"] * 2
    files = {path.name: {(folder / "factory" / path.name).stat().st_ino for folder in made} for path in
             (made[0] / "factory").iterdir()}  # fmt: skip
    assert {name for name, nodes in files.items() if len(nodes) > 1} == {"os.img"}
    assert len(files["os.img"]) == 2


def test_newest_build_of_a_version_is_taken(operator: Operator, made: tuple[Path, ...]) -> None:
    """Two reference releases may list the same version."""
    for size in (KIB, 2 * KIB):
        list_system(operator, "1.1.0", "--reference", size=size)
    operator.run(*SIGN)
    assert len(system_of(made[-1])) > 2 * KIB


def test_system_that_no_reference_release_lists_is_refused(operator: Operator, made: tuple[Path, ...]) -> None:
    """The message says which there are and how to make one; no device is signed."""
    list_system(operator, "1.2.0", "--reference")
    operator.refused(WorkingCopyError, r"expected an OS of version 1\.1\.0 .*, found 1\.0\.0, 1\.2\.0; make it", *SIGN)
    assert not any((folder / "idevid.pem").exists() for folder in made)


def test_system_in_device_json_that_is_no_text_is_refused(operator: Operator, made: tuple[Path, ...]) -> None:
    """With the file's name."""
    list_system(operator, "1.1.0", "--reference")
    path = made[0] / "device.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "os_version": 1}))
    operator.refused(DeviceFolderError, "expected os_version as a text, found int", *SIGN)
