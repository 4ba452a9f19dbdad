"""Which devices of a fleet have users who put updates off: decided by the scenario's seed and the device's id."""

from device_sim.fleets.choices import is_hit
from device_sim.update.deferring import LETS_BEGIN, PutsOff, UpdateListener
from protocol.identity import DeviceId
from protocol.scenario import Scenario
from protocol.scenario.fleets import Fleet


def listener_of(scenario: Scenario, fleet: Fleet, device_id: DeviceId) -> UpdateListener:
    """Return what a device's application says when an update is about to begin."""
    declared = fleet.deferral
    if declared is None or not is_hit(scenario.seed, f"deferral/{fleet.name}", device_id, share=declared.share):
        return LETS_BEGIN
    return PutsOff(declared.lasts, declared.times)
