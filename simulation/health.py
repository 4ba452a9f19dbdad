"""Health reports of virtual devices, on the way to the service: a part of each fleet after the other, in every window.

Devices of fleets that no rollout looks at tell nothing. Of those that a rollout watches for silence the polls of the
dozing ones are made up for in time.
"""

from collections.abc import Sequence
from functools import partial

from protocol.scenario.fleets import Fidelity, Fleet
from service.domain.gates.arms import LOOKS_FOR_SILENCE
from simulation.devices.device import VirtualDevice
from simulation.driving import drive
from simulation.watching import looks_at_windows, shortest_silence
from simulation.world import World

PARTS = 12  # of a fleet, which tell one after the other
REPORTS_PER_STEP = 500  # that the service takes at once


class HealthRounds:
    """Has devices tell how their models do.

    Args:
        world: prepared.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        for fleet in world.scenario.fleets:
            if fleet.fidelity is Fidelity.VIRTUAL:
                self._begin(fleet)

    def _begin(self, fleet: Fleet) -> None:
        world = self._world
        devices = [device for device in world.devices.values() if world.plans[device.device_id].fleet == fleet.name]
        silence = shortest_silence(world.scenario, fleet)
        if silence is not None:
            seconds = silence.total_seconds() / LOOKS_FOR_SILENCE
            world.scheduler.call(partial(_catch_up, devices, seconds), seconds)
        if looks_at_windows(world.scenario, fleet):
            window = fleet.health_window.total_seconds()
            for part in range(min(PARTS, len(devices))):
                first = window * (part + 1) / PARTS
                world.scheduler.call(partial(self._tell, devices[part::PARTS], window), first)

    def _tell(self, devices: Sequence[VirtualDevice], window: float, now: float) -> float:
        told = [(device.device_id, report) for device in devices for report in device.tell_health()]
        if self._world.service is not None:
            for start in range(0, len(told), REPORTS_PER_STEP):
                drive(self._world.service.health.take(told[start : start + REPORTS_PER_STEP]))
        return now + window


def _catch_up(devices: Sequence[VirtualDevice], pause: float, now: float) -> float:
    for device in devices:
        device.catch_up()
    return now + pause
