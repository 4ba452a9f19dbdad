"""Who the devices of a scenario are, by its seed: revision, region, attributes, clock, identity.

A plan is made of the scenario alone; the same scenario and seed give the same devices in every fidelity.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta

from device_sim.fleets.choices import chance, choose
from protocol.scenario import Scenario
from protocol.scenario.fleets import Fleet
from protocol.scenario.hardware import HardwareRevision
from protocol.scenario.network import Region

DEFAULT_REVISION = HardwareRevision()
DEFAULT_REGION = Region()


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """One device of a fleet.

    Attributes:
        fleet: name of its fleet.
        number: within the fleet, from 0.
        hardware: name of its revision, or None for the default one.
        region: name of its region, or None for nowhere in particular.
        attributes: facts that rollouts may target.
        clock_offset: what its clock is off by before it learns the time.
        clock_drift_ppm: how much too fast it goes.
        os_version: of the operating system that it is made with, or None for the factory's.
    """

    fleet: str
    number: int
    hardware: str | None
    region: str | None
    attributes: Mapping[str, str]
    clock_offset: timedelta
    clock_drift_ppm: float
    os_version: str | None = None

    @property
    def name(self) -> str:
        """Fleet and number; decides what is drawn for a device that has no id yet."""
        return f"{self.fleet}/{self.number}"


def plan_fleet(scenario: Scenario, fleet: Fleet) -> Iterator[DevicePlan]:
    """Plan every device of a fleet, in the order of their numbers."""
    return (plan_device(scenario, fleet, number) for number in range(fleet.devices))


def plan_device(scenario: Scenario, fleet: Fleet, number: int) -> DevicePlan:
    """Plan one device of a fleet."""
    who, seed = f"{fleet.name}/{number}", scenario.seed
    clock = chance(seed, "clock", who)
    hardware = choose(seed, "hardware", who, shares=fleet.hardware)
    region = choose(seed, "region", who, shares=fleet.regions)
    return DevicePlan(
        fleet=fleet.name,
        number=number,
        hardware=hardware,
        region=region,
        attributes=_attributes(fleet, number, hardware=hardware, region=region),
        clock_offset=clock.uniform(-1, 1) * fleet.clocks.offset,
        clock_drift_ppm=clock.uniform(-1, 1) * fleet.clocks.drift_ppm,
        os_version=revision_of(scenario, hardware).os_version,
    )


def _attributes(fleet: Fleet, number: int, *, hardware: str | None, region: str | None) -> dict[str, str]:
    """Return what the fleet says of a device; its revision and region are said of themselves."""
    known = {"hardware": hardware, "region": region}
    own = {name: value.replace("{n}", str(number % fleet.sites)) for name, value in fleet.attributes.items()}
    return {name: value for name, value in known.items() if value is not None} | own


def identity_seed(scenario: Scenario, plan: DevicePlan) -> bytes:
    """Return the seed of a device's identity key; see `hardware.root_of_trust.seeded_identity`."""
    return f"{scenario.seed}/identity/{plan.name}".encode()


def revision_of(scenario: Scenario, name: str | None) -> HardwareRevision:
    """Return a revision by its name; None is the default one."""
    return DEFAULT_REVISION if name is None else scenario.hardware[name]


def region_of(scenario: Scenario, name: str | None) -> Region:
    """Return a region by its name; None is one with a perfect network, at UTC."""
    return DEFAULT_REGION if name is None else scenario.regions[name]


def fleet_of(scenario: Scenario, name: str) -> Fleet:
    """Return a fleet by its name."""
    return next(fleet for fleet in scenario.fleets if fleet.name == name)
