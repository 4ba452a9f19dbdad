"""A device with its power supply and its network's delays: what the scheduler drives.

The device is stepped when it is due, when it is woken, and never before what its network owes has passed. When the
power fails, nothing of it is told to the service, the folder is let go, and later it is opened and booted again, as
after any power cut; so a kill of the simulator is nothing else.
"""

import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from device_sim.errors import PowerCutError
from device_sim.hardware.clock import Clock
from device_sim.network.ports import LinkCounts
from device_sim.network.quality import NetworkPath
from device_sim.runtime.access import NOTHING_SENT
from device_sim.runtime.device import Device
from device_sim.runtime.inference import CoreFigures
from device_sim.runtime.work import Emit
from protocol.geometry import Core
from protocol.scenario.fleets import PowerCycles

KEPT_OPEN_SECONDS = 2.0  # HTTPS connections of a device that has nothing to do for longer are closed
DAY_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class Mains:
    """What a device's power depends on.

    Attributes:
        cycles: how often it fails, and for how long.
        rng: of the device's power.
        path: carries nothing without power.
        clock: of the host.
    """

    cycles: PowerCycles
    rng: random.Random
    path: NetworkPath
    clock: Clock

    def next_cut(self, now: float) -> float:
        """Draw the moment of the next power cut."""
        return now + self.rng.expovariate(self.cycles.per_day / DAY_SECONDS) if self.cycles.per_day else math.inf

    def off_seconds(self) -> float:
        """Draw how long a power cut lasts."""
        shortest, longest = self.cycles.lasts
        return self.rng.uniform(shortest.total_seconds(), longest.total_seconds())


class PoweredDevice:
    """One simulated device, switched on and off; stepped by one thread at a time.

    Args:
        open_device: opens the folder; the device has not booted.
        mains: its power.
        emit: takes events of the device.
        wake: asks for a step now; any thread may call it.
    """

    def __init__(
        self, open_device: Callable[[], Device], mains: Mains, *, emit: Emit, wake: Callable[["PoweredDevice"], None]
    ) -> None:
        self._open = open_device
        self._mains = mains
        self._usual = mains.cycles
        self._emit = emit
        self._wake = wake
        self._device: Device | None = open_device()
        self.device_id = self._device.device_id
        self._due = self._owed_until = -math.inf
        self._is_woken = False
        self._next_cut = mains.next_cut(mains.clock.monotonic())
        self._off_seconds: float | None = None
        self._before_return: Callable[[], None] | None = None
        self._load = 1.0
        self._on_at = -math.inf
        self._jobs: deque[Callable[[], None]] = deque()
        self._earlier = NOTHING_SENT
        self._figures: dict[Core, CoreFigures] = {}

    @property
    def counts(self) -> LinkCounts:
        """What was sent over MQTT so far; what waited in a link's queue at a power cut is dropped."""
        return self._earlier if self._device is None else _sum(self._earlier, self._device.counts)

    @property
    def figures(self) -> dict[Core, CoreFigures]:
        """What each core that infers did so far."""
        return self._figures if self._device is None else _added(self._figures, self._device.figures)

    def step(self, now: float) -> float:
        """Do what is due; return when to be stepped again."""
        while self._jobs:
            self._jobs.popleft()()
        if self._device is None:
            self._stay_off(now)
            if now < self._on_at:
                return self._on_at
            self._switch_on(now)
        if now >= self._next_cut:
            return self._switch_off(now)
        if now < self._owed_until or (now < self._due and not self._is_woken):
            return min(max(self._due, self._owed_until), self._next_cut)
        self._is_woken = False
        return self._live(now)

    def rouse(self) -> None:
        """Have the device stepped now; any thread may ask."""
        self._is_woken = True
        self._wake(self)

    def cut_power(self, lasts_seconds: float, *, before_return: Callable[[], None] | None = None) -> None:
        """Take the power away, or keep it away where it is; any thread may ask.

        Args:
            lasts_seconds: from now, infinity for good; a power cut that lasts longer anyway is not shortened.
            before_return: done to the device's folder before it is switched on again.
        """
        self._off_seconds = lasts_seconds
        self._before_return = before_return or self._before_return
        self._next_cut = -math.inf
        self._wake(self)

    def fail_often(self, cycles: PowerCycles, *, since: float) -> None:
        """Have the power fail in another rhythm from a moment of the monotonic clock on."""
        self._mains = replace(self._mains, cycles=cycles)
        self._next_cut = min(self._next_cut, since)

    def fail_as_usual(self) -> None:
        """Have the power fail in the rhythm of the device's fleet again."""
        self._mains = replace(self._mains, cycles=self._usual)
        if self._off_seconds is None:  # else a power cut has been asked for
            self._next_cut = self._mains.next_cut(self._mains.clock.monotonic())

    def between_steps(self, job: Callable[[], None]) -> None:
        """Have something done when no step is being done; any thread may ask."""
        self._jobs.append(job)
        self._wake(self)

    def set_load(self, factor: float) -> None:
        """Have the cores infer so many times as often; only between two steps."""
        self._load = factor
        if self._device is not None:
            self._device.set_load(factor)

    def drain(self, timeout_seconds: float) -> None:
        """Wait, within a time, until the gateway has acknowledged what was sent."""
        if self._device is not None:
            self._device.drain(timeout_seconds)

    def close(self) -> None:
        """Disconnect, count for the last time and let go of the folder; no step may follow."""
        if self._device is not None:
            self._device.close()

    def _live(self, now: float) -> float:
        device = self._running()
        try:
            self._due = device.step(now)
        except PowerCutError:
            return self._switch_off(now)
        after = self._mains.clock.monotonic()
        self._owed_until = after + self._mains.path.settle()
        due = max(self._due, self._owed_until)
        if due > after + KEPT_OPEN_SECONDS:
            device.let_go()
        return min(due, self._next_cut)

    def _switch_off(self, now: float) -> float:
        lasts = self._mains.off_seconds() if self._off_seconds is None else self._off_seconds
        self._off_seconds = None
        device = self._running()
        self._mains.path.switch(on=False)
        device.close()
        self._earlier, self._figures, self._device = self.counts, self.figures, None
        self._mains.path.settle()
        self._emit("power", on=False)
        self._next_cut, self._on_at = math.inf, now + lasts
        return self._on_at

    def _stay_off(self, now: float) -> None:
        if self._off_seconds is not None:
            self._on_at = max(self._on_at, now + self._off_seconds)
            self._off_seconds = None

    def _switch_on(self, now: float) -> None:
        if self._before_return is not None:
            self._before_return()
            self._before_return = None
        self._mains.path.switch(on=True)
        self._device = self._open()
        self._device.set_load(self._load)
        self._due = self._owed_until = -math.inf
        self._next_cut = self._mains.next_cut(now)
        self._emit("power", on=True)

    def _running(self) -> Device:
        if self._device is None:
            raise AssertionError("only a device with power is stepped")
        return self._device


def _sum(earlier: LinkCounts, now: LinkCounts) -> LinkCounts:
    return LinkCounts(
        sent=earlier.sent + now.sent,
        acknowledged=earlier.acknowledged + now.acknowledged,
        dropped=earlier.dropped + earlier.waiting + now.dropped,
        waiting=now.waiting,
    )


def _added(earlier: dict[Core, CoreFigures], now: dict[Core, CoreFigures]) -> dict[Core, CoreFigures]:
    added = dict(earlier)
    for core, figures in now.items():
        before = earlier.get(core)
        if before is not None:
            ran = figures.events > 0
            figures = CoreFigures(  # noqa: PLW2901 - the sum stands for both
                events=before.events + figures.events,
                model=figures.model if ran else before.model,
                p50_ms_m4=figures.p50_ms_m4 if ran else before.p50_ms_m4,
                core_ms=before.core_ms + figures.core_ms,
            )
        added[core] = figures
    return added
