"""One virtual device on the scheduler: device_sim's own device code, power that comes and goes, and quick polls.

While a device has nothing to do but to poll, its polls are asked here: the same gate, the same pacing, the same bytes,
but no JSON that says nothing. The device itself is stepped for every poll that brings something, fails or may fail.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from typing_extensions import override

from device_sim.cores.device_time import DeviceTime
from device_sim.errors import PowerCutError
from device_sim.fleets.powered import Mains
from device_sim.network.quality import NetworkPath
from device_sim.runtime.device import Device, Surroundings
from device_sim.runtime.work import Behaviour, Emit
from protocol.geometry import Core
from protocol.identity import DeviceId
from protocol.messages import CHECK_UPDATE
from protocol.model import InputContract
from protocol.scenario.network import NetworkQuality
from simulation.api import DeviceApi
from simulation.clock import VirtualClock
from simulation.devices.machine import VirtualMachine
from simulation.devices.network import ANSWER_BYTES, REQUEST_BYTES, VirtualNetwork
from simulation.devices.trust import Beliefs, VirtualTrust
from simulation.scheduler import NEVER, Entry, Scheduler

POLL_ANSWER_BYTES = 45  # of a PollReply without an action
START_SPREAD_SECONDS = 60.0
BEHAVIOUR = Behaviour(infers=False, counts_period_seconds=NEVER, start_spread_seconds=START_SPREAD_SECONDS)


class NoSensors:
    """A virtual device senses nothing."""

    def take(self, core: Core, contract: InputContract, *, at_seconds: float) -> np.ndarray:
        """Refuse: no virtual core infers."""
        raise AssertionError(f"{core}: a virtual device senses nothing, asked for {contract.dtype} at {at_seconds:g} s")


SENSORS = NoSensors()


@dataclass(frozen=True, slots=True)
class Ground:
    """What all virtual devices stand on.

    Attributes:
        api: the service's, for devices.
        beliefs: what they share.
        clock: the virtual time.
        time: device time of machines whose flash is never busy.
        scheduler: steps them.
        is_service_up: says so.
    """

    api: DeviceApi
    beliefs: Beliefs
    clock: VirtualClock
    time: DeviceTime
    scheduler: Scheduler
    is_service_up: Callable[[], bool]


class VirtualDevice(Entry):
    """One device with its power and its network.

    Args:
        machine: survives power cuts.
        path: to the service.
        mains: its power.
        rng: seeded, of the device.
        emit: takes its events.
        ground: shared.
    """

    __slots__ = (
        "_busy_at",
        "_device",
        "_dozes",
        "_emit",
        "_ground",
        "_is_quick",
        "_mains",
        "_network",
        "_next_cut",
        "_on_at",
        "_path",
        "_poll_at",
        "_rng",
        "machine",
    )

    def __init__(
        self,
        machine: VirtualMachine,
        path: NetworkPath,
        *,
        quality: NetworkQuality,
        mains: Mains,
        rng: random.Random,
        emit: Emit,
        ground: Ground,
    ) -> None:
        super().__init__()
        self.machine = machine
        self._path = path
        self._is_quick = not quality.loss
        self._mains = mains
        self._rng = rng
        self._emit = emit
        self._ground = ground
        self._device: Device | None = None
        self._network: VirtualNetwork | None = None
        self._dozes = False
        self._poll_at = self._busy_at = 0.0
        self._on_at = 0.0
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
        if self._dozes and now < self._busy_at and now < self._next_cut and self._polls_in_vain(now):
            return min(self._poll_at, self._busy_at, self._next_cut)
        if self._device is None:
            if now < self._on_at:
                return self._on_at
            self._switch_on(now)
        if now >= self._next_cut:
            return self.switch_off(now, self._mains.off_seconds())
        return self._live(now, self._running())

    def tell(self) -> bool:
        """Tell the device over its link to poll; returns whether it heard."""
        link = None if self._network is None else self._network.link
        if link is None or not link.tell(CHECK_UPDATE):
            return False
        self._ground.scheduler.wake(self)
        return True

    def follow_network(self) -> None:
        """Connect or disconnect the link as network and service let it."""
        if self._network is not None and self._network.link is not None:
            self._network.link.follow()

    def cut_power(self, off_seconds: float) -> None:
        """Take the power away for a time; infinity is for good."""
        if self._device is not None:
            self._ground.scheduler.put(self, self.switch_off(self._ground.clock.seconds, off_seconds))

    def switch_off(self, now: float, off_seconds: float) -> float:
        """Lose everything volatile; return when the power comes back."""
        self._dozes = False
        self._path.switch(on=False)
        if self._network is not None and self._network.link is not None:
            self._network.link.stop()
        self._device = self._network = None
        self._path.settle()
        self._emit("power", device=self.device_id, on=False)
        self._next_cut = NEVER
        self._on_at = now + off_seconds
        return self._on_at

    def tell_wire(self) -> None:
        """Emit what went over the wire so far."""
        meter = self._path.meter
        self._emit(
            "wire",
            device=self.device_id,
            bytes_sent=meter.sent,
            bytes_received=meter.received,
            requests=meter.requests,
        )

    def _live(self, now: float, device: Device) -> float:
        if self._dozes:
            self._dozes = False
            device.poll_at(self._poll_at)
        try:
            due = device.step(now)
        except PowerCutError:
            return self.switch_off(now, NEVER if self.machine.is_bricked else self._mains.off_seconds())
        owed = self._path.settle()
        if self._is_quick and due > now:
            self._doze(device, due)
        return min(max(due, now + owed), self._next_cut)

    def _doze(self, device: Device, due: float) -> None:
        busy_at = device.polls_alone_until
        if busy_at > due:
            self._dozes, self._poll_at, self._busy_at = True, due, busy_at

    def _polls_in_vain(self, now: float) -> bool:
        """Poll, where that brings nothing; False where the device itself must do it."""
        path, api = self._path, self._ground.api
        if now < self._poll_at or path.closed_because or not api.is_quiet(self.machine.device_id):
            return False
        path.meter.add(sent=REQUEST_BYTES, received=ANSWER_BYTES + POLL_ANSWER_BYTES, requests=1)
        self._poll_at = now + api.pause_seconds()
        return True

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
        )
        self._device = Device(self.machine, SENSORS, behaviour=BEHAVIOUR, surroundings=surroundings)

    def _running(self) -> Device:
        if self._device is None:
            raise AssertionError("only a device with power is stepped")
        return self._device
