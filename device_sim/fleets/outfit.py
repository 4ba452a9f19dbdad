"""What a device of a fleet is made of: machine and defects of its revision, sensors, clock, behaviour."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path

from device_sim.cores.kernels import Inference
from device_sim.errors import DeviceSimError
from device_sim.fleets.choices import chance
from device_sim.fleets.conditions import conditions_of, is_dark
from device_sim.fleets.defects import defects_of
from device_sim.fleets.deferrals import listener_of
from device_sim.fleets.folders import read_facts
from device_sim.fleets.plan import DevicePlan, revision_of
from device_sim.fleets.release_faults import BadReleases, FaultyTrust, SpoiltInference
from device_sim.hardware.clock import Clock, DriftingClock
from device_sim.hardware.machine import Machine
from device_sim.network.ports import Network
from device_sim.runtime.device import Device, Surroundings
from device_sim.runtime.trust import CatalogTrust, Trust
from device_sim.runtime.work import Behaviour, Emit
from device_sim.sensors.ports import Sensors
from protocol.identity import DeviceId
from protocol.scenario import Scenario
from protocol.scenario.fleets import Fidelity, Fleet
from protocol.sensing import SensorConditions
from protocol.voucher import Voucher
from tinyml.latency import Profile


class UnknownProfileError(DeviceSimError):
    """A revision names a software stack that the latency model does not know."""


LIGHT_COUNTS_SECONDS = 120.0  # between two counts of a device of which there are thousands
ATTESTS_PER_SECOND = 50.0  # of a fleet that is switched on at once, so that its first attestations do not pile up


@dataclass(frozen=True, slots=True)
class Kit:
    """What the devices of one fleet share.

    Attributes:
        fleet: as the scenario declares it.
        pool: runs kernels, or plays recordings of them.
        sensors: makes the sensors of a device, by its id and what disturbs them.
    """

    fleet: Fleet
    pool: Inference
    sensors: Callable[[DeviceId, Sequence[SensorConditions]], Sensors]

    def behaviour(self, scenario: Scenario, *, infers: bool) -> Behaviour:
        """Return the periods of a device."""
        period = self.fleet.inference_period or scenario.inference_period
        usual = Behaviour(
            infers=infers,
            inference_period_seconds=period.total_seconds(),
            health_window=self.fleet.health_window,
            waits_for_flash=scenario.waits_for_flash,
        )
        if self.fleet.fidelity is not Fidelity.LIGHT:
            return usual
        spread = max(usual.start_spread_seconds, self.fleet.devices / ATTESTS_PER_SECOND)
        return replace(usual, counts_period_seconds=LIGHT_COUNTS_SECONDS, start_spread_seconds=spread)


@dataclass(frozen=True, slots=True)
class Member:
    """One device of a fleet.

    Attributes:
        folder: the device's.
        plan: who it is.
        infers: whether its cores run inference.
    """

    folder: Path
    plan: DevicePlan
    infers: bool


@dataclass(frozen=True, slots=True)
class Site:
    """What is outside of one device; see `runtime.device.Surroundings`.

    Attributes:
        scenario: what goes wrong.
        clock: of the host.
        network: of the device.
        emit: takes its events.
        wake: asks for a step.
        since_start: of the scenario, when the device is opened.
        releases: that are bad for the device; None: none are.
    """

    scenario: Scenario
    clock: Clock
    network: Network
    emit: Emit
    wake: Callable[[], None]
    since_start: timedelta
    releases: BadReleases | None = None

    def pool(self, pool: Inference) -> Inference:
        """Return what answers for the device's cores."""
        return pool if self.releases is None else SpoiltInference(pool, self.releases)

    def trust(self, machine: Machine, voucher: Voucher) -> Trust:
        """Return what the device believes by a voucher."""
        trust = CatalogTrust(machine, self.network, voucher)
        return trust if self.releases is None else FaultyTrust(trust, self.releases)


def fit_out(member: Member, kit: Kit, site: Site) -> Device:
    """Open a device's folder; nothing boots yet.

    Raises:
        DeviceFolderError: a file is missing or malformed.
    """
    scenario, plan = site.scenario, member.plan
    crystal = DriftingClock(site.clock, offset=plan.clock_offset, drift_ppm=plan.clock_drift_ppm)
    defects = defects_of(scenario, plan, read_facts(member.folder).device_id)
    machine = Machine.open(
        member.folder,
        clock=site.clock,
        crystal=crystal,
        pool=site.pool(defects.pool(kit.pool)),
        scenario=_faults_for(scenario, plan),
        profile=profile_of(revision_of(scenario, plan.hardware).profile),
        power=defects.power(),
        clock_hz=defects.clock_hz,
        strain=site.releases,
    )
    conditions = conditions_of(scenario, plan, machine.device_id, since_start=site.since_start)
    surroundings = Surroundings(
        network=site.network,
        trust=partial(site.trust, machine),
        clock=site.clock,
        # Noise of this board at this start: a copy of a device must not knock in step with its original.
        rng=chance(scenario.seed, "jitter", machine.rot.boot_seed.hex()),
        emit=site.emit,
        wake=site.wake,
        application=listener_of(scenario, kit.fleet, machine.device_id),
    )
    behaviour = kit.behaviour(scenario, infers=member.infers)
    sensors = kit.sensors(machine.device_id, conditions)
    if site.releases is not None:
        site.releases.is_dark = partial(is_dark, conditions, machine.time)
    return Device(machine, sensors, behaviour=behaviour, surroundings=surroundings)


def profile_of(name: str) -> Profile:
    """Return the software stack of a name.

    Raises:
        UnknownProfileError: there is none of this name.
    """
    for profile in Profile:
        if profile.value.name == name:
            return profile
    known = ", ".join(profile.value.name for profile in Profile)
    raise UnknownProfileError(f"profile: expected one of {known}, found {name!r}")


def _faults_for(scenario: Scenario, plan: DevicePlan) -> Scenario:
    """Return the scenario with the kernel faults that a device of a revision can have."""
    faults = tuple(fault for fault in scenario.kernel_faults if fault.hardware in (None, plan.hardware))
    return scenario.model_copy(update={"kernel_faults": faults})
