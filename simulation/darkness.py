"""When it is dark in front of a virtual device's camera: by its fleet's conditions and the happenings that hit it."""

import itertools
import math
from collections.abc import Iterator, Sequence
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


def dark_seconds(scenario: Scenario, plan: DevicePlan, device_id: DeviceId, begin: float, end: float) -> float:
    """Return for how long it is dark in front of a device's camera between two moments.

    Args:
        scenario: declares it.
        plan: of the device.
        device_id: decides, with the seed, which happenings hit it.
        begin: seconds of the scenario.
        end: likewise.
    """
    conditions = conditions_of(scenario, plan, device_id, since_start=timedelta(0))
    edges = sorted({begin, end, *(edge for each in conditions for edge in _edges(each, begin, end))})
    return sum(later - at for at, later in itertools.pairwise(edges) if _is_dark(conditions, at))


def _edges(each: SensorConditions, begin: float, end: float) -> Iterator[float]:
    """Yield the moments between two others at which conditions begin or end."""
    for edge in (each.starts_seconds, each.ends_seconds):
        if edge is not None and each.every_seconds is not None:
            passed = max(0, math.floor((begin - edge) / each.every_seconds) + 1)
            times = (edge + number * each.every_seconds for number in itertools.count(passed))
            yield from itertools.takewhile(lambda at: at < end, times)
        elif edge is not None and begin < edge < end:
            yield edge


def _is_dark(conditions: Sequence[SensorConditions], at: float) -> bool:
    return disturbance(conditions, SensorKind.CAMERA, at).lighting < DARK


def _begins(each: SensorConditions, now: float) -> float:
    """Return when conditions begin next; never, if they have begun for the last time."""
    if each.starts_seconds >= now:
        return each.starts_seconds
    if each.every_seconds is None:
        return NEVER
    return now + each.every_seconds - (now - each.starts_seconds) % each.every_seconds
