"""What happens to a run at a time: each happening begins once, to the devices that it hits, and may end by itself."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from device_sim.fleets.effects import devices_hit, reboot_seconds, theft_seconds
from device_sim.fleets.plan import DevicePlan
from device_sim.fleets.powered import PoweredDevice
from device_sim.network.quality import NetworkPath
from device_sim.runtime.work import Emit
from protocol.scenario import Scenario
from protocol.scenario.happenings import Happening, HappeningKind


@dataclass(frozen=True, slots=True)
class Target:
    """A device that something can happen to.

    Attributes:
        plan: who it is.
        device: its power.
        path: its network.
        clone: copies it and runs the copy, too; called between two of its steps.
        break_open: opens it to a debugger; called while it has no power.
    """

    plan: DevicePlan
    device: PoweredDevice
    path: NetworkPath
    clone: Callable[[], None]
    break_open: Callable[[], None]


class TimedHappening:
    """One happening, driven by the scheduler.

    Args:
        scenario: declares it.
        number: of the happening in the scenario.
        start: of the run, on the monotonic clock.
        targets: every device of the run.
        emit: takes events.
    """

    def __init__(self, scenario: Scenario, number: int, *, start: float, targets: Sequence[Target], emit: Emit) -> None:
        self._scenario = scenario
        self._number = number
        self._happening = scenario.happenings[number]
        self._begin_at = start + self._happening.at.total_seconds()
        self._targets = targets
        self._emit = emit
        self._hit: list[Target] | None = None

    def step(self, now: float) -> float:
        """Let it happen when its time has come."""
        if self._hit is None:
            return self._begin_at if now < self._begin_at else self._begin()
        for target in self._hit:
            target.device.between_steps(partial(target.device.set_load, 1.0))
        self._emit("happening", kind=self._happening.kind.value, devices=len(self._hit), ends=True)
        return math.inf

    def _begin(self) -> float:
        happening = self._happening
        self._hit = self._chosen()
        for target in self._hit:
            _happen(happening, target, scenario=self._scenario)
        self._emit("happening", kind=happening.kind.value, devices=len(self._hit), number=self._number)
        ends = happening.kind is HappeningKind.LOAD and happening.lasts
        return self._begin_at + happening.lasts.total_seconds() if ends else math.inf

    def _chosen(self) -> list[Target]:
        plans = {target.device.device_id: target.plan for target in self._targets}
        hit = frozenset(devices_hit(self._scenario, self._number, plans))
        return [target for target in self._targets if target.device.device_id in hit]


def _happen(happening: Happening, target: Target, *, scenario: Scenario) -> None:
    match happening.kind:
        case HappeningKind.REBOOT:
            target.device.cut_power(reboot_seconds(scenario, happening, target.device.device_id))
        case HappeningKind.OFFLINE:
            target.path.cut(happening.lasts)
        case HappeningKind.CLONE:
            target.device.between_steps(target.clone)
        case HappeningKind.THEFT:
            target.device.cut_power(theft_seconds(happening), before_return=target.break_open)
        case HappeningKind.LOAD:
            target.device.between_steps(partial(target.device.set_load, happening.level))
        case HappeningKind.LIGHTING | HappeningKind.VIBRATION:
            pass  # the sensors know from the beginning what will disturb them: fleets.conditions
