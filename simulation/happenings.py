"""What the scenario has happen to virtual devices, and what goes wrong with a release after it was confirmed.

Light, vibration and load change what cores infer; a virtual core infers nothing, so of these the light alone counts:
faults that strike only in the dark wait for it.
"""

from collections.abc import Callable, Mapping
from functools import partial

from device_sim.fleets.choices import chance
from device_sim.fleets.conditions import hits
from device_sim.fleets.happenings import AT_LEAST_ONE
from protocol.scenario.faults import ReleaseFault, ReleaseFaultKind
from protocol.scenario.happenings import Happening, HappeningKind
from simulation.devices.device import VirtualDevice
from simulation.scheduler import NEVER
from simulation.world import World

DARK = 0.3  # level of the light below which it is dark
CRASH_PERIOD_SECONDS = 60.0  # of a crash loop, mean
RESET_SECONDS = 2.0  # without power, of a reset
STOLEN_SECONDS = 3600.0  # a thief's time with a device, where the scenario names none


class Happenings:
    """Brings a scenario's happenings about.

    Args:
        world: prepared.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._waiting_for_dark: list[Callable[[], None]] = []
        self._is_dark = False
        self._kinds: Mapping[HappeningKind, Callable[[Happening, VirtualDevice], None]] = {
            HappeningKind.REBOOT: self._reboot,
            HappeningKind.OFFLINE: self._cut_off,
            HappeningKind.CLONE: self._clone,
            HappeningKind.THEFT: self._steal,
        }
        for number, happening in enumerate(world.scenario.happenings):
            world.scheduler.call(partial(self._happen, number, happening), happening.at.total_seconds())
        if world.scenario.release_faults:
            world.on_confirmed(self._confirmed)

    def _happen(self, number: int, happening: Happening, now: float) -> float:
        hit = self._hit(number, happening)
        if happening.kind is HappeningKind.LIGHTING:
            self._light(happening.level)
            if happening.lasts:
                self._world.scheduler.call(self._light_again, now + happening.lasts.total_seconds())
        do = self._kinds.get(happening.kind, _nothing)
        for device in hit:
            do(happening, device)
        self._world.record.emit("happening", kind=happening.kind.value, devices=len(hit))
        return NEVER

    def _hit(self, number: int, happening: Happening) -> list[VirtualDevice]:
        """Return the devices that a happening hits; clones and thefts hit at least one."""
        seed = self._world.scenario.seed
        hit = self._matching(number, happening)
        if not hit and happening.kind in AT_LEAST_ONE:
            there = self._matching(number, happening.model_copy(update={"share": 1.0}))
            purpose = f"happening/{number}"
            hit = sorted(there, key=lambda device: chance(seed, purpose, device.device_id).random())[:1]
        return hit

    def _matching(self, number: int, happening: Happening) -> list[VirtualDevice]:
        world = self._world
        return [
            device
            for device_id, device in world.devices.items()
            if hits(world.scenario, happening, number, world.plans[device_id], device_id)
        ]

    def _reboot(self, happening: Happening, device: VirtualDevice) -> None:
        device.cut_power(happening.lasts.total_seconds() or RESET_SECONDS)

    def _cut_off(self, happening: Happening, device: VirtualDevice) -> None:
        device.cut_off(happening.lasts)

    def _clone(self, happening: Happening, device: VirtualDevice) -> None:
        del happening
        self._world.copy(device)

    def _steal(self, happening: Happening, device: VirtualDevice) -> None:
        """Take a device away, and have a thief try to get it admitted once it is open to his debugger."""
        device.cut_power(happening.lasts.total_seconds() or STOLEN_SECONDS)
        device.machine.break_open()

    def _light(self, level: float) -> None:
        self._is_dark = level < DARK
        if self._is_dark:
            waiting, self._waiting_for_dark = self._waiting_for_dark, []
            for strike in waiting:
                strike()

    def _light_again(self, _now: float) -> float:
        self._light(1.0)
        return NEVER

    def _confirmed(self, device: VirtualDevice) -> None:
        """Have what goes wrong after a confirmed run go wrong at its time."""
        now = self._world.clock.seconds
        for fault in device.machine.faults_afterwards():
            if fault.kind in {ReleaseFaultKind.BRICK, ReleaseFaultKind.CRASH_LOOP}:
                due = now + fault.after.total_seconds()
                self._world.scheduler.call(partial(self._strike, fault, device), due)

    def _strike(self, fault: ReleaseFault, device: VirtualDevice, _now: float) -> float:
        if fault.only_in_the_dark and not self._is_dark:
            self._waiting_for_dark.append(partial(self._break, fault, device))
        else:
            self._break(fault, device)
        return NEVER

    def _break(self, fault: ReleaseFault, device: VirtualDevice) -> None:
        if fault.kind is ReleaseFaultKind.BRICK:
            device.cut_power(NEVER)
            return
        rng = chance(self._world.scenario.seed, "crash-loop", device.device_id)
        self._world.scheduler.call(lambda now: self._crash(device, rng.expovariate(1 / CRASH_PERIOD_SECONDS), now), 0.0)

    def _crash(self, device: VirtualDevice, again_seconds: float, now: float) -> float:
        """Reset a device again and again, as long as it runs what makes it crash."""
        if not any(fault.kind is ReleaseFaultKind.CRASH_LOOP for fault in device.machine.faults_afterwards()):
            return NEVER
        device.cut_power(RESET_SECONDS)
        return now + again_seconds


def _nothing(_happening: Happening, _device: VirtualDevice) -> None:
    """Do nothing: what happens concerns inference alone."""
