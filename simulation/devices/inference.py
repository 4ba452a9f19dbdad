"""What the cores of a virtual device compute: how often and how long, reckoned in closed form; no answer comes of it.

A core infers once a period from every start of the device on, with the model that is confirmed, as `runtime.inference`
does it: for the image's latency, longer where a slow release says so, and at most until the watchdog bites. What a
trial and a stop of the flash take of that is left out.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from device_sim.cores.kernels import WATCHDOG_MS, busy_seconds
from device_sim.hardware.clock import Clock
from device_sim.runtime.inference import CoreFigures
from protocol.geometry import Core
from protocol.messages import Cause

WATCHDOG_SECONDS = WATCHDOG_MS / 1000


@dataclass(frozen=True, slots=True)
class Slowness:
    """A release that makes a core slower.

    Attributes:
        begins: seconds of the scenario.
        factor: of the latency.
        only_in_the_dark: strikes while it is dark in front of the device.
    """

    begins: float
    factor: float
    only_in_the_dark: bool


@dataclass(frozen=True, slots=True)
class Load:
    """What a core runs.

    Attributes:
        model: `name@version`.
        latency_seconds: of one inference, as the scenario declares it.
        slowed: by what.
    """

    core: Core
    model: str
    latency_seconds: float
    slowed: tuple[Slowness, ...] = ()

    def latency_at(self, moment: float, *, is_dark: bool) -> float:
        """Return what one inference takes at a moment, in seconds; the watchdog is not in it."""
        strikes = (
            each.factor for each in self.slowed if moment >= each.begins and (is_dark or not each.only_in_the_dark)
        )
        return self.latency_seconds * math.prod(strikes)


class VirtualInference:
    """Reckons what one device's cores do.

    Args:
        period_seconds: from one inference to the next.
        clock: the virtual time.
        dark_seconds: returns for how long it is dark in front of the device between two moments.
    """

    __slots__ = ("_clock", "_dark_seconds", "_done", "_period", "_since")

    def __init__(self, period_seconds: float, *, clock: Clock, dark_seconds: Callable[[float, float], float]) -> None:
        self._period = period_seconds
        self._clock = clock
        self._dark_seconds = dark_seconds
        self._since = math.inf  # when what was not reckoned yet began; infinity while the device is off
        self._done: dict[Core, tuple[float, float]] = {}  # inferences, milliseconds

    def copy(self) -> "VirtualInference":
        """Return the reckoning of another device of the same making, which has done nothing yet."""
        return VirtualInference(self._period, clock=self._clock, dark_seconds=self._dark_seconds)

    def switch_on(self) -> None:
        """Have the cores begin now."""
        self._since = self._clock.monotonic()

    def settle(self, loads: Iterable[Load]) -> None:
        """Reckon up to now, before anything changes.

        Args:
            loads: what the cores have run since this was asked for last.
        """
        now = self._clock.monotonic()
        if now > self._since:
            for load in loads:
                events, core_ms = self._done.get(load.core, (0.0, 0.0))
                more, more_ms = self._between(load, self._since, now)
                self._done[load.core] = (events + more, core_ms + more_ms)
            self._since = now

    def switch_off(self, loads: Iterable[Load]) -> None:
        """Reckon up to now, and have the cores stop."""
        self.settle(loads)
        self._since = math.inf

    def figures(self, loads: Iterable[Load]) -> dict[Core, CoreFigures]:
        """Return what the cores did so far, and how long each takes now."""
        loads = tuple(loads)
        self.settle(loads)
        now = self._clock.monotonic()
        is_dark = any(load.slowed for load in loads) and self._dark_seconds(now, math.nextafter(now, math.inf)) > 0
        return {
            load.core: CoreFigures(
                events=int(events),
                model=load.model,
                p50_ms_m4=min(load.latency_at(now, is_dark=is_dark), WATCHDOG_SECONDS) * 1000,
                core_ms=core_ms,
            )
            for load in loads
            for events, core_ms in [self._done.get(load.core, (0.0, 0.0))]
        }

    def _between(self, load: Load, begin: float, end: float) -> tuple[float, float]:
        """Return inferences and milliseconds of computing between two moments."""
        events = core_ms = 0.0
        for moment, seconds, is_dark in self._parts(load, begin, end):
            latency = load.latency_at(moment, is_dark=is_dark)
            computed = min(latency, WATCHDOG_SECONDS)
            busy = busy_seconds(computed, Cause.HANG if latency > WATCHDOG_SECONDS else None)
            count = seconds / max(self._period, busy)
            events, core_ms = events + count, core_ms + count * computed * 1000
        return events, core_ms

    def _parts(self, load: Load, begin: float, end: float) -> Iterator[tuple[float, float, bool]]:
        """Yield parts of a time in which the latency is the same: a moment, how long, whether it is dark."""
        edges = sorted({begin, end, *(each.begins for each in load.slowed if begin < each.begins < end)})
        needs_light = any(each.only_in_the_dark for each in load.slowed)
        for start, stop in pairwise(edges):
            dark = self._dark_seconds(start, stop) if needs_light else 0.0
            yield start, dark, True
            yield start, stop - start - dark, False
