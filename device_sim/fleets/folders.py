"""Device folders of a scenario: who is in them, as device.json says, and whether every device of a fleet has one."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from device_sim.errors import DeviceFolderError, DeviceSimError
from device_sim.fleets.plan import DevicePlan, plan_device
from device_sim.hardware.boot import load_authorities
from device_sim.hardware.factory import AUTHORITIES_FILE, PUBLIC_FILE
from device_sim.hardware.files import read_file, replace_file
from protocol.document import Document, DocumentError, parse_document
from protocol.scenario import Scenario
from protocol.scenario.fleets import Fidelity, Fleet

DEFAULT_HARDWARE = "mt3620"


class MissingFoldersError(DeviceSimError):
    """A fleet has devices without a folder, or folders that are another scenario's."""


class PublicFacts(Document):
    """device.json.

    Attributes:
        device_id: 128 hex digits.
        hardware: name of the revision, or `mt3620`.
        fleet: of the scenario that it was made for; None: of none.
        number: within the fleet.
        region: name of its region.
        attributes: facts that rollouts may target.
        os_version: of the operating system that the factory gives it, or None for that of the factory release.
    """

    device_id: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
    hardware: str = DEFAULT_HARDWARE
    fleet: str | None = None
    number: Annotated[int, Field(ge=0)] | None = None
    region: str | None = None
    attributes: Mapping[str, str] = {}
    os_version: str | None = None

    @classmethod
    def of(cls, device_id: str, plan: DevicePlan) -> "PublicFacts":
        """Return the facts of a planned device."""
        return cls(
            device_id=device_id,
            hardware=plan.hardware or DEFAULT_HARDWARE,
            fleet=plan.fleet,
            number=plan.number,
            region=plan.region,
            attributes=plan.attributes,
            os_version=plan.os_version,
        )


def read_facts(folder: Path) -> PublicFacts:
    """Read device.json.

    Raises:
        DeviceFolderError: missing or malformed.
    """
    try:
        return parse_document(read_file(folder / PUBLIC_FILE), PublicFacts)
    except DocumentError as error:
        raise DeviceFolderError(f"{folder.name}/{PUBLIC_FILE}: expected a device's facts, found {error}") from error


def require_signed(folder: Path) -> None:
    """Refuse a device that no factory has signed: it trusts nobody, and boots nothing.

    Raises:
        DeviceFolderError: authorities.json is missing or malformed.
    """
    try:
        load_authorities(folder / AUTHORITIES_FILE)
    except DeviceFolderError as error:
        raise DeviceFolderError(
            f"{folder.name}: expected a device that its factory has signed, by `tinyfleet factory sign`; {error}"
        ) from error


def write_facts(folder: Path, plan: DevicePlan) -> None:
    """Write into device.json who a device is."""
    facts = PublicFacts.of(read_facts(folder).device_id, plan)
    replace_file(folder / PUBLIC_FILE, json.dumps(facts.model_dump(mode="json")).encode(), mode=0o644)


def members_of(scenario: Scenario, folders: Sequence[Path]) -> dict[str, dict[Path, DevicePlan]]:
    """Return each fleet's folders and plans, by the fleet's name; virtual fleets have none.

    Raises:
        MissingFoldersError: a device of a fleet has no folder, or was made for another scenario.
        DeviceFolderError: a device.json is missing or malformed.
    """
    made: dict[tuple[str | None, int | None], tuple[Path, PublicFacts]] = {}
    for folder in folders:
        facts = read_facts(folder)
        made[facts.fleet, facts.number] = (folder, facts)
    return {
        fleet.name: _members(scenario, fleet, made)
        for fleet in scenario.fleets
        if fleet.fidelity is not Fidelity.VIRTUAL
    }


def _members(scenario: Scenario, fleet: Fleet, made: Mapping[Any, tuple[Path, PublicFacts]]) -> dict[Path, DevicePlan]:
    missing = [number for number in range(fleet.devices) if (fleet.name, number) not in made]
    if missing:
        raise MissingFoldersError(
            f"fleet {fleet.name}: expected folders of {fleet.devices} devices, found {fleet.devices - len(missing)}, "
            f"none of number {missing[0]}; make them by `device-sim manufacture --scenario`"
        )
    members = {}
    for number in range(fleet.devices):
        folder, facts = made[fleet.name, number]
        plan = plan_device(scenario, fleet, number)
        if facts != PublicFacts.of(facts.device_id, plan):
            raise MissingFoldersError(
                f"fleet {fleet.name}: expected device {number} as this scenario plans it, found folder {folder.name} "
                "of another one; make the devices anew"
            )
        members[folder] = plan
    return members
