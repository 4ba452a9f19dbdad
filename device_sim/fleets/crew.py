"""Who takes part in a run: the devices of a scenario's fleets, or of folders that no fleet declares.

Everything that can be wrong is found here, before any device starts.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from device_sim.errors import DeviceSimError
from device_sim.fleets.conditions import NO_FLEET
from device_sim.fleets.folders import members_of
from device_sim.fleets.outfit import Member, UnknownProfileError, profile_of
from device_sim.fleets.plan import DevicePlan
from device_sim.fleets.scenario_file import ScenarioError
from device_sim.sensors.fitted import Surfaces, read_sources
from protocol.scenario import Scenario
from protocol.scenario.fleets import Fidelity, Fleet, InferenceSource
from tinyml.photos import Photo, load_photos


@dataclass(frozen=True, slots=True)
class Crew:
    """The devices of one fleet, and what they sense.

    Attributes:
        fleet: as the scenario declares it, or made up for folders without one.
        members: its devices.
        surfaces: what there is to sense for them.
    """

    fleet: Fleet
    members: tuple[Member, ...]
    surfaces: Surfaces


def crews_of(scenario: Scenario, folders: Sequence[Path], *, where: Path) -> tuple[Crew, ...]:
    """Return who takes part in a run, virtual devices apart.

    Args:
        scenario: parsed.
        folders: of the devices.
        where: folder that the scenario's paths are relative to.

    Raises:
        ScenarioError: a revision or a sensor is declared with something that there is not.
        MissingFoldersError: a fleet has devices without a folder.
        DeviceFolderError: a folder is not of the expected form.
    """
    _check_profiles(scenario)
    photos = load_photos()
    if not scenario.fleets:
        return (_crew_of_folders(scenario, folders, photos),)
    found = members_of(scenario, folders)
    return tuple(
        _crew(scenario, fleet, found[fleet.name], _surfaces(fleet, where, photos))
        for fleet in scenario.fleets
        if fleet.fidelity is not Fidelity.VIRTUAL
    )


def inferring(names: Iterable[str], *, seed: int, sample: int | None) -> frozenset[str]:
    """Return the devices that run inference: all, or a sample by salted hash of their names.

    Args:
        names: of a fleet's folders, which are the first digits of the device ids.
        seed: of the scenario.
        sample: how many; None means all.
    """
    if sample is None:
        return frozenset(names)
    return frozenset(sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())[:sample])


def _check_profiles(scenario: Scenario) -> None:
    for name, revision in scenario.hardware.items():
        try:
            profile_of(revision.profile)
        except UnknownProfileError as error:
            raise ScenarioError(f"hardware.{name}.{error}") from error


def _surfaces(fleet: Fleet, where: Path, photos: Sequence[Photo]) -> Surfaces:
    try:
        return read_sources(fleet.sensors, where, photos=photos)
    except DeviceSimError as error:
        raise ScenarioError(f"fleet {fleet.name}, sensors: {error}") from error


def _crew_of_folders(scenario: Scenario, folders: Sequence[Path], photos: Sequence[Photo]) -> Crew:
    fleet = Fleet(name="devices", devices=max(1, len(folders)), inference_sample=scenario.inference_sample or None)
    plans = {
        folder: DevicePlan(NO_FLEET, number, None, None, {}, timedelta(0), 0.0) for number, folder in enumerate(folders)
    }
    return _crew(scenario, fleet, plans, read_sources(fleet.sensors, Path(), photos=photos))


def _crew(scenario: Scenario, fleet: Fleet, plans: Mapping[Path, DevicePlan], surfaces: Surfaces) -> Crew:
    sample = inferring((folder.name for folder in plans), seed=scenario.seed, sample=fleet.inference_sample)
    infers = fleet.inference is not InferenceSource.NONE
    members = tuple(Member(folder, plan, infers and folder.name in sample) for folder, plan in plans.items())
    return Crew(fleet, members, surfaces)
