"""A run: the devices of a scenario's fleets opened, driven by one scheduler, and counted at the end.

Stopping ends inference first, then waits, within a time, for what the gateway has yet to acknowledge, then
disconnects; the folders start again from where they are.
"""

import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Self

from device_sim.fleets.choices import chance
from device_sim.fleets.folders import read_facts, require_signed
from device_sim.fleets.happenings import Target, TimedHappening
from device_sim.fleets.outfit import Kit, Member, Site, fit_out
from device_sim.fleets.plan import region_of
from device_sim.fleets.powered import Mains, PoweredDevice
from device_sim.fleets.release_faults import BadReleases, release_faults_of
from device_sim.hardware.clock import Clock
from device_sim.hardware.factory import ROOT_OF_TRUST_FILE
from device_sim.hardware.power import PowerSupply
from device_sim.hardware.root_of_trust import RootOfTrust
from device_sim.network.ports import Network
from device_sim.network.quality import NetworkPath, Surrounds
from device_sim.network.wire import WireMeter
from device_sim.runtime.device import Device
from device_sim.runtime.events import EventLog
from device_sim.runtime.inference import CoreFigures
from device_sim.runtime.scheduler import Scheduler, Steppable
from device_sim.runtime.work import Emit
from protocol.geometry import Core
from protocol.scenario import Scenario

CLOSING_THREADS = 32
CLONES_FOLDER = ".clones"  # beside the device's; no device folder lies right below it for other commands


@dataclass(frozen=True, slots=True)
class World:
    """What all devices of a run share.

    Attributes:
        network: gives a device's connections over its path.
        clock: of the host.
        scenario: what goes wrong, and how often cores infer.
        events: where events go.
        settle: waits until links have done what they were asked; what they tell comes before the run's last event.
        workers: threads that step devices.
        drain_seconds: longest wait for acknowledgements at the end.
        started_at: of the run, UTC and aware; outages count from it.
    """

    network: Callable[[NetworkPath], Network]
    clock: Clock
    scenario: Scenario
    events: EventLog
    started_at: datetime
    settle: Callable[[], None] = lambda: None
    workers: int = 8
    drain_seconds: float = 10.0


class FleetRun:
    """The devices of a run.

    Args:
        world: what they share.

    Attributes:
        crashed: steps that raised: faults of the simulator, not of a simulated device.
    """

    def __init__(self, world: World) -> None:
        self.crashed = 0
        self._world = world
        self._targets: list[Target] = []
        self._inferring = 0
        self._scheduler = Scheduler(world.clock, workers=world.workers, on_crash=self._on_crash)

    def add(self, member: Member, kit: Kit) -> PoweredDevice:
        """Open a device's folder.

        Raises:
            DeviceSimError: a file is missing or malformed, or no factory has signed the device.
        """
        require_signed(member.folder)
        world, scenario = self._world, self._world.scenario
        device_id = read_facts(member.folder).device_id
        path = self._path(member, device_id)
        faults = release_faults_of(scenario, member.plan, device_id)
        releases = BadReleases(faults, monotonic=world.clock.monotonic) if faults else None
        if releases is not None:
            path.interference = releases.interfere
        tell = self._emit_of(member, path.meter)

        def emit(event: str, **fields: object) -> None:
            tell(event, **fields)
            if releases is not None:
                releases.hear(event, fields, device)

        def open_device() -> Device:
            site = Site(
                scenario=scenario,
                clock=world.clock,
                network=world.network(path),
                emit=emit,
                wake=lambda: device.rouse(),  # noqa: PLW0108 - it is opened before it has a name
                since_start=world.clock.now() - world.started_at,
                releases=releases,
            )
            return fit_out(member, kit, site)

        mains = Mains(kit.fleet.power, chance(scenario.seed, "power", device_id), path, world.clock)
        device = PoweredDevice(open_device, mains, emit=partial(emit, device=device_id), wake=self._scheduler.wake)
        self._targets.append(
            Target(
                member.plan,
                device,
                path,
                clone=partial(self._clone, member, kit),
                break_open=partial(_break_open, member.folder),
            )
        )
        self._inferring += member.infers
        return device

    def start(self) -> None:
        """Boot every device, and let happen what is to happen."""
        now, scenario = self._world.clock.monotonic(), self._world.scenario
        targets = tuple(self._targets)
        for target in targets:
            self._scheduler.add(target.device, due=now)
        for number in range(len(scenario.happenings)):
            happening = TimedHappening(scenario, number, start=now, targets=targets, emit=self._world.events.emit)
            self._scheduler.add(happening, due=now)
        self._scheduler.start()

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    def stop(self) -> None:
        """Stop every device and emit what they did, device by device and in all."""
        self._scheduler.stop()
        devices = [target.device for target in self._targets]
        deadline = self._world.clock.monotonic() + self._world.drain_seconds
        for device in devices:
            device.drain(max(0.0, deadline - self._world.clock.monotonic()))
        with ThreadPoolExecutor(CLOSING_THREADS) as threads:
            list(threads.map(PoweredDevice.close, devices))
        self._world.settle()
        self._world.events.emit("stopped", **self._totals(devices))

    def tell_crash(self, error: Exception, device_id: str = "") -> None:
        """Count and emit a fault of the simulator."""
        self.crashed += 1
        self._world.events.emit("crashed", device=device_id, reason=f"{type(error).__name__}: {error}")

    def _path(self, member: Member, device_id: str) -> NetworkPath:
        seed, region = self._world.scenario.seed, region_of(self._world.scenario, member.plan.region)
        where = Surrounds(region.network, timedelta(hours=region.utc_offset), self._world.started_at)
        draw, place = partial(chance, seed, who=device_id), str(member.folder.resolve())
        return NetworkPath(where, clock=self._world.clock, draw=draw, meter=WireMeter(), place=place)

    def _emit_of(self, member: Member, meter: WireMeter) -> Emit:
        """Return what takes a device's events: with its fleet's name, and with its bytes on the wire at every count."""
        emit = self._world.events.emit
        tell = partial(emit, fleet=member.plan.fleet) if self._world.scenario.fleets else emit

        def tell_with_wire(event: str, **fields: object) -> None:
            tell(event, **fields)
            if event == "counts":
                tell(
                    "wire",
                    device=fields["device"],
                    bytes_sent=meter.sent,
                    bytes_received=meter.received,
                    requests=meter.requests,
                )

        return tell_with_wire

    def _clone(self, member: Member, kit: Kit) -> None:
        """Copy a device, which is between two steps, and run the copy, too."""
        folder = member.folder.parent / CLONES_FOLDER / member.folder.name
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(member.folder, folder)
        clone = self.add(replace(member, folder=folder), kit)
        self._scheduler.add(clone, due=self._world.clock.monotonic())

    def _totals(self, devices: Sequence[PoweredDevice]) -> dict[str, object]:
        counts = [device.counts for device in devices]
        figures = [device.figures for device in devices]
        return {
            "devices": len(devices),
            "sent": sum(count.sent for count in counts),
            "acknowledged": sum(count.acknowledged for count in counts),
            "dropped": sum(count.dropped + count.waiting for count in counts),
            "inferring": self._inferring,
            "cores": {core.value: _sum_up(core, figures) for core in (Core.M4_0, Core.M4_1)},
        }

    def _on_crash(self, device: Steppable, error: Exception) -> None:
        self.tell_crash(error, device.device_id if isinstance(device, PoweredDevice) else "")


def _break_open(folder: Path) -> None:
    """Open a stolen device to a debugger, as its thief does; evidence shows it from then on."""
    root_of_trust = RootOfTrust.open(folder / ROOT_OF_TRUST_FILE, power=PowerSupply())
    root_of_trust.set_app_development(allowed=True)


def _sum_up(core: Core, figures: Sequence[Mapping[Core, CoreFigures]]) -> dict[str, object]:
    """Sum one core up over the fleet; the model is the one that most devices ran last."""
    ran = [figure[core] for figure in figures if core in figure and figure[core].events]
    models = [figure.model for figure in ran]
    model = statistics.mode(models) if models else ""
    medians = [figure.p50_ms_m4 for figure in ran if figure.model == model and figure.p50_ms_m4 is not None]
    return {
        "model": model,
        "events": sum(figure.events for figure in ran),
        "p50_ms_m4": statistics.median(medians) if medians else None,
    }
