"""A fleet: many device folders opened, driven by one scheduler, and counted at the end.

Stopping ends inference first, then waits, within a time, for what the gateway has yet to acknowledge, then
disconnects; the folders start again from where they are.
"""

import hashlib
import random
import statistics
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from device_sim.cores.m4 import Inference
from device_sim.hardware.clock import Clock
from device_sim.hardware.machine import Machine
from device_sim.network.ports import Network
from device_sim.runtime.device import Device, Surroundings
from device_sim.runtime.events import EventLog
from device_sim.runtime.inference import CoreFigures
from device_sim.runtime.scheduler import Scheduler, Steppable
from device_sim.runtime.trust import CatalogTrust
from device_sim.runtime.work import Behaviour
from device_sim.sensors.fitted import FittedSensors, Surfaces
from protocol.geometry import Core
from protocol.scenario import Scenario
from tinyml.photos import Photo

CLOSING_THREADS = 32  # a link that sleeps between attempts takes a second to end


@dataclass(frozen=True, slots=True)
class World:
    """What all devices of a fleet share.

    Attributes:
        network: gives connections.
        clock: of the host.
        pool: runs kernels.
        photos: hang on the wall that the cameras look at.
        scenario: what goes wrong, and how often cores infer.
        events: where events go.
        workers: threads that step devices.
        drain_seconds: longest wait for acknowledgements at the end.
    """

    network: Network
    clock: Clock
    pool: Inference
    photos: Sequence[Photo]
    scenario: Scenario
    events: EventLog
    workers: int = 8
    drain_seconds: float = 10.0


@dataclass(slots=True)
class Fleet:
    """The devices of some folders; made by `open_fleet`.

    Attributes:
        crashed: steps that raised: faults of the simulator, not of a simulated device.
    """

    world: World
    crashed: int = 0
    _devices: list[Device] = field(default_factory=list)
    _scheduler: Scheduler = field(init=False)

    def __post_init__(self) -> None:
        self._scheduler = Scheduler(self.world.clock, workers=self.world.workers, on_crash=self._on_crash)

    def add(self, folder: Path, *, infers: bool) -> None:
        """Open a device's folder.

        Raises:
            DeviceFolderError: a file is missing or malformed.
        """
        world = self.world
        machine = Machine.open(folder, clock=world.clock, pool=world.pool, scenario=world.scenario)
        surroundings = Surroundings(
            network=world.network,
            trust=partial(CatalogTrust, machine, world.network),
            clock=world.clock,
            rng=random.Random(f"{world.scenario.seed}/{machine.device_id}"),  # noqa: S311 - jitter, no key
            emit=world.events.emit,
            wake=lambda: self._scheduler.wake(device),
        )
        behaviour = Behaviour(infers=infers, inference_period_seconds=world.scenario.inference_period_seconds)
        sensors = FittedSensors(machine.device_id, Surfaces(world.photos), seed=world.scenario.seed)
        device = Device(machine, sensors, behaviour=behaviour, surroundings=surroundings)
        self._devices.append(device)

    def start(self) -> None:
        """Boot every device."""
        now = self.world.clock.monotonic()
        for device in self._devices:
            self._scheduler.add(device, due=now)
        self._scheduler.start()

    def stop(self) -> None:
        """Stop every device and emit what they did, device by device and in all."""
        self._scheduler.stop()
        deadline = self.world.clock.monotonic() + self.world.drain_seconds
        for device in self._devices:
            device.drain(max(0.0, deadline - self.world.clock.monotonic()))
        with ThreadPoolExecutor(CLOSING_THREADS) as threads:
            list(threads.map(Device.close, self._devices))
        self.world.events.emit("stopped", **self._totals())

    def _totals(self) -> dict[str, object]:
        counts = [device.counts for device in self._devices]
        figures = [device.figures for device in self._devices]
        return {
            "devices": len(self._devices),
            "sent": sum(count.sent for count in counts),
            "acknowledged": sum(count.acknowledged for count in counts),
            "dropped": sum(count.dropped + count.waiting for count in counts),
            "inferring": sum(bool(figure) for figure in figures),
            "cores": {core.value: _sum_up(core, figures) for core in (Core.M4_0, Core.M4_1)},
        }

    def _on_crash(self, device: Steppable, error: Exception) -> None:
        self.crashed += 1
        device_id = device.device_id if isinstance(device, Device) else ""
        self.world.events.emit("crashed", device=device_id, reason=f"{type(error).__name__}: {error}")


def open_fleet(folders: Sequence[Path], world: World) -> Fleet:
    """Open every device; which of them infer is decided by the scenario's seed.

    Raises:
        DeviceFolderError: a file is missing or malformed.
    """
    fleet = Fleet(world)
    sample = inferring(folders, world.scenario)
    for folder in folders:
        fleet.add(folder, infers=folder in sample)
    return fleet


def inferring(folders: Sequence[Path], scenario: Scenario) -> frozenset[Path]:
    """Return the folders of the devices that run inference: all, or a sample by salted hash of their names."""
    if scenario.inference_sample == 0:
        return frozenset(folders)
    ranked = sorted(folders, key=lambda folder: hashlib.sha256(f"{scenario.seed}/{folder.name}".encode()).digest())
    return frozenset(ranked[: scenario.inference_sample])


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
