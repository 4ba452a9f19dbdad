"""What the cores of a virtual device compute: how often and how long, reckoned in closed form, no frame looked at.

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
from simulation.devices.health import Stretch, VirtualHealth

WATCHDOG_SECONDS = WATCHDOG_MS / 1000


@dataclass(frozen=True, slots=True)
class Strike:
    """When and how much a release makes a core slower, or less sure.

    Attributes:
        begins: seconds of the scenario.
        factor: of the latency, or of what its model is surer than even.
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
        drifts: by what its model is less sure.
        sha256: of the model's image.
    """

    core: Core
    model: str
    latency_seconds: float
    slowed: tuple[Strike, ...] = ()
    drifts: tuple[Strike, ...] = ()
    sha256: str = ""

    def latency_at(self, moment: float, *, is_dark: bool) -> float:
        """Return what one inference takes at a moment, in seconds; the watchdog is not in it."""
        return self.latency_seconds * _factor(self.slowed, moment, is_dark=is_dark)

    def sureness_at(self, moment: float, *, is_dark: bool) -> float:
        """Return the factor of what the model is surer than even, at a moment."""
        return _factor(self.drifts, moment, is_dark=is_dark)


class VirtualInference:
    """Reckons what one device's cores do.

    Args:
        period_seconds: from one inference to the next.
        clock: the virtual time.
        dark_seconds: returns for how long it is dark in front of the device between two moments.
        health: sums up what the service is told; None: it is told nothing.
    """

    __slots__ = ("_clock", "_dark_seconds", "_done", "_period", "_since", "health")

    def __init__(
        self,
        period_seconds: float,
        *,
        clock: Clock,
        dark_seconds: Callable[[float, float], float],
        health: VirtualHealth | None = None,
    ) -> None:
        self.health = health
        self._period = period_seconds
        self._clock = clock
        self._dark_seconds = dark_seconds
        self._since = math.inf  # when what was not reckoned yet began; infinity while the device is off
        self._done: dict[Core, tuple[float, float]] = {}  # inferences, milliseconds

    def copy(self) -> "VirtualInference":
        """Return the reckoning of another device of the same making, which has done nothing yet and tells nothing."""
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
                stretches = list(self._stretches(load, self._since, now))
                events, core_ms = self._done.get(load.core, (0.0, 0.0))
                more_ms = sum(each.frames * each.milliseconds for each in stretches)
                self._done[load.core] = (events + sum(each.frames for each in stretches), core_ms + more_ms)
                if self.health is not None:
                    self.health.add(load.core, load.sha256, stretches, seconds=now - self._since)
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

    def _stretches(self, load: Load, begin: float, end: float) -> Iterator[Stretch]:
        """Yield the inferences between two moments."""
        for moment, seconds, is_dark in self._parts(load, begin, end):
            latency = load.latency_at(moment, is_dark=is_dark)
            computed, is_answered = min(latency, WATCHDOG_SECONDS), latency <= WATCHDOG_SECONDS
            busy = busy_seconds(computed, None if is_answered else Cause.HANG)
            yield Stretch(
                frames=seconds / max(self._period, busy),
                milliseconds=computed * 1000,
                is_answered=is_answered,
                is_dark=is_dark,
                sureness=load.sureness_at(moment, is_dark=is_dark),
            )

    def _parts(self, load: Load, begin: float, end: float) -> Iterator[tuple[float, float, bool]]:
        """Yield parts of a time in which inferences are alike: a moment, how long, whether it is dark."""
        strikes = (*load.slowed, *load.drifts)
        edges = sorted({begin, end, *(each.begins for each in strikes if begin < each.begins < end)})
        needs_light = self.health is not None or any(each.only_in_the_dark for each in strikes)
        for start, stop in pairwise(edges):
            dark = self._dark_seconds(start, stop) if needs_light else 0.0
            if dark:
                yield start, dark, True
            yield start, stop - start - dark, False


def _factor(strikes: Iterable[Strike], moment: float, *, is_dark: bool) -> float:
    """Return what those that strike at a moment come to together."""
    return math.prod(
        each.factor for each in strikes if moment >= each.begins and (is_dark or not each.only_in_the_dark)
    )
