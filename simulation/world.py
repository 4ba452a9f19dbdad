"""A scenario's virtual devices, the service, and everything that happens to them, on one scheduler.

    world = World(scenario, record)
    world.prepare()
    world.run()
    world.finish()

Order of what is due at the same moment: as it was put. The service takes no time: what it decides, it decides at the
moment when it is asked.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from functools import partial

from device_sim.cores.device_time import DeviceTime
from device_sim.fleets.choices import chance
from device_sim.fleets.crew import inferring
from device_sim.fleets.deferrals import listener_of
from device_sim.fleets.plan import DevicePlan, region_of, revision_of
from device_sim.fleets.powered import Mains
from device_sim.hardware.clock import Clock, DriftingClock
from device_sim.hardware.factory import FOLDER_DIGITS
from device_sim.network.quality import NetworkPath, Surrounds
from device_sim.network.wire import WireMeter
from protocol.flash_geometry import FlashLayout
from protocol.geometry import Slot
from protocol.identity import DeviceId
from protocol.messages import ActionState
from protocol.scenario import Scenario
from protocol.scenario.fleets import InferenceSource
from protocol.scenario.network import NetworkQuality
from service.application.events import EventType, StoredEvent
from simulation.api import DeviceApi
from simulation.checks import check_virtual
from simulation.clock import VirtualClock
from simulation.darkness import dark_seconds
from simulation.devices.device import Ground, VirtualDevice, behaviour_of
from simulation.devices.faults import faults_of
from simulation.devices.flash import VirtualFlash
from simulation.devices.health import VirtualHealth
from simulation.devices.inference import VirtualInference
from simulation.devices.machine import VirtualMachine
from simulation.devices.pace import Pace, RegionHours
from simulation.devices.trust import Beliefs
from simulation.driving import drive
from simulation.entropy import SeededEntropy
from simulation.images import Catalogue, VirtualImage, make_catalogue
from simulation.record import Record
from simulation.scheduler import NEVER, Call, Scheduler
from simulation.service import LAST_SEEN_FLUSH_SECONDS, Service, ServiceSettings
from simulation.setup import Planned, begin, make_voucher, plan_devices
from simulation.storage.database import MemoryDatabase
from simulation.watching import looks_at_windows

PERFECT = NetworkQuality()


class World:
    """One run.

    Args:
        scenario: what there is and what happens.
        clock: the virtual time.
        record: takes events.
        settings: of the service.

    Raises:
        VirtualScenarioError: the scenario has no virtual device, or asks for what none does.

    Attributes:
        clock: the virtual time.
        scheduler: steps everything.
        database: of the service.
        catalogue: images and releases.
        devices: by id.
        service: the process that runs, or None.
    """

    def __init__(
        self, scenario: Scenario, clock: VirtualClock, record: Record, *, settings: ServiceSettings | None = None
    ) -> None:
        check_virtual(scenario)
        self.scenario = scenario
        self.clock = clock
        self.record = record
        self.scheduler = Scheduler(clock)
        self.database = MemoryDatabase()
        self.catalogue: Catalogue = make_catalogue(scenario)
        self.devices: dict[str, VirtualDevice] = {}
        self.plans: dict[str, DevicePlan] = {}
        self._inferring: frozenset[DeviceId] = frozenset()
        self.copies: dict[str, list[VirtualDevice]] = {}  # clones, by the device that they are of
        self.service: Service | None = None
        self._settings = settings or ServiceSettings()
        self._entropy = SeededEntropy(scenario.seed)
        self._made_with: dict[str | None, Mapping[Slot, VirtualImage]] = {}
        self._layouts: dict[str | None, FlashLayout] = {}
        self._idle = DeviceTime(clock)
        self._hours: dict[str | None, RegionHours] = {}
        self._voucher = make_voucher(clock.now())
        self._on_rollout: Callable[[StoredEvent], None] = lambda _stored: None
        self._on_confirmed: Callable[[VirtualDevice], None] = lambda _device: None
        api = DeviceApi(clock, self.catalogue, lambda: self.service)
        self._ground = Ground(
            api=api,
            pace=Pace(),
            beliefs=Beliefs(self.catalogue, api.attest, clock.now),
            clock=clock,
            behaviour=behaviour_of(scenario),
            scheduler=self.scheduler,
            is_service_up=lambda: self.service is not None,
        )
        self._feed = Call(self._follow)
        self._worker = Call(self._work)

    def prepare(self) -> None:
        """Make devices and service; everything is due, nothing has happened."""
        planned = plan_devices(self.scenario)
        self._inferring = _inferring(self.scenario, planned)
        begin(self.database, self.clock, self._entropy, catalogue=self.catalogue, planned=planned)
        self.database.work.on_commit = self._committed
        self.start_service()
        self.scheduler.call(self._flush, LAST_SEEN_FLUSH_SECONDS)
        for each in planned:
            self.add(each)

    def add(self, planned: Planned) -> VirtualDevice:
        """Make a device and switch it on."""
        device_id = planned.device_id
        self.record.enter(device_id, planned.fleet.name)
        self.plans[device_id] = planned.plan
        rng = chance(self.scenario.seed, "device", device_id)
        device = self._device(planned, self._machine(planned, rng), rng)
        self.devices[device_id] = device
        self.scheduler.put(device, self.clock.seconds)
        return device

    def copy(self, device: VirtualDevice) -> VirtualDevice:
        """Make a second device with another one's identity and storage, and switch it on."""
        plan = self.plans[device.device_id]
        fleet = next(fleet for fleet in self.scenario.fleets if fleet.name == plan.fleet)
        rng = chance(self.scenario.seed, "clone", device.device_id)
        other = self._device(Planned(device.device_id, plan, fleet), device.machine.copy(rng), rng)
        self.copies.setdefault(device.device_id, []).append(other)
        self.scheduler.put(other, self.clock.seconds)
        return other

    def on_rollout(self, listener: Callable[[StoredEvent], None]) -> None:
        """Call a function with every change of a rollout."""
        self._on_rollout = listener

    def on_confirmed(self, listener: Callable[[VirtualDevice], None]) -> None:
        """Call a function with every device that confirms a release."""
        self._on_confirmed = listener

    def everyone(self) -> Iterator[VirtualDevice]:
        """Return every device, clones included."""
        yield from self.devices.values()
        for copies in self.copies.values():
            yield from copies

    def start_service(self) -> None:
        """Start a process of the service on what is stored."""
        service = Service(
            self.database,
            self.clock,
            self._entropy,
            catalogue=self.catalogue,
            wake=self._tell,
            settings=self._settings,
        )
        service.start()
        service.subscribe(self._hear)
        self.service = service
        self._ground.pace.change(self.clock.seconds, service.poll_interval_seconds)
        self.scheduler.put(self._worker, self.clock.seconds)
        self.follow_networks()

    def kill_service(self) -> None:
        """Let the process go with everything that it has not stored."""
        for device in self.everyone():
            device.rouse()
        self.service = None
        self.follow_networks()

    def follow_networks(self) -> None:
        """Have every link follow what has changed."""
        for device in self.everyone():
            device.follow_network()

    def run(self, until: float = NEVER) -> None:
        """Let time pass up to a moment, or until the scheduler is stopped."""
        self.scheduler.run(until)

    def finish(self) -> None:
        """Emit every device's figures."""
        for device in self.everyone():
            device.tell_figures()
        self.record.emit("stopped", devices=len(self.devices))

    def emit(self, event: str, **fields: object) -> None:
        """Take an event of a device."""
        self.record.emit(event, **fields)
        if event == "update" and fields.get("state") == ActionState.CONFIRMED:
            self._on_confirmed(self.devices[str(fields["device"])])

    def _machine(self, planned: Planned, rng: random.Random) -> VirtualMachine:
        plan = planned.plan
        clock: Clock = self.clock
        if plan.clock_offset or plan.clock_drift_ppm:
            clock = DriftingClock(clock, offset=plan.clock_offset, drift_ppm=plan.clock_drift_ppm)
        faults = faults_of(self.scenario, self.catalogue, plan, planned.device_id)
        flash = VirtualFlash(
            self._layout(plan), clock=self.clock, idle=self._idle, brown_out_every=faults.brown_out_every, rng=rng
        )
        return VirtualMachine(
            planned.device_id,
            self._images(plan),
            catalogue=self.catalogue,
            clock=clock,
            rng=rng,
            faults=faults,
            flash=flash,
            voucher=self._voucher,
            inference=self._inference(planned) if planned.device_id in self._inferring else None,
        )

    def _inference(self, planned: Planned) -> VirtualInference:
        period = planned.fleet.inference_period or self.scenario.inference_period
        dark = partial(dark_seconds, self.scenario, planned.plan, planned.device_id)
        health = None
        if looks_at_windows(self.scenario, planned.fleet):
            health = VirtualHealth(chance(self.scenario.seed, "health", planned.device_id), now=self.clock.now)
        return VirtualInference(period.total_seconds(), clock=self.clock, dark_seconds=dark, health=health)

    def _device(self, planned: Planned, machine: VirtualMachine, rng: random.Random) -> VirtualDevice:
        region = region_of(self.scenario, planned.plan.region)
        seed, device_id, cycles = self.scenario.seed, planned.device_id, planned.fleet.power
        draws = (lambda _purpose: rng) if region.network == PERFECT else (lambda p: chance(seed, p, device_id))
        where = Surrounds(region.network, timedelta(hours=region.utc_offset), self.clock.start)
        path = NetworkPath(where, clock=self.clock, draw=draws, meter=WireMeter())
        power = chance(seed, "power", device_id) if cycles.per_day else rng
        return VirtualDevice(
            machine,
            path,
            region=self._hours_of(planned.plan.region),
            mains=Mains(cycles, power, path, self.clock),
            rng=rng,
            emit=self.emit,
            ground=self._ground,
            application=listener_of(self.scenario, planned.fleet, device_id),
        )

    def _images(self, plan: DevicePlan) -> Mapping[Slot, VirtualImage]:
        """Return what a device is made with; devices of a revision share it."""
        if plan.hardware not in self._made_with:
            version = plan.os_version
            system = {} if version is None else {Slot.OS: self.catalogue.systems[version]}
            self._made_with[plan.hardware] = {**self.catalogue.factory, **system}
        return self._made_with[plan.hardware]

    def _layout(self, plan: DevicePlan) -> FlashLayout:
        """Return what lies where in a device's flash; devices of a revision share it."""
        if plan.hardware not in self._layouts:
            geometry = revision_of(self.scenario, plan.hardware).geometry
            self._layouts[plan.hardware] = FlashLayout() if geometry is None else geometry.layout
        return self._layouts[plan.hardware]

    def _hours_of(self, name: str | None) -> RegionHours:
        """Return a region's hours; its devices follow them together."""
        if name not in self._hours:
            hours = self._hours[name] = RegionHours(region_of(self.scenario, name), self.clock)
            self.scheduler.call(partial(self._follow_region, name, hours), hours.changes_at(self.clock.seconds))
        return self._hours[name]

    def _follow_region(self, name: str | None, hours: RegionHours, now: float) -> float:
        for device_id, plan in self.plans.items():
            if plan.region == name:
                self._each(device_id, VirtualDevice.follow_network)
        return hours.changes_at(now)

    def _each(self, device_id: str, do: Callable[[VirtualDevice], object]) -> None:
        for device in (self.devices[device_id], *self.copies.get(device_id, ())):
            do(device)

    def _tell(self, device_id: str) -> bool:
        heard = [device.tell() for device in (self.devices[device_id], *self.copies.get(device_id, ()))]
        return any(heard)

    def _committed(self) -> None:
        self.scheduler.wake(self._feed)

    def _follow(self, _now: float) -> float:
        if self.service is not None:
            self.service.follow()
        return NEVER

    def _work(self, now: float) -> float:
        return NEVER if self.service is None else now + self.service.work()

    def _flush(self, now: float) -> float:
        if self.service is not None:
            drive(self.service.presence.flush())
        return now + LAST_SEEN_FLUSH_SECONDS

    def _hear(self, stored: StoredEvent) -> None:
        kind, subject = stored.event.type, stored.event.subject_id
        if kind is EventType.ACTION:
            self._each(str(stored.event.data["device_id"]), VirtualDevice.rouse)
        elif kind is EventType.DEVICE:
            self.scheduler.wake(self._worker)
            self._each(subject, VirtualDevice.rouse)
        elif kind is EventType.ROLLOUT:
            self.scheduler.wake(self._worker)
            self._change_pace(subject)
            self._on_rollout(stored)

    def _change_pace(self, rollout_id: str) -> None:
        """Follow a rollout that began, ended or goes on: devices that it has something for find it by their polls."""
        if self.service is not None:
            self._ground.pace.change(self.clock.seconds, self.service.poll_interval_seconds)
            for device_id in self.service.devices_of(rollout_id):
                self._each(device_id, VirtualDevice.rouse)


def _inferring(scenario: Scenario, planned: Sequence[Planned]) -> frozenset[DeviceId]:
    """Return whose cores infer: all of a fleet, or the sample that it declares."""
    found: set[DeviceId] = set()
    for fleet in scenario.fleets:
        names = {each.device_id[:FOLDER_DIGITS]: each.device_id for each in planned if each.fleet is fleet}
        if names and fleet.inference is not InferenceSource.NONE:
            found.update(names[name] for name in inferring(names, seed=scenario.seed, sample=fleet.inference_sample))
    return frozenset(found)
