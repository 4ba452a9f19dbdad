"""What the scenario has happen to virtual devices, and what goes wrong with a release after it was confirmed.

A virtual core answers nothing. So light counts for one thing alone: faults that strike only in the dark wait until it
is dark where their device is. Vibration and load are refused (`simulation.checks`).
"""

import random
from collections.abc import Callable, Mapping
from functools import partial

from device_sim.fleets.choices import chance
from device_sim.fleets.effects import CRASH_LOOP, devices_hit, reboot_seconds, theft_seconds
from device_sim.fleets.powered import DAY_SECONDS
from protocol.scenario.faults import ReleaseFault, ReleaseFaultKind
from protocol.scenario.happenings import Happening, HappeningKind
from simulation.darkness import dark_from
from simulation.devices.device import VirtualDevice
from simulation.scheduler import NEVER
from simulation.world import World


class Happenings:
    """Brings a scenario's happenings about.

    Args:
        world: prepared.
    """

    def __init__(self, world: World) -> None:
        self._world = world
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

    def _happen(self, number: int, happening: Happening, _now: float) -> float:
        hit = devices_hit(self._world.scenario, number, self._world.plans)
        do = self._kinds.get(happening.kind, _nothing)
        for device_id in hit:
            do(happening, self._world.devices[device_id])
        self._world.record.emit("happening", kind=happening.kind.value, devices=len(hit))
        return NEVER

    def _reboot(self, happening: Happening, device: VirtualDevice) -> None:
        device.cut_power(reboot_seconds(self._world.scenario, happening, device.device_id))

    def _cut_off(self, happening: Happening, device: VirtualDevice) -> None:
        device.cut_off(happening.lasts)

    def _clone(self, happening: Happening, device: VirtualDevice) -> None:
        del happening
        self._world.copy(device)

    def _steal(self, happening: Happening, device: VirtualDevice) -> None:
        """Take a device away, with power or without; a thief has it try to get in once it is open to his debugger."""
        device.cut_power(theft_seconds(happening))
        device.machine.break_open()

    def _confirmed(self, device: VirtualDevice) -> None:
        """Have what goes wrong after a confirmed run go wrong at its time."""
        now = self._world.clock.seconds
        for fault in device.machine.faults_afterwards():
            if fault.kind in {ReleaseFaultKind.BRICK, ReleaseFaultKind.CRASH_LOOP}:
                due = now + fault.after.total_seconds()
                self._world.scheduler.call(partial(self._strike, fault, device), due)

    def _strike(self, fault: ReleaseFault, device: VirtualDevice, now: float) -> float:
        """Break a device that still runs the release, once it is dark where the fault waits for that."""
        if fault not in device.machine.faults_afterwards():
            return NEVER
        if (due := self._due(fault, device, now)) > now:
            return due
        if fault.kind is ReleaseFaultKind.BRICK:
            device.cut_power(NEVER)
            return NEVER
        rng = chance(self._world.scenario.seed, "crash-loop", device.device_id)
        self._world.scheduler.call(partial(self._crash, fault, device, rng), now)
        return NEVER

    def _crash(self, fault: ReleaseFault, device: VirtualDevice, rng: random.Random, now: float) -> float:
        """Reset a device again and again, as long as it runs what makes it crash."""
        if fault not in device.machine.faults_afterwards():
            return NEVER
        if (due := self._due(fault, device, now)) > now:
            return due
        shortest, longest = CRASH_LOOP.lasts
        device.cut_power(rng.uniform(shortest.total_seconds(), longest.total_seconds()))
        return now + rng.expovariate(CRASH_LOOP.per_day / DAY_SECONDS)

    def _due(self, fault: ReleaseFault, device: VirtualDevice, now: float) -> float:
        world, device_id = self._world, device.device_id
        return dark_from(world.scenario, world.plans[device_id], device_id, now) if fault.only_in_the_dark else now


def _nothing(_happening: Happening, _device: VirtualDevice) -> None:
    """Do nothing now: the light is looked at by whoever waits for the dark."""
