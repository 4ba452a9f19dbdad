"""One virtual device on the scheduler: device_sim's own device code, power that comes and goes, and dozing.

A device that has nothing to do but to poll, and for which nothing waits, dozes: its polls are not made one by one but
made up for when something happens, at the pace that the service would have answered each with, and counted in bytes
and in last-seen times. What happens to a dozing device rouses it at that moment: an action for it, a change of its
standing, of its network or of the service. Then it finds what waits by its own next poll, or by a hint over its link.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta

import numpy as np
from typing_extensions import override

from device_sim.errors import PowerCutError
from device_sim.fleets.powered import Mains
from device_sim.network.quality import NetworkPath
from device_sim.runtime.device import Device, Surroundings
from device_sim.runtime.work import Behaviour, Emit
from device_sim.update.deferring import LETS_BEGIN, UpdateListener
from protocol.geometry import Core
from protocol.health import HealthReport
from protocol.identity import DeviceId
from protocol.messages import CHECK_UPDATE
from protocol.model import InputContract
from protocol.scenario import Scenario
from simulation.api import DeviceApi
from simulation.clock import VirtualClock
from simulation.devices.machine import VirtualMachine
from simulation.devices.network import ANSWER_BYTES, REQUEST_BYTES, VirtualNetwork
from simulation.devices.pace import Pace, RegionHours
from simulation.devices.trust import Beliefs, VirtualTrust
from simulation.scheduler import NEVER, Entry, Scheduler

POLL_ANSWER_BYTES = 45  # of a PollReply without an action
HEALTH_BYTES = 700  # of a health report and its MQTT packet; assumed
START_SPREAD_SECONDS = 60.0


class NoSensors:
    """A virtual device senses nothing."""

    def take(self, core: Core, contract: InputContract, *, at_seconds: float) -> np.ndarray:
        """Refuse: no virtual core infers."""
        raise AssertionError(f"{core}: a virtual device senses nothing, asked for {contract.dtype} at {at_seconds:g} s")


SENSORS = NoSensors()


def behaviour_of(scenario: Scenario) -> Behaviour:
    """Return how virtual devices spend their time."""
    return Behaviour(
        infers=False,
        waits_for_flash=scenario.waits_for_flash,
        counts_period_seconds=NEVER,
        start_spread_seconds=START_SPREAD_SECONDS,
    )


@dataclass(frozen=True, slots=True)
class Ground:
    """What all virtual devices stand on.

    Attributes:
        api: the service's, for devices.
        pace: how often the service has devices poll.
        beliefs: what they share.
        clock: the virtual time.
        behaviour: of devices.
        scheduler: steps them.
        is_service_up: says so.
    """

    api: DeviceApi
    pace: Pace
    beliefs: Beliefs
    clock: VirtualClock
    behaviour: Behaviour
    scheduler: Scheduler
    is_service_up: Callable[[], bool]


class VirtualDevice(Entry):
    """One device with its power and its network.

    Args:
        machine: survives power cuts.
        path: to the service.
        region: of the path.
        mains: its power.
        rng: seeded, of the device.
        emit: takes its events.
        ground: shared.
        application: hears of updates before they begin.
    """

    __slots__ = (
        "_application",
        "_device",
        "_dozes",
        "_emit",
        "_ground",
        "_mains",
        "_network",
        "_next_cut",
        "_on_at",
        "_owed_until",
        "_path",
        "_poll_at",
        "_region",
        "_rng",
        "machine",
    )

    def __init__(
        self,
        machine: VirtualMachine,
        path: NetworkPath,
        *,
        region: RegionHours,
        mains: Mains,
        rng: random.Random,
        emit: Emit,
        ground: Ground,
        application: UpdateListener = LETS_BEGIN,
    ) -> None:
        super().__init__()
        self.machine = machine
        self._path = path
        self._region = region
        self._mains = mains
        self._rng = rng
        self._emit = emit
        self._ground = ground
        self._application = application
        self._device: Device | None = None
        self._network: VirtualNetwork | None = None
        self._dozes = False
        self._poll_at = 0.0
        self._on_at = self._owed_until = 0.0
        self._next_cut = mains.next_cut(0.0)

    @property
    def device_id(self) -> DeviceId:
        """The device's id."""
        return self.machine.device_id

    @property
    def is_on(self) -> bool:
        """Whether it has power."""
        return self._device is not None

    @override
    def step(self, now: float) -> float:
        """Do what is due; return when to be stepped again."""
        self._make_up()
        if self._device is None:
            if now < self._on_at:
                return self._on_at
            self._switch_on(now)
        if now >= self._next_cut:
            return self.switch_off(now, self._mains.off_seconds())
        if now < self._owed_until:  # woken while it waits for an answer
            return min(self._owed_until, self._next_cut)
        return self._live(now, self._running())

    def rouse(self) -> None:
        """Have a dozing device poll by itself from now on."""
        if self._dozes:
            self._make_up()
            self._ground.scheduler.put(self, min(self._poll_at, self.due))

    def _make_up(self) -> None:
        """Make up for the polls of a dozing device."""
        if not self._dozes or self._device is None:
            return
        self._dozes = False
        now = self._ground.clock.seconds
        each = self._region.round_trip_seconds
        polls = self._ground.pace.pass_by(self._poll_at, now, self._rng, each_seconds=each)
        self._poll_at = polls.following
        if polls.count:
            sent, received = polls.count * REQUEST_BYTES, polls.count * (ANSWER_BYTES + POLL_ANSWER_BYTES)
            self._path.meter.add(sent=sent, received=received, requests=polls.count)
            self._ground.api.heard(self.device_id, polls.latest)
        self._device.poll_at(self._poll_at)

    def tell(self) -> bool:
        """Tell the device over its link to poll; returns whether it heard."""
        link = None if self._network is None else self._network.link
        if link is None or not link.tell(CHECK_UPDATE):
            return False
        self.rouse()
        self._ground.scheduler.wake(self)
        return True

    def follow_network(self) -> None:
        """Connect or disconnect the link as network and service let it."""
        self.rouse()
        if self._network is not None and self._network.link is not None:
            self._network.link.follow()

    def cut_power(self, off_seconds: float) -> None:
        """Take the power away for a time, at least; infinity is for good."""
        now = self._ground.clock.seconds
        if self._device is not None:
            self.switch_off(now, off_seconds)
        else:
            self._on_at = max(self._on_at, now + off_seconds)
        self._ground.scheduler.put(self, self._on_at)

    def cut_off(self, lasts: timedelta) -> None:
        """Let nothing through to the service for a time."""
        self._path.cut(lasts)
        self.follow_network()
        self._ground.scheduler.call(self._follow_later, self._ground.clock.seconds + lasts.total_seconds())

    def _follow_later(self, _now: float) -> float:
        self.follow_network()
        return NEVER

    def switch_off(self, now: float, off_seconds: float) -> float:
        """Lose everything volatile; return when the power comes back."""
        self._make_up()
        self._path.switch(on=False)
        if self._network is not None and self._network.link is not None:
            self._network.link.stop()
        self._device = self._network = None
        self.machine.lose_power()
        self._path.settle()
        self._emit("power", device=self.device_id, on=False)
        self._next_cut = NEVER
        self._on_at = now + off_seconds
        return self._on_at

    def catch_up(self) -> None:
        """Have the service know of the polls that it made while it dozed; it dozes on."""
        if self._dozes and self._device is not None:
            self._make_up()
            self._dozes = True

    def tell_health(self) -> Sequence[HealthReport]:
        """End the windows of its models, and return the reports that reach the service; the others wait."""
        health = self.machine.health() if self.is_on else None
        if health is None:
            return ()
        health.end()
        if self._network is None or self._network.link is None or not self._network.link.connected:
            return ()
        told = health.take()
        self._path.meter.add(sent=HEALTH_BYTES * len(told))
        self._ground.api.heard(self.device_id, self._ground.clock.seconds)
        return told

    def tell_figures(self) -> None:
        """Emit what the device has computed and done to its flash, and what went over the wire, so far."""
        self.rouse()
        cores = {core.value: asdict(figures) for core, figures in self.machine.figures().items()}
        if (operations := self.machine.flash.operations) or cores:
            self._emit("counts", device=self.device_id, cores=cores, flash_operations=operations)
        meter = self._path.meter
        self._emit(
            "wire",
            device=self.device_id,
            bytes_sent=meter.sent,
            bytes_received=meter.received,
            requests=meter.requests,
        )

    def _live(self, now: float, device: Device) -> float:
        try:
            due = device.step(now)
        except PowerCutError:
            return self.switch_off(now, NEVER if self.machine.is_bricked else self._mains.off_seconds())
        self._owed_until = now + self._path.settle()
        due = min(max(due, self._owed_until), self._next_cut)
        return self._dozes_until(now, due, device)

    def _dozes_until(self, now: float, due: float, device: Device) -> float:
        """Return `due`, or when there will be more to do than a poll that brings nothing."""
        until = min(device.polls_alone_until, self._next_cut, self._region.changes_at(now))
        if not now < due < until or self._region.is_counted or not self._is_quiet(device):
            return due
        self._dozes, self._poll_at = True, due
        return until

    def _is_quiet(self, device: Device) -> bool:
        return self._ground.api.is_quiet(self.device_id, device.holds)

    def _switch_on(self, now: float) -> None:
        ground = self._ground
        self._path.switch(on=True)
        if self._on_at > 0:
            self._emit("power", device=self.device_id, on=True)
            self._next_cut = self._mains.next_cut(now)
        network = self._network = VirtualNetwork(self._path, ground.api.serve, ground.is_service_up)
        surroundings = Surroundings(
            network=network,
            trust=lambda _voucher: VirtualTrust(self.machine, self._path, ground.beliefs),
            clock=ground.clock,
            rng=self._rng,
            emit=self._emit,
            wake=lambda: None,  # whoever tells the device wakes it
            application=self._application,
        )
        self._device = Device(self.machine, SENSORS, behaviour=ground.behaviour, surroundings=surroundings)

    def _running(self) -> Device:
        if self._device is None:
            raise AssertionError("only a device with power is stepped")
        return self._device
