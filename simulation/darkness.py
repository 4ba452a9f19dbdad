"""When it is dark in front of a virtual device's camera: by its fleet's conditions and the happenings that hit it."""

from collections.abc import Sequence
from datetime import timedelta

from device_sim.fleets.conditions import DARK, conditions_of
from device_sim.fleets.plan import DevicePlan
from device_sim.sensors.disturbance import disturbance
from protocol.identity import DeviceId
from protocol.scenario import Scenario
from protocol.sensing import SensorConditions, SensorKind
from simulation.scheduler import NEVER


def dark_from(scenario: Scenario, plan: DevicePlan, device_id: DeviceId, now: float) -> float:
    """Return when it is dark next in front of a device's camera: now, later, or never.

    It gets darker only when one of the conditions begins, because together they take light and never give any.

    Args:
        scenario: declares them.
        plan: of the device.
        device_id: decides, with the seed, which happenings hit it.
        now: seconds of the scenario.
    """
    conditions = conditions_of(scenario, plan, device_id, since_start=timedelta(0))
    begins = sorted({now, *(_begins(each, now) for each in conditions)})
    return next((at for at in begins if at < NEVER and _is_dark(conditions, at)), NEVER)


def _is_dark(conditions: Sequence[SensorConditions], at: float) -> bool:
    return disturbance(conditions, SensorKind.CAMERA, at).lighting < DARK


def _begins(each: SensorConditions, now: float) -> float:
    """Return when conditions begin next; never, if they have begun for the last time."""
    if each.starts_seconds >= now:
        return each.starts_seconds
    if each.every_seconds is None:
        return NEVER
    return now + each.every_seconds - (now - each.starts_seconds) % each.every_seconds
